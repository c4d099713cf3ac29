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

/// Largest HTTP/2 frame that we take: one of our `data` messages with its prefix. Bigger ones would hold up every
/// other stream while they are written, and gain nothing measurable.
pub const FRAME_MAX: u32 = 64 * 1024;

/// Window of one stream at the start: 1 MiB moves 10 MB/s over 100 ms, and a thousand stalled streams stay bearable.
pub const STREAM_WINDOW: u32 = 1 << 20;

/// Largest window that a stream grows to: 160 MB/s over 100 ms.
pub const STREAM_WINDOW_MAX: u32 = 16 << 20;

/// Smallest window that a stream shrinks to while too much is held: one of our largest frames.
pub const STREAM_WINDOW_MIN: u32 = 64 << 10;

/// The connection window in stream windows: more than one, so that a stream whose reader is stalled cannot hold all
/// of it and block the stream that would unblock it.
pub const CONNECTION_WINDOW_RATIO: u32 = 4;

/// Largest decoded header list of a call: two bearer tokens with many groups (16 KiB each) fit twice.
pub const HEADER_LIST_MAX: u32 = 64 * 1024;

/// What one stream may have waiting to be written. Four of our largest frames: enough to keep the connection busy
/// while the sender is scheduled again.
pub const SEND_BUFFER_MAX: usize = 256 * 1024;

/// How many streams that we reset are remembered, so that frames still in flight for them are ignored quietly. Each
/// frame for a forgotten one counts as an error of the peer's ([`PEER_ERRORS_MAX`]).
pub const RESET_STREAMS_REMEMBERED: usize = 1024;

/// How long such a stream is remembered: longer than any round trip.
pub const RESET_STREAMS_REMEMBERED_FOR: Duration = Duration::from_secs(5);

/// Streams that the peer may open and reset again before we have looked at them (the "rapid reset" flood).
pub const RESETS_BEFORE_ACCEPT_MAX: usize = 100;

/// Stream errors of the peer that we answer with a reset, over the whole life of one connection, refused streams
/// included. Far above what cancelled downloads cause in a day, far below what a flood needs.
pub const PEER_ERRORS_MAX: usize = 100_000;

/// What DATA frames under 256 bytes may cost while they wait to be read; each is charged the bytes that it lacks.
/// A stalled reader whose grown window ([`STREAM_WINDOW_MAX`]) is full of 64-byte messages holds 44 MiB of it, and one
/// such stream must not end the whole tunnel. It bounds our bookkeeping for a hostile peer to about as much memory.
pub const DATA_FRAME_BUDGET: usize = 64 << 20;

/// Streams that we open before the peer has said how many it takes. Every real peer takes this many (RFC 9113,
/// section 6.5.2, advises no fewer).
pub const STREAMS_BEFORE_SETTINGS: usize = 100;

/// Streams of the peer's limit that `Forward` leaves free, so that `Describe` (which renews the actor's proof) and
/// `Watch` always find room.
pub const STREAMS_FOR_CONTROL: usize = 4;

/// Longest text of a failure on the wire, in bytes: status and details must fit any peer's header limit (8 KiB).
pub const FAILURE_TEXT_MAX: usize = 1024;
