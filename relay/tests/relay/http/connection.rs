//! A sender's connection: one request after the other, and everything that could make two parties see them differently.
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::support::{Client, relay, relay_with, request, respond, serve_one};
use crate::support::{refused, until};

#[tokio::test]
async fn requests_of_one_connection_spread_over_listeners() {
    let relay = relay().await;
    let (mut one, mut other) = (relay.listener_as("one").await, relay.listener_as("other").await);
    let mut client = Client::new(&relay).await;
    let mut counts = [0; 2];
    for _ in 0..60 {
        client.head("GET /e", &[]).await;
        tokio::select! {
            _ = serve_one(&mut one.0, b"") => counts[0] += 1,
            _ = serve_one(&mut other.0, b"") => counts[1] += 1,
        }
        assert_eq!(client.reply().await.status, 200);
    }
    // One listener gets all sixty once in 2^59 runs.
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    let token = relay.send_token();
    let fields = format!("Host: h\r\nServiceBusAuthorization: {token}\r\n");
    let mut all = format!("POST /e/1 HTTP/1.1\r\n{fields}Content-Length: 3\r\n\r\none");
    all += &format!("POST /e/2 HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n");
    all += &format!("GET /e/3 HTTP/1.1\r\n{fields}\r\n");
    client.raw(all.as_bytes()).await;
    for (target, body) in [("/e/1", Some(&b"one"[..])), ("/e/2", Some(b"two")), ("/e/3", None)] {
        let asked = serve_one(&mut control.0, target.as_bytes()).await;
        assert_eq!((asked.message["requestTarget"].as_str(), asked.body.as_deref()), (Some(target), body));
        assert_eq!(client.reply().await.body, target.as_bytes());
    }
}

#[tokio::test]
async fn a_further_head_has_ten_seconds_from_its_first_byte() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"").await;
    client.reply().await;
    drop(control);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(50)).await;
    client.raw(b"GET /e HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
    let began = Instant::now();
    assert!(client.is_closed().await);
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_connection_is_kept_for_two_minutes_between_requests() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"").await;
    client.reply().await;
    drop(control);
    tokio::time::pause();
    let began = Instant::now();
    assert!(client.is_closed().await);
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(119)..Duration::from_secs(122)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_slow_further_head_counts_as_unproven_and_a_whole_one_does_not() {
    let relay = relay_with("", "handshakes: 4").await;
    let mut control = relay.listener().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        serve_one(&mut control.0, b"").await;
        client.reply().await;
        clients.push(client);
    }
    let crowded = || relay.context.metrics.encode().contains("handshakes_crowded_total 2\n");
    for client in &mut clients {
        client.raw(b"GET /e HTTP/1.1\r\n").await;
    }
    // One of the four places is the door's, which waits in it for the next connection.
    until("the crowd is turned away", || crowded() || relay.context.metrics.encode().contains("crowded_total 3\n"))
        .await;
    let closed = clients.iter_mut().filter(|client| {
        let mut byte = [0];
        matches!(client.stream.try_read(&mut byte), Ok(0))
    });
    assert!(closed.count() >= 2);
}

#[tokio::test]
async fn the_relay_answers_an_expectation_and_only_when_it_wants_the_body() {
    let relay = relay().await;
    let expect = ["Expect: 100-continue", "Content-Length: 4"];
    let mut client = Client::new(&relay).await;
    // Nobody listens, so the body is not asked for.
    client.head("POST /e", &expect).await;
    assert_eq!(client.reply().await.status, 502);

    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &expect).await;
    let interim = client.reply_head().await;
    assert_eq!(interim.status, 100);
    client.raw(b"body").await;
    let asked = serve_one(&mut control.0, b"").await;
    assert_eq!((asked.body.as_deref(), asked.field("Expect").is_null()), (Some(&b"body"[..]), true));
    assert_eq!(client.reply().await.status, 200);

    let mut client = Client::new(&relay).await;
    client.raw(b"POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 401, "without a token nothing is asked for");
}

