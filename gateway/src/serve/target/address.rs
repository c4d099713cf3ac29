//! Which addresses a target may have (SD-6). Some classes are never called, whatever the policy says; an address in none
//! of the cluster's ranges is external. IPv4 inside IPv6 is judged as the IPv4 that it carries, and the IPv6 around it
//! does not count. Only an exact exception, address and port, lifts the judgement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::serve::config::Networks;

/// Metadata and platform addresses of the clouds: they hand out credentials or settings to whoever asks.
const METADATA: &[IpAddr] = &[
    // Azure, AWS, GCP and others; link-local as well, named for the message.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // Azure's platform channel ("WireServer").
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // GCP over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// A class of addresses that is never called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 127.0.0.0/8, ::1.
    Loopback,
    /// 0.0.0.0/8, ::.
    Unspecified,
    /// 169.254.0.0/16, fe80::/10 and the deprecated site-local fec0::/10.
    LinkLocal,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 255.255.255.255 and the rest of 240.0.0.0/4.
    Reserved,
    /// A cloud's metadata or platform service.
    Metadata,
    /// This gateway itself.
    Own,
}

impl Class {
    /// In a message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Unspecified => "unspecified",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Metadata => "cloud metadata",
            Self::Own => "this gateway's own",
        }
    }
}

/// What an address is to this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// In the cluster, or an exact exception.
    Inside,
    /// Outside of the cluster's ranges: the rule must say `external: true`.
    External,
    /// Never called.
    Refused(Class),
}

/// Judges one address and port.
pub fn judge(address: SocketAddr, networks: &Networks) -> Verdict {
    let ip = address.ip().to_canonical();
    let same = |other: &SocketAddr| other.ip().to_canonical() == ip && other.port() == address.port();
    if networks.exceptions.iter().any(same) {
        return Verdict::Inside;
    }
    let carried = carried(ip);
    let carried = || carried.into_iter().flatten().map(IpAddr::V4);
    if let Some(class) = std::iter::once(ip).chain(carried()).find_map(|ip| class(ip, networks)) {
        return Verdict::Refused(class);
    }
    let inside = |ip: IpAddr| networks.pods.contains(ip) || networks.services.contains(ip);
    // What carries IPv4 addresses is where those are, all of them; anything else is where it is itself.
    let at_home = if carried().next().is_some() { carried().all(inside) } else { inside(ip) };
    if at_home { Verdict::Inside } else { Verdict::External }
}

fn class(ip: IpAddr, networks: &Networks) -> Option<Class> {
    if networks.own.iter().any(|own| own.to_canonical() == ip) {
        return Some(Class::Own);
    }
    if METADATA.contains(&ip) {
        return Some(Class::Metadata);
    }
    match ip {
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some(Class::Unspecified),
        IpAddr::V4(ip) if ip.is_loopback() => Some(Class::Loopback),
        IpAddr::V4(ip) if ip.is_link_local() => Some(Class::LinkLocal),
        IpAddr::V4(ip) if ip.is_multicast() => Some(Class::Multicast),
        IpAddr::V4(ip) if ip.octets()[0] >= 240 => Some(Class::Reserved),
        IpAddr::V6(ip) if ip.is_unspecified() => Some(Class::Unspecified),
        IpAddr::V6(ip) if ip.is_loopback() => Some(Class::Loopback),
        IpAddr::V6(ip) if matches!(ip.segments()[0], 0xfe80..=0xfeff) => Some(Class::LinkLocal),
        IpAddr::V6(ip) if ip.is_multicast() => Some(Class::Multicast),
        _ => None,
    }
}

