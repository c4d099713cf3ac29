//! One HTTP exchange over a rendezvous: a WebSocket that the listener dialled for it.
//!
//! Bodies pass piece by piece: one is on its way in each direction, and the next is read when it was taken. A piece from
//! the listener reaches the sender at once. The answer is whole when its message ends, or the listener closes with 1000
//! (Java's SDK never ends a message); whatever else ends the connection cuts the answer short. The relay closes when the
//! answer is complete: one rendezvous carries one exchange.
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use proto::{
    hybrid::{
        message::{self, Response, TEXT_MAX},
        status::close_reason,
    },
    ws::{
        Role,
        message::{Message, Part, Piece as Frame, Receiver, Sender, split},
    },
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Relay,
        body::{Feed, Pieces, feed},
        config::Http,
        control::PING,
        entities::Entity,
        refusal::Refusal,
        stay::{Over, Stay},
        upgrade::Accepted,
    },
    gather::{Upload, counted, next},
};
use crate::farewell::Farewell;

/// Reason of the Close after a whole answer.
const COMPLETE: &str = "the answer is complete";

/// Reason of the Close when nobody waits for the answer any more.
const SENDER_GONE: &str = "the sender has gone";

/// The beginning of an answer, and where its body comes from.
pub(super) type Begun = Result<(Response, Option<Pieces>), Refusal>;

/// One exchange.
pub(super) struct Carry {
    pub(super) relay: Arc<Relay>,
    /// The sender's right to be answered, and the listener's to answer.
    pub(super) stays: [Arc<Stay>; 2],
    pub(super) http: Http,
    /// Id of the request.
    pub(super) id: String,
    /// The request, if the listener has yet to get it.
    pub(super) request: Option<(String, Upload)>,
    /// Until when the answer to a request that it has must begin.
    pub(super) until: Instant,
    /// The sender wants no body, whatever the listener sends.
    pub(super) bodyless: bool,
    /// Counts what was taken from the sender.
    pub(super) moved: Arc<AtomicU64>,
    /// The sender has gone.
    pub(super) gone: CancellationToken,
    /// Where the answer is waited for.
    pub(super) begun: oneshot::Sender<Begun>,
}

impl Carry {
    pub(super) async fn run(self, io: Accepted, ahead: BytesMut) {
        let (channel, mut receiver, writer) = split(io, Role::Server, ahead, TEXT_MAX, PING);
        tokio::pin!(writer);
        let (gone, id) = (self.gone.clone(), self.id.clone());
        let farewell = tokio::select! {
            biased;
            farewell = self.exchange(&channel, &mut receiver) => farewell,
            () = gone.cancelled() => close(&id, 1001, SENDER_GONE),
            // Nothing can be said, and whoever waits learns it from our end.
            () = &mut writer => return,
        };
        farewell.say(channel, &mut receiver, writer).await;
    }

    async fn exchange(self, channel: &Sender, receiver: &mut Receiver<Accepted>) -> Farewell {
        let Self { relay, stays, http, id, request, until, bodyless, moved, begun, .. } = self;
        let [sender, listener] = &stays;
        let entity = sender.entity();
        let (all_sent, sent) = oneshot::channel();
        let up = async {
            let is_sent = request.is_some();
            if let Some((text, upload)) = request
                && let Err(refusal) = send(channel, entity, http.idle_timeout.0, text, upload, &moved).await
            {
                return refusal;
            }
            // A listener's time begins when it has everything.
            let until = if is_sent { Instant::now() + http.response_timeout.0 } else { until };
            let _ = all_sent.send(until);
            pending().await
        };
        let force = relay.shutdown.force_token();
        let mut down = Down { entity, http, id: &id, bodyless, begun: Some(begun), feed: None };
        tokio::select! {
            biased;
            () = force.cancelled() => {
                down.stop(Refusal::Draining, "forced", "relay");
                Farewell::Nothing
            }
            farewell = down.run(receiver, sent) => farewell,
            refusal = up => {
                down.stop(refusal, refusal.name(), refusal.fault());
                close(&id, 1001, refusal.text())
            }
            (over, whose) = over(sender, listener) => {
                down.stop(over.refusal(), over.name(), if over == Over::Removed { "none" } else { whose });
                let (code, text) = over.close();
                close(&id, code, text)
            }
        }
    }
}

/// When one of the two may not go on, and which.
async fn over(sender: &Stay, listener: &Stay) -> (Over, &'static str) {
    tokio::select! {
        over = sender.over() => (over, "sender"),
        over = listener.over() => (over, "listener"),
    }
}

fn close(id: &str, code: u16, reason: &str) -> Farewell {
    Farewell::Close(code, close_reason(reason, id))
}

/// Sends a request and its body, as it comes.
async fn send(
    channel: &Sender,
    entity: &Entity,
    patience: Duration,
    text: String,
    upload: Upload,
    moved: &AtomicU64,
) -> Result<(), Refusal> {
    let next = async |rest: &mut Incoming| timeout(patience, next(rest)).await.map_err(|_| Refusal::BodyTooSlow)?;
    let put = async |frame: Frame| {
        // A listener that takes nothing does not answer either.
        timeout(patience, channel.send_piece(frame))
            .await
            .map_err(|_| Refusal::ResponseTimeout)?
            .map_err(|_| Refusal::ListenerLost)
    };
    channel.send(vec![Message::Text(text)]).await.map_err(|_| Refusal::ListenerLost)?;
    let (mut pace, mut rest, mut first) = (entity.pace.clone(), upload.rest, true);
    let mut bytes = if upload.begun.is_empty() { next(&mut rest).await? } else { Some(upload.begun) };
    while let Some(some) = bytes {
        moved.fetch_add(some.len() as u64, Relaxed);
        entity.metrics.bytes_to_listener.inc_by(some.len() as u64);
        pace.pay(some.len()).await;
        put(Frame { bytes: counted(some, &entity.buffers), first, last: false }).await?;
        first = false;
        bytes = next(&mut rest).await?;
    }
    put(Frame { bytes: Bytes::new(), first, last: true }).await
}

