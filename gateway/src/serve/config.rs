//! `gateway.yaml`. Types and the checks that types cannot make; nothing here opens a file or a port.

pub mod kubernetes;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use daemon::{
    audit::AuditConfig,
    config::{Ranges, Size, Span, Validate},
};
use identity::jwt::AuthenticatorConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

pub use self::kubernetes::KubernetesConfig;
use super::target::naming::Naming;
use crate::policy::{
    Host, PolicyFile, Setting,
    compile::{DOMAIN, MTLS, is_plain_name},
    host::HostPattern,
};

/// The config file of `gateway serve`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Cluster id: letters, digits, `.` and `-`, at most 63. The gateway proves itself as `causeway://<cluster>`.
    pub cluster: String,
    /// The tunnel port.
    pub listen: Listen,
    /// The cluster's identity on disk.
    pub identity: IdentityFiles,
    /// What the cluster's network looks like.
    #[serde(default)]
    pub networks: Networks,
    /// Who vouches for callers, by name; a principal is always `<name>/<subject>`. The name `mtls` stands for client
    /// certificates and cannot be given away.
    #[serde(default)]
    pub authenticators: BTreeMap<String, AuthenticatorConfig>,
    /// The policy: a path (relative to this file, reloaded on change), or the policy itself.
    pub policy: PolicySource,
    /// The deny file: who must not come in any more, whatever the policy says (path, relative to this file, reloaded on
    /// change). Default: none.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub deny: Option<PathBuf>,
    /// How targets are spoken to, where what the caller asks for does not do. The first entry that fits counts. A change,
    /// of their CAs too, counts for new requests. Default: none.
    #[serde(default)]
    pub targets: Vec<TargetConfig>,
    /// Fields of requests by which targets are told who calls; what the caller wrote in them is overwritten. Default: none.
    #[serde(default)]
    pub identity_headers: IdentityHeaders,
    /// Unix sockets of this machine that rules of the kind `unix` may name: their absolute paths, by name. A change
    /// counts for new streams. Default: none.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub unix: BTreeMap<String, PathBuf>,
    /// The API server of this cluster, for rules of the kind `kubernetes`; `{}` in a pod. Default: off, and such requests are
    /// refused. A change needs a restart.
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// Where every grant, refusal and change of policy is written down, each line chained to the one before. Default:
    /// nowhere but the log.
    #[serde(default)]
    pub audit: Option<AuditConfig>,
    /// Where spans of streams go, by OTLP. Default: nowhere; the caller's trace is passed on either way. A change needs a
    /// restart.
    #[serde(default)]
    pub traces: Option<daemon::traces::Config>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
}

/// How some targets are spoken to.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Host patterns, as in a policy: `*` is one label, a leading `**` is one or more; or IP addresses.
    pub hosts: Vec<String>,
    /// Ports.
    pub ports: Vec<u16>,
    /// Speak TLS, whatever scheme the caller names. Default: as the caller says, with the system's CAs and the target's name.
    #[serde(default)]
    pub tls: Option<TargetTls>,
    /// Version of HTTP. Default: HTTP/1.1; with TLS what ALPN gives; for gRPC, and where the caller says so, HTTP/2.
    #[serde(default)]
    pub protocol: Option<TargetProtocol>,
}

/// Names of the fields that tell a target who calls. Each holds nothing where there is nothing to tell.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityHeaders {
    /// Whose request it is, `authenticator/subject`.
    pub subject: Option<String>,
    /// Who holds the tunnel, `authenticator/subject`.
    pub actor: Option<String>,
    /// Groups and roles of the subject, with commas between them.
    pub groups: Option<String>,
}

/// TLS to a target.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TargetTls {
    /// PEM file with the only CAs that are trusted. Default: the system's.
    pub ca: Option<PathBuf>,
    /// Name in SNI and in the target's certificate. Default: the name that the caller calls.
    pub server_name: Option<String>,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS, with prior knowledge.
    H2,
}

