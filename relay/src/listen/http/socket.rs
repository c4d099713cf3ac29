//! A rendezvous that carries one HTTP exchange: the request's text and body come, the response's text and body go. What
//! is not finished is cut off without a Close, so that nobody takes a part for the whole.
//!
//! A body that its reader does not take holds up the relay, not us: what little comes meanwhile is kept, the relay's end is
//! watched for, and after a while the body is given up. So nobody stays who is not waited for any more.
use std::{collections::VecDeque, time::Duration};

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
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    body::{Room, Sink},
    watch::Watch,
};
use crate::{listen::explained, sender::Transport};

/// Silence after which the relay is pinged; twice that without a frame and it is gone.
const PING: Duration = Duration::from_secs(25);

/// Largest text message taken; bodies come in pieces.
const MESSAGE_MAX: usize = BODY_MAX;

/// Largest piece of a body that we send: half a frame of the largest that .NET reads at once, and what a stalled sender
/// leaves waiting here.
const PIECE_MAX: usize = 32 * 1024;

/// Bytes of a body that are kept for a reader that takes its time. A Close behind no more than that is seen at once.
const AHEAD: usize = 64 * 1024;

/// Pieces that they may be, so that small ones are no heavier.
const PIECES: usize = 64;

/// How long a reader may take nothing of a body that it holds up: as long as relays wait.
const STALL: Duration = Duration::from_secs(60);

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
    watch: Watch,
    body: Body,
    /// Bytes of the body so far.
    pub(super) bytes: u64,
}

/// The request's body, as it comes.
#[derive(Debug)]
enum Body {
    /// None, or no more.
    None,
    /// It goes there.
    Wanted(Sink, Ahead),
    /// Nobody reads it any more.
    Unwanted,
}

/// What has come of a body, for a reader that takes its time.
#[derive(Debug)]
struct Ahead {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// All of the body has come.
    whole: bool,
    /// Since when the reader has taken nothing of it.
    since: Instant,
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
        let watch = Watch::new(&upgraded.io);
        let (sender, receiver, writer) = split(upgraded.io, Role::Client, upgraded.read_ahead, MESSAGE_MAX, PING);
        Self {
            sending: Sending { sender, writer: shutdown.spawn(writer), first: true },
            reading: Reading { receiver, watch, body: Body::None, bytes: 0 },
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
        let ahead = Ahead { pieces: VecDeque::new(), bytes: 0, whole: false, since: Instant::now() };
        self.body = Body::Wanted(sink, ahead);
    }

    /// A body follows, and is of no use until somebody says where it goes.
    pub(super) fn ignore(&mut self) {
        self.body = Body::Unwanted;
    }

    /// One part of what comes, or of what goes to the body's reader. Cancel-safe.
    pub(super) async fn step(&mut self) -> Result<(), Gone> {
        let Body::Wanted(sink, ahead) = &mut self.body else {
            let part = self.receiver.next_part().await;
            return self.take(part);
        };
        let (is_due, is_full, stalled) = (ahead.is_due(), ahead.is_full(), ahead.since + STALL);
        let is_wanted = tokio::select! {
            biased;
            room = sink.room(), if is_due => Ok(room.is_some_and(|room| ahead.put(room))),
            part = self.receiver.next_part(), if !is_full => Err(part),
            // What stands before its end is read on the way there.
            () = self.watch.ended(), if is_full => Ok(false),
            () = sleep_until(stalled), if is_full => Ok(false),
        };
        match is_wanted {
            Ok(true) => {}
            Ok(false) => self.body = if ahead.whole { Body::None } else { Body::Unwanted },
            Err(part) => return self.take(part),
        }
        Ok(())
    }

    fn take(&mut self, part: Result<Part, ChannelError>) -> Result<(), Gone> {
        let (bytes, last) = match part {
            Ok(Part::Bytes { bytes, last }) => (bytes, last),
            Ok(Part::Whole(Message::Close(close))) => return Err(closed(close)),
            // A further request would be answered on this connection by nobody's rules; the relay gets its Close.
            Ok(Part::Whole(_)) => return Ok(()),
            Err(error) => return Err(lost(&error)),
        };
        self.bytes += bytes.len() as u64;
        let unannounced = || Err(Gone::Lost("the relay sent a body that it had not announced".to_owned()));
        match &mut self.body {
            Body::None if bytes.is_empty() => {}
            Body::None => return unannounced(),
            Body::Wanted(_, ahead) if ahead.whole => {
                if !bytes.is_empty() {
                    return unannounced();
                }
            }
            Body::Wanted(_, ahead) => ahead.came(bytes, last),
            Body::Unwanted if last => self.body = Body::None,
            Body::Unwanted => {}
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

impl Ahead {
    fn came(&mut self, bytes: Bytes, last: bool) {
        if !self.is_due() {
            self.since = Instant::now();
        }
        self.whole = last;
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.pieces.push_back(bytes);
        }
    }

    /// Gives the reader what is there; false when that was the end.
    fn put(&mut self, room: Room<'_>) -> bool {
        let Some(bytes) = self.pieces.pop_front() else {
            room.end();
            return false;
        };
        self.bytes -= bytes.len();
        self.since = Instant::now();
        room.put(bytes);
        true
    }

    /// There is something for the reader.
    fn is_due(&self) -> bool {
        self.whole || !self.pieces.is_empty()
    }

    /// Nothing more of the body is read. Behind its end only a Close is to come.
    fn is_full(&self) -> bool {
        !self.whole && (self.bytes >= AHEAD || self.pieces.len() >= PIECES)
    }
}

fn closed(close: Option<(u16, String)>) -> Gone {
    Gone::Closed(close.map_or(1005, |(code, _)| code))
}

fn lost(error: &ChannelError) -> Gone {
    Gone::Lost(explained(error))
}
