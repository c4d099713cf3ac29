//! The PROXY protocol, version 2 (haproxy.org, "proxy-protocol.txt" section 2.2): who a forwarded connection is from.
//!
//! ```text
//! 12 bytes  0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a
//!  1 byte   version 2 | command: 0 LOCAL (the forwarder itself), 1 PROXY
//!  1 byte   family | transport: 11 TCP over IPv4, 21 TCP over IPv6, 00 unspecified
//!  2 bytes  length of what follows: addresses, then type-length-value fields
//! ```
//!
//! We take TCP over IPv4 and IPv6 and the field `UNIQUE_ID`; other fields are skipped, anything else is an error. The
//! text version 1 is not spoken.

use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncRead;

use super::{Refusal, peeked::Peeked};

/// The first twelve bytes of every header.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest body taken: two IPv6 addresses and a few fields.
const BODY_MAX: usize = 1024;

/// Longest id kept; the specification allows as much.
const ID_MAX: usize = 128;

/// Type of the field that carries an id for the connection.
const UNIQUE_ID: u8 = 0x05;

/// What a header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Who the connection is from; absent when the forwarder speaks for itself.
    pub source: Option<SocketAddr>,
    /// The forwarder's id for it.
    pub id: Option<String>,
}

/// Why a header is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not the signature.
    #[error("it does not begin with the signature")]
    Signature,
    /// Another version or an unknown command.
    #[error("it is not version 2, or its command is unknown")]
    Version,
    /// Neither TCP over IPv4 nor over IPv6.
    #[error("it is for another family or transport than TCP over IPv4 or IPv6")]
    Family,
    /// Longer than it may be.
    #[error("it is longer than 1024 bytes")]
    TooLong,
    /// Shorter than its own parts.
    #[error("it is shorter than its own parts")]
    Truncated,
    /// An id that cannot stand in a log line.
    #[error("its id is longer than 128 bytes, or not printable ASCII")]
    Id,
}

/// Reads and consumes a header.
///
/// # Errors
/// When it is not valid or the connection breaks.
pub async fn read<IO: AsyncRead + Unpin>(io: &mut Peeked<IO>) -> Result<Header, Refusal> {
    io.fill(SIGNATURE.len() + 4).await?;
    let length = body_length(io.peek())?;
    let total = SIGNATURE.len() + 4 + length;
    io.fill(total).await?;
    let header = parse(io.start(total))?;
    io.consume(total);
    Ok(header)
}

/// Length of the body, from the first sixteen bytes.
fn body_length(start: &[u8]) -> Result<usize, ProxyError> {
    let rest = start.strip_prefix(SIGNATURE.as_slice()).ok_or(ProxyError::Signature)?;
    let [_, _, high, low, ..] = rest else { return Err(ProxyError::Truncated) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > BODY_MAX { Err(ProxyError::TooLong) } else { Ok(length) }
}

/// Parses a whole header.
///
/// # Errors
/// When it is not valid.
pub fn parse(bytes: &[u8]) -> Result<Header, ProxyError> {
    let length = body_length(bytes)?;
    let (start, body) = bytes.split_at_checked(SIGNATURE.len() + 4).ok_or(ProxyError::Truncated)?;
    let body = body.get(..length).ok_or(ProxyError::Truncated)?;
    let (source, fields) = match (start[12], start[13]) {
        // LOCAL: addresses, if any, are to be skipped, and there is nothing else of interest.
        (0x20, _) => return Ok(Header::default()),
        (0x21, 0x11) => endpoints::<4>(body)?,
        (0x21, 0x21) => endpoints::<16>(body)?,
        (0x21, _) => return Err(ProxyError::Family),
        _ => return Err(ProxyError::Version),
    };
    Ok(Header { source: Some(source), id: id(fields)? })
}

/// Source address and what comes behind both addresses and both ports.
fn endpoints<const N: usize>(body: &[u8]) -> Result<(SocketAddr, &[u8]), ProxyError>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>().ok_or(ProxyError::Truncated)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or(ProxyError::Truncated)?;
    let (ports, fields) = rest.split_first_chunk::<4>().ok_or(ProxyError::Truncated)?;
    Ok((SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([ports[0], ports[1]])), fields))
}

