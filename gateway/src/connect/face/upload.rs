//! The request's body on its way into a stream. What left before the target was reached is remembered up to a bound, so
//! that a stream that certainly went nowhere can be opened again elsewhere without the client noticing.
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use proto::tunnel::{client::Sender, failure::Failure, pb};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::head::request_trailers;
use crate::blocked::Blocked;

/// Bytes remembered of one body: what a small request has, and far less than a stream's window.
const REPLAY_MAX: usize = 64 * 1024;

/// Where a body comes from, with what was already taken from it.
#[derive(Debug)]
struct Source<B> {
    body: B,
    kept: Vec<Bytes>,
    kept_len: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// More was taken than is remembered.
    spilled: bool,
}

/// A body that can be sent again as long as it is remembered. Clones share it; one sends at a time.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    source: Arc<Mutex<Source<B>>>,
    /// The target answers: nothing needs to be remembered any more.
    committed: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    blocked: Blocked,
}

impl<B> Clone for Upload<B> {
    fn clone(&self) -> Self {
        let (source, committed, sent) = (self.source.clone(), self.committed.clone(), self.sent.clone());
        Self { source, committed, sent, blocked: self.blocked.clone() }
    }
}

/// Why a body could not be sent to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client broke it off.
    #[error("the client's body ended early")]
    Client,
    /// The stream does not take it. The receiving half says why.
    #[error("the stream does not take the body")]
    Stream(#[source] Failure),
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// `sent` counts payload bytes, `blocked` the waits for credit.
    pub(crate) fn new(body: B, sent: Arc<AtomicU64>, blocked: Blocked) -> Self {
        let source = Source { body, kept: Vec::new(), kept_len: 0, trailers: None, ended: false, spilled: false };
        Self { source: Arc::new(Mutex::new(source)), committed: Arc::default(), sent, blocked }
    }

    /// The target answers: from now on nothing can be repeated.
    pub(crate) fn commit(&self) {
        self.committed.store(true, Ordering::Relaxed);
    }

    /// Whether the body can be sent from its beginning again. Only while no `send` is running.
    pub(crate) fn can_repeat(&self) -> bool {
        !self.committed.load(Ordering::Relaxed) && self.source.try_lock().is_ok_and(|source| !source.spilled)
    }

    /// Sends the body from its beginning, and `fin`. Dropping this leaves the body repeatable.
    pub(crate) async fn send(self, mut sender: Sender) -> Result<(), UploadError> {
        let mut source = Arc::clone(&self.source).lock_owned().await;
        self.sent.store(0, Ordering::Relaxed);
        for bytes in source.kept.clone() {
            self.piece(&mut sender, bytes).await?;
        }
        while !source.ended {
            match source.body.frame().await {
                None => source.ended = true,
                Some(Err(_)) => {
                    // A body that broke off has no end to be sent again.
                    source.spilled = true;
                    sender.cancel();
                    return Err(UploadError::Client);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        self.remember(&mut source, &bytes);
                        self.piece(&mut sender, bytes).await?;
                    }
                    Err(frame) => source.trailers = frame.into_trailers().ok(),
                },
            }
        }
        let trailers = source.trailers.as_ref().map(request_trailers).unwrap_or_default();
        sender.fin(pb::Fin { trailers }).await.map_err(UploadError::Stream)
    }

    async fn piece(&self, sender: &mut Sender, bytes: Bytes) -> Result<(), UploadError> {
        let len = bytes.len() as u64;
        self.blocked.on(sender.data(bytes)).await.map_err(UploadError::Stream)?;
        self.sent.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn remember(&self, source: &mut OwnedMutexGuard<Source<B>>, bytes: &Bytes) {
        source.kept_len += bytes.len();
        if source.spilled || self.committed.load(Ordering::Relaxed) || source.kept_len > REPLAY_MAX {
            source.spilled = true;
            source.kept = Vec::new();
        } else {
            source.kept.push(bytes.clone());
        }
    }
}