/// The IPv4 addresses that an IPv6 address may carry: none, one, or two where it can be read in two ways.
fn carried(ip: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(ip) = ip else { return [None, None] };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // The unspecified and the loopback address are themselves, not IPv4-compatible ones.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-mapped, and the deprecated IPv4-compatible (RFC 4291).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => [v4(high, low), None],
        // IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0xffff, 0, high, low] => [v4(high, low), None],
        // NAT64, well-known prefix (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [v4(high, low), None],
        // NAT64, local-use 64:ff9b:1::/48 (RFC 8215): in the form for a /48 prefix, and in the common one for /96.
        [0x64, 0xff9b, 1, high, middle, low, tail_high, tail_low] => {
            [v4(high, (middle & 0xff) << 8 | low >> 8), v4(tail_high, tail_low)]
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo (RFC 4380): the client, inverted, and the server.
        [0x2001, 0, server_high, server_low, _, _, high, low] => [v4(!high, !low), v4(server_high, server_low)],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Networks {
        serde_saphyr::from_str(
            "pods: [10.42.0.0/16, \"fd00:42::/48\"]
services: 10.43.0.0/16
exceptions: [\"127.0.0.1:8080\", \"[::1]:8080\", \"169.254.169.254:80\"]
own: [10.43.0.77]",
        )
        .unwrap()
    }

    #[test]
    fn every_class_of_both_families_is_judged() {
        use Class::{LinkLocal, Loopback, Metadata, Multicast, Own, Reserved, Unspecified};
        use Verdict::{External, Inside, Refused};
        for (address, expected) in [
            ("10.42.0.5:80", Inside),
            ("10.43.255.255:443", Inside),
            ("10.44.0.1:80", External),
            ("192.168.1.10:10250", External),
            ("8.8.8.8:53", External),
            ("127.0.0.1:80", Refused(Loopback)),
            ("127.255.0.9:80", Refused(Loopback)),
            ("0.0.0.0:80", Refused(Unspecified)),
            ("0.1.2.3:80", Refused(Unspecified)),
            ("169.254.1.1:80", Refused(LinkLocal)),
            ("169.254.169.254:443", Refused(Metadata)),
            ("168.63.129.16:80", Refused(Metadata)),
            ("100.100.100.200:80", Refused(Metadata)),
            ("192.0.0.192:80", Refused(Metadata)),
            ("224.0.0.1:80", Refused(Multicast)),
            ("239.255.255.250:1900", Refused(Multicast)),
            ("240.0.0.1:80", Refused(Reserved)),
            ("255.255.255.255:80", Refused(Reserved)),
            ("10.43.0.77:8443", Refused(Own)),
            ("[fd00:42::5]:80", Inside),
            ("[fd00:43::5]:80", External),
            ("[2001:db8::1]:80", External),
            ("[::]:80", Refused(Unspecified)),
            ("[::1]:80", Refused(Loopback)),
            ("[fe80::1]:80", Refused(LinkLocal)),
            ("[febf::1]:80", Refused(LinkLocal)),
            ("[fec0::1]:80", Refused(LinkLocal)),
            ("[ff02::1]:80", Refused(Multicast)),
            ("[fd00:ec2::254]:80", Refused(Metadata)),
            ("[fd20:ce::254]:80", Refused(Metadata)),
        ] {
            assert_eq!(judge(address.parse().unwrap(), &networks()), expected, "{address}");
        }
    }

    #[test]
    fn ipv4_inside_ipv6_is_judged_as_the_ipv4_it_carries() {
        use Verdict::{External, Inside, Refused};
        for (address, expected) in [
            ("[::ffff:127.0.0.1]:80", Refused(Class::Loopback)),
            ("[::ffff:169.254.169.254]:443", Refused(Class::Metadata)),
            ("[::ffff:10.42.0.5]:80", Inside),
            ("[::127.0.0.1]:80", Refused(Class::Loopback)),
            ("[::ffff:0:127.0.0.1]:80", Refused(Class::Loopback)),
            ("[64:ff9b::169.254.169.254]:80", Refused(Class::Metadata)),
            ("[64:ff9b::10.43.0.9]:80", Inside),
            ("[64:ff9b::8.8.8.8]:80", External),
            ("[64:ff9b:1:a2a:0:500:7f00:1]:80", Refused(Class::Loopback)),
            ("[64:ff9b:1:7f00:0:100:a2a:5]:80", Refused(Class::Loopback)),
            ("[2002:7f00:1::1]:80", Refused(Class::Loopback)),
            ("[2002:a9fe:a9fe::1]:80", Refused(Class::Metadata)),
            ("[2002:a2a:5::1]:80", Inside),
            ("[2001:0:102:304:0:0:80ff:fffe]:80", Refused(Class::Loopback)),
            ("[2001:0:7f00:1:0:0:f7f7:f7f7]:80", Refused(Class::Loopback)),
        ] {
            assert_eq!(judge(address.parse().unwrap(), &networks()), expected, "{address}");
        }
    }

    #[test]
    fn an_exception_lifts_exactly_one_address_and_port() {
        for (address, expected) in [
            ("127.0.0.1:8080", Verdict::Inside),
            ("[::ffff:127.0.0.1]:8080", Verdict::Inside),
            ("127.0.0.1:8081", Verdict::Refused(Class::Loopback)),
            ("127.0.0.2:8080", Verdict::Refused(Class::Loopback)),
            ("[::1]:8080", Verdict::Inside),
            ("169.254.169.254:80", Verdict::Inside),
            ("169.254.169.254:443", Verdict::Refused(Class::Metadata)),
        ] {
            assert_eq!(judge(address.parse().unwrap(), &networks()), expected, "{address}");
        }
    }
}
