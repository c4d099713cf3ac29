//! Classes of addresses: a relay outside must not name an address inside.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that answer for the machine or its cloud account; no rendezvous is ever there.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a resolved address may be dialled, given where the control channel's peer is. Behind a proxy that is unknown,
/// and then only what is public may be dialled past the proxy.
pub(crate) fn may_dial(address: IpAddr, control: Option<IpAddr>) -> bool {
    let (address, control) = (embedded(address), control.map(embedded).map_or(Class::Public, class));
    if METADATA.contains(&address) {
        return false;
    }
    match class(address) {
        Class::Public => true,
        Class::Private => matches!(control, Class::Private | Class::Loopback),
        inner @ (Class::Loopback | Class::LinkLocal) => control == inner,
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
            } else if first & 0xe000 != 0x2000 || (first == 0x2001 && address.segments()[1] == 0) {
                // Unique local, site local, other translation prefixes, and Teredo: only global unicast is public.
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(may_dial(to, Some(from)), expected, "{address} from a control channel at {control}");
        }
    }

    #[test]
    fn only_public_addresses_pass_where_a_proxy_hides_the_relay() {
        for (address, expected) in
            [("203.0.113.9", true), ("10.0.0.1", false), ("127.0.0.1", false), ("fe80::1", false)]
        {
            assert_eq!(may_dial(address.parse().unwrap(), None), expected, "{address}");
        }
    }
}
