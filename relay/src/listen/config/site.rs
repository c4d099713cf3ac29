//! Where an HTTP target is: `http://host[:port][/base]` or `https://…`.
use std::{net::Ipv6Addr, str::FromStr};

use http::Uri;

/// An HTTP target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listen) struct Site {
    /// TLS is spoken.
    pub(in crate::listen) tls: bool,
    /// Name or address, an IPv6 literal without its brackets.
    pub(in crate::listen) host: String,
    pub(in crate::listen) port: u16,
    /// In front of every path; without a slash at its end, so the root is nothing.
    pub(in crate::listen) base: String,
}

impl Site {
    /// Host, and the port where it is not the scheme's own.
    pub(in crate::listen) fn authority(&self) -> String {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        };
        let own = if self.tls { 443 } else { 80 };
        if self.port == own { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Site {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{text:?} is no address of an HTTP server; write http://host:port or https://host/base");
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(malformed()),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        let has_more = uri.query().is_some() || text.contains('#') || authority.as_str().contains('@');
        if has_more || authority.host().is_empty() || authority.port_u16() == Some(0) {
            return Err(malformed());
        }
        let base = uri.path().trim_end_matches('/');
        if base.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(malformed());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, base: base.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_target_is_a_server_and_perhaps_a_base() {
        for (text, tls, host, port, base, authority) in [
            ("http://web:8080", false, "web", 8080, "", "web:8080"),
            ("http://web/", false, "web", 80, "", "web"),
            ("https://web.svc/a/b/", true, "web.svc", 443, "/a/b", "web.svc"),
            ("https://[::1]:8443/x", true, "::1", 8443, "/x", "[::1]:8443"),
        ] {
            let site: Site = text.parse().unwrap();
            assert_eq!((site.tls, &*site.host, site.port, &*site.base), (tls, host, port, base), "{text}");
            assert_eq!(site.authority(), authority);
        }
        for text in [
            "web:8080",
            "tcp://web",
            "http://",
            "http://user@web",
            "http://web?x",
            "http://web/#x",
            "http://web/a/../b",
            "http://web//a",
            "http://web:0",
            "",
        ] {
            assert!(text.parse::<Site>().is_err(), "{text}");
        }
    }
}
