//! `listener.yaml`.
use daemon::config::{SecretRef, Validate};
use identity::tls::Trust;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    dial::ProxyConfig,
    sender::{Access, CredentialConfig},
};

/// Most control channels per hybrid connection: what Azure allows all listeners together.
const CHANNELS_MAX: usize = 25;

/// `listener.yaml`: what `relay listen` runs on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to listen on; at least one.
    pub hybrid_connections: Vec<HybridConnection>,
    /// Who may vouch for relays; default the system's roots.
    #[serde(default)]
    pub trust: Trust,
    /// How connections to relays leave: as the environment says, straight, or through one HTTP proxy; default from_environment. A
    /// proxy resolves their names;
    /// the target is always dialled straight, and token sources follow the environment.
    #[serde(default)]
    pub proxy: ProxyConfig,
}

/// One hybrid connection.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HybridConnection {
    /// Where it is: `sb://host[:port]/name`. `ws://` in place of `sb://` is plain text, for a relay on loopback.
    #[serde(default)]
    pub url: Option<String>,
    /// What proves that we may listen.
    #[serde(default)]
    pub credential: Option<CredentialConfig>,
    /// In place of both: a connection string, as `relay entity add` writes it and as Azure shows it for the hybrid
    /// connection. A file is read anew for each token.
    #[serde(default)]
    pub join: Option<SecretRef>,
    /// Control channels to hold, 1 to 25; default 2, so that one may break.
    #[serde(default = "two")]
    pub channels: usize,
    /// Where senders are taken to.
    pub forward: Forward,
    /// Hosts that the relay may name for a rendezvous, each with all names below it; default the relay's parent domain,
    /// where that has at least two labels. The relay's own host is always allowed.
    /// Beyond these names, the addresses they resolve to are checked, except where a proxy does the resolving.
    #[serde(default)]
    pub rendezvous_hosts: Vec<String>,
    /// Ports that the relay may name for a rendezvous beside that of `url`; default none.
    #[serde(default)]
    pub rendezvous_ports: Vec<u16>,
}

/// Where senders are taken to: `{ tunnel: host:port }` or `{ tcp: host:port }`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// A gateway's tunnel port; the subprotocol `causeway.v1` is chosen where a sender offers it.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// Any TCP service.
    #[serde(default)]
    pub tcp: Option<String>,
    /// Begin each connection with a PROXY protocol v2 header that names the sender's address and id; default false. The
    /// target must expect it.
    #[serde(default)]
    pub proxy_protocol: bool,
}

impl Forward {
    /// Host and port.
    pub fn target(&self) -> &str {
        self.tunnel.as_deref().or(self.tcp.as_deref()).unwrap_or_default()
    }
}

impl HybridConnection {
    /// Where it is, and as whom.
    pub(crate) fn access(&self) -> Access<'_> {
        Access { url: ("url", self.url.as_deref()), credential: self.credential.as_ref(), join: self.join.as_ref() }
    }
}

fn two() -> usize {
    2
}

impl Validate for Config {
    fn validate(&self) -> Result<(), (String, String)> {
        if self.hybrid_connections.is_empty() {
            return Err(("hybrid_connections".to_owned(), "names none; write at least one".to_owned()));
        }
        for (index, connection) in self.hybrid_connections.iter().enumerate() {
            let fail = |key: &str, message: String| Err((format!("hybrid_connections.{index}.{key}"), message));
            if let Err((key, message)) = connection.access().check() {
                return fail(key, message);
            }
            if !(1..=CHANNELS_MAX).contains(&connection.channels) {
                return fail("channels", format!("is {}; write 1 to {CHANNELS_MAX}", connection.channels));
            }
            let forward = &connection.forward;
            if forward.tunnel.is_some() == forward.tcp.is_some() {
                return fail("forward", "is exactly one of { tunnel: host:port } and { tcp: host:port }".to_owned());
            }
            let has_port = forward
                .target()
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
            if !has_port {
                return fail("forward", format!("{:?} is no host:port", forward.target()));
            }
        }
        Ok(())
    }
}
