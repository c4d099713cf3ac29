//! The head of a request to an HTTP target. Where the sender came from is said by us alone (SD-13): whatever the sender or
//! the relay put there before is removed.
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::PathAndQuery};

use crate::listen::{
    Received,
    config::{HostField, site::Site},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The target's path: its base, and what the sender asked for. Nothing when together they are longer than HTTP allows.
pub(super) fn target(site: &Site, asked: &PathAndQuery) -> Option<Uri> {
    if site.base.is_empty() {
        return Some(asked.clone().into());
    }
    let text = match asked.path() {
        // The base has no slash at its end, and the root of the hybrid connection is the base itself.
        "/" => format!("{}{}", site.base, asked.query().map(|query| format!("?{query}")).unwrap_or_default()),
        _ => format!("{}{asked}", site.base),
    };
    text.parse::<PathAndQuery>().ok().map(Uri::from)
}

/// Says who asks, and whom. `tls` is what the sender spoke.
pub(super) fn identify(headers: &mut HeaderMap, received: &Received, site: &Site, host: &HostField, tls: bool) {
    let sender_host = headers.remove(header::HOST);
    let forged: Vec<HeaderName> = headers.keys().filter(|name| is_about_origin(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    let proto = if tls { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    let mut forwarded = format!("for={}", node(received.remote));
    if let Some(host) = sender_host.as_ref().and_then(plain_host) {
        forwarded.push_str(&format!(";host=\"{host}\""));
        if let Ok(value) = HeaderValue::from_str(host) {
            headers.insert(X_FORWARDED_HOST, value);
        }
    }
    forwarded.push_str(&format!(";proto={proto}"));
    for (name, text) in [
        (header::FORWARDED, Some(forwarded)),
        (X_FORWARDED_FOR, received.remote.map(|remote| remote.ip().to_string())),
        (X_REAL_IP, received.remote.map(|remote| remote.ip().to_string())),
    ] {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    let own = match host {
        HostField::Target => None,
        HostField::Sender => sender_host,
        HostField::Name(name) => HeaderValue::from_str(name).ok(),
    };
    if let Some(value) = own.or_else(|| HeaderValue::from_str(&site.authority()).ok()) {
        headers.insert(header::HOST, value);
    }
}

/// Schemes that authenticate a connection, and with it every later request on it (RFC 4559, section 6).
const OF_CONNECTIONS: [&str; 2] = ["ntlm", "negotiate"];

/// Whether the target may take every later request on the same connection for one of this sender's.
pub(super) fn identifies_connection(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::AUTHORIZATION).into_iter().map(HeaderValue::as_bytes);
    let mut schemes = values.flat_map(|value| value.split(|byte| *byte == b',')).map(|part| {
        let part = part.trim_ascii();
        part.split(u8::is_ascii_whitespace).next().unwrap_or_default()
    });
    schemes.any(|scheme| OF_CONNECTIONS.iter().any(|known| scheme.eq_ignore_ascii_case(known.as_bytes())))
}

/// Fields that say where a request came from, however they are spelled: some servers read `_` as `-`.
fn is_about_origin(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("x-forwarded-") || matches!(&*name, "x-forwarded" | "forwarded" | "x-real-ip")
}

/// A sender as RFC 7239 writes it (section 6).
fn node(remote: Option<SocketAddr>) -> String {
    match remote.map(|remote| (remote.ip(), remote.port())) {
        None => "unknown".to_owned(),
        Some((IpAddr::V4(address), port)) => format!("\"{address}:{port}\""),
        Some((IpAddr::V6(address), port)) => format!("\"[{address}]:{port}\""),
    }
}

/// A host without anything that could end a quoted text.
fn plain_host(value: &HeaderValue) -> Option<&str> {
    let host = value.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_plain)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(remote: Option<&str>) -> Received {
        Received {
            id: String::new(),
            remote: remote.map(|remote| remote.parse().unwrap()),
            below: PathAndQuery::from_static("/"),
        }
    }

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    #[test]
    fn where_a_sender_came_from_is_said_by_us_alone() {
        let site: Site = "https://app.svc:8443".parse().unwrap();
        let mut headers = fields(&[
            ("host", "ns.example.com"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "gopher"),
            ("x_forwarded_for", "10.0.0.2"),
            ("x-forwarded-client-cert", "me"),
            ("x-real-ip", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("via", "1.1 ns"),
        ]);
        identify(&mut headers, &received(Some("203.0.113.9:4711")), &site, &HostField::Target, true);
        assert_eq!(
            shown(&headers),
            [
                "forwarded: for=\"203.0.113.9:4711\";host=\"ns.example.com\";proto=https",
                "host: app.svc:8443",
                "via: 1.1 ns",
                "x-forwarded-for: 203.0.113.9",
                "x-forwarded-host: ns.example.com",
                "x-forwarded-proto: https",
                "x-real-ip: 203.0.113.9",
            ]
        );
    }

    #[test]
    fn an_unknown_sender_and_a_host_that_is_none_are_not_made_up() {
        let site: Site = "http://app".parse().unwrap();
        let mut headers = fields(&[("host", "a\"; for=10.0.0.1"), ("x-forwarded-for", "10.0.0.1")]);
        identify(&mut headers, &received(None), &site, &HostField::Name("inner".into()), false);
        assert_eq!(shown(&headers), ["forwarded: for=unknown;proto=http", "host: inner", "x-forwarded-proto: http"]);
        let mut headers = fields(&[("host", "ns:8443")]);
        identify(&mut headers, &received(Some("[2001:db8::1]:7")), &site, &HostField::Sender, true);
        assert_eq!(headers["host"], "ns:8443");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]:7\";host=\"ns:8443\";proto=https");
    }

    #[test]
    fn only_schemes_of_connections_identify_one() {
        for (value, expected) in [
            ("Negotiate YII=", true),
            ("ntlm", true),
            ("Bearer a.b.c,  NTLM TlRM", true),
            ("Basic bnRsbTpuZWdvdGlhdGU=", false),
            ("Bearer negotiate", false),
            ("NTLMv9 x", false),
            ("", false),
        ] {
            assert_eq!(identifies_connection(&fields(&[("authorization", value)])), expected, "{value}");
        }
        assert!(!identifies_connection(&HeaderMap::new()));
    }

    #[test]
    fn a_path_is_put_behind_the_targets_base() {
        for (url, asked, expected) in [
            ("http://h", "/x?y", "/x?y"),
            ("http://h", "/", "/"),
            ("http://h/base", "/x?y", "/base/x?y"),
            ("http://h/base/", "/", "/base"),
            ("http://h/a/b", "/?q", "/a/b?q"),
        ] {
            let site: Site = url.parse().unwrap();
            assert_eq!(target(&site, &asked.parse().unwrap()).unwrap(), expected, "{url} {asked}");
        }
    }
}
