//! `listener.yaml`.
pub(super) mod site;

use std::time::Duration;

use daemon::config::{SecretRef, Span, Validate};
use identity::tls::Trust;
use schemars::JsonSchema;
use serde::Deserialize;

use self::site::Site;
use super::{ANSWER_WITHIN, CHANNELS, Limits, REQUESTS, ROTATE_AFTER};
use crate::{
    dial::ProxyConfig,
    sender::{Access, CredentialConfig},
};

/// Most control channels per hybrid connection: what Azure allows all listeners together.
const CHANNELS_MAX: usize = 25;

/// Least `rotate_after`: below, a listener would be busy with nothing else.
const ROTATE_AFTER_MIN: Duration = Duration::from_secs(60);

/// `listener.yaml`: what `relay listen` runs on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to listen on; at least one.
    pub hybrid_connections: Vec<ConnectionConfig>,
    /// Who may vouch for relays; default the system's roots.
    #[serde(default)]
    pub trust: Trust,
    /// How connections to relays leave: as the environment says, straight, or through one HTTP proxy; default from_environment. A
    /// proxy resolves their names;
    /// the target is always dialled straight, and token sources follow the environment.
    #[serde(default)]
    pub proxy: ProxyConfig,
    /// Bounds for all hybrid connections together; where there are several, each has its part of half for itself.
    #[serde(default)]
    pub limits: Limits,
}

/// One hybrid connection.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
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
    #[serde(default = "channels")]
    pub channels: usize,
    /// Age at which a control channel is replaced, give or take a fifth, its successor first; default 6h. Azure Relay
    /// drops each at about a day.
    #[serde(default = "rotate_after")]
    pub rotate_after: Span,
    /// Where senders are taken to.
    pub forward: Forward,
    /// How HTTP requests are put to `forward.http`.
    #[serde(default)]
    pub http: HttpConfig,
    /// Hosts that the relay may name for a rendezvous, each with all names below it; default the relay's parent domain,
    /// where that has at least two labels. The relay's own host is always allowed.
    /// Beyond these names, the addresses they resolve to are checked, except where a proxy does the resolving.
    #[serde(default)]
    pub rendezvous_hosts: Vec<String>,
    /// Ports that the relay may name for a rendezvous beside that of `url`; default none.
    #[serde(default)]
    pub rendezvous_ports: Vec<u16>,
}

/// Where senders are taken to: WebSockets to `tunnel` or `tcp`, HTTP requests to `http`; at least one of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// A gateway's tunnel port, `host:port`; the subprotocol `causeway.v1` is chosen where a sender offers it.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// Any TCP service, `host:port`.
    #[serde(default)]
    pub tcp: Option<String>,
    /// An HTTP service: `http://host:port`, `https://host:port`, each perhaps with a path that goes in front of every
    /// request's.
    #[serde(default)]
    pub http: Option<String>,
    /// Begin each connection to `tunnel` or `tcp` with a PROXY protocol v2 header that names the sender's address and id;
    /// default false. The target must expect it.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// How HTTP requests are put to their target.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// What `Host` says: `target`, the target's own name; `sender`, what the sender asked for, which it may choose freely;
    /// or a name. Default target.
    #[schemars(with = "String")]
    pub host: HostField,
    /// Leave the name of the hybrid connection at the front of the path; default false, as in Microsoft's samples: a
    /// sender's `/name/x` is asked for as `/x`.
    pub keep_name: bool,
    /// Who may vouch for an `https://` target; default the system's roots.
    pub trust: Trust,
    /// How long the target may take to begin its answer, counted from the last byte of the request's body that arrived;
    /// default 55s, then the sender gets 504. Relays give up after 60 s.
    pub answer_within: Span,
    /// Requests at a time; default 256. More are answered with 503, as are those of one sender's
    /// address beyond three quarters. Each holds at most some 256 KiB.
    pub requests: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            host: HostField::Target,
            keep_name: false,
            trust: Trust::default(),
            answer_within: Span(ANSWER_WITHIN),
            requests: REQUESTS,
        }
    }
}

/// What `Host` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum HostField {
    /// The target's own name.
    Target,
    /// What the sender asked for.
    Sender,
    /// This.
    Name(String),
}

impl From<String> for HostField {
    fn from(text: String) -> Self {
        match &*text {
            "target" => Self::Target,
            "sender" => Self::Sender,
            _ => Self::Name(text),
        }
    }
}

impl Forward {
    /// Host and port for WebSocket senders.
    pub fn stream(&self) -> Option<&str> {
        self.tunnel.as_deref().or(self.tcp.as_deref())
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.tunnel.is_some() && self.tcp.is_some() {
            return Err(("forward", "has both tunnel and tcp; a WebSocket sender is taken to one of them".to_owned()));
        }
        if self.stream().is_none() && self.http.is_none() {
            return Err((
                "forward",
                "leads nowhere; write tunnel or tcp with host:port, or http with a URL".to_owned(),
            ));
        }
        if self.proxy_protocol && self.stream().is_none() {
            return Err(("forward.proxy_protocol", "is for tunnel and tcp; HTTP has fields for that".to_owned()));
        }
        if let Some(target) = self.stream() {
            let has_port = target
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
            if !has_port {
                return Err(("forward", format!("{target:?} is no host:port")));
            }
        }
        match &self.http {
            Some(url) => url.parse::<Site>().map(drop).map_err(|message| ("forward.http", message)),
            None => Ok(()),
        }
    }
}

impl HttpConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.requests == 0 {
            return Err(("http.requests", "is 0, so no request would be answered; write 1 or more".to_owned()));
        }
        if let HostField::Name(name) = &self.host
            && (name.is_empty() || name.parse::<http::uri::Authority>().is_err() || name.contains('@'))
        {
            return Err(("http.host", format!("is {name:?}; write target, sender, or a host name")));
        }
        Ok(())
    }
}

impl ConnectionConfig {
    /// Where it is, and as whom.
    pub(crate) fn access(&self) -> Access<'_> {
        Access { url: ("url", self.url.as_deref()), credential: self.credential.as_ref(), join: self.join.as_ref() }
    }
}

fn channels() -> usize {
    CHANNELS
}

fn rotate_after() -> Span {
    Span(ROTATE_AFTER)
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
            if connection.rotate_after.0 < ROTATE_AFTER_MIN {
                return fail("rotate_after", "is less than a minute; write 1m or more".to_owned());
            }
            if let Err((key, message)) = connection.forward.check().and_then(|()| connection.http.check()) {
                return fail(key, message);
            }
        }
        let Limits { dials, dials_waiting, joined, .. } = self.limits;
        for (key, value) in [("dials", dials), ("dials_waiting", dials_waiting), ("joined", joined)] {
            if value == 0 {
                return Err((format!("limits.{key}"), "is 0, so nobody would be served; write 1 or more".to_owned()));
            }
        }
        Ok(())
    }
}
