//! Where a relay may make us dial (SD-8). A hostile relay must not turn a listener into a probe of the cluster's inside:
//! scheme, host, port and path of each rendezvous address are checked against the control channel, and so is the class of
//! every resolved address.
mod class;

use std::net::IpAddr;

use http::Uri;
use proto::hybrid::address::{Target, segments};

pub(crate) use self::class::may_dial;
use crate::sender::Address;

/// Why a rendezvous address is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No absolute address.
    #[error("rendezvous address is malformed")]
    Malformed,
    /// Plain text after TLS, or no WebSocket.
    #[error("rendezvous address has another scheme than the control channel")]
    Scheme,
    /// Neither the relay's host nor an allowed one.
    #[error("rendezvous host is not allowed (rendezvous_hosts)")]
    Host,
    /// Neither the control channel's port nor an allowed one.
    #[error("rendezvous port is not allowed (rendezvous_ports)")]
    Port,
    /// Not beneath our hybrid connection.
    #[error("rendezvous path is not of this hybrid connection")]
    Path,
    /// Inside, where the control channel is outside.
    #[error("rendezvous host resolves to an address that the relay must not send us to")]
    Address,
}

impl Refused {
    /// Stable name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "refused_malformed",
            Self::Scheme => "refused_scheme",
            Self::Host => "refused_host",
            Self::Port => "refused_port",
            Self::Path => "refused_path",
            Self::Address => "refused_address",
        }
    }
}

/// A rendezvous address that passed, but for the addresses that its host resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Where to connect to.
    pub(crate) address: Address,
    /// Path and query, byte for byte. Holds the secret.
    pub(crate) target: String,
}

/// What one hybrid connection's relay may name.
#[derive(Debug)]
pub(crate) struct Permit {
    tls: bool,
    host: String,
    below: Vec<String>,
    ports: Vec<u16>,
    path: Vec<String>,
}

impl Permit {
    /// `hosts` and `ports` as configured; no hosts means the relay's parent domain.
    pub(crate) fn new(relay: &Address, hosts: &[String], ports: &[u16]) -> Self {
        let host = normal(&relay.host);
        let below = match hosts {
            [] => parent_domain(&host).into_iter().collect(),
            hosts => hosts.iter().map(|host| normal(host.trim_start_matches("*."))).collect(),
        };
        let ports = ports.iter().copied().chain([relay.port]).collect();
        Self { tls: relay.tls, host, below, ports, path: segments(&relay.path) }
    }

