//! Who may speak to an HTTP face at all (SD-3): a loopback port is reachable by every web page in a browser on this
//! machine, so `Host` must be one that is listed, and what a browser marks as coming from a page is refused.
use std::net::IpAddr;

use http::{HeaderMap, Uri, header, uri::Authority};

use super::refusal::Refusal;
use crate::connect::{config::FaceConfig, place::Place, target::To};

/// What stands in `origins:` for pages that the face itself has served.
const SELF: &str = "self";

/// The values of `Host` that a face answers to, lower-case.
#[derive(Debug)]
pub(super) struct Guard {
    /// Host alone: any port, or none.
    hosts: Vec<String>,
    /// Host and port.
    pairs: Vec<(String, u16)>,
    /// What a `Host` without port means.
    default_port: u16,
    /// Origins of pages that may call, lower-case.
    origins: Vec<String>,
}

impl Guard {
    /// For a face bound at `bound`.
    pub(super) fn new(bound: &Place, config: &FaceConfig) -> Self {
        let default_port = if config.kubernetes.is_some() { 443 } else { 80 };
        let origins = config.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect();
        let mut guard = Self { hosts: Vec::new(), pairs: Vec::new(), default_port, origins };
        if let Some(To::Target(target)) = &config.to {
            guard.hosts.push(target.host.to_string());
        }
        match bound.port() {
            Some(bound) => {
                for host in ["localhost", "127.0.0.1", "::1"] {
                    guard.pairs.push((host.to_owned(), bound.port()));
                }
                if !bound.ip().is_unspecified() {
                    guard.pairs.push((bound.ip().to_canonical().to_string(), bound.port()));
                }
            }
            // No page reaches a Unix socket, and its clients write what they like.
            None => guard.hosts.push("localhost".to_owned()),
        }
        let routed = config.routes.iter().filter_map(|route| route.host.as_ref());
        for text in config.hosts.iter().chain(routed) {
            // Others were refused when the file was read.
            match parse(text) {
                Some((host, Some(port))) => guard.pairs.push((host, port)),
                Some((host, None)) => guard.hosts.push(host),
                None => {}
            }
        }
        guard
    }

    /// Refuses what a browser sends on behalf of a page, and any `Host` that is not listed.
    pub(super) fn check(&self, uri: &Uri, fields: &HeaderMap) -> Result<(), Refusal> {
        if !self.admits_page(fields) {
            refuse_pages(fields)?;
        }
        self.check_host(fields)?;
        // A request line in absolute form names the host a second time; both must be ours.
        match uri.authority() {
            Some(authority) if !self.admits(authority) => Err(Refusal::misdirected(authority.as_str())),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses any `Host` that is not listed.
    pub(super) fn check_host(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        let mut named = fields.get_all(header::HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            return Err(Refusal::invalid("the request needs exactly one Host field"));
        };
        match host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) {
            Some(authority) if self.admits(&authority) => Ok(()),
            Some(authority) => Err(Refusal::misdirected(authority.as_str())),
            None => Err(Refusal::invalid("the Host field is malformed")),
        }
    }

    /// Whether a page says where it comes from, and that is listed. That `Host` is ours, too, is judged apart from it.
    fn admits_page(&self, fields: &HeaderMap) -> bool {
        let mut origins = fields.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return false };
        self.origins.iter().any(|listed| match listed.as_str() {
            SELF => {
                let host = fields.get(header::HOST).and_then(|host| host.to_str().ok());
                host.is_some_and(|host| origin.strip_prefix("http://").is_some_and(|of| of.eq_ignore_ascii_case(host)))
            }
            listed => *listed == origin,
        })
    }

    fn admits(&self, authority: &Authority) -> bool {
        let Some((host, port)) = split(authority) else { return false };
        let port = port.unwrap_or(self.default_port);
        self.hosts.contains(&host) || self.pairs.iter().any(|(known, at)| *known == host && *at == port)
    }
}

/// Refuses what a browser sends on behalf of a page.
pub(super) fn refuse_pages(fields: &HeaderMap) -> Result<(), Refusal> {
    if fields.contains_key(header::ORIGIN) {
        return Err(Refusal::from_web_page(
            "requests with an Origin field are refused: this port is not for web pages",
        ));
    }
    // `same-site` is any other port of this machine, `same-origin` a page that this face itself has served.
    let site = fields.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    if site.is_some_and(|site| !matches!(site, b"none" | b"same-origin")) {
        return Err(Refusal::from_web_page("requests that a browser sends for another site are refused"));
    }
    Ok(())
}

/// An entry of `hosts:`, a host with or without a port.
pub(crate) fn parse(text: &str) -> Option<(String, Option<u16>)> {
    text.parse::<Authority>().ok().as_ref().and_then(split)
}

/// Whether a text is an origin as browsers write it, or the word for pages of the face itself.
pub(crate) fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    text == SELF || authority.and_then(|authority| authority.parse().ok()).as_ref().and_then(split).is_some()
}

