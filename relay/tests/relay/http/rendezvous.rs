//! Requests and answers that are too large for the control channel, or are streamed.
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::support::{Asked, Client, relay, relay_with, request, respond, serve_one};
use crate::support::{Control, LIMIT, Relay, Socket, closed, dial_address, refused, until};

/// The next message must be an invitation; dials it.
async fn dialled(control: &mut Control) -> Socket {
    let asked = request(&mut control.0).await;
    let fields: Vec<&String> = asked.message.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["address"], "neither method nor body, nor anything else");
    dial_address(asked.address(), &[]).await.unwrap()
}

/// A frame of a body.
fn frame(code: Data, last: bool, bytes: &[u8]) -> Message {
    Message::Frame(Frame::message(Bytes::copy_from_slice(bytes), OpCode::Data(code), last))
}

fn response(asked: &Asked) -> Value {
    json!({ "requestId": asked.id(), "statusCode": 200, "statusDescription": "Streamed", "body": true })
}

/// A sender's request that the listener answers by dialling, after the answer's head.
async fn streaming(relay: &Relay, control: &mut Control) -> (Client, Socket) {
    let mut client = Client::new(relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
    respond(&mut rendezvous, response(&asked), None).await;
    let head = client.reply_head().await;
    assert_eq!((head.status, head.reason.as_str()), (200, "Streamed"));
    assert_eq!((head.one("Transfer-Encoding"), head.one("Via")), (Some("chunked"), Some("1.1 127.0.0.1")));
    (client, rendezvous)
}

/// The close code that the relay ends a rendezvous with.
async fn close_code(rendezvous: &mut Socket) -> u16 {
    timeout(LIMIT, closed(rendezvous)).await.expect("a Close comes").map_or(1005, |frame| frame.code.into())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31) >> 3) as u8).collect()
}

#[tokio::test]
async fn a_body_of_65536_bytes_goes_over_the_control_channel_and_one_more_by_rendezvous() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    let body = pattern(65_537);
    client.with_body("POST /e/x", &[], &body[..65_536]).await;
    let asked = serve_one(&mut control.0, b"control").await;
    assert!(asked.body.unwrap() == body[..65_536]);
    assert_eq!(client.reply().await.body, b"control");

    client.with_body("POST /e/x", &["X-Own: 1"], &body).await;
    let mut rendezvous = dialled(&mut control).await;
    let asked = request(&mut rendezvous).await;
    assert_eq!((&asked.message["method"], &asked.message["requestTarget"]), (&"POST".into(), &"/e/x".into()));
    assert_eq!((asked.field("X-Own"), asked.field("Content-Length")), (&"1".into(), &Value::Null));
    assert!(asked.message["address"].is_string() && asked.message["remoteEndpoint"]["port"].is_u64());
    assert!(asked.body.as_deref().unwrap() == body, "the body changed on the way");
    respond(&mut rendezvous, response(&asked), Some(b"rendezvous")).await;
    let reply = client.reply().await;
    assert_eq!((&reply.body[..], reply.whole), (&b"rendezvous"[..], true));
    assert_eq!(close_code(&mut rendezvous).await, 1000, "the relay closes when the answer is complete");
}

#[tokio::test]
async fn chunked_bodies_go_over_the_control_channel_while_they_are_small_and_quick() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Transfer-Encoding: chunked", "Trailer: X-T"]).await;
    for chunk in [&b"one "[..], b"two", b""] {
        client.chunk(chunk).await;
    }
    let asked = serve_one(&mut control.0, b"").await;
    assert_eq!(asked.body.as_deref(), Some(&b"one two"[..]));
    assert_eq!(client.reply().await.status, 200);

    // More than one message holds.
    client.head("POST /e", &["Transfer-Encoding: chunked"]).await;
    let body = pattern(100_000);
    for chunk in body.chunks(30_000) {
        client.chunk(chunk).await;
    }
    client.chunk(b"").await;
    let mut rendezvous = dialled(&mut control).await;
    let asked = serve_one(&mut rendezvous, b"large").await;
    assert!(asked.body.unwrap() == body);
    assert_eq!(client.reply().await.body, b"large");
}

