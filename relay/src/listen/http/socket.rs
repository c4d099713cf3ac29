//! A rendezvous that carries one HTTP exchange: the request's text and body come, the response's text and body go. What
//! is not finished is cut off without a Close, so that nobody takes a part for the whole.
use std::time::Duration;

use bytes::Bytes;
use daemon::shutdown::Shutdown;
use proto::{
    hybrid::message::{self, BODY_MAX},
    ws::{
        Role,
        handshake::Upgraded,
        message::{ChannelError, Message, Part, Piece, Receiver, Sender, split},
    },
};
use tokio::{task::JoinHandle, time::timeout};

use super::body::{Room, Sink};
use crate::{listen::explained, sender::Transport};

/// Silence after which the relay is pinged; twice that without a frame and it is gone.
const PING: Duration = Duration::from_secs(25);

/// Largest text message taken; bodies come in pieces.
const MESSAGE_MAX: usize = BODY_MAX;

/// Largest piece of a body that we send: half a frame of the largest that .NET reads at once, and what a stalled sender
/// leaves waiting here.
const PIECE_MAX: usize = 32 * 1024;

/// How long the relay may take to answer our Close.
const FAREWELL: Duration = Duration::from_secs(3);

/// An open rendezvous.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) sending: Sending,
    pub(super) reading: Reading,
}

/// What goes out.
#[derive(Debug)]
pub(super) struct Sending {
    sender: Sender,
    writer: JoinHandle<()>,
    /// No piece of the body was sent yet.
    first: bool,
}

/// What comes in.
#[derive(Debug)]
pub(super) struct Reading {
    receiver: Receiver<Transport>,
    body: Body,
    /// Bytes of the body so far.
    pub(super) bytes: u64,
}

/// The request's body, as it comes.
#[derive(Debug)]
enum Body {
    /// None, or no more.
    None,
    /// It goes there; `whole` when all of it has come.
    Wanted { sink: Sink, whole: bool },
    /// Nobody reads it any more.
    Unwanted,
}

/// What became of the other end.
#[derive(Debug)]
pub(super) enum Gone {
    /// It closed: the sender has gone, or the relay has no more use for us.
    Closed(u16),
    /// It was lost, or broke the protocol.
    Lost(String),
}

impl Socket {
    pub(super) fn new(upgraded: Upgraded<Transport>, shutdown: &Shutdown) -> Self {
        let (sender, receiver, writer) = split(upgraded.io, Role::Client, upgraded.read_ahead, MESSAGE_MAX, PING);
        Self {
            sending: Sending { sender, writer: shutdown.spawn(writer), first: true },
            reading: Reading { receiver, body: Body::None, bytes: 0 },
        }
    }

    /// Closes it in order, after everything was sent.
    pub(super) async fn finish(mut self) {
        let close = Message::Close(Some((1000, "response complete".to_owned())));
        let closed = async {
            // Where the relay has closed first, its Close is answered already.
            let _ = self.sending.sender.send(vec![close]).await;
            while matches!(self.reading.receiver.next_part().await, Ok(Part::Bytes { .. })) {}
            let _ = (&mut self.sending.writer).await;
        };
        // A relay that does not take its farewell does without.
        let _ = timeout(FAREWELL, closed).await;
    }
}

impl Sending {
    /// The head of the response. False when the other end takes nothing more.
    pub(super) async fn head(&self, head: String) -> bool {
        self.sender.send(vec![Message::Text(head)]).await.is_ok()
    }

    /// A part of the body, on its way before the next is asked for.
    pub(super) async fn bytes(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_MAX));
            if !self.piece(piece, false).await {
                return false;
            }
        }
        true
    }

    /// The end of the body.
    pub(super) async fn end(&mut self) -> bool {
        self.piece(Bytes::new(), true).await
    }

    async fn piece(&mut self, bytes: Bytes, last: bool) -> bool {
        let first = std::mem::take(&mut self.first);
        self.sender.send_piece(Piece { bytes, first, last }).await.is_ok()
    }
}

/// Whatever was not written is not written any more.
impl Drop for Sending {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Reading {
    /// The request that the relay sends on a rendezvous of its own wish.
    pub(super) async fn request(&mut self) -> Result<message::Request, Gone> {
        match self.receiver.next_part().await {
            Ok(Part::Whole(Message::Text(text))) => match message::Message::read(&text) {
                Ok(message::Message::Request(request)) => Ok(request),
                Ok(_) => Err(Gone::Lost("the relay sent something other than a request".to_owned())),
                Err(error) => Err(Gone::Lost(error.to_string())),
            },
            Ok(Part::Whole(Message::Close(close))) => Err(closed(close)),
            Ok(_) => Err(Gone::Lost("the relay sent a body before its request".to_owned())),
            Err(error) => Err(lost(&error)),
        }
    }

    /// A body follows, and goes there.
    pub(super) fn expect(&mut self, sink: Sink) {
        self.body = Body::Wanted { sink, whole: false };
    }

    /// A body follows, and is of no use until somebody says where it goes.
    pub(super) fn ignore(&mut self) {
        self.body = Body::Unwanted;
    }

    /// One part of what comes. Cancel-safe. Waits while the body has no room.
    pub(super) async fn step(&mut self) -> Result<(), Gone> {
        let room = match &self.body {
            Body::None | Body::Unwanted => None,
            Body::Wanted { sink, .. } => sink.room().await,
        };
        if let Body::Wanted { whole: true, .. } = self.body {
            room.into_iter().for_each(Room::end);
            self.body = Body::None;
            return Ok(());
        }
        let (bytes, last) = match self.receiver.next_part().await {
            Ok(Part::Bytes { bytes, last }) => (bytes, last),
            Ok(Part::Whole(Message::Close(close))) => return Err(closed(close)),
            // A further request would be answered on this connection by nobody's rules; the relay gets its Close.
            Ok(Part::Whole(_)) => return Ok(()),
            Err(error) => return Err(lost(&error)),
        };
        self.bytes += bytes.len() as u64;
        let is_read = room.is_some();
        if let (Some(room), false) = (room, bytes.is_empty()) {
            room.put(bytes.clone());
        }
        match &mut self.body {
            Body::None if bytes.is_empty() => {}
            Body::None => return Err(Gone::Lost("the relay sent a body that it had not announced".to_owned())),
            Body::Wanted { whole, .. } if is_read => *whole = last,
            Body::Wanted { .. } | Body::Unwanted => self.body = if last { Body::None } else { Body::Unwanted },
        }
        Ok(())
    }

    /// Until the other end has gone.
    pub(super) async fn gone(&mut self) -> Gone {
        loop {
            if let Err(gone) = self.step().await {
                return gone;
            }
        }
    }
}

fn closed(close: Option<(u16, String)>) -> Gone {
    Gone::Closed(close.map_or(1005, |(code, _)| code))
}

fn lost(error: &ChannelError) -> Gone {
    Gone::Lost(explained(error))
}
