use std::time::Duration;

use h2::Reason;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tunnel::failure::{Code, Reached};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

type Ends = JoinSet<(&'static str, Result<(), ConnectionError>)>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Says `bytes` after a good preface; gives how the server ended.
async fn after_preface(bytes: Vec<u8>) -> Result<(), ConnectionError> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (_calls, _drain) = serve(&mut tasks, far, Settings::default());
    let talk = async {
        // The server may hang up on us at any byte.
        let _ = near.write_all(&[PREFACE, SETTINGS, &bytes].concat()).await;
        let _ = near.read_to_end(&mut Vec::new()).await;
    };
    let (end, ()) = tokio::join!(tasks.join_next(), talk);
    end.unwrap().unwrap().1
}

fn reason(end: Result<(), ConnectionError>) -> Option<Reason> {
    match end {
        Err(ConnectionError::Http2(error)) => error.reason(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn garbage_instead_of_the_preface_is_refused() {
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n").await.unwrap();
    assert!(matches!(server::accept(far, Settings::default()).await, Err(ConnectionError::Http2(_))));
}

#[tokio::test]
async fn garbage_after_the_preface_ends_the_connection() {
    let garbage = frame(0, 0, 0, b"data on stream zero");
    assert_eq!(reason(after_preface(garbage).await), Some(Reason::PROTOCOL_ERROR));
    assert_eq!(reason(after_preface(vec![0xff; 4096]).await), Some(Reason::FRAME_SIZE_ERROR));
}

/// `POST https://x/causeway.tunnel.v1.Tunnel/Forward` as HPACK literals.
fn request_head(extra: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    let mut literal = |name: &str, value: &[u8]| {
        block.push(0);
        block.push(name.len() as u8);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value);
    };
    literal(":path", b"/causeway.tunnel.v1.Tunnel/Forward");
    literal(":authority", b"x");
    literal("content-type", b"application/grpc");
    for (name, value) in extra {
        literal(name, value);
    }
    block
}

#[tokio::test]
async fn flood_of_empty_data_frames_ends_the_connection() {
    let mut flood = frame(1, 4, 1, &request_head(&[]));
    (0..200).for_each(|_| flood.extend(frame(0, 0, 1, &[])));
    assert_eq!(reason(after_preface(flood).await), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn flood_of_one_byte_data_frames_ends_the_connection_within_its_budget() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (_calls, _drain) = serve(&mut tasks, far, Settings::default());
    let talk = async {
        let head = frame(1, 4, 1, &request_head(&[]));
        near.write_all(&[PREFACE, SETTINGS, &frame(4, 1, 0, &[]), &head].concat()).await.unwrap();
        // Until they have said how large the connection window is.
        let mut said = Vec::new();
        while !said.windows(9).any(|frame| frame == [0, 0, 4, 8, 0, 0, 0, 0, 0]) {
            assert!(near.read_buf(&mut said).await.unwrap() > 0);
        }
        let flood = frame(0, 0, 1, &[0]).repeat(400_000);
        let _ = near.write_all(&flood).await;
        let _ = near.read_to_end(&mut Vec::new()).await;
    };
    let (end, ()) = tokio::join!(tasks.join_next(), talk);
    assert_eq!(reason(end.unwrap().unwrap().1), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn flood_of_continuations_ends_the_connection() {
    let mut flood = frame(1, 0, 1, &request_head(&[]));
    (0..2000).for_each(|_| flood.extend(frame(9, 0, 1, &[0; 100])));
    assert!(after_preface(flood).await.is_err());
}

#[tokio::test]
async fn flood_of_resets_before_anything_was_accepted_ends_the_connection() {
    let mut flood = Vec::new();
    for stream in (1..2001).step_by(2) {
        flood.extend(frame(1, 4, stream, &request_head(&[])));
        flood.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    assert_eq!(reason(after_preface(flood).await), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn flood_of_pings_and_settings_is_answered_without_piling_up() {
    let (mut near, far) = tokio::io::duplex(4096);
    let mut tasks = Ends::new();
    let (_calls, _drain) = serve(&mut tasks, far, Settings::default());
    near.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let flood = [frame(6, 0, 0, &[1; 8]), SETTINGS.to_vec()].concat();
    // We read nothing: answers fill the pipe, and then the server must stop reading, not remember.
    let mut written = 0;
    while tokio::time::timeout(Duration::from_millis(200), near.write_all(&flood)).await.is_ok() {
        written += flood.len();
        assert!(written < 1 << 20, "the server keeps reading what it cannot answer");
    }
}

#[tokio::test]
async fn head_list_that_is_too_large_is_refused_without_a_call() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (mut calls, _drain) = serve(&mut tasks, far, Settings::default());
    let (mut send, connection) = h2::client::handshake(near).await.unwrap();
    let mut clients = JoinSet::new();
    clients.spawn(connection);
    let request = Request::post("https://x/causeway.tunnel.v1.Tunnel/Forward")
        .header("content-type", "application/grpc")
        .header("authorization", "x".repeat(100_000))
        .body(())
        .unwrap();
    let (response, _body) = send.send_request(request, false).unwrap();
    assert_eq!(response.await.unwrap().status(), 431);
    assert!(calls.try_recv().is_err());
}

#[tokio::test]
async fn call_that_is_not_grpc_is_answered_and_never_becomes_a_call() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (mut calls, _drain) = serve(&mut tasks, far, Settings::default());
    let (mut send, connection) = h2::client::handshake(near).await.unwrap();
    let mut clients = JoinSet::new();
    clients.spawn(connection);
    for (request, status) in [
        (Request::get("https://x/causeway.tunnel.v1.Tunnel/Forward"), 405),
        (Request::post("https://x/causeway.tunnel.v1.Tunnel/Forward").header("content-type", "application/json"), 415),
    ] {
        let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), status);
    }
    assert!(calls.try_recv().is_err());
}

/// A raw peer that calls `Forward` and sends these bytes, then ends its side; what our receiver makes of it.
async fn received(body: Vec<u8>) -> Failure {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (mut calls, _drain) = serve(&mut tasks, far, Settings::default());
    let (mut send, connection) = h2::client::handshake(near).await.unwrap();
    let mut clients = JoinSet::new();
    clients.spawn(connection);
    let request = Request::post("https://x/causeway.tunnel.v1.Tunnel/Forward");
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let (_response, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data(Bytes::from(body), true).unwrap();
    let Some(Call::Forward(mut forward)) = calls.recv().await else { panic!("no call") };
    let seen = failure(&mut forward.receiver).await;
    assert!(forward.receiver.next().await.is_none());
    seen
}

#[tokio::test]
async fn broken_messages_are_named() {
    for (body, code, text) in [
        (vec![0, 0, 0, 0, 9, 0x12, 7, b'a'], Code::ProtocolError, "cut short"),
        (vec![0, 0, 0], Code::ProtocolError, "cut short"),
        (vec![1, 0, 0, 0, 0], Code::Unsupported, "compressed"),
        (vec![9, 0, 0, 0, 0], Code::ProtocolError, "flag"),
        (vec![0, 0xff, 0xff, 0xff, 0xff], Code::LimitReached, "limit"),
        (vec![0, 0, 0x10, 0, 0, 0x0a, 0xff], Code::LimitReached, "65536"),
        (vec![0, 0, 0, 0, 2, 0x0a, 0xff], Code::ProtocolError, "not protobuf"),
        (vec![0, 0, 0, 0, 0], Code::Unsupported, "kind"),
        (vec![0, 0, 0, 0, 3, 0x12, 1, b'a'], Code::ProtocolError, "without `fin`"),
        (vec![0, 0, 0, 0, 2, 0x1a, 0, 0, 0, 0, 0, 3, 0x12, 1, b'a'], Code::ProtocolError, "after `fin`"),
    ] {
        let failure = received(body).await;
        assert!(failure.code == code && failure.message.contains(text), "{failure:?}");
    }
}

/// Our client calls a raw server, which treats each call by `serve`.
async fn answered<F, Fut>(serve: F) -> Failure
where
    F: FnOnce(h2::server::SendResponse<Bytes>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_request, respond) = connection.accept().await.unwrap().unwrap();
        serve(respond).await;
        while connection.accept().await.is_some() {}
    });
    let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    let (_up, mut down) = client.forward(HeaderMap::new(), open()).await.unwrap();
    failure(&mut down).await
}

fn grpc_head() -> http::Response<()> {
    http::Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test]
async fn call_that_ends_without_a_status_is_never_success() {
    let ended = answered(|mut respond| async move {
        let mut stream = respond.send_response(grpc_head(), false).unwrap();
        stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 0x1a, 0]), true).unwrap();
    })
    .await;
    assert_eq!((ended.code, ended.reached), (Code::ProtocolError, Reached::Maybe));
    let bare = answered(|mut respond| async move { drop(respond.send_response(grpc_head(), true)) }).await;
    assert_eq!(bare.code, Code::ProtocolError);
}

#[tokio::test]
async fn refused_stream_was_not_reached() {
    let refused = answered(|mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) }).await;
    assert_eq!(refused.reached, Reached::No);
}

#[tokio::test]
async fn error_page_instead_of_grpc_is_a_failure() {
    let page = answered(|mut respond| async move {
        let page = http::Response::builder().status(502).header("content-type", "text/html").body(()).unwrap();
        let mut stream = respond.send_response(page, false).unwrap();
        stream.send_data(Bytes::from_static(b"<html>"), true).unwrap();
    })
    .await;
    assert_eq!(page.code, Code::TunnelLost);
}