#[tokio::test]
async fn an_old_client_may_keep_its_connection_and_a_new_one_may_end_it() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let mut client = Client::new(&relay).await;
    for _ in 0..2 {
        let fields = format!("ServiceBusAuthorization: {token}\r\nConnection: keep-alive\r\n");
        client.raw(format!("GET /e HTTP/1.0\r\n{fields}\r\n").as_bytes()).await;
        serve_one(&mut control.0, b"kept").await;
        let reply = client.reply().await;
        assert_eq!((&reply.body[..], reply.one("Connection")), (&b"kept"[..], Some("keep-alive")));
    }
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &["Connection: close"]).await;
    serve_one(&mut control.0, b"last").await;
    assert_eq!(client.reply().await.one("Connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn two_lengths_are_never_two_requests() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let fields = format!("Host: h\r\nServiceBusAuthorization: {token}\r\n");
    let smuggled = format!("GET /e/smuggled HTTP/1.1\r\n{fields}\r\n");
    for lengths in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"]
    {
        let mut client = Client::new(&relay).await;
        let body = format!("0\r\n\r\n{smuggled}");
        client.raw(format!("POST /e/open HTTP/1.1\r\n{fields}{lengths}\r\n{body}").as_bytes()).await;
        let asked = serve_one(&mut control.0, b"").await;
        assert_eq!((asked.body.as_deref(), asked.field("Content-Length").is_null()), (Some(&b""[..]), true));
        assert_eq!(client.reply().await.one("Connection"), Some("close"), "{lengths}");
        assert!(client.is_closed().await, "what follows is nobody's");
    }
    // The next request that comes is ours.
    let mut client = Client::new(&relay).await;
    client.head("GET /e/ours", &[]).await;
    assert_eq!(serve_one(&mut control.0, b"").await.message["requestTarget"], "/e/ours");
}

#[tokio::test]
async fn heads_that_two_parsers_could_read_differently_are_refused() {
    let relay = relay().await;
    let _control = relay.listener().await;
    let token = relay.send_token();
    let own = format!("Host: h\r\nServiceBusAuthorization: {token}\r\n");
    for (what, line, fields) in [
        ("a folded field", "GET /e HTTP/1.1", "X-A: one\r\n two\r\n"),
        ("a carriage return alone", "GET /e HTTP/1.1", "X-A: one\rtwo\r\n"),
        ("a NUL in a value", "GET /e HTTP/1.1", "X-A: one\0two\r\n"),
        ("a NUL in a name", "GET /e HTTP/1.1", "X\0A: one\r\n"),
        ("a blank before the colon", "GET /e HTTP/1.1", "X-A : one\r\n"),
        ("a line without a colon", "GET /e HTTP/1.1", "X-A\r\n"),
        ("a folded first line", "GET /e HTTP/1.1\r\n X-A: one", ""),
        ("two lengths", "POST /e HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2\r\n"),
        ("a list of lengths", "POST /e HTTP/1.1", "Content-Length: 1, 2\r\n"),
        ("a signed length", "POST /e HTTP/1.1", "Content-Length: +1\r\n"),
        ("a negative length", "POST /e HTTP/1.1", "Content-Length: -1\r\n"),
        ("a length in hexadecimal", "POST /e HTTP/1.1", "Content-Length: 0x1\r\n"),
        ("an endless length", "POST /e HTTP/1.1", "Content-Length: 99999999999999999999\r\n"),
        ("an unknown coding", "POST /e HTTP/1.1", "Transfer-Encoding: gzip\r\n"),
        ("chunks that are not last", "POST /e HTTP/1.1", "Transfer-Encoding: chunked, identity\r\n"),
        ("a coding from an old client", "POST /e HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        ("a blank in the target", "GET /e /x HTTP/1.1", ""),
        ("another version", "GET /e HTTP/2.0", ""),
        ("no version", "GET /e", ""),
        ("a method with a colon", "GE:T /e HTTP/1.1", ""),
    ] {
        let mut client = Client::new(&relay).await;
        client.raw(format!("{line}\r\n{own}{fields}\r\n").as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.one("Via")), (400, None), "{what}");
        assert!(client.is_closed().await, "{what}");
    }
}

#[tokio::test]
async fn a_line_feed_ends_a_line_and_never_stands_in_a_value() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let mut client = Client::new(&relay).await;
    let head = format!("GET /e HTTP/1.1\nHost: h\nServiceBusAuthorization: {token}\nX-A: one\nX-B: two\n\n");
    client.raw(head.as_bytes()).await;
    let asked = serve_one(&mut control.0, b"").await;
    assert_eq!((asked.field("X-A"), asked.field("X-B")), (&"one".into(), &"two".into()));
}

