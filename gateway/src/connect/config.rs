//! `connector.yaml`: which clusters are reached by which ways, and which local ports lead where. What cannot work is
//! refused here, before a port opens.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
};

use daemon::config::{SecretRef, Validate};
use identity::{tls::Trust, token::SourceConfig};
use relay::{
    dial::ProxyConfig,
    sender::{Access, CredentialConfig},
};
use serde::Deserialize;

use super::{face::guard, target::Target, way::DirectUrl};

/// Tunnels held to each cluster unless the file says otherwise: one lost packet or busy core must not hold up everything.
const TUNNELS_DEFAULT: usize = 2;
/// More tunnels than this to one cluster buy nothing and cost the relay.
const TUNNELS_MAX: usize = 8;

/// `connector.yaml`, beside the sections that every program's file has (`log`, `admin`, `grace`).
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Clusters by id, the id that their gateways prove.
    pub clusters: BTreeMap<String, ClusterConfig>,
    /// Local ports; default none.
    #[serde(default)]
    pub faces: Vec<FaceConfig>,
    /// Roots for the *outer* TLS sessions to relays and TLS-ending ingresses; default the system's. They never vouch for
    /// a gateway.
    #[serde(default)]
    pub trust: Trust,
    /// How connections to relays and gateways leave: as the environment says, straight, or through one HTTP proxy; default from_environment. A
    /// proxy resolves
    /// their names; token sources follow the environment.
    #[serde(default)]
    pub proxy: ProxyConfig,
}

/// One cluster.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// How its gateway proves itself, whichever way is taken.
    pub trust: ClusterTrust,
    /// Ways to it, tried in this order.
    pub ways: Vec<WayConfig>,
    /// The connector's own token: the actor of every stream. Audience by default `causeway://<cluster>`.
    pub token: SourceConfig,
    /// Tunnels held open, 1 to 8; default 2.
    #[serde(default = "tunnels_default")]
    pub tunnels: usize,
}

/// Trust in one cluster.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTrust {
    /// The trust file that `gateway trust export` wrote; read again for every new tunnel.
    pub file: PathBuf,
}

/// One way to a cluster: `direct`, `hybrid_connection` with `credential`, or `join`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WayConfig {
    /// The gateway's own address, `wss://host[:port]`; `ws://` on loopback only.
    #[serde(default)]
    pub direct: Option<String>,
    /// A hybrid connection of a relay, `sb://host[:port]/path`.
    #[serde(default)]
    pub hybrid_connection: Option<String>,
    /// The right to send on the hybrid connection.
    #[serde(default)]
    pub credential: Option<CredentialConfig>,
    /// In place of both: a connection string, as `relay entity add` writes it and as Azure shows it for the hybrid
    /// connection. A file is read anew for each token.
    #[serde(default)]
    pub join: Option<SecretRef>,
}

/// A local port: either `http` or `tcp`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaceConfig {
    /// Serve HTTP/1.1 here; port 0 lets the kernel choose.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Take TCP connections here; port 0 lets the kernel choose.
    #[serde(default)]
    pub tcp: Option<SocketAddr>,
    /// Where it leads: `cluster/host:port`.
    pub to: Target,
    /// Whose requests these are: `caller` (a token must come with each; default of `http`) or `connector` (default of `tcp`).
    #[serde(default, rename = "as")]
    pub speaks: Option<Speaks>,
    /// Values of `Host` accepted besides loopback names with this port and the target's own name; default none.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Allow an address other than loopback: whoever reaches the port can then use it; default false.
    #[serde(default)]
    pub open_to_network: bool,
}

/// As whom a face speaks (SD-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// Each request brings its own bearer token, which is passed on as the subject.
    Caller,
    /// The connector is actor and subject.
    Connector,
}

impl Speaks {
    /// The word in the file and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Connector => "connector",
        }
    }
}

/// What a face speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaceKind {
    /// HTTP/1.1.
    Http,
    /// Bytes.
    Tcp,
}

impl FaceKind {
    /// The word in the file and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

fn tunnels_default() -> usize {
    TUNNELS_DEFAULT
}

impl FaceConfig {
    /// Kind and address, if exactly one is given.
    pub fn place(&self) -> Option<(FaceKind, SocketAddr)> {
        match (self.http, self.tcp) {
            (Some(address), None) => Some((FaceKind::Http, address)),
            (None, Some(address)) => Some((FaceKind::Tcp, address)),
            _ => None,
        }
    }

