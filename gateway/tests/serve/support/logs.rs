//! Catches log lines of the current thread, which is where a test's runtime runs.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
};

use serde_json::Value;
use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::fmt::MakeWriter;

/// While there is one subscriber only, `tracing` believes of each new place in the code that nobody wants its lines if
/// the thread that comes there first has none, as the threads of other tests.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));

/// Lines caught so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Catches from now on, until the guard is dropped.
    pub(crate) fn catch() -> (Self, DefaultGuard) {
        LazyLock::force(&ANOTHER);
        let lines = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(lines.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    /// Access lines of a kind.
    pub(crate) fn access(&self, kind: &str) -> Vec<Value> {
        let all = self.text();
        let lines = all.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "access" && line["kind"] == kind).collect()
    }

    /// Waits until this stands in some line.
    pub(crate) async fn wait_for(&self, text: &str) {
        let seen = tokio::time::timeout(super::PATIENCE, async {
            while !self.text().contains(text) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        assert!(seen.await.is_ok(), "no line says {text}: {}", self.text());
    }

    /// Everything.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
