//! RFC 6455 through the relay, case by case in the spirit of the Autobahn test suite: what a client may send arrives at
//! the other side, what it may not is refused by name, however the bytes were cut on the way.
//!
//! Both sides of a relay are its clients, so every case runs from the sender to the listener and back. The frames that
//! the relay sends are judged too, by a reader that shares no code with it.
//!
//! Decided where the RFC leaves room, or where a relay is not an end point:
//! * Text passes as bytes, valid UTF-8 or not, and is judged by whom it is for. Only a Close's reason is judged here.
//! * Pings are answered hop by hop and do not pass; of several that wait, the latest is answered.
//! * A message may arrive in other fragments than it was sent in, never in another order or with other boundaries.
//! * After a broken rule the other side's connection ends without a Close. What had been sent before may be lost then.
mod cases;
mod oracle;
mod wire;

use std::collections::VecDeque;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use self::{
    cases::{Case, Expected},
    wire::{Close, Reader, close, frame},
};
use crate::support::{Answer, Control, LIMIT, Relay};

/// Cases at a time.
const MEETINGS: usize = 8;

/// Larger inputs are not sent byte by byte.
const BYTE_BY_BYTE_MAX: usize = 2000;

/// How the bytes of a case are cut into writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Whole,
    /// Pieces of this size.
    Pieces(usize),
}

/// What both sides saw.
#[derive(Debug)]
struct Seen {
    /// By whom the case was sent.
    sender: Reader,
    /// By the other.
    receiver: Reader,
}

/// A relay with one listener, in which pairs meet one after another.
struct Meeting {
    relay: Relay,
    control: Control,
}

impl Meeting {
    async fn new() -> Self {
        let relay = Relay::new().await;
        let control = relay.listener().await;
        Self { relay, control }
    }

    /// Two connections that were joined: the one that sends the case first.
    async fn joined(&mut self, from_listener: bool) -> (TcpStream, TcpStream) {
        let (sender, listener) = tokio::join!(self.relay.raw_sender(), async {
            let address = self.control.address().await;
            let (_, target) = address.split_once("/$hc").unwrap();
            self.relay.raw(&format!("/$hc{target}"), &[]).await
        });
        let [sender, listener] = [sender, listener].map(|Answer { status, stream, .. }| {
            assert_eq!(status, 101);
            stream.set_nodelay(true).unwrap();
            stream
        });
        if from_listener { (listener, sender) } else { (sender, listener) }
    }
}

/// Sends the bytes of a case and reads both sides to their ends. The receiver answers a Close with a Close.
async fn played(meeting: &mut Meeting, from_listener: bool, bytes: &[u8], cut: Cut) -> Seen {
    let (sender, receiver) = meeting.joined(from_listener).await;
    let ((mut from, mut to), (mut behind, mut answering)) = (sender.into_split(), receiver.into_split());
    let writing = async {
        let size = match cut {
            Cut::Whole => bytes.len(),
            Cut::Pieces(size) => size,
        };
        for piece in bytes.chunks(size) {
            // The relay may have heard enough.
            if to.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut reader = Reader::default();
        while let Some(()) = reader.read(&mut from).await {}
        reader
    };
    let answering = async {
        let (mut reader, mut answered) = (Reader::default(), false);
        while let Some(()) = reader.read(&mut behind).await {
            if reader.close.is_some() && !std::mem::replace(&mut answered, true) {
                // It may have ended already.
                let _ = answering.write_all(&close(Some((1000, b"")))).await;
            }
        }
        reader
    };
    let ((), sender, receiver) = tokio::join!(writing, reading, answering);
    Seen { sender, receiver }
}

fn judge(case: &Case, seen: &Seen) {
    let Seen { sender, receiver } = seen;
    match &case.expected {
        Expected::Passes { messages, close } => {
            assert!(receiver.messages == *messages, "messages: {:?}", wire::short(&receiver.messages));
            assert_eq!(receiver.close.as_ref(), Some(close));
            assert_eq!(sender.close, Some(Close(Some(1000), Vec::new())));
        }
        Expected::Refused { code, before } => {
            let told = sender.close.as_ref().and_then(|close| close.0);
            assert_eq!(told, Some(*code));
            assert!(!sender.close.as_ref().unwrap().1.is_empty(), "no reason");
            assert!(before.starts_with(&receiver.messages), "messages: {:?}", wire::short(&receiver.messages));
            assert_eq!(receiver.close, None);
        }
    }
    assert!(receiver.pongs.is_empty(), "pongs for nobody");
    // Each pong answers a ping, in order, and the last ping is answered.
    let mut pings: VecDeque<_> = case.pings.iter().collect();
    for pong in &sender.pongs {
        while pings.front().is_some_and(|ping| *ping != pong) {
            pings.pop_front();
        }
        assert!(pings.pop_front().is_some(), "a pong without its ping: {pong:?}");
    }
    if matches!(case.expected, Expected::Passes { .. }) {
        assert_eq!(sender.pongs.last(), case.pings.last());
    }
}

/// Every case, in both directions.
async fn all(cut: Cut, fits: fn(&Case) -> bool) {
    let cases: Vec<Case> = cases::all().into_iter().filter(fits).collect();
    let mut playing = JoinSet::new();
    for some in cases.chunks(cases.len().div_ceil(MEETINGS)) {
        let some = some.to_vec();
        playing.spawn(async move {
            let mut meeting = Meeting::new().await;
            for case in some {
                for from_listener in [false, true] {
                    let what = format!("{} (from the listener: {from_listener}, {cut:?})", case.name);
                    let seen = timeout(LIMIT, played(&mut meeting, from_listener, &case.bytes, cut)).await;
                    let Ok(seen) = seen else { panic!("{what}: hangs") };
                    let judged = std::panic::catch_unwind(|| judge(&case, &seen));
                    assert!(judged.is_ok(), "{what}");
                }
            }
        });
    }
    while let Some(played) = playing.join_next().await {
        played.unwrap();
    }
}

#[tokio::test]
async fn every_case_holds_when_it_comes_in_one_piece() {
    all(Cut::Whole, |_| true).await;
}

#[tokio::test]
async fn every_case_holds_when_it_comes_byte_by_byte() {
    all(Cut::Pieces(1), |case| case.bytes.len() <= BYTE_BY_BYTE_MAX).await;
}

#[tokio::test]
async fn every_case_holds_when_it_comes_in_odd_pieces() {
    all(Cut::Pieces(997), |case| case.bytes.len() > 997).await;
}

/// Data that follows in the other direction, after either side has closed its own.
#[tokio::test]
async fn a_closed_direction_leaves_the_other_open() {
    let mut meeting = Meeting::new().await;
    for from_listener in [false, true] {
        let (mut one, mut other) = meeting.joined(from_listener).await;
        one.write_all(&close(Some((4001, b"done")))).await.unwrap();
        let mut at_other = Reader::default();
        while at_other.close.is_none() {
            at_other.read(&mut other).await.unwrap();
        }
        assert_eq!(at_other.close, Some(Close(Some(4001), b"done".to_vec())));
        let mut at_one = Reader::default();
        for round in 0..3_u8 {
            other.write_all(&frame(0x82, &[round; 300])).await.unwrap();
            while at_one.messages.len() <= usize::from(round) {
                at_one.read(&mut one).await.unwrap();
            }
        }
        other.write_all(&close(Some((4002, b"me too")))).await.unwrap();
        while at_one.read(&mut one).await.is_some() {}
        assert_eq!(at_one.close, Some(Close(Some(4002), b"me too".to_vec())));
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
    }
}