    /// As whom it speaks, the default of its kind applied.
    pub fn speaks(&self) -> Speaks {
        self.speaks.unwrap_or(if self.http.is_some() { Speaks::Caller } else { Speaks::Connector })
    }
}

/// What a way is.
const ONE_WAY: &str = "a way is exactly one of `direct:`, `hybrid_connection:` and `join:`";

type Problem = (String, String);

fn problem(key: impl Into<String>, message: impl Into<String>) -> Problem {
    (key.into(), message.into())
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Problem> {
        if self.clusters.is_empty() {
            return Err(problem("clusters", "no cluster is configured: add one with trust, ways and token"));
        }
        for (name, cluster) in &self.clusters {
            cluster.validate(name)?;
        }
        let mut taken = BTreeSet::new();
        for (index, face) in self.faces.iter().enumerate() {
            let key = format!("faces[{index}]");
            let (kind, address) = face.validate(&key)?;
            if !self.clusters.contains_key(&*face.to.cluster) {
                let known = self.clusters.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(problem(
                    format!("{key}.to"),
                    format!("no cluster `{}` in this file; there is: {known}", face.to.cluster),
                ));
            }
            if address.port() != 0 && !taken.insert(address) {
                return Err(problem(
                    format!("{key}.{}", kind.name()),
                    format!("{address} is taken by another face of this file: choose another port"),
                ));
            }
        }
        Ok(())
    }
}

impl ClusterConfig {
    fn validate(&self, name: &str) -> Result<(), Problem> {
        let key = format!("clusters.{name}");
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
        if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
            return Err(problem(
                key,
                "a cluster id has 1 to 128 characters out of a-z, 0-9, `-` and `.`, as its gateway was given it",
            ));
        }
        if self.ways.is_empty() {
            return Err(problem(
                format!("{key}.ways"),
                "no way leads to this cluster: add `direct:` or `hybrid_connection:`",
            ));
        }
        if self.tunnels == 0 || self.tunnels > TUNNELS_MAX {
            return Err(problem(format!("{key}.tunnels"), format!("must be from 1 to {TUNNELS_MAX}")));
        }
        self.ways.iter().enumerate().try_for_each(|(index, way)| way.validate(&format!("{key}.ways[{index}]")))
    }
}

impl WayConfig {
    /// Where the relay is and as whom we come, for a way that is not direct.
    pub(super) fn access(&self) -> Access<'_> {
        Access {
            url: ("hybrid_connection", self.hybrid_connection.as_deref()),
            credential: self.credential.as_ref(),
            join: self.join.as_ref(),
        }
    }

    fn validate(&self, key: &str) -> Result<(), Problem> {
        let (relay, credential) = (self.hybrid_connection.is_some() || self.join.is_some(), self.credential.is_some());
        match &self.direct {
            Some(_) if relay => Err(problem(key, ONE_WAY)),
            Some(_) if credential => Err(problem(
                format!("{key}.credential"),
                "a direct way takes no credential: the cluster's `token` is used; remove it",
            )),
            Some(url) => {
                url.parse::<DirectUrl>().map(drop).map_err(|error| problem(format!("{key}.direct"), error.to_string()))
            }
            None if !relay && !credential => Err(problem(key, ONE_WAY)),
            None => self.access().check().map_err(|(at, message)| problem(format!("{key}.{at}"), message)),
        }
    }
}

impl FaceConfig {
    fn validate(&self, key: &str) -> Result<(FaceKind, SocketAddr), Problem> {
        let Some((kind, address)) = self.place() else {
            return Err(problem(key, "a face is exactly one of `http: <address>` and `tcp: <address>`"));
        };
        if kind == FaceKind::Tcp && self.speaks == Some(Speaks::Caller) {
            return Err(problem(
                format!("{key}.as"),
                "a tcp face cannot carry a caller's token: write `as: connector`, or use an http face",
            ));
        }
        if kind == FaceKind::Tcp && !self.hosts.is_empty() {
            return Err(problem(format!("{key}.hosts"), "only an http face checks `Host`: remove it"));
        }
        if let Some((index, host)) = self.hosts.iter().enumerate().find(|(_, host)| guard::parse(host).is_none()) {
            return Err(problem(
                format!("{key}.hosts[{index}]"),
                format!("`{host}` is no value of Host: write a host name or address, with or without `:<port>`"),
            ));
        }
        if !address.ip().to_canonical().is_loopback() && !self.open_to_network {
            return Err(problem(
                format!("{key}.{}", kind.name()),
                format!(
                    "{address} is reachable from the network, and this face asks nobody who they are: bind 127.0.0.1 or \
                     [::1], or write `open_to_network: true` if that is meant"
                ),
            ));
        }
        Ok((kind, address))
    }
}

#[cfg(test)]
mod tests;
