//! What a control channel may rely on, with time that only moves when everything waits.
mod pieces;

use std::task::Context;

use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
};
use tokio_tungstenite::{WebSocketStream, tungstenite, tungstenite::protocol};

use super::*;
use crate::ws::frame::{DecodeError, Decoder, Event, HEADER_MAX, Header, Opcode, close_payload, put_control};

const PING: Duration = Duration::from_secs(25);
const LIMIT: usize = 1000;

/// One end with its writer, which runs whenever something else is awaited through [`End::with`].
struct End {
    sender: Sender,
    receiver: Receiver<DuplexStream>,
    writer: BoxFuture<'static, ()>,
    written: bool,
}

impl End {
    fn new(io: DuplexStream, role: Role) -> Self {
        let (sender, receiver, writer) = split(io, role, BytesMut::new(), LIMIT, PING);
        Self { sender, receiver, writer: Box::pin(writer), written: false }
    }

    async fn next(&mut self) -> Result<Message, ChannelError> {
        loop {
            tokio::select! {
                message = self.receiver.next() => return message,
                () = &mut self.writer, if !self.written => self.written = true,
            }
        }
    }

    /// Drives the writer until it ends.
    async fn finish(self) {
        drop((self.sender, self.receiver));
        if !self.written {
            self.writer.await;
        }
    }
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

fn ends() -> (End, End) {
    let (a, b) = duplex(100_000);
    (End::new(a, Role::Client), End::new(b, Role::Server))
}

/// Our client and the raw bytes of its server.
fn client_and_raw() -> (End, DuplexStream) {
    let (a, b) = duplex(100_000);
    (End::new(a, Role::Client), b)
}

fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, mask: None, len: payload.len() as u64 }.encode(&mut header);
    [&header[..len], payload].concat()
}

fn control(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    put_control(&mut wire, opcode, payload, None);
    wire
}

/// Everything our client wrote, once its transport is gone.
async fn written(raw: &mut DuplexStream) -> Vec<Event> {
    let mut wire = Vec::new();
    raw.read_to_end(&mut wire).await.unwrap();
    let (mut decoder, mut input, mut events) = (Decoder::new(Role::Server), BytesMut::from(&wire[..]), Vec::new());
    while let Some(event) = decoder.next(&mut input).unwrap() {
        events.push(event);
    }
    events
}

fn closes_with(events: &[Event], code: u16) -> bool {
    matches!(events.last(), Some(Event::Control { opcode: Opcode::Close, payload }) if payload[..2] == code.to_be_bytes())
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let (mut client, mut server) = ends();
    let sent = [text("one"), Message::Binary(Bytes::from_static(b"two")), text(""), text("ünï")];
    client.sender.send(sent[..2].to_vec()).await.unwrap();
    client.sender.send(sent[2..].to_vec()).await.unwrap();
    for expected in &sent {
        let message = tokio::select! { message = server.next() => message, _ = client.next() => unreachable!() };
        assert_eq!(&message.unwrap(), expected);
    }
}

#[tokio::test]
async fn messages_given_together_stay_adjacent() {
    let (a, b) = duplex(100_000);
    let (sender, receiver, writer) = split(a, Role::Server, BytesMut::new(), LIMIT, PING);
    let mut senders = tokio::task::JoinSet::new();
    for at in 0..30 {
        let sender = sender.clone();
        senders.spawn(async move {
            let body = Message::Binary(Bytes::from(vec![at]));
            sender.send(vec![text(&at.to_string()), body]).await.unwrap();
        });
    }
    let mut client = End::new(b, Role::Client);
    let reading = async {
        for _ in 0..30 {
            let (Message::Text(head), Message::Binary(body)) =
                (client.next().await.unwrap(), client.next().await.unwrap())
            else {
                panic!("torn apart")
            };
            assert_eq!(head, body[0].to_string());
        }
    };
    tokio::select! { () = reading => {}, () = writer => unreachable!() }
    drop((sender, receiver));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fragments_with_pings_between_are_one_message(
        fragments in proptest::collection::vec("[a-zé]{0,60}", 1..5), pieces in proptest::collection::vec(1usize..40, 1..5)
    ) {
        let mut wire = Vec::new();
        for (at, fragment) in fragments.iter().enumerate() {
            let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
            wire.extend(frame(opcode, at + 1 == fragments.len(), fragment.as_bytes()));
            wire.extend(control(Opcode::Ping, b"?"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async {
            let (mut client, mut raw) = client_and_raw();
            let feed = async {
                let (mut at, mut turn) = (0, 0);
                while at < wire.len() {
                    let piece = pieces[turn % pieces.len()].min(wire.len() - at);
                    raw.write_all(&wire[at..at + piece]).await.unwrap();
                    (at, turn) = (at + piece, turn + 1);
                    tokio::task::yield_now().await;
                }
            };
            let (got, ()) = tokio::join!(client.next(), feed);
            got.unwrap()
        });
        prop_assert_eq!(got, Message::Text(fragments.concat()));
    }
}

#[tokio::test]
async fn the_limit_is_taken_and_one_byte_more_refused() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&frame(Opcode::Binary, true, &[7; LIMIT])).await.unwrap();
    assert_eq!(client.next().await.unwrap(), Message::Binary(Bytes::from(vec![7; LIMIT])));
    // Over two frames, and announced only: the bytes are not waited for.
    raw.write_all(&frame(Opcode::Binary, false, &[7; LIMIT])).await.unwrap();
    raw.write_all(&[0x80, 1]).await.unwrap();
    assert!(matches!(client.next().await, Err(ChannelError::TooLarge { limit: LIMIT })));
    assert!(matches!(client.next().await, Err(ChannelError::Ended)));
    client.finish().await;
    assert!(closes_with(&written(&mut raw).await, 1009));
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_refused() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&frame(Opcode::Text, true, b"\xff")).await.unwrap();
    assert!(matches!(client.next().await, Err(ChannelError::NotText)));
    client.finish().await;
    assert!(closes_with(&written(&mut raw).await, 1007));
}

