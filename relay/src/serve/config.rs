//! `relay.yaml`.
mod folder;
mod grants;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use daemon::config::{Ranges, SecretRef, Size, Span, Validate};
use identity::{jwt::AuthenticatorConfig, sas::Rights, tls::ServerFiles};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::grants::{GrantConfig, WhoConfig};
pub(crate) use self::{
    folder::{At, Written, folder, written},
    grants::check_grants,
};

/// Longest entity name, as on Azure.
pub(crate) const NAME_MAX: usize = 260;

/// Rules per entity, and for the namespace, as on Azure: each failed token costs one HMAC per key.
const RULES_MAX: usize = 12;

/// `relay.yaml`: what `relay serve` runs on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens; at least one.
    pub listen: Vec<Listen>,
    /// Host name of the namespace, without port. Tokens must be made for it.
    pub namespace: String,
    /// Rules for the whole namespace; default none. Each entity should have its own instead.
    #[serde(default)]
    pub rules: BTreeMap<String, RuleConfig>,
    /// Issuers whose JWTs are accepted, by name; default none. What their holders may do, `grants` say. Azure's clients
    /// ask for tokens with the audience `https://relay.azure.net`.
    #[serde(default)]
    pub authenticators: BTreeMap<String, AuthenticatorConfig>,
    /// What holders of JWTs may do in the whole namespace; default nothing. Each entity should have its own instead.
    #[serde(default)]
    pub grants: Vec<GrantConfig>,
    /// The hybrid connections, by name; default none but those of `entities_from`.
    #[serde(default)]
    pub entities: BTreeMap<String, EntityConfig>,
    /// Folder with one YAML file per hybrid connection, for fleets; default none. Files that begin with a dot, or do not
    /// end in `.yaml` or `.yml`, are passed over. Paths in a file start at that file.
    #[serde(default)]
    pub entities_from: Option<PathBuf>,
    /// What tokens are accepted.
    #[serde(default)]
    pub tokens: Tokens,
    /// Bounds for everybody together.
    #[serde(default)]
    pub limits: Limits,
}

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address and port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Certificate and key. Without it the address must be loopback.
    #[serde(default)]
    pub tls: Option<ServerFiles>,
}

/// A hybrid connection: a value of `entities`, or a file of `entities_from`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntityConfig {
    /// Its name, in a file of `entities_from` only; default the name of the file. A name with a `/` needs it.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it is served; default true. Disabling it closes everything in it at once.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What senders may be; default `websocket`.
    #[serde(default)]
    pub kind: Kind,
    /// Shared access rules by name; a token names the rule that it was made with.
    #[serde(default)]
    pub rules: BTreeMap<String, RuleConfig>,
    /// What holders of JWTs may do here; default nothing but what the namespace grants.
    #[serde(default)]
    pub grants: Vec<GrantConfig>,
    /// Whether senders need no token; default false. Listeners always need one.
    #[serde(default)]
    pub anonymous_senders: bool,
    /// Addresses that its listeners may come from: a range such as 203.0.113.0/24, or a list; default any. The address is
    /// that of the connection, so behind a balancer it is the balancer's.
    #[serde(default)]
    pub listeners_from: Ranges,
    /// How HTTP requests are relayed, where `kind` lets any come.
    #[serde(default)]
    pub http: Http,
    /// Bounds for this hybrid connection.
    #[serde(default)]
    pub limits: EntityLimits,
}

fn yes() -> bool {
    true
}

/// Which senders a hybrid connection has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// WebSocket senders, which can be end to end.
    #[default]
    Websocket,
    /// HTTP requests, which the relay could read. Its listeners need not understand WebSocket senders.
    Http,
    /// Both. Every listener gets either, except that hyco-ws gets no requests.
    Both,
}

impl Kind {
    pub(crate) fn takes_websockets(self) -> bool {
        matches!(self, Self::Websocket | Self::Both)
    }

    pub(crate) fn takes_http(self) -> bool {
        matches!(self, Self::Http | Self::Both)
    }
}

/// How HTTP requests are relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// How long a listener may take to begin its answer to a whole request; default 60s, as on Azure.
    pub response_timeout: Span,
    /// How long a body may pause, towards either side; default 60s, as on Azure. Also how long a sender may take for a
    /// body of up to 64 KiB.
    pub idle_timeout: Span,
    /// Status while nobody listens: 502, 503 or 404; default 502.
    pub no_listener: u16,
}

