//! The way of a granted request to its target: a connection that is open already, or a new one.

use std::{net::SocketAddr, sync::Arc};

use proto::tunnel::failure::{Code, Failure};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    head::Checked,
    http::Connection,
    kubernetes::Api,
    manner::{Manner, Version},
    pool::{Link, Place},
    wire::Wire,
};
use crate::serve::{
    gateway::{Gateway, Granted},
    session::record::Traffic,
};

/// Where one request may go.
#[derive(Debug)]
pub struct Route<'a> {
    gateway: &'a Gateway,
    to: To<'a>,
    checked: &'a Checked,
    manner: Manner,
    places: Vec<Place>,
}

/// Whose addresses are called.
#[derive(Debug)]
enum To<'a> {
    /// A target's that was granted.
    Granted(&'a Granted),
    /// The API server's.
    Api(&'a Api, Vec<SocketAddr>),
}

impl<'a> Route<'a> {
    /// To a granted target, as the config and the request have it.
    ///
    /// # Errors
    /// When the two exclude each other.
    pub fn new(gateway: &'a Gateway, granted: &'a Granted, checked: &'a Checked) -> Result<Self, Failure> {
        let manner = gateway.manners.load().of(checked)?;
        let places = places(&granted.addresses, &manner, checked);
        Ok(Self { gateway, to: To::Granted(granted), checked, manner, places })
    }

    /// To the API server.
    pub fn to_api(
        gateway: &'a Gateway,
        api: &'a Api,
        addresses: Vec<SocketAddr>,
        checked: &'a Checked,
        manner: Manner,
    ) -> Self {
        let places = places(&addresses, &manner, checked);
        Self { gateway, to: To::Api(api, addresses), checked, manner, places }
    }

    /// A connection that is open already. An upgrade gets one of its own, which serves nothing else.
    pub fn open(&self, traffic: &Traffic) -> Option<Connection> {
        if self.checked.upgrade.is_some() {
            return None;
        }
        let seat = || self.gateway.pools.here().shared.take(&self.places).map(Connection::Two);
        let link = || self.gateway.pools.here().single.take(&self.places).map(Connection::One);
        let open = match self.manner.version {
            Version::One => link(),
            Version::Two => seat(),
            Version::Either => seat().or_else(link),
        };
        if let Some(open) = &open {
            traffic.called(open.place().address);
        }
        open
    }

    /// A new connection, or one that somebody else has opened meanwhile.
    ///
    /// # Errors
    /// Why there is none; nothing of the request was sent.
    pub async fn dial(&self, traffic: &Traffic) -> Result<Connection, Failure> {
        let gateway = self.gateway;
        let deadline = Instant::now() + gateway.limits.connect.0;
        let connecting = match (self.manner.version, self.places.first()) {
            (Version::Two | Version::Either, Some(place)) => gateway.pools.here().shared.connecting(place),
            _ => None,
        };
        let _first = match &connecting {
            Some(connecting) => Some(timeout_at(deadline, connecting.lock()).await.map_err(|_| {
                Failure::before_target(
                    Code::TargetTimeout,
                    "another connection to the target did not come about in time",
                )
            })?),
            None => None,
        };
        if connecting.is_some()
            && let Some(seat) = gateway.pools.here().shared.take(&self.places)
        {
            traffic.called(seat.place.address);
            return Ok(Connection::Two(seat));
        }
        let (tcp, address) = self.connect(deadline).await?;
        traffic.called(address);
        let place = |place: &&Place| place.address == address;
        let place = self.places.iter().find(place).cloned().unwrap_or(Place { address, verified: None });
        let (wire, two) = match &self.manner.tls {
            Some(tls) => {
                let (session, two) = tls.connect(tcp, &self.checked.host, self.manner.version).await?;
                (Wire::Tls(Box::new(session)), two)
            }
            None => (Wire::Tcp(tcp), self.manner.version == Version::Two),
        };
        if two {
            let seat =
                gateway.pools.here().shared.add(wire, place, &gateway.context.shutdown).await.map_err(|error| {
                    let message = format!("{address} does not speak HTTP/2: {error}");
                    Failure::before_target(Code::TargetRefused, message)
                })?;
            return Ok(Connection::Two(seat));
        }
        if connecting.is_some() {
            gateway.pools.here().shared.speaks_one(&place);
        }
        Link::new(wire, place).await.map(Connection::One).map_err(|error| {
            Failure::before_target(Code::Internal, format!("the HTTP connection cannot be set up: {error}"))
        })
    }

    async fn connect(&self, deadline: Instant) -> Result<(TcpStream, SocketAddr), Failure> {
        match &self.to {
            To::Granted(granted) => self.gateway.connect(granted, &self.checked.host, deadline).await,
            To::Api(api, addresses) => api.connect(addresses, deadline).await,
        }
    }
}

fn places(addresses: &[SocketAddr], manner: &Manner, checked: &Checked) -> Vec<Place> {
    let verified = manner.tls.as_ref().map(|tls| Arc::from(tls.place(&checked.host)));
    addresses.iter().map(|address| Place { address: *address, verified: verified.clone() }).collect()
}