#[tokio::test]
async fn a_request_without_a_body_never_goes_by_rendezvous() {
    // Not even where a body could not be kept.
    for limits in ["", "buffer_memory: 64Ki"] {
        let relay = relay_with("", limits).await;
        let mut control = relay.listener().await;
        let mut client = Client::new(&relay).await;
        for (fields, body) in [
            (&[][..], None),
            (&["Content-Length: 0"], None),
            // It may have one, as long as it has not ended.
            (&["Transfer-Encoding: chunked"], Some(Vec::new())),
        ] {
            client.head("POST /e", fields).await;
            if body.is_some() {
                tokio::time::pause();
                sleep(Duration::from_secs(30)).await;
                tokio::time::resume();
                client.chunk(b"").await;
            }
            assert_eq!(serve_one(&mut control.0, b"").await.body, body, "{fields:?}");
            assert_eq!(client.reply().await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_chunked_body_that_pauses_goes_by_rendezvous_as_it_comes() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Transfer-Encoding: chunked"]).await;
    client.chunk(b"first").await;
    let address = request(&mut control.0).await.address().to_owned();
    let mut frames = Frames::dial(&relay, &address).await;
    let (code, text) = frames.next().await;
    let message: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((code, &message["request"]["body"]), (0x81, &true.into()));
    assert_eq!(frames.next().await, (0x02, b"first".to_vec()));
    client.chunk(b"second").await;
    assert_eq!(frames.next().await, (0x00, b"second".to_vec()));
    client.chunk(b"").await;
    assert_eq!(frames.next().await, (0x80, Vec::new()));
}

/// A rendezvous whose frames are seen one by one.
struct Frames {
    stream: tokio::net::TcpStream,
    read: BytesMut,
}

impl Frames {
    async fn dial(relay: &Relay, address: &str) -> Self {
        let answer = relay.raw(&address[address.find("/$hc/").unwrap()..], &[]).await;
        assert_eq!(answer.status, 101);
        Self { stream: answer.stream, read: BytesMut::new() }
    }

    /// First byte and payload of the next; none is longer than 64 KiB here.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (at, length) = match self.read[..] {
                [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
                [_, length @ ..126, ..] => (2, usize::from(length)),
                _ => (0, usize::MAX),
            };
            if self.read.len().saturating_sub(at) >= length {
                let frame = self.read.split_to(at + length);
                return (frame[0], frame[at..].to_vec());
            }
            let read = timeout(LIMIT, self.stream.read_buf(&mut self.read)).await.expect("a frame comes");
            assert_ne!(read.unwrap(), 0, "the rendezvous has ended");
        }
    }
}

#[tokio::test]
async fn a_large_answer_comes_whole_over_a_rendezvous_that_the_listener_opens() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    for length in [0, 1, 65_537, 1 << 20] {
        let mut client = Client::new(&relay).await;
        client.with_body("POST /e", &[], b"small").await;
        let asked = request(&mut control.0).await;
        let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
        let body = pattern(length);
        let (reply, ()) = tokio::join!(client.reply(), respond(&mut rendezvous, response(&asked), Some(&body)));
        assert!(reply.whole && reply.body == body, "{length} bytes changed on the way");
        assert_eq!(close_code(&mut rendezvous).await, 1000);
        // One answer is what it was for.
        assert_eq!(refused(dial_address(asked.address(), &[]).await), 403);
    }
}

#[tokio::test]
async fn each_frame_reaches_the_sender_before_the_next_is_sent() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
    for (number, event) in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"].into_iter().enumerate() {
        let code = if number == 0 { Data::Binary } else { Data::Continue };
        rendezvous.send(frame(code, false, event.as_bytes())).await.unwrap();
        assert_eq!(client.next_chunk().await.unwrap(), event.as_bytes());
    }
    // An empty frame ends it, as .NET and hyco-https do it.
    rendezvous.send(frame(Data::Continue, true, b"")).await.unwrap();
    assert_eq!(client.next_chunk().await.unwrap(), b"");
    assert_eq!(close_code(&mut rendezvous).await, 1000);
}

#[tokio::test]
async fn an_answer_that_ends_with_a_clean_close_is_whole() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
    rendezvous.send(frame(Data::Binary, false, b"all of it")).await.unwrap();
    rendezvous.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await.unwrap();
    assert_eq!(client.next_chunk().await.unwrap(), b"all of it");
    assert_eq!(client.next_chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_whole() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    for end in ["lost", "1011", "empty close", "1001", "text", "ping flood"] {
        let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
        rendezvous.send(frame(Data::Binary, false, b"some of it")).await.unwrap();
        assert_eq!(client.next_chunk().await.unwrap(), b"some of it");
        let close = |code| Some(CloseFrame { code, reason: "".into() });
        match end {
            "lost" => drop(rendezvous),
            "1011" => rendezvous.close(close(CloseCode::Error)).await.unwrap(),
            "1001" => rendezvous.close(close(CloseCode::Away)).await.unwrap(),
            "empty close" => rendezvous.close(None).await.unwrap(),
            // Within a message, which breaks the protocol.
            "text" => rendezvous.send(Message::text("{}")).await.unwrap(),
            _ => {
                for _ in 0..1000 {
                    if rendezvous.send(Message::Ping(Bytes::new())).await.is_err() {
                        break;
                    }
                }
            }
        }
        assert_eq!(client.next_chunk().await, None, "{end}: no last chunk");
    }
}

