//! Connections that change their protocol: bytes both ways after 101, and nothing but a plain answer without it.

use std::time::Duration;

use bytes::Bytes;
use proto::tunnel::{
    client::{Client, Sender},
    failure::{Code, Failure},
    pb::{Fin, ForwardResponse, Head, HttpRequest, forward_response},
    receive::{Part, Receiver},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    PATIENCE, Setup, World, fetch, get, logs::Lines, open_http, receive, rules, subject, targets::Target,
};

const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nx-accept: 1\r\n\r\n";

async fn world(target: &Target) -> World {
    let rules = rules(target.address).replace("paths: [/v1/**]", "upgrade: [websocket]");
    World::start(Setup { rules, targets: &[("scorer.models.svc", target.address)], more: "" }).await
}

fn asking(target: &Target, protocol: &str) -> HttpRequest {
    HttpRequest { upgrade: protocol.to_owned(), ..get(target.address, "/v1/x") }
}

/// Reads a request's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

async fn open(world: &World, tunnel: &Client, request: HttpRequest) -> (Sender, Receiver<ForwardResponse>) {
    tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap()
}

async fn switched(receiver: &mut Receiver<ForwardResponse>) -> Head {
    match receiver.next().await.unwrap().unwrap() {
        Part::Message(ForwardResponse { part: Some(forward_response::Part::Head(head)) }) => head,
        other => panic!("unexpected {other:?}"),
    }
}

/// Payload until `fin`, or the failure.
async fn rest(receiver: &mut Receiver<ForwardResponse>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, receiver.next()).await.unwrap().unwrap()? {
            Part::Data(data) => {
                bytes.extend_from_slice(&data);
                receiver.taken(data.len());
            }
            Part::Message(_) => return Ok(bytes),
        }
    }
}

#[tokio::test]
async fn after_101_bytes_pass_both_ways_and_each_side_ends_by_itself() {
    let target = Target::of(|mut stream| async move {
        let head = head(&mut stream).await;
        assert!(
            head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade, te\r\n"),
            "{head}"
        );
        // The first bytes of the new protocol come in one packet with the head.
        stream.write_all(&[SWITCHING, b"early "].concat()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let (lines, _guard) = Lines::catch();
    let world = world(&target).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, asking(&target, "websocket")).await;
    let head = switched(&mut receiver).await;
    let names: Vec<_> = head.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!((head.status, names), (101, vec!["x-accept"]));
    sender.data(Bytes::from_static(b"hello")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert_eq!(rest(&mut receiver).await.unwrap(), b"early hello");
    assert!(receiver.next().await.is_none(), "the call ends well");
    drop(tunnel);
    world.drain(Duration::from_secs(5)).await;
    let line = &lines.access("http")[0];
    assert_eq!((&line["ended"], &line["status"]), (&"ok".into(), &101.into()));
}

#[tokio::test]
async fn what_the_caller_sends_early_arrives_after_the_101() {
    let target = Target::of(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(SWITCHING).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let world = world(&target).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, asking(&target, "websocket")).await;
    sender.data(Bytes::from_static(b"at once")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert_eq!(switched(&mut receiver).await.status, 101);
    assert_eq!(rest(&mut receiver).await.unwrap(), b"at once");
}

#[tokio::test]
async fn any_other_answer_is_plain_and_its_connection_is_not_used_again() {
    let target = Target::of(|mut stream| async move {
        while !head(&mut stream).await.is_empty() {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        }
    })
    .await;
    let world = world(&target).await;
    let tunnel = world.held().await;
    for connections in 1..=3 {
        let (mut sender, mut receiver) = open(&world, &tunnel, asking(&target, "websocket")).await;
        // A request in disguise, for a target that takes it for the next one on the connection.
        let smuggled = Bytes::from_static(b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n");
        // The gateway may have ended the call already.
        let _ = sender.data(smuggled).await;
        let answer = receive(&mut receiver).await.unwrap();
        assert_eq!((answer.head.status, &answer.body[..]), (403, &b"no"[..]));
        assert_eq!(target.count(), connections);
    }
}

#[tokio::test]
async fn a_request_that_only_looks_like_an_upgrade_cannot_switch() {
    for answer in [
        &b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: spdy/3.1\r\n\r\n"[..],
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
    ] {
        let target = Target::of(move |mut stream| async move {
            head(&mut stream).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let world = world(&target).await;
        let tunnel = world.held().await;
        let failure = fetch(&tunnel, &world.token("alice"), asking(&target, "websocket")).await.unwrap_err();
        assert_eq!(failure.code, Code::TargetBroken, "{failure}");
    }
}

#[tokio::test]
async fn an_upgrade_is_a_permission_of_its_own() {
    let target = Target::http().await;
    let world = world(&target).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    for (protocol, code) in
        [("spdy/3.1", Code::PolicyDenied), ("raw", Code::PolicyDenied), ("h2c", Code::InvalidRequest)]
    {
        assert_eq!(fetch(&tunnel, &token, asking(&target, protocol)).await.unwrap_err().code, code, "{protocol}");
    }
    assert_eq!(target.count(), 0);
}

#[tokio::test]
async fn an_upgraded_connection_that_breaks_is_no_end() {
    let target = Target::of(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(SWITCHING).await.unwrap();
        let _ = stream.read_u8().await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let world = world(&target).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, asking(&target, "websocket")).await;
    switched(&mut receiver).await;
    sender.data(Bytes::from_static(b"x")).await.unwrap();
    let failure = rest(&mut receiver).await.unwrap_err();
    assert_eq!(failure.code, Code::TargetBroken, "{failure}");
}

#[tokio::test]
async fn a_caller_that_goes_away_resets_the_upgraded_connection() {
    let (gone, left) = tokio::sync::oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    let target = Target::of(move |mut stream| {
        let gone = gone.lock().unwrap().take().unwrap();
        async move {
            head(&mut stream).await;
            stream.write_all(SWITCHING).await.unwrap();
            let _ = gone.send(stream.read_u8().await.unwrap_err().kind());
        }
    })
    .await;
    let world = world(&target).await;
    let tunnel = world.held().await;
    let (sender, mut receiver) = open(&world, &tunnel, asking(&target, "websocket")).await;
    switched(&mut receiver).await;
    drop((sender, receiver));
    let kind = tokio::time::timeout(PATIENCE, left).await.unwrap().unwrap();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}