/// The tunnel port (SD-10).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address and port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Peers that may send a PROXY v2 header. Default: nobody; from anybody else it closes the connection.
    #[serde(default)]
    pub proxy_protocol_from: Ranges,
    /// Peers that may speak cleartext WebSocket, such as a TLS-ending ingress; the inner session is still required.
    /// Default: nobody but loopback.
    #[serde(default)]
    pub plaintext_from: Ranges,
    /// DNS names and IP addresses in the gateway's certificate, for clients other than the connector, which does not
    /// need them. Default: none.
    #[serde(default)]
    pub names: Vec<String>,
    /// PEM CAs of client certificates; a certificate that is shown makes its holder the actor `mtls/<URI or common
    /// name>`. Default: none is asked for. Reloaded on change; tunnels of certificates that are good no longer end.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// PEM revocation lists (CRLs), one of every CA in the chain of a client certificate, none of them past its next
    /// update: where one is missing or too old, the certificate is refused. Reloaded like `client_ca`. Default: none is
    /// asked.
    #[serde(default)]
    pub client_crl: Option<PathBuf>,
}

/// The cluster's identity on disk.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// Folder of the CA and the leaf; what is absent is made.
    pub directory: PathBuf,
}

/// What the cluster's network looks like (SD-6).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Networks {
    /// Pod ranges, one or a list. Default: none.
    pub pods: Ranges,
    /// Service ranges, one or a list. Default: none. An address in no range is `external`.
    pub services: Ranges,
    /// The cluster's DNS domain, appended to names that end in `.svc`. Default `cluster.local`.
    pub domain: Option<String>,
    /// Names answered before DNS is asked.
    #[schemars(with = "BTreeMap<String, String>")]
    pub hosts: BTreeMap<String, IpAddr>,
    /// Exactly these addresses and ports may be called whatever class they are of.
    #[schemars(with = "Vec<String>")]
    pub exceptions: Vec<SocketAddr>,
    /// Further addresses that lead back to this gateway, such as its Service; they are never called.
    #[schemars(with = "Vec<String>")]
    pub own: Vec<IpAddr>,
}

/// Where the policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// A file of its own.
    File(PathBuf),
    /// In the gateway's config.
    Inline(PolicyFile),
}