impl Default for Http {
    fn default() -> Self {
        // Azure's documents say 502 in their text and 503 in a table, and its WebSocket senders see 404. 502 is the one
        // of them that tells a client that it did nothing wrong.
        let minute = Span(Duration::from_secs(60));
        Self { response_timeout: minute, idle_timeout: minute, no_listener: 502 }
    }
}

/// A shared access rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What a token of this rule may do.
    pub rights: Vec<Right>,
    /// One or two keys, primary first; at least 128 bits each.
    pub keys: Vec<SecretRef>,
}

/// One thing that a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Hold a control channel.
    Listen,
    /// Be a sender.
    Send,
    /// Read about the hybrid connection, and everything else.
    Manage,
}

/// Manage holds the other two, as on Azure.
pub(crate) fn rights(list: &[Right]) -> Rights {
    let manage = list.contains(&Right::Manage);
    Rights { listen: manage || list.contains(&Right::Listen), send: manage || list.contains(&Right::Send), manage }
}

/// Bounds of one hybrid connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntityLimits {
    /// Listeners at a time; default 25, as on Azure. When there is no place left, addresses (IPv6: each /64) share them: a
    /// newcomer takes the newest place of the address that has most, if that has at least two more than the newcomer's.
    pub listeners: usize,
    /// Senders at a time, those still waiting for a listener included; default 1000.
    pub senders: usize,
    /// New senders per second, WebSocket connects and HTTP requests together; default unlimited. A second's worth may come
    /// at once.
    pub requests_per_second: Option<usize>,
    /// Payload bytes per second, all senders and both directions together; default unlimited.
    pub bytes_per_second: Option<Size>,
}

impl Default for EntityLimits {
    fn default() -> Self {
        Self { listeners: 25, senders: 1000, requests_per_second: None, bytes_per_second: None }
    }
}

/// What tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// Longest life a token may have left, shared access signature or JWT; default 24h.
    pub max_life: Span,
    /// How long after its end a token still counts, for clocks that differ and for SDKs that renew at the end, not before
    /// it; default 5m. A JWT is only accepted within the `leeway` of its authenticator; who was let in has this time.
    pub grace: Span,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { max_life: Span(Duration::from_secs(24 * 3600)), grace: Span(Duration::from_secs(300)) }
    }
}

/// Bounds for everybody together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory for bytes in flight on all connections together; default 512Mi. One hybrid connection has at most a third of
    /// what is left; beyond it, reads become smaller, down to some 12 KiB for each direction in which bytes move.
    pub buffer_memory: Size,
    /// Unproven connections at a time in all; default 1024. More wait to be accepted. One address (IPv6: one /64) has a
    /// quarter for itself, and more while a quarter is free for others; beyond, its connections are closed at once.
    pub handshakes: usize,
    /// Of those, how many of one address are served at a time; default 64. The others wait their turn, for at most 10 s.
    pub handshakes_per_address: usize,
    /// How many handshakes of one address are begun per second; default unlimited. The others wait their turn, too.
    pub handshakes_per_second_per_address: Option<usize>,
    /// Connections at a time from one address, of every kind; default 16384, since a whole site may be behind one. More
    /// are refused; rendezvous of listeners never are.
    pub connections_per_address: usize,
    /// Senders at a time that wait for a listener, in all; default 1024. One hybrid connection, and one address, has a
    /// quarter for itself, and more while a quarter is free for others.
    pub rendezvous: usize,
    /// How long a sender waits for a listener to accept; default 30s.
    pub accept_timeout: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            buffer_memory: Size(512 * 1024 * 1024),
            handshakes: 1024,
            handshakes_per_address: 64,
            handshakes_per_second_per_address: None,
            connections_per_address: 16_384,
            rendezvous: 1024,
            accept_timeout: Span(Duration::from_secs(30)),
        }
    }
}

type Problem = Result<(), (String, String)>;

