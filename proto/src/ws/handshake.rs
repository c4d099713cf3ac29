//! The HTTP/1.1 upgrade of both sides (RFC 6455 section 4). hyper reads and writes the heads; afterwards the transport is
//! taken back, so that nothing of hyper stays in memory.
//!
//! Extensions are neither offered nor accepted. A head is bounded ([`HEAD_MAX`]); time is bounded by the caller.
use base64::{Engine, prelude::BASE64_STANDARD};

mod client;
mod server;
#[cfg(test)]
mod tests;

pub use client::{UpgradeError, Upgraded, client};
pub use server::{RequestError, check_request, into_parts, offered_protocols, refusal, switching};

/// Largest response head taken, in bytes: more than any proxy in between adds, little enough for an unproven peer.
pub const HEAD_MAX: usize = 16 * 1024;

/// Most header lines in a response head.
pub const HEADERS_MAX: usize = 64;

/// What both ends mix into the key (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Value of `Sec-WebSocket-Accept` for a request's `Sec-WebSocket-Key`.
pub fn accept_for(key: &[u8]) -> String {
    let mut sha1 = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(GUID);
    BASE64_STANDARD.encode(sha1.finish())
}

/// Whether a comma-separated header holds `token`, whatever its case and however many lines it takes.
fn has_token(headers: &http::HeaderMap, name: http::HeaderName, token: &str) -> bool {
    list(headers, name).any(|one| one.eq_ignore_ascii_case(token))
}

/// The elements of a comma-separated header, over all its lines.
fn list(headers: &http::HeaderMap, name: http::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|one| !one.is_empty())
}
