//! The gateway's end of a tunnel.
use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{client::ConnectionError, failure::Failure, pb, receive::Receiver, settings::Settings};

/// Accepts calls on one connection.
#[derive(Debug)]
pub struct Server<IO> {
    _io: std::marker::PhantomData<IO>,
}

/// A call that arrived.
#[derive(Debug)]
pub enum Call {
    /// The hand-framed `Forward` call.
    Forward(Forward),
    /// Any other request: hand it to a tonic-generated service with `Other::serve`.
    Other(Other),
}

/// Starts HTTP/2 as the server on a transport.
pub async fn accept<IO>(io: IO, settings: Settings) -> Result<Server<IO>, ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = (io, settings);
    todo!()
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Server<IO> {
    /// The next call; drives the whole connection, so it must be polled until it gives `None` (closed in good order).
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Call, ConnectionError>> {
        todo!()
    }

    /// GOAWAY: calls in flight go on, new ones are refused. Keep polling `next`.
    pub fn drain(&mut self) {
        todo!()
    }
}

/// One `Forward` call as it arrived; its first message has not been read yet.
#[derive(Debug)]
pub struct Forward {
    /// Request metadata.
    pub metadata: HeaderMap,
    /// The caller's direction.
    pub receiver: Receiver<pb::ForwardRequest>,
    /// Our direction.
    pub sender: Sender,
}

/// The sending half of our direction. Dropped without `finish` or `fail`, the stream is reset and the caller sees `Internal`.
#[derive(Debug)]
pub struct Sender {}

impl Sender {
    /// Sends any message but data: `head`, `connected`.
    pub async fn message(&mut self, message: pb::ForwardResponse) -> Result<(), Failure> {
        let _ = message;
        todo!()
    }

    /// Sends payload, waiting for credit.
    pub async fn data(&mut self, payload: Bytes) -> Result<(), Failure> {
        let _ = payload;
        todo!()
    }

    /// Ends our direction.
    pub async fn fin(&mut self, fin: pb::Fin) -> Result<(), Failure> {
        let _ = fin;
        todo!()
    }

    /// Both directions are done: status OK.
    pub fn finish(self) {
        todo!()
    }

    /// The call failed: status with `ErrorInfo`.
    pub fn fail(self, failure: &Failure) {
        let _ = failure;
        todo!()
    }

    /// Resolves when the caller has reset the stream or the tunnel is gone.
    pub async fn cancelled(&mut self) {
        todo!()
    }
}

/// Any call but `Forward`, for services that tonic generated.
#[derive(Debug)]
pub struct Other {
    /// Request head (path and metadata).
    pub head: http::request::Parts,
}

impl Other {
    /// Runs a tonic-generated service (any `tower` service over [`Body`]) and streams its answer back.
    pub async fn serve<S>(self, service: S)
    where
        S: tower_service::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>,
        S::Error: std::fmt::Display,
    {
        let _ = service;
        todo!()
    }

    /// Answers with a failure at once.
    pub fn fail(self, failure: &Failure) {
        let _ = failure;
        todo!()
    }
}