#[tokio::test]
async fn broken_chunks_are_refused_and_end_the_connection() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    for chunks in [
        "x\r\n",
        "-1\r\n",
        "5\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "1\r\naGET /e HTTP/1.1\r\n\r\n",
        "1;\n\r\na",
    ] {
        let mut client = Client::new(&relay).await;
        client.head("POST /e", &["Transfer-Encoding: chunked"]).await;
        client.raw(chunks.as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 400, "{chunks:?}");
        assert!(client.is_closed().await, "{chunks:?}");
    }
    // Nothing of it reached the listener; extensions of chunks and trailers are no part of a body.
    let mut client = Client::new(&relay).await;
    client.head("POST /e/last", &["Transfer-Encoding: chunked"]).await;
    client.raw(b"2;name=value\r\nab\r\n0\r\nX-Trailer: x\r\n\r\n").await;
    let asked = serve_one(&mut control.0, b"").await;
    assert_eq!((&asked.message["requestTarget"], asked.body.as_deref()), (&"/e/last".into(), Some(&b"ab"[..])));
    assert!(asked.field("X-Trailer").is_null());
}

#[tokio::test]
async fn an_offer_of_another_protocol_is_not_taken_and_a_websocket_not_relayed() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for _ in 0..2 {
        client.head("GET /e", &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"]).await;
        let asked = serve_one(&mut control.0, b"plain").await;
        assert!(asked.field("Upgrade").is_null() && asked.field("Http2-Settings").is_null());
        let reply = client.reply().await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"plain"[..]));
    }
    let token = relay.send_token();
    assert_eq!(refused(relay.dial("/e", &[("ServiceBusAuthorization", &token)]).await), 400);
}

#[tokio::test]
async fn who_proved_a_token_keeps_the_connection_through_refusals() {
    let relay = relay().await;
    let mut client = Client::new(&relay).await;
    for _ in 0..2 {
        let reply = client.ask("GET /e", &[]).await;
        assert_eq!((reply.status, reply.one("Connection"), reply.one("Via")), (502, None, None));
        assert_eq!(reply.one("Content-Type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["code"], "no_listener");
        let text = "There are no listeners connected for the endpoint. TrackingId:";
        assert!(reply.reason.starts_with(text) && body["message"] == *reply.reason, "{}", reply.reason);
    }
    client.raw(b"GET /e HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.one("Connection")), (401, Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_draining_relay_finishes_what_it_answers_and_lets_idle_connections_go() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut idle = Client::new(&relay).await;
    idle.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"").await;
    idle.reply().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    relay.context.shutdown.begin();
    assert!(idle.is_closed().await);
    respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), Some(b"done")).await;
    let reply = client.reply().await;
    assert_eq!((&reply.body[..], reply.one("Connection")), (&b"done"[..], Some("close")));
    assert_eq!(u16::from(control.close().await.unwrap().code), 1001);
    let outcome = relay.context.shutdown.run(Duration::from_secs(10)).await;
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_still_sends() {
    let relay = relay().await;
    let mut client = Client::new(&relay).await;
    client.raw(b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n").await;
    client.raw(&vec![7; 3_000_000]).await;
    assert_eq!(client.reply().await.status, 401, "a reset would have lost it");
}
