//! The messages of SOCKS5 (RFC 1928) and of its login (RFC 1929), read from however much has come so far.
//!
//! ```text
//! greeting   05 n methods[n]              →  05 method
//! login      01 n user[n] m password[m]   →  01 00 (good), 01 01
//! request    05 command 00 type address port  →  05 reply 00 01 0.0.0.0 0
//! ```
use std::net::{Ipv4Addr, Ipv6Addr};

/// No message of a client is longer: a login with both texts at their longest.
pub(super) const MESSAGE_MAX: usize = 513;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
/// No login.
pub(super) const METHOD_NONE: u8 = 0;
/// User and password.
pub(super) const METHOD_LOGIN: u8 = 2;
/// None of the methods that were offered.
pub(super) const METHOD_REFUSED: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;
const TYPE_IPV4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_IPV6: u8 = 4;

/// A message that was read, and its length; nothing as long as it is not complete.
pub(super) type Read<T> = Result<Option<(T, usize)>, Wrong>;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("this port speaks SOCKS5 only: the first byte is {0:#04x}, not 0x05")]
    Version(u8),
    #[error("the login is of version {0:#04x}, not 0x01")]
    LoginVersion(u8),
    #[error("the reserved byte of the request is {0:#04x}, not 0x00")]
    Reserved(u8),
    #[error("only the command CONNECT is served, not {0:#04x}")]
    Command(u8),
    #[error("an address of type {0:#04x} is not known")]
    AddressType(u8),
    #[error("the host name is empty or not ASCII")]
    Name,
}

/// What is answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reply {
    Granted = 0,
    Failed = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    TimedOut = 6,
    CommandUnsupported = 7,
    AddressUnsupported = 8,
}

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A name, or an address as it is written.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Wrong {
    /// How a request is answered that is wrong like this. The other messages have no such answer.
    pub(super) fn reply(self) -> Option<Reply> {
        match self {
            Self::Version(_) | Self::LoginVersion(_) => None,
            Self::Reserved(_) | Self::Name => Some(Reply::Failed),
            Self::Command(_) => Some(Reply::CommandUnsupported),
            Self::AddressType(_) => Some(Reply::AddressUnsupported),
        }
    }
}

/// The methods that a client offers.
pub(super) fn greeting(bytes: &[u8]) -> Read<&[u8]> {
    match bytes {
        [] => Ok(None),
        [VERSION] => Ok(None),
        [VERSION, count, rest @ ..] => {
            let count = usize::from(*count);
            Ok(rest.get(..count).map(|methods| (methods, 2 + count)))
        }
        [version, ..] => Err(Wrong::Version(*version)),
    }
}

/// User and password.
pub(super) fn login(bytes: &[u8]) -> Read<(&[u8], &[u8])> {
    match bytes.first() {
        None => return Ok(None),
        Some(&LOGIN_VERSION) => {}
        Some(version) => return Err(Wrong::LoginVersion(*version)),
    }
    let Some((user, after)) = text(bytes, 1) else { return Ok(None) };
    Ok(text(bytes, after).map(|(password, after)| ((user, password), after)))
}

/// A text after its length at `at`, and where it ends.
fn text(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = at + 1 + usize::from(*bytes.get(at)?);
    Some((bytes.get(at + 1..end)?, end))
}