impl<'de> Deserialize<'de> for PolicySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PolicySource;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the path of a policy file, or a policy with `rules`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<PolicySource, E> {
                Ok(PolicySource::File(path.into()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PolicySource, A::Error> {
                PolicyFile::deserialize(de::value::MapAccessDeserializer::new(map)).map(PolicySource::Inline)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for PolicySource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PolicySource".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let inline = generator.subschema_for::<PolicyFile>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "description": "path of a policy file" }, inline] })
    }
}

/// Limits. Each refusal names the one that was reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Tunnels at once. Default 1000.
    pub tunnels: usize,
    /// Streams at once on one tunnel. Default 1000.
    pub streams_per_tunnel: u32,
    /// Streams at once on all tunnels together. Default 40000. Once half of them are taken, nobody has more than a
    /// quarter, and so it is with `tunnels`.
    pub streams: usize,
    /// What each actor may have, who holds tunnels. Default: no limit but its share.
    pub per_actor: PerPrincipal,
    /// What each subject may have, whose requests they are. Default: no limit but its share.
    pub per_subject: PerPrincipal,
    /// Connections at once that have not finished their handshakes. Default 512.
    pub handshakes: usize,
    /// The same from one address. Default 64.
    pub handshakes_per_address: usize,
    /// How long a stream may outlive the token that opened it; `0s` ends it with the token. Default 1h (SD-7).
    pub max_after_expiry: Span,
    /// To resolve a target and connect to it. Default 10s.
    pub connect: Span,
    /// From the end of a request's head to the answer's first byte. Default 5m, since models may think for long.
    pub first_byte: Span,
    /// Payload that all tunnels together may hold: received and not yet taken by the next hop, or not yet written; also what
    /// a target may send (256Ki) while its answer waits for the caller. From 75 % on the largest holders get no more, from
    /// 95 % on no stream is begun, at 100 % the largest are reset. Default 256Mi; at least 8Mi.
    pub buffers: Size,
}

/// Sixteen streams whose windows have grown to the largest size: more than a process of this kind ever needs at once, and
/// little enough to live beside others.
pub(crate) const BUFFERS: u64 = 256 << 20;

/// Below this the first streams of a tunnel would press already.
pub(crate) const BUFFERS_MIN: u64 = 8 << 20;

/// What one principal may have. Who is refused is told the limit, its value, what they have, and when to come again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PerPrincipal {
    /// Tunnels at once; of actors alone. Where no actor is bound to a tunnel, it is the first caller's. One that gets no place
    /// is ended after 10 s. Default: no limit.
    pub tunnels: Option<usize>,
    /// Streams at once. Default: no limit.
    pub streams: Option<usize>,
    /// New streams in a second, and as many at once after a quiet one. Default: no limit.
    pub streams_per_second: Option<u32>,
    /// Bytes of payload in a second, both ways together: who is faster is slowed down, and opens no new stream meanwhile.
    /// Default: no limit.
    pub bytes_per_second: Option<Size>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tunnels: 1000,
            streams_per_tunnel: 1000,
            streams: 40_000,
            per_actor: PerPrincipal::default(),
            per_subject: PerPrincipal::default(),
            handshakes: 512,
            handshakes_per_address: 64,
            max_after_expiry: Span(Duration::from_secs(3600)),
            connect: Span(Duration::from_secs(10)),
            first_byte: Span(Duration::from_secs(300)),
            buffers: Size(BUFFERS),
        }
    }
}

impl Config {
    /// What gives the names in a policy their meaning.
    pub fn setting(&self) -> Setting {
        let kept = |(name, config): (&String, &AuthenticatorConfig)| (name.clone(), config.claims.clone());
        Setting {
            authenticators: self.authenticators.iter().map(kept).collect(),
            domain: self.networks.domain().trim_end_matches('.').to_owned(),
        }
    }
}

