//! What does not come in, and how promptly it is let go.

use std::time::Duration;

use proto::tunnel::UPGRADE_PATH;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{
    bench::{Bench, PREFACE, ask, send, upgrade_request, websocket},
    ways::header,
};
use crate::serve::entry::{DEADLINE, FIRST_BYTE, Refusal, peeked::ALLOWANCE};

/// Whether the gateway closed without a word.
async fn closed(mut tcp: TcpStream) -> bool {
    let mut rest = Vec::new();
    matches!(tcp.read_to_end(&mut rest).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn garbage_is_closed_without_an_answer() {
    let bench = Bench::new("").await;
    for garbage in [&b"\0\0\0\0"[..], b"hello there", b"\x80\x2e\x01", b"SSH-2.0-x\r\n\r\n"] {
        let (refused, silent) = bench.run(|tcp| async { closed(send(tcp, garbage).await).await }).await;
        let refusal = refused.unwrap_err();
        assert!(matches!(refusal, Refusal::Garbage | Refusal::Http(_)), "{refusal}");
        assert!(silent || garbage.starts_with(b"SSH"), "{garbage:?}");
    }
}

#[tokio::test]
async fn requests_that_are_not_the_upgrade_get_an_empty_answer_without_a_banner() {
    let bench = Bench::new("").await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), "404"),
        (format!("GET {UPGRADE_PATH} HTTP/1.1\r\nHost: x\r\n\r\n"), "404"),
        (upgrade_request("/causeway/v1/tunnel/", &[]), "404"),
        (upgrade_request("/causeway/v1/tunnel?x", &[]), "404"),
        (upgrade_request(UPGRADE_PATH, &["Origin: https://evil.example"]), "403"),
        (upgrade_request(UPGRADE_PATH, &["Sec-WebSocket-Version: 8"]), "426"),
        (upgrade_request(UPGRADE_PATH, &["Sec-WebSocket-Key: short"]), "400"),
        (upgrade_request(UPGRADE_PATH, &["Sec-WebSocket-Protocol: other"]), "400"),
    ] {
        let (refused, answer) = bench.run(|tcp| ask(tcp, &request)).await;
        assert!(matches!(refused, Err(Refusal::Request { .. })), "{request}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.is_empty(), "{answer}");
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("\r\nserver:") && !head.contains("\r\ndate:"), "{answer}");
    }
}

#[tokio::test]
async fn bytes_must_match_the_negotiated_protocol() {
    let bench = Bench::new("").await;
    for alpn in [&[b"http/1.1".as_slice()][..], &[]] {
        let (refused, _) = bench.run(|tcp| async { send(bench.tls(tcp, alpn).await, PREFACE).await }).await;
        assert!(matches!(refused, Err(Refusal::WrongProtocol)), "{refused:?}");
        let (refused, _) = bench.run(|tcp| async { send(bench.tls(tcp, alpn).await, b"\x16\x03\x01").await }).await;
        assert!(matches!(refused, Err(Refusal::WrongProtocol)), "{refused:?}");
    }
}

#[tokio::test]
async fn an_unknown_protocol_name_and_an_old_tunnel_session_are_refused() {
    let bench = Bench::new("").await;
    let (refused, connected) = bench.run(|tcp| bench.tls12(tcp, b"smtp")).await;
    assert!(matches!(refused, Err(Refusal::Tls(_))));
    assert!(connected.is_err());
    let (refused, _) = bench.run(|tcp| bench.tls12(tcp, b"causeway/1")).await;
    assert!(matches!(refused, Err(Refusal::OldTls)), "{refused:?}");
    let (accepted, _) = bench.run(|tcp| bench.tls12(tcp, b"h2")).await;
    assert!(accepted.is_ok(), "outer sessions may be TLS 1.2");
}

#[tokio::test]
async fn what_follows_an_upgrade_is_tls_or_http2_and_nothing_deeper() {
    let bench = Bench::new("").await;
    let request = upgrade_request(UPGRADE_PATH, &[]);
    let (refused, _) = bench.run(|tcp| async { send(websocket(tcp).await, b"GET / HTTP/1.1\r\n\r\n").await }).await;
    assert!(matches!(refused, Err(Refusal::Garbage)), "{refused:?}");
    let nested = |tcp| async { send(websocket(tcp).await, request.as_bytes()).await };
    let (refused, _) = bench.run(nested).await;
    assert!(matches!(refused, Err(Refusal::Garbage)), "{refused:?}");
}

