//! What comes before anybody is known: garbage, silence, crowds, and requests that are for nobody.
use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::support::{Answer, Relay, config};

#[tokio::test]
async fn garbage_is_answered_by_400_and_the_end() {
    let relay = Relay::new().await;
    for garbage in [&b"\x00\x01\x02\x03\r\n\r\n"[..], b"SSH-2.0-x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let answer = relay.send_raw(garbage).await;
        assert_eq!(answer.status, 400, "{garbage:?}");
        assert_eq!(answer.rest().await, b"");
    }
}

/// Real time: with a paused clock the deadline would come before the connection does.
#[tokio::test]
async fn a_client_that_says_nothing_is_closed_after_five_seconds() {
    let relay = Relay::new().await;
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let mut half = TcpStream::connect(relay.address).await.unwrap();
    half.write_all(b"GET /$hc/e HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let began = Instant::now();
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.unwrap();
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&elapsed), "{elapsed:?}");
    half.read_to_end(&mut nothing).await.unwrap();
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(15)).contains(&elapsed), "{elapsed:?}");
    assert_eq!(nothing, b"", "nothing is said to them");
}

#[tokio::test]
async fn a_head_of_more_than_36_kib_is_refused() {
    let relay = Relay::new().await;
    let long = "x".repeat(40 * 1024);
    let answer = relay.raw("/$hc/e", &[("X-Long", &long)]).await;
    assert_eq!(answer.status, 431);
    let many: Vec<(String, String)> = (0..200).map(|at| (format!("X-{at}"), "y".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(relay.raw("/$hc/e", &many).await.status, 431);
}

#[tokio::test]
async fn requests_for_nobody_are_told_why() {
    let relay = Relay::new().await;
    for (target, status, text) in [
        ("/$hc/e?sb-hc-action=dance", 400, "The address is not one of a hybrid connection"),
        ("/$hc/e/../other", 400, "The address is not one of a hybrid connection"),
        ("/$hc/e/%2e%2E/other", 400, "The address is not one of a hybrid connection"),
        ("/e", 400, "WebSocket endpoints are below /$hc/"),
    ] {
        let answer = relay.raw(target, &[]).await;
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.reason.starts_with(text), "{target}: {}", answer.reason);
        assert!(answer.head.to_ascii_lowercase().contains("connection: close"), "{}", answer.head);
    }
    for (request, status, text) in [
        ("GET /$hc/e HTTP/1.1\r\nHost: x\r\n\r\n", 400, "This endpoint is only for web-socket requests"),
        ("GET /e HTTP/1.1\r\nHost: x\r\n\r\n", 401, "MissingToken"),
        ("POST /e/sub HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", 401, "MissingToken"),
        ("CONNECT e:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "CONNECT is not relayed"),
    ] {
        let answer = relay.send_raw(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{request}");
        assert!(answer.reason.starts_with(text), "{request}: {}", answer.reason);
    }
    let old = "GET /$hc/e HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let answer = relay.send_raw(old.as_bytes()).await;
    assert_eq!(answer.status, 426);
    assert!(answer.head.to_ascii_lowercase().contains("sec-websocket-version: 13"));
}

#[tokio::test]
async fn a_refusal_carries_the_clients_id_and_a_body_with_the_code() {
    let relay = Relay::new().await;
    let answer = relay.raw("/$hc/e?sb-hc-id=0f0e0d0c-1111-2222-3333-444455556666", &[]).await;
    assert_eq!(answer.status, 401);
    let block = ". TrackingId:0f0e0d0c-1111-2222-3333-444455556666_G0, SystemTracker:sb://127.0.0.1/e, Timestamp:";
    assert!(answer.reason.contains(block), "{}", answer.reason);
    let body: serde_json::Value = serde_json::from_slice(&answer.rest().await).unwrap();
    assert_eq!(body["code"], "token_missing");
}

#[tokio::test]
async fn an_id_cannot_write_into_the_status_line() {
    let relay = Relay::new().await;
    let answer = relay.raw("/$hc/e?sb-hc-id=x%0d%0aSet-Cookie:%20a=b", &[]).await;
    assert_eq!(answer.status, 401);
    assert!(answer.reason.contains("TrackingId:xSet-Cookie: a=b_G0"), "{}", answer.reason);
    assert!(!answer.head.contains("\r\nSet-Cookie"), "{}", answer.head);
}

#[tokio::test]
async fn a_crowd_from_one_address_is_turned_away_and_room_comes_back() {
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", "handshakes: 4")).await;
    let mut crowd = Vec::new();
    // The last quarter is for others.
    for _ in 0..3 {
        let mut one = TcpStream::connect(relay.address).await.unwrap();
        one.write_all(b"GET ").await.unwrap();
        crowd.push(one);
    }
    let mut turned_away = TcpStream::connect(relay.address).await.unwrap();
    let mut nothing = Vec::new();
    // Closed without a word, or reset when our side was faster.
    let _ = turned_away.read_to_end(&mut nothing).await;
    assert_eq!(nothing, b"");
    drop(crowd);
    crate::support::until_async("room for another", async || relay.raw("/$hc/e", &[]).await.status == 401).await;
}

#[tokio::test]
async fn who_has_proven_a_token_no_longer_counts_as_crowd() {
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 2")).await;
    let mut control = relay.listener().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..6 {
        waiting.spawn(relay.sender(""));
        control.accept().await;
    }
    assert_eq!(relay.raw("/$hc/e", &[]).await.status, 401);
}

#[tokio::test]
async fn encoded_prefix_and_names_with_slashes_are_understood() {
    let relay = Relay::new().await;
    let token = relay.token("listen", crate::support::LISTEN_KEY, "deep/name");
    for target in ["/%24hc/deep/NAME?sb-hc-action=listen", "/$hc/Deep/Name/?sb-hc-action=Listen"] {
        let answer: Answer = relay.raw(target, &[("ServiceBusAuthorization", &token)]).await;
        assert_eq!(answer.status, 101, "{target}: {}", answer.reason);
    }
    // Whole segments only.
    assert_eq!(
        relay.raw("/$hc/deep/name2?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await.status,
        401
    );
}