fn id(mut fields: &[u8]) -> Result<Option<String>, ProxyError> {
    let mut id = None;
    while let Some((head, rest)) = fields.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(ProxyError::Truncated)?;
        if head[0] == UNIQUE_ID {
            let printable = value.iter().all(u8::is_ascii_graphic) && value.len() <= ID_MAX;
            id = Some(str::from_utf8(value).ok().filter(|_| printable).ok_or(ProxyError::Id)?.to_owned());
        }
        fields = rest;
    }
    if fields.is_empty() { Ok(id) } else { Err(ProxyError::Truncated) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    #[test]
    fn golden_ipv4_with_id() {
        #[rustfmt::skip]
        let bytes = [
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, // signature
            0x21,                   // version 2, PROXY
            0x11,                   // TCP over IPv4
            0x00, 0x16,             // 22 bytes follow
            203, 0, 113, 9,         // source
            10, 42, 0, 5,           // destination
            0xc0, 0x01,             // source port 49153
            0x20, 0xfb,             // destination port 8443
            0x05, 0x00, 0x04, b'a', b'b', b'-', b'1', // UNIQUE_ID
            0x04, 0x00, 0x00,       // NOOP
        ];
        let expected = Header { source: Some("203.0.113.9:49153".parse().unwrap()), id: Some("ab-1".to_owned()) };
        assert_eq!(parse(&bytes), Ok(expected));
    }

    #[test]
    fn golden_ipv6_without_fields() {
        let mut body = [0_u8; 36];
        body[..16].copy_from_slice(&"2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        body[32..34].copy_from_slice(&443_u16.to_be_bytes());
        let expected = Header { source: Some("[2001:db8::9]:443".parse().unwrap()), id: None };
        assert_eq!(parse(&header(0x21, 0x21, &body)), Ok(expected));
    }

    #[test]
    fn local_speaks_for_the_forwarder_itself() {
        assert_eq!(parse(&header(0x20, 0x00, &[])), Ok(Header::default()));
        assert_eq!(parse(&header(0x20, 0x11, &[1; 12])), Ok(Header::default()));
    }

    #[test]
    fn what_is_broken_is_refused() {
        for (bytes, error) in [
            (b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\0".to_vec(), ProxyError::Signature),
            (header(0x11, 0x11, &[0; 12]), ProxyError::Version),
            (header(0x22, 0x11, &[0; 12]), ProxyError::Version),
            (header(0x21, 0x12, &[0; 12]), ProxyError::Family),
            (header(0x21, 0x31, &[0; 216]), ProxyError::Family),
            (header(0x21, 0x00, &[]), ProxyError::Family),
            (header(0x21, 0x11, &[0; 11]), ProxyError::Truncated),
            (header(0x21, 0x21, &[0; 35]), ProxyError::Truncated),
            (header(0x21, 0x11, &[0; 14]), ProxyError::Truncated),
            (header(0x21, 0x11, &[&[0; 12][..], &[5, 0, 9, b'x']].concat()), ProxyError::Truncated),
            (header(0x21, 0x11, &[&[0; 12][..], &[5, 0, 1, b'\n']].concat()), ProxyError::Id),
            (header(0x21, 0x11, &[&[0; 12][..], &[5, 0, 129], &[b'x'; 129]].concat()), ProxyError::Id),
            (header(0x21, 0x11, &[0; 1025]), ProxyError::TooLong),
        ] {
            assert_eq!(parse(&bytes), Err(error), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(command in any::<u8>(), family in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&header(command, family, &body));
            let _ = parse(&body);
        }
    }
}
