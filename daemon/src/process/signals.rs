//! SIGTERM and SIGINT. From the moment a [`Signals`] exists, none is lost and none ends the process by itself.
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves on SIGTERM or SIGINT. If the system will not tell us about signals, it never does, and says so in the log.
pub async fn terminated() {
    match Signals::new() {
        Ok(mut signals) => signals.next().await,
        Err(error) => {
            tracing::error!(%error, "signals cannot be received: only SIGKILL will end this process");
            std::future::pending().await
        }
    }
}

/// Both signals, as one stream.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    interrupt: Signal,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// The next of either.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The next of either.
    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
