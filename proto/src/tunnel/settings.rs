//! What one tunnel connection is allowed: windows, streams, frames, liveness. Everything that h2 would otherwise
//! choose by itself is set here or in [`limits`].
use std::time::Duration;

use super::budget::{Budget, Party};
use crate::limits;

/// Settings of one end of a tunnel.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Initial stream window in bytes (default 1 MiB); the connection window is four times this. Both grow by
    /// themselves while a stream needs it, up to [`limits::STREAM_WINDOW_MAX`].
    pub stream_window: u32,
    /// Streams that the peer may have open at once (default 1000). More are refused without having reached anything.
    pub max_streams: u32,
    /// A PING goes out after this long without a byte (default 10 s).
    pub ping_after: Duration,
    /// This much longer without any byte, and the tunnel is dead (default 10 s).
    pub dead_after: Duration,
    /// What its streams hold is part of this (default: no limit).
    pub budget: Budget,
    /// Whose share the streams are part of that this end opens (default: nobody's).
    pub parties: Vec<Party>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: limits::STREAM_WINDOW,
            max_streams: 1000,
            ping_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(10),
            budget: Budget::default(),
            parties: Vec::new(),
        }
    }
}

impl Settings {
    pub(super) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(connection_window(self.stream_window))
            .max_frame_size(limits::FRAME_MAX)
            .max_header_list_size(limits::HEADER_LIST_MAX)
            .max_send_buffer_size(limits::SEND_BUFFER_MAX)
            .max_concurrent_reset_streams(limits::RESET_STREAMS_REMEMBERED)
            .reset_stream_duration(limits::RESET_STREAMS_REMEMBERED_FOR)
            .max_local_error_reset_streams(Some(limits::PEER_ERRORS_MAX))
            .data_frame_budget(limits::DATA_FRAME_BUDGET)
            .initial_max_send_streams(limits::STREAMS_BEFORE_SETTINGS)
            .enable_push(false);
        builder
    }

    pub(super) fn server(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(connection_window(self.stream_window))
            .max_frame_size(limits::FRAME_MAX)
            .max_header_list_size(limits::HEADER_LIST_MAX)
            .max_send_buffer_size(limits::SEND_BUFFER_MAX)
            .max_concurrent_reset_streams(limits::RESET_STREAMS_REMEMBERED)
            .reset_stream_duration(limits::RESET_STREAMS_REMEMBERED_FOR)
            .max_pending_accept_reset_streams(limits::RESETS_BEFORE_ACCEPT_MAX)
            .max_local_error_reset_streams(Some(limits::PEER_ERRORS_MAX))
            .data_frame_budget(limits::DATA_FRAME_BUDGET)
            .max_concurrent_streams(self.max_streams);
        builder
    }
}

/// The connection window that goes with a stream window; at most what HTTP/2 can express.
pub(super) fn connection_window(stream_window: u32) -> u32 {
    stream_window.saturating_mul(limits::CONNECTION_WINDOW_RATIO).min((1 << 31) - 1)
}
