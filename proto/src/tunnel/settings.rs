//! What one tunnel connection is allowed: windows, streams, frames, liveness.
use std::time::Duration;

/// Settings of one end of a tunnel.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Initial stream window in bytes; the connection window is four times this.
    pub stream_window: u32,
    /// Streams at once.
    pub max_streams: u32,
    /// A PING goes out after this long without a byte.
    pub ping_after: Duration,
    /// This much longer without any byte, and the tunnel is dead.
    pub dead_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            max_streams: 1000,
            ping_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(10),
        }
    }
}
