//! Hybrid Connections: the addresses, the control-channel messages and the status texts, as Azure Relay speaks them.
//!
//! Pure: no I/O, no clock. Everything here is read from a peer that is not trusted, so every text has a bound and
//! every parser answers with an error, never with a panic.
//!
//! Source: Microsoft's *Hybrid Connections protocol guide*; where the SDKs differ from it, what they do.

pub mod address;
pub mod feature;
pub mod message;
pub mod status;

use std::fmt::Write as _;

/// Header that carries the token on every handshake of ours; always removed before a listener sees the head.
pub const TOKEN_HEADER: &str = "ServiceBusAuthorization";

/// Header of an answer to a sender that offers our subprotocol: id of the listener that it was joined with, so that it can
/// avoid one that is an impostor.
pub const LISTENER_HEADER: &str = "causeway-listener";

/// Longest client-chosen `sb-hc-id` that we pass on, in bytes. Azure adds `_G<n>` per hop to a 36-byte UUID; 128 bytes
/// leave room for that and keep log lines short.
pub const ID_MAX: usize = 128;

/// A fresh random id in UUID form (version 4), for tracing. Java listeners need every id to begin with one.
pub fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has random bytes");
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut id = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        write!(id, "{byte:02x}").expect("writing to a string cannot fail");
    }
    id
}

/// Whether an id may be passed on as it is: it begins with a UUID and holds only `[A-Za-z0-9_-]`, at most [`ID_MAX`].
pub fn is_traceable(id: &str) -> bool {
    id.len() <= ID_MAX
        && id.len() >= 36
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        && id.bytes().take(36).enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
        && id.as_bytes().get(36).is_none_or(|byte| *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_is_a_version_4_uuid_and_traceable() {
        let id = new_id();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!(is_traceable(&id));
        assert_ne!(id, new_id());
    }

    #[test]
    fn only_ids_that_begin_with_a_uuid_are_passed_on() {
        assert!(is_traceable("0f0e0d0c-1111-2222-3333-444455556666_G17_G30"));
        for id in ["", "abc", "0f0e0d0c-1111-2222-3333-444455556666=", "0f0e0d0c11112222333344445555666677778888"] {
            assert!(!is_traceable(id), "{id}");
        }
        assert!(!is_traceable(&format!("0f0e0d0c-1111-2222-3333-444455556666_{}", "x".repeat(ID_MAX))));
    }
}
