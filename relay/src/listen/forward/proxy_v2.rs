//! PROXY protocol, version 2: a header in front of a byte stream that tells the target who is at its far end.
//!
//! Source: the specification published with HAProxy (sections 2.2 and 2.2.7).
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Begins every header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const PROXY: u8 = 0x21;

/// Stream over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// TLV with an id of the connection that both ends can log.
const UNIQUE_ID: u8 = 0x05;

/// Longest id, as the specification says.
const UNIQUE_ID_MAX: usize = 128;

/// A header that names the sender, the target's address, and the rendezvous id.
pub(crate) fn header(sender: SocketAddr, target: SocketAddr, id: &str) -> Vec<u8> {
    let id = &id.as_bytes()[..id.len().min(UNIQUE_ID_MAX)];
    let mut body = Vec::new();
    let family = match (sender.ip().to_canonical(), target.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend_from_slice(&from.octets());
            body.extend_from_slice(&to.octets());
            TCP4
        }
        (from, to) => {
            body.extend_from_slice(&as_v6(from).octets());
            body.extend_from_slice(&as_v6(to).octets());
            TCP6
        }
    };
    body.extend_from_slice(&sender.port().to_be_bytes());
    body.extend_from_slice(&target.port().to_be_bytes());
    body.push(UNIQUE_ID);
    body.extend_from_slice(&(id.len() as u16).to_be_bytes());
    body.extend_from_slice(id);
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[PROXY, family]);
    header.extend_from_slice(&(body.len() as u16).to_be_bytes());
    header.extend_from_slice(&body);
    header
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_has_exactly_these_bytes() {
        let header = header("203.0.113.9:62917".parse().unwrap(), "10.0.0.2:8443".parse().unwrap(), "ab");
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11".to_vec();
        expected.extend_from_slice(&[203, 0, 113, 9, 10, 0, 0, 2, 0xf5, 0xc5, 0x20, 0xfb]);
        expected.extend_from_slice(b"\x05\x00\x02ab");
        assert_eq!(header, expected);
    }

    #[test]
    fn mixed_families_are_told_as_ipv6_and_a_long_id_is_cut() {
        let header = header("203.0.113.9:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap(), &"i".repeat(300));
        assert_eq!(header[13], TCP6);
        assert_eq!(header.len(), 16 + 36 + 3 + UNIQUE_ID_MAX);
        assert_eq!(&header[16 + 10..16 + 16], &[0xff, 0xff, 203, 0, 113, 9]);
    }
}