/// An answer on its way that has no other end than its connection's.
async fn plainly_streaming(relay: &Relay, control: &mut Control) -> (Client, Socket) {
    let token = relay.send_token();
    let mut client = Client::new(relay).await;
    client.raw(format!("GET /e HTTP/1.0\r\nServiceBusAuthorization: {token}\r\n\r\n").as_bytes()).await;
    let asked = request(&mut control.0).await;
    let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
    respond(&mut rendezvous, response(&asked), None).await;
    let head = client.reply_head().await;
    assert_eq!((head.one("Transfer-Encoding"), head.one("Content-Length")), (None, None));
    rendezvous.send(frame(Data::Binary, false, b"some")).await.unwrap();
    client.stream.read_exact(&mut [0; 4]).await.unwrap();
    (client, rendezvous)
}

#[tokio::test]
async fn a_plain_answer_of_an_old_client_that_breaks_off_ends_with_a_reset() {
    for is_forced in [false, true] {
        let relay = relay().await;
        let mut control = relay.listener().await;
        let (mut client, rendezvous) = plainly_streaming(&relay, &mut control).await;
        if is_forced {
            relay.context.shutdown.force();
        } else {
            drop(rendezvous);
        }
        let error = client.stream.read_exact(&mut [0; 4]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "an end would look whole; forced: {is_forced}");
    }
}

#[tokio::test]
async fn no_second_request_goes_over_a_rendezvous() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
    rendezvous.send(frame(Data::Binary, true, b"x")).await.unwrap();
    assert_eq!(client.next_chunk().await.unwrap(), b"x");
    assert_eq!(client.next_chunk().await.unwrap(), b"");
    client.head("GET /e/again", &[]).await;
    assert_eq!(serve_one(&mut control.0, b"again").await.message["requestTarget"], "/e/again");
    assert_eq!(client.reply().await.body, b"again");
    assert_eq!(close_code(&mut rendezvous).await, 1000, "nothing came on it but the end");
}

#[tokio::test]
async fn a_sender_that_goes_ends_its_rendezvous_with_1001() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (client, mut rendezvous) = streaming(&relay, &mut control).await;
    rendezvous.send(frame(Data::Binary, false, b"some")).await.unwrap();
    drop(client);
    assert_eq!(close_code(&mut rendezvous).await, 1001);
    // In the middle of its own body, too.
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Content-Length: 100000"]).await;
    client.raw(&pattern(70_000)).await;
    let mut rendezvous = dialled(&mut control).await;
    drop(client);
    let text = rendezvous.next().await.unwrap().unwrap();
    assert!(text.is_text());
    assert_eq!(close_code(&mut rendezvous).await, 1001);
    // Nor does a dial that comes too late find anything.
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    drop(client);
    until("the offer is withdrawn", || relay.context.status.status()()["relay"]["waiting_senders"] == 0).await;
    assert_eq!(refused(dial_address(asked.address(), &[]).await), 403);
    // The late answer is ignored.
    respond(&mut control.0, response(&asked), Some(b"late")).await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"alive").await;
    assert_eq!(client.reply().await.body, b"alive");
}

#[tokio::test]
async fn a_request_address_is_for_its_request_and_nothing_else() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    let as_accept = asked.address().replace("sb-hc-action=request", "sb-hc-action=accept");
    assert_eq!(refused(dial_address(&as_accept, &[]).await), 403);
    // Used for something else, the secret has leaked; the sender does not wait for what cannot come.
    assert_eq!(client.reply().await.status, 502);
    assert_eq!(refused(dial_address(asked.address(), &[]).await), 403);
    // Status parameters mean nothing here: the request is answered, not rejected.
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    let address = format!("{}&sb-hc-statusCode=403&statusCode=403", asked.address());
    let mut rendezvous = dial_address(&address, &[]).await.unwrap();
    respond(&mut rendezvous, response(&asked), Some(b"fine")).await;
    assert_eq!(client.reply().await.body, b"fine");
}

