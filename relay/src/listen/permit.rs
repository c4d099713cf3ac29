//! Where a relay may make us dial (SD-8). A hostile relay must not turn a listener into a probe of the cluster's inside:
//! scheme, host, port and path of each rendezvous address are checked against the control channel, and so is the class of
//! every resolved address.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use proto::hybrid::address::{Target, segments};

use crate::sender::Address;

/// Addresses that answer for the machine or its cloud account; no rendezvous is ever there.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why a rendezvous address is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
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
    pub(crate) fn name(self) -> &'static str {
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

/// Whether a resolved address may be dialled, given where the control channel's peer is.
pub(crate) fn may_dial(address: IpAddr, control: IpAddr) -> bool {
    let (address, control) = (embedded(address), embedded(control));
    if METADATA.contains(&address) {
        return false;
    }
    match class(address) {
        Class::Public => true,
        Class::Private => matches!(class(control), Class::Private | Class::Loopback),
        inner @ (Class::Loopback | Class::LinkLocal) => class(control) == inner,
        Class::Never => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Public,
    Private,
    LinkLocal,
    Loopback,
    /// Unspecified, multicast, broadcast, reserved.
    Never,
}

fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            if address.is_loopback() {
                Class::Loopback
            } else if address.is_link_local() {
                Class::LinkLocal
            } else if address.is_private() || (a == 100 && b & 0xc0 == 64) || address.octets()[..3] == [192, 0, 0] {
                Class::Private
            } else if a == 0 || a >= 224 {
                Class::Never
            } else {
                Class::Public
            }
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            if address.is_loopback() {
                Class::Loopback
            } else if address.is_unspecified() || address.is_multicast() {
                Class::Never
            } else if address.is_unicast_link_local() {
                Class::LinkLocal
            } else if address.is_unique_local() || first & 0xffc0 == 0xfec0 {
                Class::Private
            } else {
                Class::Public
            }
        }
    }
}

/// An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4) is judged as what it carries.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let carried = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into();
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => carried(g, h),
        (0x2002, _) => carried(b, c),
        _ => address,
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

    #[test]
    fn inside_addresses_pass_only_where_the_control_channel_is_inside() {
        let public = "203.0.113.7";
        for (address, control, expected) in [
            ("203.0.113.9", public, true),
            ("2001:db8::1", public, true),
            ("10.0.0.1", public, false),
            ("192.168.1.1", public, false),
            ("100.64.0.1", public, false),
            ("127.0.0.1", public, false),
            ("::1", public, false),
            ("fe80::1", public, false),
            ("fd00::1", public, false),
            ("0.0.0.0", public, false),
            ("::", public, false),
            ("224.0.0.1", public, false),
            ("255.255.255.255", public, false),
            ("::ffff:10.0.0.1", public, false),
            ("64:ff9b::a00:1", public, false),
            ("2002:a00:1::", public, false),
            ("169.254.169.254", public, false),
            ("169.254.169.254", "169.254.1.1", false),
            ("168.63.129.16", public, false),
            ("fd00:ec2::254", "fd00::1", false),
            ("10.0.0.1", "10.0.0.2", true),
            ("fd00::1", "10.0.0.2", true),
            ("127.0.0.1", "10.0.0.2", false),
            ("169.254.1.1", "10.0.0.2", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("10.0.0.1", "127.0.0.1", true),
            ("::ffff:127.0.0.1", "::1", true),
        ] {
            let (from, to) = (control.parse().unwrap(), address.parse().unwrap());
            assert_eq!(may_dial(to, from), expected, "{address} from a control channel at {control}");
        }
    }
}