impl Networks {
    /// The cluster's DNS domain, lower case.
    pub fn domain(&self) -> String {
        self.domain.as_deref().unwrap_or(DOMAIN).to_ascii_lowercase()
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: String| Err((key.to_owned(), message));
        if !is_cluster_id(&self.cluster) {
            return wrong("cluster", "a cluster id has 1 to 63 letters, digits, `.` or `-`".to_owned());
        }
        for name in &self.listen.names {
            if let Err(error) = name.parse::<Host>() {
                return wrong("listen.names", format!("\"{name}\": {error}"));
            }
        }
        if self.authenticators.contains_key(MTLS) {
            return wrong("authenticators.mtls", "this name stands for client certificates; choose another".to_owned());
        }
        if self.authenticators.is_empty() && self.listen.client_ca.is_none() {
            return wrong(
                "authenticators",
                "nobody could prove who they are: name an authenticator, or set `listen.client_ca`".to_owned(),
            );
        }
        if self.listen.client_crl.is_some() && self.listen.client_ca.is_none() {
            return wrong("listen.client_crl", "says nothing without `listen.client_ca`".to_owned());
        }
        if self.deny.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return wrong("deny", "the path is empty".to_owned());
        }
        if let Some(domain) = &self.networks.domain
            && !matches!(domain.parse(), Ok(Host::Name(_)))
        {
            return wrong("networks.domain", format!("\"{domain}\" is not a DNS name"));
        }
        for name in self.networks.hosts.keys() {
            match name.parse::<Host>() {
                Ok(Host::Name(canonical)) if canonical == *name => {}
                _ => return wrong("networks.hosts", format!("\"{name}\" is not a lower-case DNS name")),
            }
        }
        let limits = &self.limits;
        for (key, value) in [
            ("limits.tunnels", limits.tunnels),
            ("limits.streams", limits.streams),
            ("limits.streams_per_tunnel", limits.streams_per_tunnel as usize),
            ("limits.handshakes", limits.handshakes),
            ("limits.handshakes_per_address", limits.handshakes_per_address),
        ] {
            if value == 0 {
                return wrong(key, "0 would let nothing through".to_owned());
            }
        }
        if limits.per_subject.tunnels.is_some() {
            return wrong("limits.per_subject.tunnels", "subjects hold no tunnels; see `limits.per_actor`".to_owned());
        }
        for (role, per) in [("per_actor", &limits.per_actor), ("per_subject", &limits.per_subject)] {
            for (key, is_zero) in [
                ("tunnels", per.tunnels == Some(0)),
                ("streams", per.streams == Some(0)),
                ("streams_per_second", per.streams_per_second == Some(0)),
                ("bytes_per_second", per.bytes_per_second == Some(Size(0))),
            ] {
                if is_zero {
                    return wrong(&format!("limits.{role}.{key}"), "0 would let nothing through".to_owned());
                }
            }
        }
        if let Err((key, message)) = Naming::new(&self.identity_headers) {
            return wrong(&format!("identity_headers.{key}"), message);
        }
        for (key, value) in [("limits.connect", limits.connect), ("limits.first_byte", limits.first_byte)] {
            if value.0.is_zero() {
                return wrong(key, "0 would let nothing through".to_owned());
            }
        }
        if limits.buffers.0 < BUFFERS_MIN {
            return wrong("limits.buffers", format!("at least {}, what one or two streams need", Size(BUFFERS_MIN)));
        }
        if let Some(traces) = &self.traces {
            traces.validate().map_err(|(key, message)| (format!("traces.{key}"), message))?;
        }
        for (index, target) in self.targets.iter().enumerate() {
            target.validate().map_err(|(key, message)| (format!("targets[{index}].{key}"), message))?;
        }
        for (name, path) in &self.unix {
            if !is_plain_name(name) {
                return wrong("unix", format!("\"{name}\": a name has 1 to 64 letters, digits, `.`, `_` or `-`"));
            }
            if !path.is_absolute() {
                return wrong(&format!("unix.{name}"), format!("{} is not an absolute path", path.display()));
            }
        }
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes.validate().map_err(|(key, message)| (format!("kubernetes.{key}"), message))?;
        }
        match &self.policy {
            PolicySource::Inline(policy) => {
                policy.validate().map_err(|(key, message)| (format!("policy.{key}"), message))
            }
            PolicySource::File(path) if path.as_os_str().is_empty() => wrong("policy", "the path is empty".to_owned()),
            PolicySource::File(_) => Ok(()),
        }
    }
}

impl Validate for TargetConfig {
    fn validate(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: String| Err((key.to_owned(), message));
        if self.hosts.is_empty() {
            return wrong("hosts", "there is no host".to_owned());
        }
        for host in &self.hosts {
            if let Err(error) = host.parse::<HostPattern>() {
                return wrong("hosts", format!("\"{host}\": {error}"));
            }
        }
        if self.ports.is_empty() || self.ports.contains(&0) {
            return wrong("ports", "there is at least one port, from 1 to 65535".to_owned());
        }
        if let Some(name) = self.tls.as_ref().and_then(|tls| tls.server_name.as_ref())
            && let Err(error) = name.parse::<Host>()
        {
            return wrong("tls.server_name", format!("\"{name}\": {error}"));
        }
        if self.tls.is_none() && self.protocol.is_none() {
            return wrong("tls", "the entry says nothing: add `tls` or `protocol`".to_owned());
        }
        Ok(())
    }
}

/// Whether a text can stand in `causeway://<cluster>` and in file names.
fn is_cluster_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests;