/// Host in the form in which hosts are compared, and port. Nothing for user information or a port that is no number.
pub(super) fn split(authority: &Authority) -> Option<(String, Option<u16>)> {
    // User information makes it begin with something else than the host.
    let port = match authority.as_str().strip_prefix(authority.host())? {
        "" => None,
        port => Some(port.strip_prefix(':')?.parse().ok()?),
    };
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(bound: &str, keys: &str) -> Guard {
        let config = serde_saphyr::from_str(&format!("{{ http: \"{bound}\", {keys} }}")).unwrap();
        Guard::new(&Place::try_from(bound.to_owned()).unwrap(), &config)
    }

    fn guard(listed: &[&str]) -> Guard {
        of("127.0.0.1:8080", &format!("to: a/scorer.models.svc:80, hosts: [{}]", listed.join(", ")))
    }

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn check(guard: &Guard, uri: &'static str, pairs: &[(&'static str, &'static str)]) -> Result<(), u16> {
        guard.check(&Uri::from_static(uri), &fields(pairs)).map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn loopback_names_with_the_bound_port_and_the_target_are_admitted() {
        for host in [
            "localhost:8080",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "scorer.models.svc",
            "scorer.models.svc.:80",
            "Scorer.Models.SVC:8080",
        ] {
            assert_eq!(check(&guard(&[]), "/", &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn any_other_host_is_refused() {
        for host in [
            "localhost",
            "localhost:80",
            "127.0.0.1:8081",
            "rebound.example.com:8080",
            "user@localhost:8080",
            "10.0.0.1:8080",
            "localhost:",
            "localhost:70000",
        ] {
            assert_eq!(check(&guard(&[]), "/", &[("host", host)]), Err(403), "{host}");
        }
        assert_eq!(check(&guard(&[]), "/", &[]), Err(400));
        assert_eq!(check(&guard(&[]), "/", &[("host", "a b")]), Err(400));
        assert_eq!(check(&guard(&[]), "/", &[("host", "localhost:8080"), ("host", "localhost:8080")]), Err(400));
    }

    #[test]
    fn listed_hosts_are_admitted_besides() {
        let guard = guard(&["scorer.internal", "box:8080"]);
        assert_eq!(check(&guard, "/", &[("host", "scorer.internal:99")]), Ok(()));
        assert_eq!(check(&guard, "/", &[("host", "box:8080")]), Ok(()));
        assert_eq!(check(&guard, "/", &[("host", "box")]), Err(403));
        assert_eq!(check(&guard, "/", &[("host", "localhost:8080")]), Ok(()));
    }

    #[test]
    fn hosts_of_routes_are_admitted_at_any_port() {
        let guard = of("127.0.0.1:8080", "routes: [{ host: app.local, to: a/b:80 }, { path: /x, to: a/c:80 }]");
        for (host, admitted) in [("app.local", true), ("app.local:8080", true), ("localhost:8080", true), ("b", false)]
        {
            assert_eq!(check(&guard, "/", &[("host", host)]).is_ok(), admitted, "{host}");
        }
    }

    #[test]
    fn a_unix_socket_is_localhost_and_no_web_page_comes_there_either() {
        let guard = of("unix:/run/api.sock", "to: a/scorer.models.svc:80");
        assert_eq!(check(&guard, "/", &[("host", "localhost")]), Ok(()));
        assert_eq!(check(&guard, "/", &[("host", "scorer.models.svc")]), Ok(()));
        assert_eq!(check(&guard, "/", &[("host", "127.0.0.1")]), Err(403));
        assert_eq!(check(&guard, "/", &[("host", "localhost"), ("origin", "http://a")]), Err(403));
    }

    #[test]
    fn absolute_form_must_name_an_admitted_host_too() {
        let host = [("host", "localhost:8080")];
        assert_eq!(check(&guard(&[]), "http://localhost:8080/x", &host), Ok(()));
        assert_eq!(check(&guard(&[]), "http://169.254.169.254/x", &host), Err(403));
    }

    #[test]
    fn pages_of_listed_origins_are_admitted() {
        let guard = of("127.0.0.1:8080", "to: a/b:80, origins: [self, \"https://App.example:444\"]");
        let host = ("host", "localhost:8080");
        for (fields, admitted) in [
            (&[host, ("origin", "http://localhost:8080")][..], true),
            (&[host, ("origin", "https://app.example:444"), ("sec-fetch-site", "cross-site")], true),
            (&[host, ("origin", "http://127.0.0.1:8080")], false),
            (&[host, ("origin", "https://localhost:8080")], false),
            (&[host, ("origin", "https://app.example")], false),
            (&[host, ("origin", "null")], false),
            (&[host, ("origin", "self")], false),
            (&[host, ("origin", "http://localhost:8080"), ("origin", "http://evil.example")], false),
            (&[host, ("sec-fetch-site", "cross-site")], false),
            (&[("host", "evil.example"), ("origin", "http://evil.example")], false),
        ] {
            assert_eq!(check(&guard, "/", fields).is_ok(), admitted, "{fields:?}");
        }
        for (text, good) in [
            ("self", true),
            ("http://localhost:8080", true),
            ("https://app.example", true),
            ("*", false),
            ("null", false),
            ("app.example", false),
            ("https://", false),
            ("https://a/b", false),
            ("https://me@a", false),
        ] {
            assert_eq!(is_origin(text), good, "{text}");
        }
    }

    #[test]
    fn what_a_browser_sends_for_a_page_is_refused() {
        let host = ("host", "localhost:8080");
        for value in ["null", "http://localhost:8080", "https://evil.example"] {
            assert_eq!(check(&guard(&[]), "/", &[host, ("origin", value)]), Err(403), "{value}");
        }
        for value in ["cross-site", "same-site", "CROSS-SITE", ""] {
            assert_eq!(check(&guard(&[]), "/", &[host, ("sec-fetch-site", value)]), Err(403), "{value}");
        }
        for value in ["none", "same-origin"] {
            assert_eq!(check(&guard(&[]), "/", &[host, ("sec-fetch-site", value)]), Ok(()), "{value}");
        }
    }
}
