//! Where a hybrid connection is: `sb://host[:port]/path`.
use std::{fmt, net::IpAddr, str::FromStr};

use http::Uri;

/// `sb://host[:port]/path` (or wss), parsed. `ws://` is for loopback only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Namespace host, an IPv6 literal without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Entity path, without a slash at either end.
    pub path: String,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No URL at all, or parts that an address does not have.
    #[error("is not an address of a hybrid connection; write sb://host/name or sb://host:port/name")]
    Malformed,
    /// Neither sb, wss nor ws.
    #[error("has an unknown scheme; write sb://host/name")]
    Scheme,
    /// Plain text to another machine.
    #[error("ws:// sends tokens in the clear and is for loopback only; write sb://host/name")]
    Plain,
    /// Nothing behind the host.
    #[error("names no hybrid connection; write sb://host/name")]
    NoPath,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError::Malformed)?;
        let tls = match uri.scheme_str() {
            Some("sb" | "wss") => true,
            Some("ws") => false,
            Some(_) => return Err(AddressError::Scheme),
            None => return Err(AddressError::Malformed),
        };
        let authority = uri.authority().ok_or(AddressError::Malformed)?;
        if authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
            return Err(AddressError::Malformed);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !tls && !is_loopback {
            return Err(AddressError::Plain);
        }
        let path = uri.path().trim_matches('/');
        let path = path.strip_prefix("$hc").map_or(path, |rest| rest.trim_start_matches('/'));
        if path.is_empty() {
            return Err(AddressError::NoPath);
        }
        if path.split('/').any(|segment| matches!(segment, "." | ".." | "")) {
            return Err(AddressError::Malformed);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, path: path.to_owned() })
    }
}

impl Address {
    /// Host, and the port where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = self.bracketed();
        let own = if self.tls { 443 } else { 80 };
        if self.port == own { host } else { format!("{host}:{}", self.port) }
    }

    /// What tokens are made for.
    pub fn resource(&self) -> String {
        format!("http://{}/{}", self.bracketed(), self.path)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "sb" } else { "ws" };
        write!(f, "{scheme}://{}/{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn every_spelling_of_an_address_is_understood() {
        let plain = Address { tls: true, host: "relay.example.com".into(), port: 443, path: "factory-a".into() };
        for text in [
            "sb://relay.example.com/factory-a",
            "wss://relay.example.com/$hc/factory-a",
            "sb://relay.example.com:443/factory-a/",
        ] {
            assert_eq!(parsed(text), plain, "{text}");
        }
        assert_eq!(parsed("sb://relay:8443/a/b").authority(), "relay:8443");
        assert_eq!(parsed("ws://127.0.0.1:9/e").to_string(), "ws://127.0.0.1:9/e");
        let v6 = parsed("sb://[::1]:8443/e");
        assert_eq!((v6.host.as_str(), v6.authority().as_str()), ("::1", "[::1]:8443"));
        assert_eq!(v6.resource(), "http://[::1]/e");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, error) in [
            ("relay.example.com", AddressError::Malformed),
            ("https://relay/e", AddressError::Scheme),
            ("ws://relay.example.com/e", AddressError::Plain),
            ("sb://relay.example.com", AddressError::NoPath),
            ("sb://relay.example.com/$hc", AddressError::NoPath),
            ("sb://user@relay/e", AddressError::Malformed),
            ("sb://relay/e?sb-hc-token=x", AddressError::Malformed),
            ("sb://relay/a/../b", AddressError::Malformed),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
