//! `connector.yaml`: which clusters are reached by which ways, and which local ports lead where. What cannot work is
//! refused here, before a port opens.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use daemon::config::{SecretRef, Size, Validate};
use identity::{tls::Trust, token::SourceConfig};
use relay::{
    dial::ProxyConfig,
    sender::{Access, CredentialConfig},
};
use serde::Deserialize;

use super::{
    place::Place,
    target::{Target, To},
    way::DirectUrl,
};
use crate::serve::config::{BUFFERS, BUFFERS_MIN};

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
    /// Folder for what the connector keeps between starts: the CA of its Kubernetes faces. Default `state`.
    #[serde(default = "state_default")]
    pub state: PathBuf,
    /// Roots for the *outer* TLS sessions to relays and TLS-ending ingresses; default the system's. They never vouch for
    /// a gateway.
    #[serde(default)]
    pub trust: Trust,
    /// How connections to relays and gateways leave: as the environment says, straight, or through one HTTP proxy; default from_environment. A
    /// proxy resolves
    /// their names; token sources follow the environment.
    #[serde(default)]
    pub proxy: ProxyConfig,
    /// Where spans of streams go, by OTLP; default nowhere. The caller's trace is passed on either way. A change needs a
    /// restart.
    #[serde(default)]
    pub traces: Option<daemon::traces::Config>,
    /// Limits. Each refusal names the one that was reached.
    #[serde(default)]
    pub limits: Limits,
}

/// Limits of a connector.
#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Payload that all tunnels together may hold: received and not yet taken by the next hop, or not yet written. From 75 %
    /// on the largest holders get no more, from 95 % on no stream is begun, at 100 % the largest are reset. Default 256Mi;
    /// at least 8Mi. A change needs a restart.
    pub buffers: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self { buffers: Size(BUFFERS) }
    }
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// How its gateway proves itself, whichever way is taken.
    pub trust: ClusterTrust,
    /// Ways to it, tried in this order.
    pub ways: Vec<WayConfig>,
    /// The connector's own token: the actor of every stream. Audience by default `causeway://<cluster>`.
    pub token: SourceConfig,
    /// Tunnels held open, 1 to 8; default 2. One more is opened for bulk when there is some.
    #[serde(default = "tunnels_default")]
    pub tunnels: usize,
}

/// Trust in one cluster.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTrust {
    /// The trust file that `gateway trust export` wrote; read again for every new tunnel.
    pub file: PathBuf,
    /// Write CAs into the file that the gateway, proven by one that is there, says it will use; then a rotation needs
    /// nothing here. The file's folder must be writable. Default false.
    #[serde(default)]
    pub follow: bool,
}

/// One way to a cluster: `direct`, `hybrid_connection` with `credential`, or `join`.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
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

/// A local face: exactly one of `http`, `tcp`, `socks5`, `connect`, `kubernetes` and `grpc`. Each listens at `<address>:<port>`, port 0 letting
/// the kernel choose, or at `unix:<path>`, a socket for this user alone.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaceConfig {
    /// Serve HTTP/1.1 here and, to clients that begin with it, HTTP/2 (gRPC included).
    #[serde(default)]
    pub http: Option<Place>,
    /// Take TCP connections here.
    #[serde(default)]
    pub tcp: Option<Place>,
    /// Be a SOCKS5 proxy here, for names like `service.namespace.cluster`.
    #[serde(default)]
    pub socks5: Option<Place>,
    /// Be an HTTP CONNECT proxy here, for the same names.
    #[serde(default)]
    pub connect: Option<Place>,
    /// Be the API server of a cluster here, with TLS by a CA of the connector's own: `gateway kubeconfig` writes what kubectl
    /// needs to use it.
    #[serde(default)]
    pub kubernetes: Option<Place>,
    /// Serve the tunnel's own gRPC contract, `causeway.tunnel.v1`, to programs here.
    #[serde(default)]
    pub grpc: Option<Place>,
    /// Where it leads: `cluster/host:port` for `http` and `tcp`, a `cluster` for `kubernetes` and `grpc`. The others may name
    /// a `cluster` for what does not name one itself, addresses included; default none.
    #[serde(default)]
    pub to: Option<To>,
    /// `http`: where requests lead by host name and path, in place of `to`; the first route that fits counts.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// Whose requests these are: with `caller` a token must come with each; default `caller` for `http`, `kubernetes` and `grpc`,
    /// `connector` for the others.
    #[serde(default, rename = "as")]
    pub speaks: Option<Speaks>,
    /// Values of `Host` accepted besides loopback names with this port, the target's own name and those of routes; default
    /// none. A `tcp` face asks for them when it is spoken to in HTTP.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// `http`: origins of web pages whose requests and WebSockets are served, such as `https://app.example`; `self` is for
    /// pages that this face itself has served. Default none.
    #[serde(default)]
    pub origins: Vec<String>,
    /// `tcp`: carry HTTP from anybody, web pages in this machine's browsers included; default false.
    #[serde(default)]
    pub allow_http: bool,
    /// Its streams are bulk, and kept off the tunnels of others; default: those that turn out to be.
    #[serde(default)]
    pub bulk: bool,
    /// `socks5` and `connect`: what clients must show; default nothing.
    #[serde(default)]
    pub login: Option<LoginConfig>,
    /// Allow an address other than loopback: whoever reaches the port can then use it; default false.
    #[serde(default)]
    pub open_to_network: bool,
    /// Let another connector of the same user listen at this port too, so that one can take over while the other drains;
    /// not for Unix sockets. Once open, a face stays as it is in this. Default false.
    #[serde(default)]
    pub shared: bool,
}

