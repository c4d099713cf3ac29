//! Every limit that both ends must know, with its reason.

use std::time::Duration;

/// Largest payload of one `data` message that we send: with its prefix it fills one 64 KiB HTTP/2 frame.
pub const DATA_SENT_MAX: usize = 64 * 1024 - 64;

/// Largest `data` message that we take from anyone. It is forwarded as it arrives, never gathered.
pub const DATA_TAKEN_MAX: usize = 4 * 1024 * 1024;

/// Largest message other than `data`, which is gathered before it is decoded.
pub const MESSAGE_GATHERED_MAX: usize = 64 * 1024;

/// One overall deadline for dial, TLS, upgrade and authentication of a tunnel, so that no step can hang for ever.
pub const TUNNEL_SETUP_DEADLINE: Duration = Duration::from_secs(15);
