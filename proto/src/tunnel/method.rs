//! Names of the contract's calls and of the metadata that carries credentials.

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

/// Addresses of the calls. Scheme and authority mean nothing on a tunnel, yet HTTP/2 wants them.
pub(super) const FORWARD: &str = "https://causeway/causeway.tunnel.v1.Tunnel/Forward";
pub(super) const DESCRIBE: &str = "https://causeway/causeway.tunnel.v1.Tunnel/Describe";
pub(super) const WATCH: &str = "https://causeway/causeway.tunnel.v1.Tunnel/Watch";

/// `:path` of `Forward`.
pub(super) const FORWARD_PATH: &str = "/causeway.tunnel.v1.Tunnel/Forward";

/// Metadata that carries the actor's token, as `Bearer <token>`.
pub const ACTOR: HeaderName = HeaderName::from_static("causeway-actor");

/// Metadata that carries the caller's name for a stream.
pub const STREAM_ID: HeaderName = HeaderName::from_static("causeway-stream-id");

/// Marks credentials, so that they are neither printed nor indexed by HPACK.
pub(super) fn protect(metadata: &mut HeaderMap) {
    for (name, value) in metadata.iter_mut() {
        if *name == AUTHORIZATION || *name == ACTOR {
            value.set_sensitive(true);
        }
    }
}
