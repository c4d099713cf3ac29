//! The API server of the gateway's own cluster. A request goes there with the gateway's own credential and the user that
//! the policy made of its caller, on a head built from nothing ([`head`]); what the credential is and whom it is shown to
//! follows the files that Kubernetes keeps fresh ([`credential`]). Its address is the owner's word in the config, so it is
//! not judged as those that callers name are.

pub mod credential;
pub mod facts;
pub mod head;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use daemon::process::Context;
use proto::tunnel::{failure::Failure, pb};
use tokio::{net::TcpStream, sync::watch, time::Instant};

use self::credential::{Credential, CredentialError, Credentials};
use super::{dial, head::Checked, manner::Manner, manner::Version, resolve::Resolver};
use crate::{
    policy::Host,
    serve::config::{
        Networks,
        kubernetes::{KubernetesConfig, PlaceError},
    },
};

/// Why the API server cannot be a target.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Where it is, or where we are, is not known.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The credential cannot be used.
    #[error("the gateway's own credential for the API server cannot be used")]
    Credential(#[from] CredentialError),
}

/// The API server.
#[derive(Debug)]
pub struct Api {
    /// Host, as its certificate names it.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// The namespace that the gateway lives in.
    pub namespace: String,
    credentials: Credentials,
    resolver: Resolver,
    facts: watch::Sender<Option<pb::Kubernetes>>,
}

impl Api {
    /// Reads the credential and follows it, and what the API server tells of the cluster, in tasks of `context.shutdown`.
    ///
    /// # Errors
    /// When the config does not do on this machine, or a file cannot be used.
    pub fn start(
        config: &KubernetesConfig,
        networks: &Networks,
        base: &std::path::Path,
        context: &Context,
    ) -> Result<Arc<Self>, ApiError> {
        let (host, port) = config.place()?;
        let api = Arc::new(Self {
            host,
            port,
            namespace: config.own_namespace()?,
            credentials: Credentials::start(&base.join(&config.ca), &base.join(&config.token), context)?,
            resolver: Resolver::new(networks),
            facts: watch::Sender::new(None),
        });
        context.shutdown.spawn(facts::follow(Arc::clone(&api), context.clone()));
        Ok(api)
    }

    /// What is shown to the API server now, and what it must prove.
    pub fn credential(&self) -> Arc<Credential> {
        self.credentials.now()
    }

    /// What the API server has told of the cluster.
    pub fn facts(&self) -> watch::Receiver<Option<pb::Kubernetes>> {
        self.facts.subscribe()
    }

    /// How a request is spoken: pipes need HTTP/1.1, everything else shares connections where it can.
    pub fn manner(credential: &Credential, checked: &Checked) -> Manner {
        let version = if checked.upgrade.is_some() { Version::One } else { Version::Either };
        Manner { tls: Some(Arc::clone(&credential.tls)), version }
    }

    /// Its addresses.
    ///
    /// # Errors
    /// `TargetUnresolved`.
    pub async fn addresses(&self, deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
        let resolved = dial::resolve(&self.resolver, &self.host, &"the gateway", deadline).await?;
        Ok(resolved.iter().map(|address: &IpAddr| SocketAddr::new(*address, self.port)).collect())
    }

    /// A connection to it.
    ///
    /// # Errors
    /// `TargetRefused`, `TargetTimeout`.
    pub async fn connect(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let connected = dial::connect_configured(addresses, deadline).await;
        if connected.is_err() {
            self.resolver.forget(&self.host);
        }
        connected
    }
}
