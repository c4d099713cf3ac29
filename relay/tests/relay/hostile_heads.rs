//! Heads that never end, come drop by drop, or hold what they should not; and crowds of such.
use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use crate::{
    listener::relay_with_tls,
    support::{Relay, config, dial_address},
};

/// Writes pieces until the relay has heard enough.
async fn endless(relay: &Relay, begin: &str, piece: &[u8]) {
    let (mut reading, mut writing) = TcpStream::connect(relay.address).await.unwrap().into_split();
    writing.write_all(begin.as_bytes()).await.unwrap();
    let mut written = 0;
    let end = async {
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            result = writing.write_all(piece) => match result {
                Ok(()) => written += piece.len(),
                Err(_) => return,
            },
        }
        // Kernel buffers of both sides are a few MiB.
        assert!(written < 64 << 20, "it is never enough");
    }
}

#[tokio::test]
async fn heads_without_an_end_are_not_listened_to() {
    let relay = Relay::new().await;
    let request = "GET /$hc/e HTTP/1.1\r\nHost: x\r\n";
    for (begin, piece) in [
        ("", &b"GETGETGETGET"[..]),
        ("GET /$hc/", b"aaaaaaaaaaaaaaaa"),
        (request, b"XXXXXXXXXXXXXXXX"),
        ("GET /$hc/e HTTP/1.1\r\nHost: x\r\nX: ", b"aaaaaaaaaaaaaaaa"),
        (request, b"X: y\r\nX: y\r\nX: y\r\n"),
        ("", b"\r\n\r\n\r\n\r\n"),
    ] {
        endless(&relay, begin, &piece.repeat(1024)).await;
    }
    assert_eq!(relay.raw("/$hc/e", &[]).await.status, 401, "everybody else is answered");
}

/// Host and what makes an upgrade are five of them.
#[tokio::test]
async fn a_head_of_a_hundred_lines_is_read_and_one_line_more_is_not() {
    let relay = Relay::new().await;
    for (lines, status) in [(100, 401), (101, 431)] {
        let more: Vec<(&str, &str)> = vec![("X", "y"); lines - 5];
        assert_eq!(relay.raw("/$hc/e", &more).await.status, status, "{lines}");
    }
}

/// Real time, as elsewhere: with a paused clock deadlines would come before connections do.
#[tokio::test]
async fn a_head_or_a_tls_session_that_comes_drop_by_drop_is_cut_off_after_ten_seconds() {
    let tls = relay_with_tls().await;
    let plain = Relay::new().await;
    let drop_by_drop = async |address: SocketAddr, bytes: &[u8]| {
        let began = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        for byte in bytes.iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            let silent = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0; 64])).await;
            if silent.is_ok() {
                break;
            }
        }
        began.elapsed()
    };
    // The front of a ClientHello that announces 16 KiB, and of a head.
    let hello = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..], &[7; 1000]].concat();
    let (in_tls, in_head) = tokio::join!(
        drop_by_drop(tls.relay.address, &hello),
        drop_by_drop(plain.address, b"GET /$hc/e HTTP/1.1\r\nX-Slowly: and-slowly-and-slowly-and-slowly-and-slowly")
    );
    for elapsed in [in_tls, in_head] {
        assert!((Duration::from_secs(9)..Duration::from_secs(18)).contains(&elapsed), "{elapsed:?}");
    }
}

#[tokio::test]
async fn a_crowd_of_slow_heads_from_one_address_keeps_nobody_else_out() {
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", "handshakes: 40, handshakes_per_address: 8")).await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let mut slow = TcpStream::connect(relay.address).await.unwrap();
        let _ = slow.write_all(b"GET /$hc/e HTTP/1.1\r\nX-Slow: ").await;
        crowd.push(slow);
    }
    let token = relay.send_token();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.9.9.9:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(relay.address).await.unwrap();
    let head = format!(
        "GET /$hc/e HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nServiceBusAuthorization: {token}\r\n\r\n"
    );
    let began = Instant::now();
    other.write_all(head.as_bytes()).await.unwrap();
    let answer = crate::support::Answer::read(other).await;
    assert_eq!(answer.status, 404, "there is no listener, and that was found out");
    // The crowd is cut off after ten seconds; nobody had to wait for that.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_second_request_behind_a_refused_one_is_not_answered() {
    let relay = Relay::new().await;
    let request = "GET /$hc/e HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = relay.send_raw(request.repeat(3).as_bytes()).await;
    assert_eq!(answer.status, 400);
    let rest = String::from_utf8(answer.rest().await).unwrap();
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
}

#[tokio::test]
async fn a_listener_whose_host_is_none_is_refused_because_addresses_are_made_of_it() {
    let relay = Relay::new().await;
    let token = relay.listen_token();
    for host in
        ["", "a b", "user@evil.example", "evil.example/path", "evil.example?x", "evil.example#x", "a:b:c", "[::1"]
    {
        let headers = [("ServiceBusAuthorization", token.as_str()), ("Host", host)];
        let answer = relay.raw_without_host("/$hc/e?sb-hc-action=listen", &headers).await;
        assert_eq!(answer.status, 400, "{host:?}");
    }
    for two in [[("Host", "a"), ("Host", "b")], [("Host", "a"), ("Host", "a")]] {
        let headers = [two[0], two[1], ("ServiceBusAuthorization", token.as_str())];
        assert_eq!(relay.raw_without_host("/$hc/e?sb-hc-action=listen", &headers).await.status, 400);
    }
}

#[tokio::test]
async fn what_a_sender_announces_beside_its_upgrade_smuggles_nothing() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    for (name, value) in [("Content-Length", "5"), ("Transfer-Encoding", "chunked")] {
        let headers = [("ServiceBusAuthorization", token.as_str()), (name, value)];
        let sender = relay.raw("/$hc/e", &headers);
        let asked = async { dial_address(&control.address().await, &[]).await };
        // Either it is refused at once, or it is a WebSocket from its first byte on.
        tokio::select! {
            answer = sender => assert!(answer.status >= 400 || answer.status == 101, "{name}: {}", answer.status),
            accepted = asked => drop(accepted),
        }
    }
}
