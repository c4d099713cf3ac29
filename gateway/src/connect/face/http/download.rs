//! The answer's body on its way to the client. Credit goes back to the gateway when hyper has taken a piece, so a slow
//! client slows its own stream alone. A body that fails breaks the connection.
use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::header;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{self, forward_response},
    receive::{Part, Receiver},
};
use tokio_util::sync::DropGuard;

use super::Body;
use crate::{
    blocked::Blocked,
    connect::{
        access::Access,
        face::{
            Face,
            head::{self, Head},
            refusal::{By, grpc_status},
        },
    },
};

/// How long the end of a stream is awaited after the client has got everything: the gateway sends it with the last
/// bytes, or when the request's body is done, too.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A body in transit.
pub(in crate::connect::face) struct Download {
    face: Arc<Face>,
    receiver: Receiver<pb::ForwardResponse>,
    /// Bytes handed to hyper whose credit has not gone back yet.
    pending: usize,
    /// When that was.
    handed: Option<Instant>,
    /// Bytes that the answer's head promises.
    expected: Option<u64>,
    bodiless: bool,
    /// The answer to a gRPC call, whose trailers can tell of a failure.
    grpc: bool,
    /// Held until the stream is over: dropping it breaks the request's body off.
    _sending: Option<DropGuard>,
    stage: Stage,
}

/// How far the answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Data may come.
    Data,
    /// `fin` has come.
    Fin,
    /// The call is over, in good order or not.
    Over,
}

/// A body whose access line is written when it ends.
struct Delivery {
    /// Taken out only by `drop`.
    inner: Option<(Download, Access)>,
    /// The client has got everything there is.
    delivered: bool,
}

impl Download {
    pub(in crate::connect::face) fn new(
        face: Arc<Face>,
        receiver: Receiver<pb::ForwardResponse>,
        sending: Option<DropGuard>,
        head: &Head,
        bodiless: bool,
        grpc: bool,
    ) -> Self {
        let length = head.1.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let expected = length.and_then(|length| length.parse().ok());
        Self {
            face,
            receiver,
            pending: 0,
            handed: None,
            expected,
            bodiless,
            grpc,
            _sending: sending,
            stage: Stage::Data,
        }
    }

    /// As hyper wants it.
    pub(in crate::connect::face) fn into_body(self, access: Access) -> Body {
        let bodiless = self.bodiless || self.expected == Some(0);
        let mut delivery = Delivery { inner: Some((self, access)), delivered: bodiless };
        if bodiless {
            delivery.settle();
            return super::nothing();
        }
        let frames = stream::unfold(delivery, |mut delivery| async move {
            let frame = delivery.next().await?;
            Some((frame, delivery))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn part(&mut self) -> Result<Option<Part<pb::ForwardResponse>>, Failure> {
        self.receiver.next().await.transpose().inspect_err(|_| self.stage = Stage::Over)
    }

    async fn step(&mut self, received: &mut u64, blocked: &Blocked) -> Step {
        // The library asks again when it has room: the last piece is on its way.
        if let Some(handed) = self.handed.take() {
            blocked.add(handed.elapsed());
        }
        self.receiver.taken(mem::take(&mut self.pending));
        let broken = |message: String| Step::Failed(Failure::after_target(Code::ProtocolError, message));
        match self.part().await {
            Ok(Some(Part::Data(bytes))) => {
                *received += bytes.len() as u64;
                let last = self.expected.is_some_and(|expected| *received >= expected);
                if last {
                    self.receiver.taken(bytes.len());
                } else {
                    (self.pending, self.handed) = (bytes.len(), Some(Instant::now()));
                }
                Step::Frame(Frame::data(bytes), last)
            }
            Ok(Some(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Fin(fin)) }))) => {
                self.stage = Stage::Fin;
                match head::answer_trailers(&fin) {
                    Ok(trailers) if trailers.is_empty() => Step::End,
                    Ok(trailers) => Step::Frame(Frame::trailers(trailers), true),
                    Err(error) => broken(error.to_string()),
                }
            }
            Ok(_) => broken("the answer's body ended without `fin`".to_owned()),
            Err(failure) => Step::Failed(failure),
        }
    }

    /// Receives what is left behind the last byte of payload: `fin` and the call's end.
    async fn end(&mut self) -> Result<(), Failure> {
        while self.stage != Stage::Over {
            match (self.part().await?, self.stage) {
                (None, _) => self.stage = Stage::Over,
                (Some(Part::Message(message)), Stage::Data) if is_fin(&message) => self.stage = Stage::Fin,
                _ => {
                    self.stage = Stage::Over;
                    return Err(Failure::after_target(Code::ProtocolError, "the answer goes on behind its end"));
                }
            }
        }
        Ok(())
    }
}

fn is_fin(message: &pb::ForwardResponse) -> bool {
    matches!(message.part, Some(forward_response::Part::Fin(_)))
}

/// What the next part of a stream means for the client.
enum Step {
    /// A piece, and whether it is the last thing that hyper asks for.
    Frame(Frame<Bytes>, bool),
    End,
    Failed(Failure),
}

impl Delivery {
    /// The next piece for hyper; `None` at the end.
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Failure>> {
        let (download, access) = self.inner.as_mut()?;
        if download.stage != Stage::Data {
            return None;
        }
        let step = download.step(&mut access.received, &access.blocked_to_client).await;
        if let Step::Failed(failure) = &step {
            download.stage = Stage::Over;
            access.failed(failure, By::of(failure));
        }
        match step {
            // Whoever reads the status cannot take it for a good end.
            Step::Failed(failure) if download.grpc => Some(Ok(Frame::trailers(grpc_status(&failure)))),
            Step::Failed(failure) => Some(Err(failure)),
            Step::Frame(frame, last) => {
                if last {
                    self.delivered = true;
                    self.settle();
                }
                Some(Ok(frame))
            }
            Step::End => {
                self.delivered = true;
                self.settle();
                None
            }
        }
    }

    /// Takes the end of the stream if it is there already, which it nearly always is.
    fn settle(&mut self) {
        if let Some((download, access)) = self.inner.as_mut() {
            match download.end().now_or_never() {
                Some(Ok(())) => access.completed(),
                Some(Err(failure)) => access.failed(&failure, By::of(&failure)),
                None => {}
            }
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some((mut download, mut access)) = self.inner.take() else { return };
        // Either all is told, or the client has gone: dropping the halves cancels the stream. The same if the process
        // is past running tasks.
        if !self.delivered || download.stage == Stage::Over || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let shutdown = download.face.shutdown.clone();
        let ending = async move {
            let forced = download.face.shutdown.clone();
            tokio::select! {
                biased;
                () = forced.forced() => {}
                ended = tokio::time::timeout(END_DEADLINE, download.end()) => match ended {
                    Ok(Err(failure)) => access.failed(&failure, By::of(&failure)),
                    // The client has everything; a gateway that does not end the call is cut off and does not change that.
                    Ok(Ok(())) | Err(_) => access.completed(),
                }
            }
        };
        shutdown.spawn(ending);
    }
}
