//! Who may take how long, and what comes of it. Where a minute has to pass, it is simulated.
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, pause, resume, sleep},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::support::{Client, Reply, relay, relay_with, request, respond, serve_one};
use crate::support::{Control, Relay, Socket, closed, dial_address};

/// Does something while a listener answers Pings and says nothing else.
async fn beside<T>(control: &mut Control, doing: impl Future<Output = T>) -> T {
    let silent = async { while let Some(Ok(Message::Ping(_) | Message::Pong(_))) = control.0.next().await {} };
    tokio::select! {
        done = doing => done,
        () = silent => panic!("the control channel ended, or had something to say"),
    }
}

/// The next answer, however long it takes.
async fn reply(client: &mut Client) -> Reply {
    client.stream.readable().await.unwrap();
    client.reply().await
}

async fn close_code(rendezvous: &mut Socket) -> u16 {
    closed(rendezvous).await.map_or(1005, |frame| frame.code.into())
}

/// What takes a minute by default.
#[track_caller]
fn took_a_minute(began: Instant) {
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(59)..Duration::from_secs(61)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_listener_that_does_not_answer_in_sixty_seconds_costs_504_and_its_late_answer_is_ignored() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    pause();
    let began = Instant::now();
    let answer = beside(&mut control, reply(&mut client)).await;
    took_a_minute(began);
    assert_eq!((answer.status, answer.one("Via")), (504, None));
    let text = "The request was routed to the listener but the listener did not respond in the required time";
    assert!(answer.reason.starts_with(text), "{}", answer.reason);
    resume();
    respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), Some(b"late")).await;
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"in time").await;
    assert_eq!(client.reply().await.body, b"in time");
}

#[tokio::test]
async fn an_answer_by_rendezvous_has_to_begin_in_time_too() {
    // The listener dialled for its answer, or for a large request that it has got whole.
    for body in [0, 70_000] {
        let relay = relay().await;
        let mut control = relay.listener().await;
        let mut client = Client::new(&relay).await;
        client.with_body("POST /e", &[], &vec![7; body]).await;
        let asked = request(&mut control.0).await;
        let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
        if body > 0 {
            assert_eq!(request(&mut rendezvous).await.body.unwrap().len(), body);
        }
        pause();
        let began = Instant::now();
        let ends = async { tokio::join!(reply(&mut client), close_code(&mut rendezvous)) };
        let (answer, code) = beside(&mut control, ends).await;
        took_a_minute(began);
        assert_eq!((answer.status, answer.one("Via"), code), (504, None, 1001));
        resume();
    }
}

#[tokio::test]
async fn the_response_deadline_is_the_entitys_choice() {
    let relay = relay_with("response_timeout: 10s", "").await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    request(&mut control.0).await;
    pause();
    let began = Instant::now();
    assert_eq!(reply(&mut client).await.status, 504);
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_listener_that_is_lost_costs_502_at_once() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        request(&mut control.0).await;
        clients.push(client);
    }
    drop(control);
    for client in &mut clients {
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.one("Via")), (502, None));
        assert!(reply.reason.starts_with("The listener went away before it answered"), "{}", reply.reason);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "not after the 60 s that it had");
}

/// A sender that got the head of an answer, and the rendezvous that the rest is to come over.
async fn streaming(relay: &Relay, control: &mut Control) -> (Client, Socket) {
    let mut client = Client::new(relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
    respond(&mut rendezvous, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), None).await;
    client.reply_head().await;
    (client, rendezvous)
}

#[tokio::test]
async fn a_stream_that_is_silent_for_sixty_seconds_is_cut_and_one_that_goes_on_is_not() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
    pause();
    let streamed = async {
        // Longer than both limits in all, and never silent for as long as one.
        for number in 0..8 {
            sleep(Duration::from_secs(40)).await;
            let code = OpCode::Data(if number == 0 { Data::Binary } else { Data::Continue });
            rendezvous.send(Message::Frame(Frame::message("x", code, false))).await.unwrap();
            assert_eq!(client.next_chunk().await.unwrap(), b"x");
        }
        let began = Instant::now();
        let (chunk, code) = tokio::join!(client.next_chunk(), close_code(&mut rendezvous));
        took_a_minute(began);
        assert_eq!((chunk, code), (None, 1001), "no last chunk");
    };
    beside(&mut control, streamed).await;
}

#[tokio::test]
async fn pings_do_not_keep_a_silent_stream_alive() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let (mut client, mut rendezvous) = streaming(&relay, &mut control).await;
    pause();
    let began = Instant::now();
    let pinging = async {
        while rendezvous.send(Message::Ping(Vec::new().into())).await.is_ok() {
            sleep(Duration::from_secs(7)).await;
        }
    };
    let streamed = async {
        tokio::select! {
            chunk = client.next_chunk() => assert_eq!(chunk, None),
            () = pinging => assert_eq!(client.next_chunk().await, None),
        }
    };
    beside(&mut control, streamed).await;
    took_a_minute(began);
}

#[tokio::test]
async fn a_sender_that_stalls_in_its_body_is_told_so() {
    for (fields, begun) in [("Content-Length: 10", "begun"), ("Transfer-Encoding: chunked", "")] {
        let relay = relay().await;
        let mut control = relay.listener().await;
        let mut client = Client::new(&relay).await;
        pause();
        let began = Instant::now();
        client.head("POST /e", &[fields]).await;
        client.raw(begun.as_bytes()).await;
        let answer = beside(&mut control, reply(&mut client)).await;
        took_a_minute(began);
        assert_eq!((answer.status, answer.one("Via")), (408, None), "{fields}");
        assert!(answer.reason.starts_with("The request's body did not come in time"), "{}", answer.reason);
        assert!(client.is_closed().await);
        resume();
    }
    // On its way to a listener, too.
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Content-Length: 100000"]).await;
    client.raw(b"begun").await;
    let asked = request(&mut control.0).await;
    let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
    pause();
    let began = Instant::now();
    let ends = async { tokio::join!(reply(&mut client), close_code(&mut rendezvous)) };
    let (answer, code) = beside(&mut control, ends).await;
    took_a_minute(began);
    assert_eq!((answer.status, code), (408, 1001));
}

#[tokio::test]
async fn a_sender_that_takes_nothing_of_its_answer_is_cut() {
    let relay = relay_with("idle_timeout: 500ms", "").await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
    respond(&mut rendezvous, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), None).await;
    let sending = async {
        let mut code = Data::Binary;
        while rendezvous.send(Message::Frame(Frame::message(vec![7; 1 << 20], OpCode::Data(code), false))).await.is_ok()
        {
            code = Data::Continue;
        }
    };
    // Ends only when the relay has ended it.
    tokio::time::timeout(Duration::from_secs(15), sending).await.expect("the listener is not held for ever");
    let end = client.stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "what has come is not all");
    assert!(relay.context.status.status()()["relay"]["buffer_memory"].as_u64() <= Some(256 * 1024));
}

#[tokio::test]
async fn the_status_for_nobody_listening_is_the_entitys_choice() {
    for (http, status) in [("", 502), ("no_listener: 503", 503), ("no_listener: 404", 404)] {
        let relay = relay_with(http, "").await;
        let mut client = Client::new(&relay).await;
        assert_eq!(client.ask("GET /e", &[]).await.status, status);
        // WebSocket senders see what they see on Azure.
        assert_eq!(relay.raw_sender().await.status, 404);
    }
}