/// The way from the listener to the sender.
struct Down<'a> {
    entity: &'a Entity,
    http: Http,
    id: &'a str,
    bodyless: bool,
    begun: Option<oneshot::Sender<Begun>>,
    feed: Option<Feed>,
}

impl Down<'_> {
    async fn run(&mut self, receiver: &mut Receiver<Accepted>, sent: oneshot::Receiver<Instant>) -> Farewell {
        let response = match self.head(receiver, sent).await {
            Ok(response) => response,
            Err((refusal, farewell)) => {
                self.begin(Err(refusal));
                return farewell;
            }
        };
        if !response.body || self.bodyless {
            self.begin(Ok((response, None)));
            return close(self.id, 1000, COMPLETE);
        }
        let (feed, pieces) = feed();
        let feed = self.feed.insert(feed);
        begin(&mut self.begun, Ok((response, Some(pieces))));
        let end = tokio::select! {
            biased;
            end = body(receiver, feed, self.entity, self.http.idle_timeout.0) => end,
            () = feed.closed() => End::SenderGone,
        };
        let Some(feed) = self.feed.take() else { return Farewell::Nothing };
        match end {
            End::Whole => {
                feed.end();
                close(self.id, 1000, COMPLETE)
            }
            End::Closed => {
                feed.end();
                Farewell::Queued
            }
            End::Cut(outcome, farewell) => {
                feed.cut(outcome, "listener");
                farewell
            }
            End::Paused => {
                feed.cut("idle", "listener");
                close(self.id, 1001, "the answer paused for too long")
            }
            End::Interrupted => {
                feed.cut("protocol_error", "listener");
                close(self.id, 1002, "a message within the answer's body")
            }
            End::SenderGone => close(self.id, 1001, SENDER_GONE),
        }
    }

    /// The answer's head, in time.
    async fn head(
        &self,
        receiver: &mut Receiver<Accepted>,
        sent: oneshot::Receiver<Instant>,
    ) -> Result<Response, (Refusal, Farewell)> {
        let late = async {
            match sent.await {
                Ok(until) => sleep_until(until).await,
                Err(_) => pending().await,
            }
        };
        let part = tokio::select! {
            biased;
            part = receiver.next_part() => part,
            () = late => {
                let refusal = Refusal::ResponseTimeout;
                return Err((refusal, close(self.id, 1001, refusal.text())));
            }
        };
        match part {
            Ok(Part::Whole(Message::Text(text))) => match message::Message::read(&text) {
                Ok(message::Message::Response(response)) if response.request_id == self.id => Ok(response),
                _ => Err((Refusal::BadResponse, close(self.id, 1002, "this is no response to the request"))),
            },
            Ok(Part::Whole(Message::Close(_))) => Err((Refusal::ListenerLost, Farewell::Queued)),
            Ok(_) => Err((Refusal::BadResponse, close(self.id, 1002, "a body that nothing announced"))),
            Err(error) => Err((Refusal::ListenerLost, Farewell::after(&error))),
        }
    }

    fn begin(&mut self, begun: Begun) {
        begin(&mut self.begun, begun);
    }

    /// Ends it, whatever it is at.
    fn stop(&mut self, refusal: Refusal, outcome: &'static str, fault: &'static str) {
        self.begin(Err(refusal));
        if let Some(feed) = self.feed.take() {
            feed.cut(outcome, fault);
        }
    }
}

fn begin(waiting: &mut Option<oneshot::Sender<Begun>>, begun: Begun) {
    if let Some(waiting) = waiting.take() {
        // Whoever waited may just have left.
        let _ = waiting.send(begun);
    }
}

/// How an answer's body ends.
enum End {
    /// With the end of its message.
    Whole,
    /// With a clean Close.
    Closed,
    /// Before its end.
    Cut(&'static str, Farewell),
    /// Not at all, it seems.
    Paused,
    /// With something that is no part of it.
    Interrupted,
    /// For nobody.
    SenderGone,
}

/// The answer's body, up to its end.
async fn body(receiver: &mut Receiver<Accepted>, feed: &Feed, entity: &Entity, patience: Duration) -> End {
    let mut pace = entity.pace.clone();
    loop {
        let Ok(part) = timeout(patience, receiver.next_part()).await else { return End::Paused };
        match part {
            Ok(Part::Bytes { bytes, last }) => {
                if !bytes.is_empty() {
                    pace.pay(bytes.len()).await;
                    if !feed.bytes(counted(bytes, &entity.buffers)).await {
                        return End::SenderGone;
                    }
                }
                if last {
                    return End::Whole;
                }
            }
            Ok(Part::Whole(Message::Close(Some((1000, _))))) => return End::Closed,
            Ok(Part::Whole(Message::Close(_))) => return End::Cut("cut", Farewell::Queued),
            Ok(Part::Whole(_)) => return End::Interrupted,
            Err(error) => return End::Cut("lost", Farewell::after(&error)),
        }
    }
}