#[tokio::test]
async fn a_broken_rule_is_named_to_the_peer() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&[0x82, 0x80, 1, 2, 3, 4]).await.unwrap();
    assert!(matches!(client.next().await, Err(ChannelError::Frame(DecodeError::Masked))));
    client.finish().await;
    let Some(Event::Control { payload, .. }) = written(&mut raw).await.pop() else { panic!("no Close") };
    assert_eq!(payload, close_payload(1002, "frame from a server is masked")[..]);
}

#[tokio::test]
async fn an_end_without_close_is_an_error() {
    let (mut client, raw) = client_and_raw();
    drop(raw);
    let Err(ChannelError::Io(error)) = client.next().await else { panic!() };
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn the_peers_close_is_handed_on_and_echoed_behind_what_waits() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&control(Opcode::Close, &close_payload(1008, "token expired"))).await.unwrap();
    client.sender.send(vec![text("last")]).await.unwrap();
    // Only the receiver is driven here, so that the echo queues behind the text.
    let close = client.receiver.next().await.unwrap();
    assert_eq!(close, Message::Close(Some((1008, "token expired".into()))));
    client.finish().await;
    let events = written(&mut raw).await;
    assert!(events.len() == 3 && closes_with(&events, 1008), "{events:?}");
}

#[tokio::test]
async fn our_close_ends_the_writer_and_what_is_sent_after_it() {
    let (mut client, mut raw) = client_and_raw();
    client.sender.send(vec![Message::Close(Some((1001, "moved".into()))), text("never")]).await.unwrap();
    (&mut client.writer).await;
    assert!(matches!(client.sender.send(vec![text("late")]).await, Err(ChannelError::Ended)));
    // The peer may still speak until its own Close.
    raw.write_all(&frame(Opcode::Text, true, b"bye")).await.unwrap();
    raw.write_all(&control(Opcode::Close, &[])).await.unwrap();
    assert_eq!(client.receiver.next().await.unwrap(), text("bye"));
    assert_eq!(client.receiver.next().await.unwrap(), Message::Close(None));
    drop(client);
    let events = written(&mut raw).await;
    assert!(events.len() == 1 && closes_with(&events, 1001));
}

#[tokio::test]
async fn what_is_queued_is_written_when_both_halves_are_gone() {
    let (client, mut raw) = client_and_raw();
    client.sender.send(vec![text("a"), text("b")]).await.unwrap();
    client.finish().await;
    assert_eq!(written(&mut raw).await.len(), 4);
}

#[tokio::test]
async fn pings_are_answered() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&control(Opcode::Ping, b"42")).await.unwrap();
    let mut pong = [0; 8];
    tokio::select! { _ = client.next() => unreachable!(), read = raw.read_exact(&mut pong) => drop(read.unwrap()) }
    let events = Decoder::new(Role::Server).next(&mut BytesMut::from(&pong[..])).unwrap();
    assert_eq!(events, Some(Event::Control { opcode: Opcode::Pong, payload: BytesMut::from("42") }));
}

