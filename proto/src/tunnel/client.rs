//! The caller's end of a tunnel.
use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{failure::Failure, pb, receive::Receiver, settings::Settings};

/// Opens streams on one tunnel. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {}

/// How a tunnel ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// HTTP/2 failed.
    #[error("tunnel connection failed")]
    Http2(#[from] h2::Error),
    /// The peer was silent for too long.
    #[error("no sign of life from the peer")]
    Dead,
}

/// Starts HTTP/2 as the client on a proven transport. The future drives the tunnel and ends with it: its owner spawns
/// and awaits it. Dropping every `Client` lets streams in flight finish and then ends it.
pub async fn connect<IO>(
    io: IO,
    settings: Settings,
) -> Result<(Client, impl Future<Output = Result<(), ConnectionError>> + Send + use<IO>), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = (io, settings);
    if true {
        todo!()
    }
    Ok((Client {}, std::future::ready(Ok(()))))
}

impl Client {
    /// Opens one stream: metadata (credentials marked sensitive) and the `open` message go out at once.
    pub async fn forward(
        &self,
        metadata: HeaderMap,
        open: pb::Open,
    ) -> Result<(Sender, Receiver<pb::ForwardResponse>), Failure> {
        let _ = (metadata, open);
        todo!()
    }

    /// The unary `Describe` call.
    pub async fn describe(&self, metadata: HeaderMap) -> Result<pb::DescribeResponse, Failure> {
        let _ = metadata;
        todo!()
    }

    /// The server-streaming `Watch` call: events until the gateway goes.
    pub async fn watch(&self, metadata: HeaderMap) -> Result<Watch, Failure> {
        let _ = metadata;
        todo!()
    }

    /// Streams in flight now, for least-loaded placement.
    pub fn in_flight(&self) -> usize {
        todo!()
    }

    /// Whether new streams may be opened: false after GOAWAY or loss.
    pub fn is_open(&self) -> bool {
        todo!()
    }

    /// Resolves when no new stream can be opened any more.
    pub async fn closed(&self) {
        todo!()
    }

    /// Last measured PING round trip.
    pub fn round_trip(&self) -> Option<std::time::Duration> {
        todo!()
    }
}

/// Events of `Watch`.
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// The next event; `None` at a clean end.
    pub async fn next(&mut self) -> Option<Result<pb::WatchEvent, Failure>> {
        todo!()
    }
}

/// The sending half of the caller's direction. Dropping it before `fin` cancels the stream.
#[derive(Debug)]
pub struct Sender {}

impl Sender {
    /// Sends payload as `data` messages, waiting for credit. Returns when h2 has accepted all of it.
    pub async fn data(&mut self, payload: Bytes) -> Result<(), Failure> {
        let _ = payload;
        todo!()
    }

    /// Ends this direction.
    pub async fn fin(&mut self, fin: pb::Fin) -> Result<(), Failure> {
        let _ = fin;
        todo!()
    }

    /// Cancels the stream (RST_STREAM CANCEL).
    pub fn cancel(&mut self) {
        todo!()
    }
}