#[tokio::test]
async fn a_proxy_header_from_somebody_else_closes_the_connection() {
    let bench = Bench::new("proxy_protocol_from: 10.42.0.0/16").await;
    let (refused, silent) = bench.run(|tcp| async { closed(send(tcp, &header([10, 0, 0, 1])).await).await }).await;
    assert!(matches!(refused, Err(Refusal::ProxyHeader)));
    assert!(silent);
}

#[tokio::test]
async fn a_broken_proxy_header_closes_the_connection() {
    let bench = Bench::new("proxy_protocol_from: 127.0.0.1").await;
    for broken in [b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0".as_slice(), b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0"] {
        let (refused, _) = bench.run(|tcp| async { send(tcp, broken).await }).await;
        assert!(matches!(refused, Err(Refusal::Proxy(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn whoever_forwards_for_others_is_not_local() {
    let bench = Bench::new("proxy_protocol_from: 127.0.0.1").await;
    let forwarded = |tcp| async { send(send(tcp, &header([203, 0, 113, 9])).await, PREFACE).await };
    let (refused, _) = bench.run(forwarded).await;
    assert!(matches!(refused, Err(Refusal::Cleartext)), "{refused:?}");
    let request = upgrade_request(UPGRADE_PATH, &[]);
    let forwarded = |tcp| async { ask(send(tcp, &header([203, 0, 113, 9])).await, &request).await };
    let (refused, answer) = bench.run(forwarded).await;
    assert!(matches!(refused, Err(Refusal::Cleartext)), "{refused:?}");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_tls_ending_ingress_may_speak_cleartext_but_the_inner_session_is_still_required() {
    let bench = Bench::new("proxy_protocol_from: 127.0.0.1\nplaintext_from: 127.0.0.1").await;
    let proxied = |tcp| send(tcp, &HEADER);
    let (refused, _) = bench.run(|tcp| async { send(websocket(proxied(tcp).await).await, PREFACE).await }).await;
    assert!(matches!(refused, Err(Refusal::InnerSession)), "{refused:?}");
    let (refused, _) = bench.run(|tcp| async { send(proxied(tcp).await, PREFACE).await }).await;
    assert!(matches!(refused, Err(Refusal::Cleartext)), "{refused:?}");
    let inner = |tcp| async { send(bench.inner(websocket(proxied(tcp).await).await).await, PREFACE).await };
    bench.preface(inner).await;
}

/// A PROXY header from 203.0.113.9.
const HEADER: [u8; 28] = *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x0a\x2a\0\x05\xc0\x01\x20\xfb";

#[tokio::test]
async fn more_than_the_allowance_is_not_read() {
    let bench = Bench::new("").await;
    let flood = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(2 * ALLOWANCE));
    let client = |mut tcp: TcpStream| async move {
        // The gateway may close before all of it is written.
        let _ = tcp.write_all(flood.as_bytes()).await;
        ask(tcp, "").await
    };
    let (refused, answer) = bench.run(client).await;
    let refusal = refused.unwrap_err();
    assert!(matches!(refusal, Refusal::Http(_) | Refusal::Io(_)), "{refusal}");
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_let_go_after_five_seconds() {
    let bench = Bench::new("").await;
    let began = Instant::now();
    let (refused, silent) = bench.run(closed).await;
    assert!(matches!(refused, Err(Refusal::Silent)));
    assert!(silent);
    assert!(began.elapsed() >= FIRST_BYTE && began.elapsed() < FIRST_BYTE + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_half_way_is_let_go_after_ten_seconds() {
    let bench = Bench::new("").await;
    for start in [&b"\x16"[..], b"\x16\x03\x01\x02\x00\x01", b"GET /causeway/v1/tunnel HTTP/1.1\r\n", b"PR"] {
        let began = Instant::now();
        let (refused, _) = bench.run(|tcp| async { closed(send(tcp, start).await).await }).await;
        assert!(matches!(refused, Err(Refusal::Late)), "{start:?} {refused:?}");
        assert!(began.elapsed() >= DEADLINE && began.elapsed() < DEADLINE + Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_client_that_leaves_half_way_is_noticed_at_once() {
    let bench = Bench::new("").await;
    let (refused, ()) = bench.run(|tcp| async { drop(send(tcp, b"\x16\x03").await) }).await;
    assert!(matches!(refused, Err(Refusal::Closed | Refusal::Io(_) | Refusal::Tls(_))), "{refused:?}");
}