#[tokio::test]
async fn a_ping_flood_is_refused() {
    let (mut client, mut raw) = client_and_raw();
    for _ in 0..=crate::ws::flood::EMPTY_FRAMES_MAX {
        raw.write_all(&control(Opcode::Ping, b"")).await.unwrap();
    }
    assert!(matches!(client.next().await, Err(ChannelError::Frame(DecodeError::Flood))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_once_and_given_up_after_twice_the_time() {
    let (mut client, mut raw) = client_and_raw();
    let start = tokio::time::Instant::now();
    let Err(ChannelError::Silent(silence)) = client.next().await else { panic!() };
    assert_eq!((silence, start.elapsed()), (2 * PING, 2 * PING));
    client.finish().await;
    let events = written(&mut raw).await;
    assert!(matches!(events[0], Event::Control { opcode: Opcode::Ping, .. }));
    assert!(events.len() == 2 && closes_with(&events, 1001));
}

#[tokio::test(start_paused = true)]
async fn connections_of_different_age_ping_together() {
    let mut pinged = JoinSet::new();
    for age in [0, 20, 50] {
        tokio::time::sleep(Duration::from_millis(age)).await;
        let (mut client, mut raw) = client_and_raw();
        pinged.spawn(async move {
            let ping = async {
                raw.read_u8().await.unwrap();
                tokio::time::Instant::now()
            };
            tokio::select! { at = ping => at, _ = client.next() => unreachable!("nothing was sent") }
        });
    }
    let start = tokio::time::Instant::now();
    let mut at = pinged.join_all().await;
    // They began within 70 of the 100 ms that count as one: two bunches at most, not three.
    at.dedup();
    assert!(at.len() <= 2, "{at:?}");
    assert!(at.iter().all(|at| *at <= start + PING + Duration::from_millis(101)), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_lives_for_ever() {
    let (mut client, mut server) = ends();
    let day = Duration::from_secs(86_400);
    tokio::select! {
        _ = client.next() => unreachable!("nothing was sent"),
        _ = server.next() => unreachable!("nothing was sent"),
        () = tokio::time::sleep(day) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_ends_the_writer() {
    let (a, _b) = duplex(10);
    let (sender, _receiver, writer) = split(a, Role::Client, BytesMut::new(), LIMIT, PING);
    sender.send(vec![text("more than ten bytes")]).await.unwrap();
    let start = tokio::time::Instant::now();
    writer.await;
    assert_eq!(start.elapsed(), 2 * PING);
    assert!(matches!(sender.send(vec![]).await, Err(ChannelError::Ended)));
}

#[tokio::test]
async fn senders_wait_for_room_and_learn_the_end() {
    let (a, _b) = duplex(10);
    let (sender, _receiver, writer) = split(a, Role::Client, BytesMut::new(), LIMIT, PING);
    for _ in 0..BATCHES_WAITING {
        sender.send(vec![text("waits")]).await.unwrap();
    }
    let mut next = Box::pin(sender.send(vec![text("no room")]));
    assert!(next.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(writer);
    assert!(matches!(next.await, Err(ChannelError::Ended)));
}

#[tokio::test]
async fn next_can_be_cancelled_anywhere() {
    let (mut client, mut raw) = client_and_raw();
    for byte in frame(Opcode::Text, true, b"byte by byte") {
        let mut next = Box::pin(client.receiver.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        drop(next);
        raw.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(client.next().await.unwrap(), text("byte by byte"));
}

#[tokio::test]
async fn the_oracle_agrees_in_both_roles() {
    for (ours, theirs) in [(Role::Client, protocol::Role::Server), (Role::Server, protocol::Role::Client)] {
        let (a, b) = duplex(10_000);
        let mut end = End::new(a, ours);
        let mut oracle = WebSocketStream::from_raw_socket(b, theirs, None).await;
        end.sender.send(vec![text("hello"), Message::Binary(Bytes::from_static(b"world"))]).await.unwrap();
        let talk = async {
            assert_eq!(oracle.next().await.unwrap().unwrap(), tungstenite::Message::text("hello"));
            assert_eq!(oracle.next().await.unwrap().unwrap(), tungstenite::Message::binary(&b"world"[..]));
            oracle.send(tungstenite::Message::Ping("p".into())).await.unwrap();
            assert_eq!(oracle.next().await.unwrap().unwrap(), tungstenite::Message::Pong("p".into()));
            oracle.send(tungstenite::Message::text("back")).await.unwrap();
            oracle.close(None).await.unwrap();
            while let Some(message) = oracle.next().await {
                message.unwrap();
            }
        };
        let ours = async {
            assert_eq!(end.next().await.unwrap(), text("back"));
            assert_eq!(end.next().await.unwrap(), Message::Close(None));
            end.finish().await;
        };
        tokio::join!(talk, ours);
    }
}

#[tokio::test]
async fn an_idle_channel_is_small() {
    let (a, _b) = duplex(10);
    let (sender, receiver, writer) = split(a, Role::Server, BytesMut::new(), LIMIT, PING);
    let all = size_of_val(&sender) + size_of_val(&receiver) + size_of_val(&writer) + size_of::<outbox::Outbox>();
    assert!(all <= 1536, "{all} bytes");
}
