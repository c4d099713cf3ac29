//! The two topologies as they are usually wired, and what is asked of a running connector.
use std::net::SocketAddr;

use crate::{
    process::Process,
    site::{FACES, Face, Site},
    wait::until,
};

/// A running connector.
#[derive(Debug)]
pub struct Connector {
    /// The process.
    pub process: Process,
    /// Its admin port.
    pub admin: SocketAddr,
    faces: Vec<SocketAddr>,
}

impl Connector {
    pub(crate) fn new(process: Process, admin: SocketAddr, faces: Vec<SocketAddr>) -> Self {
        Self { process, admin, faces }
    }

    /// Address of a face.
    ///
    /// # Panics
    /// Never: every face is in the file.
    pub fn address(&self, face: Face) -> SocketAddr {
        self.faces[FACES.iter().position(|(known, ..)| *known == face).expect("every face is in the file")]
    }

    /// Base URL of an HTTP face.
    pub fn url(&self, face: Face) -> String {
        format!("http://{}", self.address(face))
    }

    /// Waits until `/readyz` says that it can do its part: at least one cluster is reachable.
    pub async fn ready(&self) {
        ready("connector", self.admin).await;
    }
}

/// Waits until a process's `/readyz` answers 200.
pub async fn ready(name: &str, admin: SocketAddr) {
    until(format_args!("{name} to be ready"), async || (readiness(admin).await == Some(200)).then_some(())).await;
}

/// Status of `/readyz`; `None` without an answer.
pub async fn readiness(admin: SocketAddr) -> Option<u16> {
    let answer = crate::curl::Curl::new(format!("http://{admin}/readyz")).run().await;
    (answer.status != 0).then_some(answer.status)
}

/// Everything wired and ready.
#[derive(Debug)]
pub struct Topology {
    /// Outside of the cluster.
    pub connector: Connector,
    /// The gateway.
    pub gateway: Process,
    /// The gateway's tunnel port.
    pub gateway_address: SocketAddr,
    /// The relay and its listener; none in direct mode.
    pub relay: Option<(Process, Process)>,
    relay_address: Option<SocketAddr>,
    /// What it all stands on.
    pub site: Site,
}

impl Topology {
    /// Connector → gateway.
    pub async fn direct() -> Self {
        let site = Site::new().await;
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let connector = site.direct_connector(gateway_address).await;
        connector.ready().await;
        Self { connector, gateway, gateway_address, relay: None, relay_address: None, site }
    }

    /// Connector → relay ⇐ listener → gateway.
    pub async fn relay() -> Self {
        let site = Site::new().await;
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let (relay, relay_address) = site.relay().await;
        let mut listener = site.listener(relay_address, gateway_address);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        let connector = site.relay_connector(relay_address).await;
        connector.ready().await;
        Self {
            connector,
            gateway,
            gateway_address,
            relay: Some((relay, listener)),
            relay_address: Some(relay_address),
            site,
        }
    }

    /// The relay's address.
    ///
    /// # Panics
    /// In direct mode.
    pub fn relay_address(&self) -> SocketAddr {
        self.relay_address.expect("this topology has a relay")
    }
}