impl Validate for Config {
    fn validate(&self) -> Problem {
        let fail = |key: &str, message: &str| Err((key.to_owned(), message.to_owned()));
        if self.listen.is_empty() {
            return fail("listen", "names no address; write at least one, such as `- address: 127.0.0.1:9443`");
        }
        for (index, listen) in self.listen.iter().enumerate() {
            if listen.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
                return fail(
                    &format!("listen[{index}].tls.client_ca"),
                    "is not used here: listeners and senders prove themselves by tokens",
                );
            }
            if listen.tls.is_none() && !listen.address.ip().is_loopback() {
                return fail(
                    &format!("listen[{index}].tls"),
                    "is missing; tokens must not travel in the clear, so without TLS the address must be loopback",
                );
            }
        }
        // It stands in tracking ids, Via and descriptions as it is.
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if self.namespace.is_empty() || !self.namespace.bytes().all(is_host) {
            return fail("namespace", "is a host name alone, without scheme and port, such as relay.example.com");
        }
        check_rules("rules", &self.rules)?;
        grants::check_authenticators(&self.authenticators)?;
        check_grants("grants", &self.grants, &self.authenticators)?;
        for (name, entity) in &self.entities {
            let key = format!("entities.{name}");
            check_name(&key, name)?;
            if entity.name.is_some() {
                return fail(&format!("{key}.name"), "is for files of entities_from; here the key is the name");
            }
            entity.check(&format!("{key}."))?;
            check_grants(&format!("{key}.grants"), &entity.grants, &self.authenticators)?;
        }
        for (key, value) in [
            ("limits.handshakes_per_address", self.limits.handshakes_per_address),
            ("limits.handshakes", self.limits.handshakes),
            ("limits.handshakes_per_second_per_address", self.limits.handshakes_per_second_per_address.unwrap_or(1)),
            ("limits.connections_per_address", self.limits.connections_per_address),
            ("limits.rendezvous", self.limits.rendezvous),
        ] {
            if value == 0 {
                return fail(key, "is 0, so nobody could connect; write 1 or more");
            }
        }
        Ok(())
    }
}

/// A file of `entities_from`. Its grants are checked where the authenticators are known.
impl Validate for EntityConfig {
    fn validate(&self) -> Problem {
        if let Some(name) = &self.name {
            check_name("name", name)?;
        }
        self.check("")
    }
}

/// Azure's rule: letters, digits, `.`, `-`, `_` and `/`, with a letter or digit at both ends.
pub(crate) fn check_name(key: &str, name: &str) -> Problem {
    let bytes = name.as_bytes();
    let is_valid = bytes.len() <= NAME_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_/".contains(byte))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && name.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if is_valid {
        return Ok(());
    }
    let rule =
        "is no name: letters, digits, `.`, `-`, `_` and `/`, a letter or digit at both ends, at most 260 characters";
    Err((key.to_owned(), rule.to_owned()))
}

fn check_rules(key: &str, rules: &BTreeMap<String, RuleConfig>) -> Problem {
    if rules.len() > RULES_MAX {
        return Err((key.to_owned(), format!("has {} rules; {RULES_MAX} is the limit", rules.len())));
    }
    for (name, rule) in rules {
        if rule.rights.is_empty() {
            return Err((format!("{key}.{name}.rights"), "is empty; write [listen], [send] or [manage]".to_owned()));
        }
        if rule.keys.is_empty() || rule.keys.len() > 2 {
            return Err((format!("{key}.{name}.keys"), "needs one or two keys, primary first".to_owned()));
        }
    }
    Ok(())
}

impl EntityConfig {
    /// `at` is what comes before its keys.
    fn check(&self, at: &str) -> Problem {
        check_rules(&format!("{at}rules"), &self.rules)?;
        let limits = &self.limits;
        let rates = [limits.requests_per_second, limits.bytes_per_second.map(|size| usize::from(size.0 > 0))];
        if limits.listeners == 0 || limits.senders == 0 || rates.contains(&Some(0)) {
            let message = "has a 0, which would let nothing through; write 1 or more";
            return Err((format!("{at}limits"), message.to_owned()));
        }
        if self.http.response_timeout.0.is_zero() || self.http.idle_timeout.0.is_zero() {
            return Err((format!("{at}http"), "has a timeout of 0, which would let nothing through".to_owned()));
        }
        if !matches!(self.http.no_listener, 502 | 503 | 404) {
            return Err((format!("{at}http.no_listener"), "is none of 502, 503 and 404".to_owned()));
        }
        Ok(())
    }
}
