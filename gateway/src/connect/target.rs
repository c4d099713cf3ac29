//! Where a face leads: `cluster/host:port`, parsed once at the edge. A bad text names what is wrong with it.
use std::{fmt, net::Ipv6Addr, sync::Arc};

use serde::Deserialize;

/// A target as a connector names it. The host is lower-case, without trailing dot, IPv6 without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    /// Cluster id, a key of `clusters:`.
    pub cluster: Arc<str>,
    /// DNS name or IP literal inside the cluster.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

/// What `to:` of a face says: a target, or a cluster alone for faces whose clients name the rest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum To {
    /// `cluster/host:port`.
    Target(Target),
    /// `cluster`.
    Cluster(Arc<str>),
}

/// What is wrong with a target's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is no `/`.
    #[error("write <cluster>/<host>:<port>, such as factory-a/scorer.models.svc:80")]
    Shape,
    /// No port, or not a number between 1 and 65535.
    #[error("the port must be a number from 1 to 65535, after the last colon")]
    Port,
    /// The host is neither a name nor an address.
    #[error("`{0}` is neither a DNS name nor an IP address (IPv6 goes in brackets)")]
    Host(String),
}

impl Target {
    /// Parses `host:port` inside a known cluster.
    pub fn within(cluster: &str, authority: &str) -> Result<Self, TargetError> {
        let (host, port) = authority.rsplit_once(':').ok_or(TargetError::Port)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(TargetError::Port)?;
        Ok(Self { cluster: cluster.into(), host: host_of(host)?.into(), port })
    }

    /// The API server of a cluster, under the name that it has in all of them. The gateway knows where it really is.
    pub fn api(cluster: &Arc<str>) -> Self {
        Self { cluster: Arc::clone(cluster), host: "kubernetes.default.svc".into(), port: 443 }
    }

    /// `host:port`, IPv6 in brackets again.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Lower-case, no trailing dot, brackets removed; only what can be a name or an address.
fn host_of(text: &str) -> Result<String, TargetError> {
    let wrong = || TargetError::Host(text.to_owned());
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return address.map(|address| address.to_string()).ok_or_else(wrong);
    }
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(wrong());
    }
    Ok(host)
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        let (cluster, authority) = text.split_once('/').ok_or(TargetError::Shape)?;
        if cluster.is_empty() || authority.contains('/') {
            return Err(TargetError::Shape);
        }
        Self::within(cluster, authority)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.authority())
    }
}

impl To {
    /// The cluster, either way.
    pub fn cluster(&self) -> &Arc<str> {
        match self {
            Self::Target(target) => &target.cluster,
            Self::Cluster(cluster) => cluster,
        }
    }
}

impl TryFrom<String> for To {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        if text.is_empty() || text.contains(['/', ':']) {
            return Target::try_from(text).map(Self::Target);
        }
        Ok(Self::Cluster(text.into()))
    }
}

impl schemars::JsonSchema for To {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "To".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "cluster/host:port, or cluster" })
    }
}

impl schemars::JsonSchema for Target {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "cluster/host:port" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, TargetError> {
        Target::try_from(text.to_owned())
    }

    #[test]
    fn names_are_lower_cased_and_lose_their_dot() {
        assert_eq!(parse("a/Scorer.Models.SVC.:80").unwrap().to_string(), "a/scorer.models.svc:80");
    }

    #[test]
    fn ipv6_goes_in_brackets() {
        let target = parse("a/[FD00::1]:5432").unwrap();
        assert_eq!((&*target.host, target.port), ("fd00::1", 5432));
        assert_eq!(target.to_string(), "a/[fd00::1]:5432");
        assert!(matches!(parse("a/fd00::1:5432"), Err(TargetError::Host(_))));
    }

    #[test]
    fn malformed_texts_say_what_to_write() {
        for text in ["", "scorer:80", "/scorer:80", "a/b/c:80"] {
            assert_eq!(parse(text), Err(TargetError::Shape), "{text}");
        }
        for text in ["a/scorer", "a/scorer:", "a/scorer:0", "a/scorer:65536", "a/scorer:http"] {
            assert_eq!(parse(text), Err(TargetError::Port), "{text}");
        }
        for text in ["a/:80", "a/a..b:80", "a/sp ace:80", "a/[::1:80", "a/user@host:80"] {
            assert!(matches!(parse(text), Err(TargetError::Host(_))), "{text}");
        }
    }
}