/// What a client wants. Each byte is judged as soon as it is there.
pub(super) fn request(bytes: &[u8]) -> Read<Wanted> {
    match bytes {
        [version, ..] if *version != VERSION => return Err(Wrong::Version(*version)),
        [_, command, ..] if *command != COMMAND_CONNECT => return Err(Wrong::Command(*command)),
        [_, _, reserved, ..] if *reserved != 0 => return Err(Wrong::Reserved(*reserved)),
        _ => {}
    }
    let Some((kind, rest)) = bytes.get(3..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let address = match *kind {
        TYPE_IPV4 => rest.first_chunk().map(|octets: &[u8; 4]| (Ipv4Addr::from(*octets).to_string(), 8)),
        TYPE_IPV6 => rest.first_chunk().map(|octets: &[u8; 16]| (Ipv6Addr::from(*octets).to_string(), 20)),
        TYPE_NAME => match text(bytes, 4) {
            Some((name, end)) if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) => {
                Some((String::from_utf8_lossy(name).into_owned(), end))
            }
            Some(_) => return Err(Wrong::Name),
            None => None,
        },
        other => return Err(Wrong::AddressType(other)),
    };
    let Some((host, end)) = address else { return Ok(None) };
    let Some(port) = bytes.get(end..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
    Ok(Some((Wanted { host, port: u16::from_be_bytes(*port) }, end + 2)))
}

/// The answer to a request. Where a connection really ends is the gateway's affair: the address is left empty.
pub(super) fn reply(reply: Reply) -> [u8; 10] {
    [VERSION, reply as u8, 0, TYPE_IPV4, 0, 0, 0, 0, 0, 0]
}

/// The answer to a greeting.
pub(super) fn method(method: u8) -> [u8; 2] {
    [VERSION, method]
}

/// The answer to a login.
pub(super) fn verdict(good: bool) -> [u8; 2] {
    [LOGIN_VERSION, u8::from(!good)]
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn wanted(host: &str, port: u16) -> Wanted {
        Wanted { host: host.to_owned(), port }
    }

    /// Complete with its last byte and never before, and what follows is not looked at.
    fn complete<T: PartialEq + Debug>(
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Wrong>,
        message: &[u8],
        what: &T,
    ) {
        for cut in 0..message.len() {
            assert_eq!(parse(&message[..cut]), Ok(None), "{cut} bytes");
        }
        let mut more = message.to_vec();
        more.extend([0xff; 3]);
        assert_eq!(parse(&more).unwrap().as_ref().map(|(value, len)| (value, *len)), Some((what, message.len())));
        assert!(message.len() <= MESSAGE_MAX);
    }

    #[test]
    fn messages_are_complete_with_their_last_byte() {
        complete(|bytes| greeting(bytes).map(own), &[5, 2, 0, 2], &vec![0, 2]);
        complete(|bytes| greeting(bytes).map(own), &[5, 0], &vec![]);
        complete(request, b"\x05\x01\x00\x01\x0a\x00\x00\x07\x15\x38", &wanted("10.0.0.7", 5432));
        complete(request, b"\x05\x01\x00\x03\x03a.b\x00\x50", &wanted("a.b", 80));
        complete(request, b"\x05\x01\x00\x04\xfd\x00\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x01\xbb", &wanted("fd00::7", 443));
        let longest = [&[5, 1, 0, 3, 255], [b'a'; 255].as_slice(), &[0, 80]].concat();
        complete(request, &longest, &wanted(&"a".repeat(255), 80));
        let both = [&[1, 255], [b'u'; 255].as_slice(), &[255], &[b'p'; 255]].concat();
        assert_eq!(both.len(), MESSAGE_MAX);
        let login = |bytes: &[u8]| {
            login(bytes).map(|read| read.map(|((user, password), len)| ((user.to_vec(), password.to_vec()), len)))
        };
        complete(login, &both, &(vec![b'u'; 255], vec![b'p'; 255]));
        complete(login, &[1, 0, 0], &(vec![], vec![]));
    }

    fn own(read: Option<(&[u8], usize)>) -> Option<(Vec<u8>, usize)> {
        read.map(|(bytes, len)| (bytes.to_vec(), len))
    }

    #[test]
    fn what_is_wrong_is_said_at_its_byte() {
        for version in [0, 1, 4, 6, b'G', 0x16] {
            assert_eq!(greeting(&[version]), Err(Wrong::Version(version)));
            assert_eq!(request(&[version]), Err(Wrong::Version(version)));
        }
        assert_eq!(login(&[5]), Err(Wrong::LoginVersion(5)));
        for command in [0, 2, 3, 255] {
            assert_eq!(request(&[5, command]), Err(Wrong::Command(command)));
        }
        assert_eq!(request(&[5, 1, 1]), Err(Wrong::Reserved(1)));
        for kind in [0, 2, 5, 255] {
            assert_eq!(request(&[5, 1, 0, kind]), Err(Wrong::AddressType(kind)));
        }
        for name in [&[0][..], &[1, b' '], &[1, 0], &[2, b'a', 0xc3], &[1, b'\n']] {
            assert_eq!(request(&[&[5, 1, 0, 3], name].concat()), Err(Wrong::Name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_their_beginnings_promise(bytes in proptest::collection::vec(any::<u8>(), 0..600), fits: bool) {
            let mut bytes = bytes;
            if fits {
                let head = [5, 1, 0];
                let len = head.len().min(bytes.len());
                bytes[..len].copy_from_slice(&head[..len]);
            }
            let mut before = Ok(None);
            for cut in 0..=bytes.len() {
                let now = request(&bytes[..cut]);
                // Once decided, more bytes change nothing.
                if before != Ok(None) {
                    prop_assert_eq!(&now, &before);
                }
                if let Ok(Some((_, len))) = &now {
                    prop_assert!(*len <= cut && *len <= MESSAGE_MAX);
                }
                before = now;
            }
            if bytes.len() >= MESSAGE_MAX {
                prop_assert_ne!(before, Ok(None));
                prop_assert_ne!(greeting(&bytes), Ok(None));
                prop_assert_ne!(login(&bytes), Ok(None));
            }
        }
    }
}
