//! The address of a direct way: `wss://host[:port]`. Parsed once; `ws://` only towards loopback, so that no setting and
//! no failure can turn a proven way into a plain one.
use std::{fmt, net::IpAddr, str::FromStr};

use http::Uri;
use proto::tunnel::UPGRADE_PATH;

/// A parsed `direct:` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectUrl {
    /// Whether the outer session is TLS.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port; default 443, or 80 for `ws`.
    pub port: u16,
}

/// What is wrong with a `direct:` address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectUrlError {
    /// Not a URL of this kind.
    #[error("write wss://<host>[:<port>], such as wss://gw.factory-a.example.com")]
    Shape,
    /// Something behind host and port.
    #[error("write host and port only: the path is always {UPGRADE_PATH}")]
    Path,
    /// Plain, and not to this machine.
    #[error("ws:// is for loopback addresses only: write wss://")]
    Plain,
}

impl FromStr for DirectUrl {
    type Err = DirectUrlError;

    fn from_str(text: &str) -> Result<Self, DirectUrlError> {
        let uri = text.parse::<Uri>().map_err(|_| DirectUrlError::Shape)?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(DirectUrlError::Shape),
        };
        let authority = uri.authority().ok_or(DirectUrlError::Shape)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(DirectUrlError::Shape);
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/" | UPGRADE_PATH) {
            return Err(DirectUrlError::Path);
        }
        if !tls && !is_loopback(&host) {
            return Err(DirectUrlError::Plain);
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") if tls => 443,
            Some("") => 80,
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(DirectUrlError::Shape)?,
            None => return Err(DirectUrlError::Shape),
        };
        Ok(Self { tls, host, port })
    }
}

/// `localhost` or a loopback address: the only hosts that plain WebSocket may go to.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

impl DirectUrl {
    /// `host:port` for the Host field.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for DirectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_default_by_scheme() {
        let url: DirectUrl = "wss://GW.example.com".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.tls), ("gw.example.com", 443, true));
        assert_eq!("ws://[::1]:9".parse::<DirectUrl>().unwrap().to_string(), "ws://[::1]:9");
        assert_eq!("wss://gw:8443/causeway/v1/tunnel".parse::<DirectUrl>().unwrap().port, 8443);
    }

    #[test]
    fn plain_websocket_goes_to_loopback_only() {
        for text in ["ws://127.0.0.1:1", "ws://localhost:1", "ws://[::1]:1"] {
            assert!(text.parse::<DirectUrl>().is_ok(), "{text}");
        }
        for text in ["ws://gw.example.com", "ws://10.0.0.1", "ws://localhost.example.com"] {
            assert_eq!(text.parse::<DirectUrl>(), Err(DirectUrlError::Plain), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "gw", "https://gw", "sb://gw/x", "wss://", "wss://user@gw", "wss://gw:", "wss://gw:70000"] {
            assert_eq!(text.parse::<DirectUrl>(), Err(DirectUrlError::Shape), "{text}");
        }
        for text in ["wss://gw/other", "wss://gw/?token=x"] {
            assert_eq!(text.parse::<DirectUrl>(), Err(DirectUrlError::Path), "{text}");
        }
    }
}