#[tokio::test]
async fn what_is_no_answer_on_a_rendezvous_is_refused() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    for (message, code) in [
        (Message::text("{}"), 1002),
        (Message::text("hello"), 1002),
        (Message::text(json!({ "response": { "requestId": "other", "statusCode": 200 } }).to_string()), 1002),
        (Message::binary(b"body".to_vec()), 1002),
        (Message::binary(Vec::new()), 1002),
        (Message::text(format!("{{\"x\":\"{}\"}}", "x".repeat(65_536))), 1009),
    ] {
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
        rendezvous.send(message.clone()).await.unwrap();
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.one("Via")), (502, None), "{message}");
        assert_eq!(close_code(&mut rendezvous).await, code, "{message}");
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_whole() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Content-Length: 10000000"]).await;
    client.raw(&pattern(70_000)).await;
    let mut rendezvous = dialled(&mut control).await;
    let Message::Text(text) = rendezvous.next().await.unwrap().unwrap() else { panic!("no request") };
    let message: Value = serde_json::from_str(&text).unwrap();
    let asked = Asked { message: message["request"].clone(), body: None };
    let refusal = json!({ "requestId": asked.id(), "statusCode": 413, "body": true });
    respond(&mut rendezvous, refusal, Some(b"too large")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, &reply.body[..]), (413, &b"too large"[..]));
}

#[tokio::test]
async fn a_body_flows_both_ways_at_once() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Transfer-Encoding: chunked"]).await;
    client.chunk(b"begin").await;
    let mut rendezvous = dialled(&mut control).await;
    let Message::Text(text) = rendezvous.next().await.unwrap().unwrap() else { panic!("no request") };
    let message: Value = serde_json::from_str(&text).unwrap();
    let asked = Asked { message: message["request"].clone(), body: None };
    respond(&mut rendezvous, response(&asked), None).await;
    rendezvous.send(frame(Data::Binary, false, b"early")).await.unwrap();
    assert_eq!(client.reply_head().await.status, 200);
    assert_eq!(client.next_chunk().await.unwrap(), b"early");
    client.chunk(b" and end").await;
    client.chunk(b"").await;
    assert_eq!(rendezvous.next().await.unwrap().unwrap(), Message::binary(b"begin and end".to_vec()));
    rendezvous.send(frame(Data::Continue, true, b"late")).await.unwrap();
    assert_eq!(client.next_chunk().await.unwrap(), b"late");
    assert_eq!(client.next_chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn a_listener_that_does_not_dial_costs_its_sender_the_accept_window() {
    let relay = relay_with("", "accept_timeout: 300ms").await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.with_body("POST /e", &[], &pattern(70_000)).await;
    let invitation = request(&mut control.0).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.one("Via")), (504, None));
    assert_eq!(refused(dial_address(invitation.address(), &[]).await), 403);
}

#[tokio::test]
async fn a_listener_that_goes_before_it_dialled_is_replaced() {
    let relay = relay().await;
    let mut first = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.with_body("POST /e", &[], &pattern(70_000)).await;
    request(&mut first.0).await;
    let mut second = relay.listener().await;
    drop(first);
    let mut rendezvous = dialled(&mut second).await;
    assert_eq!(serve_one(&mut rendezvous, b"second").await.body.unwrap().len(), 70_000);
    assert_eq!(client.reply().await.body, b"second");
}

#[tokio::test]
async fn a_rendezvous_outlives_its_control_channel() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
    control.0.close(None).await.unwrap();
    until("the listener has gone", || relay.shown_listener("listener-1").is_null()).await;
    rendezvous.send(frame(Data::Binary, true, b"still here")).await.unwrap();
    assert_eq!(client.next_chunk().await.unwrap(), b"still here");
    assert_eq!(client.next_chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn a_reader_that_stalls_slows_its_listener_down() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (client, mut rendezvous) = streaming(&relay, &mut control).await;
    let piece = vec![7; 1 << 20];
    let mut taken = 0;
    // What fits into the buffers of four sockets and one piece of ours is taken; then nothing more.
    let stalled = loop {
        let code = if taken == 0 { Data::Binary } else { Data::Continue };
        match timeout(Duration::from_secs(1), rendezvous.send(frame(code, false, &piece))).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break true,
        }
        taken += 1;
        if taken == 256 {
            break false;
        }
    };
    assert!(stalled, "{taken} MiB were taken for a reader that reads nothing");
    let held = relay.context.status.status()()["relay"]["buffer_memory"].as_u64().unwrap();
    assert!(held <= 256 * 1024, "{held} bytes are held for it");
    drop(client);
    until("what was held is given back", || {
        relay.context.status.status()()["relay"]["buffer_memory"].as_u64() == Some(0)
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_takes_nothing_slows_its_sender_down_and_is_given_up() {
    let relay = relay_with("idle_timeout: 500ms", "").await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Content-Length: 1000000000"]).await;
    client.raw(&pattern(70_000)).await;
    let _rendezvous = dialled(&mut control).await;
    let began = Instant::now();
    let sent = async {
        let piece = vec![7; 1 << 20];
        for _ in 0..900 {
            client.raw(&piece).await;
        }
    };
    // The answer comes while most is unsent, and it ends the connection.
    timeout(LIMIT, sent).await.expect("the sender is not held for ever");
    let reply = client.reply().await;
    assert_eq!(reply.status, 504);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