    /// Checks everything that can be seen in the address itself.
    pub(crate) fn check(&self, address: &str) -> Result<Destination, Refused> {
        let uri: Uri = address.parse().map_err(|_| Refused::Malformed)?;
        let authority = uri.authority().ok_or(Refused::Malformed)?;
        if authority.as_str().contains('@') || address.contains('#') {
            return Err(Refused::Malformed);
        }
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") if !self.tls => false,
            _ => return Err(Refused::Scheme),
        };
        let host = normal(authority.host().trim_matches(['[', ']']));
        let is_below = |domain: &String| {
            host == *domain || host.strip_suffix(domain.as_str()).is_some_and(|head| head.ends_with('.'))
        };
        if host != self.host && (host.parse::<IpAddr>().is_ok() || !self.below.iter().any(is_below)) {
            return Err(Refused::Host);
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if tls => 443,
            None => 80,
        };
        if !self.ports.contains(&port) {
            return Err(Refused::Port);
        }
        let target = uri.path_and_query().map(|target| target.as_str()).ok_or(Refused::Path)?;
        let parsed = Target::parse(target).map_err(|_| Refused::Path)?;
        if !segments(parsed.path()).starts_with(&self.path) {
            return Err(Refused::Path);
        }
        let address = Address { tls, host, port, path: parsed.path().to_owned() };
        Ok(Destination { address, target: target.to_owned() })
    }
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// `servicebus.windows.net` for `ns.servicebus.windows.net`: Azure answers from nodes beside the namespace. A parent of
/// one label (`com`) is nobody's, and an IP address has none.
fn parent_domain(host: &str) -> Option<String> {
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let (_, parent) = host.split_once('.')?;
    parent.contains('.').then(|| parent.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(url: &str, hosts: &[&str], ports: &[u16]) -> Permit {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        Permit::new(&url.parse().unwrap(), &hosts, ports)
    }

    #[test]
    fn only_addresses_of_the_same_relay_and_entity_pass() {
        let azure = permit("sb://ns.servicebus.windows.net/hyco", &[], &[]);
        for (address, expected) in [
            ("wss://ns.servicebus.windows.net/$hc/hyco?sb-hc-action=accept", Ok(())),
            ("wss://NS.servicebus.windows.net:443/$hc/Hyco/suffix?x", Ok(())),
            ("wss://g17-prod-010-sb.servicebus.windows.net/$hc/hyco?x", Ok(())),
            ("wss://servicebus.windows.net/$hc/hyco", Ok(())),
            ("wss://evilservicebus.windows.net/$hc/hyco", Err(Refused::Host)),
            ("wss://windows.net/$hc/hyco", Err(Refused::Host)),
            ("wss://kubernetes.default.svc/$hc/hyco", Err(Refused::Host)),
            ("wss://10.0.0.1/$hc/hyco", Err(Refused::Host)),
            ("wss://169.254.169.254/$hc/hyco", Err(Refused::Host)),
            ("wss://[::1]/$hc/hyco", Err(Refused::Host)),
            ("ws://ns.servicebus.windows.net/$hc/hyco", Err(Refused::Scheme)),
            ("https://ns.servicebus.windows.net/$hc/hyco", Err(Refused::Scheme)),
            ("wss://ns.servicebus.windows.net:22/$hc/hyco", Err(Refused::Port)),
            ("wss://ns.servicebus.windows.net/hyco", Err(Refused::Path)),
            ("wss://ns.servicebus.windows.net/$hc/hyco2", Err(Refused::Path)),
            ("wss://ns.servicebus.windows.net/$hc/other", Err(Refused::Path)),
            ("wss://ns.servicebus.windows.net/$hc/hyco/../other", Err(Refused::Path)),
            ("wss://ns.servicebus.windows.net/$hc/hyco/%2e%2e/other", Err(Refused::Path)),
            ("wss://ns.servicebus.windows.net@10.0.0.1/$hc/hyco", Err(Refused::Malformed)),
            ("wss://ns.servicebus.windows.net/$hc/hyco#x", Err(Refused::Malformed)),
            ("/$hc/hyco", Err(Refused::Malformed)),
            ("", Err(Refused::Malformed)),
        ] {
            assert_eq!(azure.check(address).map(drop), expected, "{address}");
        }
    }

    #[test]
    fn the_target_is_dialled_byte_for_byte() {
        let target = "/$hc/e/s%2F?a=%7b&&sb-hc-action=accept&sb-hc-id=x";
        let destination = permit("sb://relay/e", &[], &[]).check(&format!("wss://relay{target}")).unwrap();
        assert_eq!(destination.target, target);
    }

    #[test]
    fn listed_hosts_and_ports_take_the_place_of_the_parent_domain() {
        let listed = permit("sb://relay.example.com:8443/e", &["*.nodes.example.net"], &[443]);
        for (address, expected) in [
            ("wss://relay.example.com:8443/$hc/e", Ok(())),
            ("wss://relay.example.com/$hc/e", Ok(())),
            ("wss://n1.nodes.example.net:8443/$hc/e", Ok(())),
            ("wss://other.example.com:8443/$hc/e", Err(Refused::Host)),
            ("wss://relay.example.com:9443/$hc/e", Err(Refused::Port)),
        ] {
            assert_eq!(listed.check(address).map(drop), expected, "{address}");
        }
    }

    #[test]
    fn a_parent_of_one_label_and_an_ip_address_allow_nothing_else() {
        assert_eq!(permit("sb://example.com/e", &[], &[]).check("wss://other.com/$hc/e").map(drop), Err(Refused::Host));
        let ip = permit("sb://192.0.2.7:8443/e", &[], &[]);
        assert_eq!(ip.check("wss://192.0.2.7:8443/$hc/e").map(drop), Ok(()));
        assert_eq!(ip.check("wss://192.0.2.8:8443/$hc/e").map(drop), Err(Refused::Host));
    }

    #[test]
    fn plain_text_passes_only_where_the_control_channel_is_plain() {
        let plain = permit("ws://127.0.0.1:9/e", &[], &[]);
        assert_eq!(plain.check("ws://127.0.0.1:9/$hc/e").map(drop), Ok(()));
        assert_eq!(plain.check("wss://127.0.0.1:9/$hc/e").map(drop), Ok(()));
    }
}