/// Where some requests of an `http` face lead. A route without `host` and `path` takes every request.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Host name in `Host`, whatever its port; default any that the face accepts.
    #[serde(default)]
    pub host: Option<String>,
    /// Beginning of the path, in whole segments: `/v1` is for `/v1` and `/v1/x`; default every path. It goes to the target
    /// unchanged.
    #[serde(default)]
    pub path: Option<String>,
    /// `cluster/host:port`.
    pub to: Target,
    /// Its requests are bulk, and kept off the tunnels of others; default: those whose length says so.
    #[serde(default)]
    pub bulk: bool,
}

/// User and password of a face. Both cross the network in the clear.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// User name, without a colon.
    pub user: String,
    /// The password, 1 to 255 bytes; read at start, and again when this file changes.
    pub password: SecretRef,
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
    /// HTTP.
    Http,
    /// Bytes.
    Tcp,
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT (RFC 9110, section 9.3.6).
    Connect,
    /// A cluster's API server.
    Kubernetes,
    /// The tunnel's own contract.
    Grpc,
}

impl FaceKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Http, Self::Tcp, Self::Socks5, Self::Connect, Self::Kubernetes, Self::Grpc];

    /// The word in the file and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Socks5 => "socks5",
            Self::Connect => "connect",
            Self::Kubernetes => "kubernetes",
            Self::Grpc => "grpc",
        }
    }

    /// As whom it speaks unless the file says otherwise (SD-3).
    fn speaks(self) -> Speaks {
        match self {
            Self::Http | Self::Kubernetes | Self::Grpc => Speaks::Caller,
            Self::Tcp | Self::Socks5 | Self::Connect => Speaks::Connector,
        }
    }
}

fn state_default() -> PathBuf {
    "state".into()
}

fn tunnels_default() -> usize {
    TUNNELS_DEFAULT
}

impl FaceConfig {
    /// Kind and place, if exactly one is given.
    pub fn place(&self) -> Option<(FaceKind, &Place)> {
        let places = [&self.http, &self.tcp, &self.socks5, &self.connect, &self.kubernetes, &self.grpc];
        let mut given = FaceKind::ALL.iter().zip(places).filter_map(|(kind, place)| Some((*kind, place.as_ref()?)));
        given.next().filter(|_| given.next().is_none())
    }

    /// As whom it speaks, the default of its kind applied.
    pub fn speaks(&self) -> Speaks {
        self.speaks.unwrap_or_else(|| self.place().map_or(Speaks::Connector, |(kind, _)| kind.speaks()))
    }

    /// Names and addresses under which clients may call a face that is bound there, for its certificate.
    pub(super) fn names(&self, bound: &Place) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let address = bound.port().map(|address| address.ip()).filter(|address| !address.is_unspecified());
        names.extend(address.map(|address| address.to_canonical().to_string()));
        names.extend(self.hosts.iter().filter_map(|host| super::face::guard::parse(host)).map(|(host, _)| host));
        names.sort();
        names.dedup();
        names
    }

    /// The clusters it names, and under which key.
    fn clusters(&self) -> impl Iterator<Item = (String, &str)> {
        let to = self.to.iter().map(|to| ("to".to_owned(), &**to.cluster()));
        let routes = self.routes.iter().enumerate();
        to.chain(routes.map(|(index, route)| (format!("routes[{index}].to"), &*route.to.cluster)))
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
        if self.limits.buffers.0 < BUFFERS_MIN {
            let message = format!("at least {}, what one or two streams need", Size(BUFFERS_MIN));
            return Err(problem("limits.buffers", message));
        }
        if let Some(traces) = &self.traces {
            traces.validate().map_err(|(key, message)| problem(format!("traces.{key}"), message))?;
        }
        let mut taken = BTreeSet::new();
        for (index, face) in self.faces.iter().enumerate() {
            let key = format!("faces[{index}]");
            let (kind, place) = face.validate(&key)?;
            if let Some((at, cluster)) = face.clusters().find(|(_, name)| !self.clusters.contains_key(*name)) {
                let known = self.clusters.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(problem(
                    format!("{key}.{at}"),
                    format!("no cluster `{cluster}` in this file; there is: {known}"),
                ));
            }
            if place.port().is_none_or(|address| address.port() != 0) && !taken.insert(place) {
                return Err(problem(
                    format!("{key}.{}", kind.name()),
                    format!("{place} is taken by another face of this file: choose another place"),
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

pub(super) mod face;

pub(super) use self::face::begins;

#[cfg(test)]
mod tests;
