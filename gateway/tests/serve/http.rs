//! HTTP targets.

use std::time::Duration;

use bytes::Bytes;
use proto::tunnel::{
    failure::{Code, Reached},
    pb::{Field, Fin, HttpRequest, Open, forward_response},
    receive::Part,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Setup, World, fetch, get, logs::Lines, open_http, post, receive, rules, subject, targets::Target,
};

#[tokio::test]
async fn a_request_and_its_answer_pass_and_leave_one_line() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let answer = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x?secret=1")).await.unwrap();
    assert_eq!((answer.head.status, &answer.body[..]), (200, &b"GET /v1/x"[..]));
    drop(tunnel);
    world.drain(Duration::from_secs(5)).await;
    let access = lines.access("http");
    assert_eq!(access.len(), 1, "{}", lines.text());
    let line = &access[0];
    for (field, value) in [
        ("actor", "corp/connector"),
        ("subject", "corp/alice"),
        ("method", "GET"),
        ("path", "/v1/x"),
        ("rule", "scoring"),
        ("ended", "ok"),
        ("fault", "nobody"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["address"], target.address.to_string());
    assert_eq!(line["status"], 200);
    assert_eq!(line["bytes_from_target"], 9);
    assert!(line["first_byte_ms"].is_number() && line["total_ms"].is_number(), "{line}");
    assert_eq!(lines.access("tunnel").len(), 1);
    assert!(!lines.text().contains("secret"), "queries are not logged");
    assert!(!lines.text().contains("eyJ"), "tokens are not logged");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(post(target.address, "/v1/echo"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    // The head comes while the request is still open, and each piece comes back before the next one is sent.
    for round in 0..3_u8 {
        sender.data(Bytes::from(vec![round; 10_000])).await.unwrap();
        let mut back = 0;
        while back < 10_000 {
            match receiver.next().await.unwrap().unwrap() {
                Part::Data(data) => {
                    assert!(data.iter().all(|byte| *byte == round));
                    back += data.len();
                    receiver.taken(data.len());
                }
                Part::Message(message) => {
                    assert!(matches!(message.part, Some(forward_response::Part::Head(head)) if head.status == 200));
                }
            }
        }
    }
    sender.fin(Fin::default()).await.unwrap();
    assert!(receive(&mut receiver).await.unwrap().body.is_empty());
}

#[tokio::test]
async fn a_body_larger_than_all_windows_passes_whole() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let request = HttpRequest {
        fields: vec![field("content-length", &(32 << 20).to_string())],
        ..post(target.address, "/v1/echo")
    };
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap();
    let upload = async {
        for round in 0..512_u32 {
            let piece: Vec<u8> = (0..16_384_u32).flat_map(|word| (word ^ round).to_be_bytes()).collect();
            sender.data(piece.into()).await.unwrap();
        }
        sender.fin(Fin::default()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(receive(&mut receiver), upload);
    let body = answer.unwrap().body;
    assert_eq!(body.len(), 32 << 20);
    for (round, piece) in (0_u32..).zip(body.chunks(65_536)) {
        assert_eq!(piece[65_532..], (16_383 ^ round).to_be_bytes());
    }
}

#[tokio::test]
async fn the_target_sees_its_own_name_and_no_forged_fields() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let request = HttpRequest {
        fields: vec![
            field("host", "other.svc"),
            field("causeway-actor", "forged"),
            field("x-forwarded-for", "1.2.3.4"),
            field("x-original-url", "/admin"),
            field("authorization", "Bearer of-the-application"),
        ],
        ..get(target.address, "/v1/head")
    };
    let answer = fetch(&tunnel, &world.token("alice"), request).await.unwrap();
    let seen = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(seen.contains(&format!("\"host\": \"scorer.models.svc:{}\"", target.address.port())), "{seen}");
    assert!(seen.contains("\"x-forwarded-for\": \"127.0.0.1\""), "{seen}");
    assert!(seen.contains("of-the-application"), "{seen}");
    assert!(seen.contains("\"x-real-ip\": \"127.0.0.1\"") && seen.contains("\"causeway-hops\": \"1\""), "{seen}");
    assert!(!seen.contains("forged") && !seen.contains("1.2.3.4") && !seen.contains("/admin"), "{seen}");
}

#[tokio::test]
async fn a_target_is_told_who_calls_and_the_caller_cannot_say_it_for_itself() {
    let target = Target::http().await;
    let world = World::start(Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "identity_headers: { subject: X-Remote-Subject, actor: X-Remote-Actor, groups: X-Remote-Groups }",
    })
    .await;
    let request = HttpRequest {
        fields: vec![
            field("x-remote-subject", "forged"),
            field("X-Remote-Groups", "forged"),
            field("x_remote_groups", "forged"),
            field("x-remote_actor", "forged"),
        ],
        ..get(target.address, "/v1/head")
    };
    let groups = json!({ "groups": ["ml", "a,b"], "roles": ["reader"] });
    let token = world.token_with("alice", 600, groups);
    let answer = fetch(&world.held().await, &token, request).await.unwrap();
    let seen = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(!seen.contains("forged"), "{seen}");
    for (name, value) in
        [("x-remote-subject", "corp/alice"), ("x-remote-actor", "corp/connector"), ("x-remote-groups", "ml,reader")]
    {
        assert!(seen.contains(&format!("\"{name}\": \"{value}\"")), "{seen}");
    }
}

#[tokio::test]
async fn the_body_of_a_get_passes_though_nobody_says_how_long_it_is() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let request = HttpRequest { no_body: false, ..get(target.address, "/v1/echo") };
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap();
    sender.data(Bytes::from_static(b"query")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert_eq!(receive(&mut receiver).await.unwrap().body, "query");
}

#[tokio::test]
async fn a_callers_trailers_cannot_say_who_calls() {
    let target = Target::http().await;
    let world = World::start(Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "identity_headers: { subject: X-Remote-Subject }",
    })
    .await;
    let tunnel = world.held().await;
    for name in ["x-remote-subject", "X_Remote-Subject"] {
        let request = HttpRequest { fields: vec![field("trailer", name)], ..post(target.address, "/v1/sum") };
        let (mut sender, mut receiver) =
            tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap();
        sender.data(Bytes::from_static(b"a")).await.unwrap();
        sender.fin(Fin { trailers: vec![field(name, "forged")] }).await.unwrap();
        assert_eq!(receive(&mut receiver).await.unwrap_err().code, Code::InvalidRequest, "{name}");
    }
}

#[tokio::test]
async fn gateways_are_counted_on_and_a_loop_ends() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let ask = |hops| {
        let open = Open { hops, ..open_http(get(target.address, "/v1/head")) };
        let (tunnel, token) = (tunnel.clone(), world.token("alice"));
        async move {
            let (mut sender, mut receiver) = tunnel.forward(subject(&token), open).await?;
            sender.fin(Fin::default()).await?;
            receive(&mut receiver).await
        }
    };
    let answer = ask(3).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.body).contains("\"causeway-hops\": \"4\""));
    for hops in [4, u32::MAX] {
        assert_eq!(ask(hops).await.unwrap_err().code, Code::LimitReached);
    }
}

#[tokio::test]
async fn hostile_answers_cannot_speak_for_the_gateway() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let answer = fetch(&tunnel, &token, get(target.address, "/v1/hostile")).await.unwrap();
    assert_eq!(answer.field("x-app"), Some("kept"));
    assert_eq!((answer.field("causeway-actor"), answer.field("keep-alive")), (None, None));
    let request = HttpRequest { fields: vec![field("te", "trailers")], ..get(target.address, "/v1/trailers") };
    assert_eq!(fetch(&tunnel, &token, request).await.unwrap_err().code, Code::InvalidRequest);
    let answer = fetch(&tunnel, &token, get(target.address, "/v1/trailers")).await.unwrap();
    assert_eq!(&answer.body[..], b"body");
    assert!(!answer.trailers.iter().any(|(name, _)| name.starts_with("causeway-")), "{:?}", answer.trailers);
}

#[tokio::test]
async fn answers_without_body_end_at_once() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let head = HttpRequest { method: "HEAD".to_owned(), ..get(target.address, "/v1/x") };
    let answer = fetch(&tunnel, &token, head).await.unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (200, 0));
    assert_eq!(answer.field("content-length"), Some("10"));
    let answer = fetch(&tunnel, &token, get(target.address, "/v1/empty")).await.unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (204, 0));
}

#[tokio::test]
async fn connections_are_used_again_and_one_that_closes_is_not() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    for _ in 0..5 {
        fetch(&tunnel, &token, get(target.address, "/v1/x")).await.unwrap();
    }
    assert_eq!(target.count(), 1);
    fetch(&tunnel, &token, get(target.address, "/v1/close")).await.unwrap();
    fetch(&tunnel, &token, get(target.address, "/v1/x")).await.unwrap();
    assert_eq!(target.count(), 2);
}

#[tokio::test]
async fn a_request_that_meets_a_connection_closed_meanwhile_is_sent_again() {
    // Answers once per connection, promises to keep it, and closes it on the second request.
    let target = Target::of(|mut stream| async move {
        let mut request = [0; 4096];
        if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            let _ = stream.read(&mut request).await;
        }
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    for _ in 0..3 {
        let answer = fetch(&tunnel, &token, get(target.address, "/v1/x")).await.unwrap();
        assert_eq!(&answer.body[..], b"ok");
    }
    assert_eq!(target.count(), 3);
    // What may have had an effect is not sent twice.
    let post = HttpRequest { no_body: true, ..post(target.address, "/v1/x") };
    let failure = fetch(&tunnel, &token, post).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::TargetBroken, Reached::Maybe));
}

#[tokio::test]
async fn interim_answers_pass_and_endless_ones_break() {
    let target = Target::of(|mut stream| async move {
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        let hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        if request[..read].starts_with(b"GET /v1/hints") {
            stream.write_all(hint).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        } else {
            while stream.write_all(hint).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let answer = fetch(&tunnel, &token, get(target.address, "/v1/hints")).await.unwrap();
    assert_eq!((answer.head.status, answer.interim.len(), answer.interim[0].status), (200, 1, 103));
    let failure = fetch(&tunnel, &token, get(target.address, "/v1/endless")).await.unwrap_err();
    assert_eq!(failure.code, Code::TargetBroken, "{failure}");
}

#[tokio::test]
async fn targets_that_break_http_are_named() {
    for answer in [
        &b"not http at all\r\n\r\n"[..],
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let target = Target::of(move |mut stream| async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        })
        .await;
        let world = World::with_http(target.address).await;
        let tunnel = world.held().await;
        let failure = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap_err();
        assert_eq!(failure.code, Code::TargetBroken, "{:?}: {failure}", String::from_utf8_lossy(answer));
    }
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_given_up() {
    let target = Target::http().await;
    let world = World::start(Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "limits: { first_byte: 200ms }",
    })
    .await;
    let tunnel = world.held().await;
    let failure = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/never")).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::TargetTimeout, Reached::Maybe));
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_declared_breaks_the_request() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    for length in ["3", "30"] {
        let request = HttpRequest { fields: vec![field("content-length", length)], ..post(target.address, "/v1/echo") };
        let (mut sender, mut receiver) =
            tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap();
        sender.data(Bytes::from_static(b"0123456789")).await.unwrap();
        // The gateway may have ended the call already.
        let _ = sender.fin(Fin::default()).await;
        let failure = receive(&mut receiver).await.unwrap_err();
        assert_eq!(failure.code, Code::InvalidRequest, "{length}: {failure}");
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_complete() {
    let target = Target::of(|mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        // It neither reads on nor closes.
        std::future::pending::<()>().await;
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(post(target.address, "/v1/x"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    sender.data(Bytes::from_static(b"begun")).await.unwrap();
    let mut body = Vec::new();
    loop {
        match receiver.next().await.unwrap().unwrap() {
            Part::Data(data) => {
                body.extend_from_slice(&data);
                receiver.taken(data.len());
            }
            Part::Message(message) => match message.part.unwrap() {
                forward_response::Part::Head(head) => assert_eq!(head.status, 413),
                forward_response::Part::Fin(_) => break,
                other => panic!("unexpected {other:?}"),
            },
        }
    }
    assert_eq!(body, b"no");
    sender.fin(Fin::default()).await.unwrap();
    assert!(receiver.next().await.is_none(), "the call ends well");
}

/// Says 100 to those who wait for it below `/v1/`, and refuses all others.
async fn asking_target() -> Target {
    Target::of(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        if head.starts_with("post /v1/yes ") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\n").await.unwrap();
            stream.write_all(&body).await.unwrap();
        } else {
            stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        }
        // What else comes on this connection would be the body that was refused.
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    })
    .await
}

#[tokio::test]
async fn a_body_that_waits_for_100_is_sent_after_it_or_never() {
    let target = asking_target().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let request = |path: &str| HttpRequest {
        fields: vec![field("expect", "100-continue"), field("content-length", "4")],
        ..post(target.address, path)
    };
    let token = world.token("alice");
    let (mut sender, mut receiver) = tunnel.forward(subject(&token), open_http(request("/v1/yes"))).await.unwrap();
    match receiver.next().await.unwrap().unwrap() {
        Part::Message(message) => {
            assert!(matches!(message.part, Some(forward_response::Part::Head(head)) if head.status == 100));
        }
        other => panic!("unexpected {other:?}"),
    }
    sender.data(Bytes::from_static(b"body")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert_eq!(&receive(&mut receiver).await.unwrap().body[..], b"body");

    let (_sender, mut receiver) = tunnel.forward(subject(&token), open_http(request("/v1/no"))).await.unwrap();
    let answer = receive(&mut receiver).await.unwrap();
    assert_eq!((answer.head.status, &answer.body[..], answer.interim.len()), (417, &b"no"[..], 0));
}

#[tokio::test]
async fn trailers_pass_both_ways_in_http1() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let answer = fetch(&tunnel, &token, get(target.address, "/v1/trailers")).await.unwrap();
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), Bytes::from_static(b"abc"))]);
    let request = HttpRequest { fields: vec![field("trailer", "x-sum")], ..post(target.address, "/v1/sum") };
    let (mut sender, mut receiver) = tunnel.forward(subject(&token), open_http(request)).await.unwrap();
    sender.data(Bytes::from_static(b"body")).await.unwrap();
    sender.fin(Fin { trailers: vec![field("x-sum", "42")] }).await.unwrap();
    assert_eq!(&receive(&mut receiver).await.unwrap().body[..], b"x-sum: 42");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_stops_it_when_the_target_hangs_up() {
    let target = Target::of(|mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let answer = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(post(target.address, "/v1/x"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    let upload = async {
        // The gateway ends the stream, or it would go on for ever.
        while sender.data(Bytes::from(vec![0; 64 * 1024])).await.is_ok() {}
    };
    let (answer, ()) = tokio::join!(receive(&mut receiver), upload);
    let answer = answer.unwrap();
    assert_eq!((answer.head.status, &answer.body[..]), (413, &b"no"[..]));
}

#[tokio::test]
async fn a_request_that_the_caller_gives_up_ends_at_the_target_too() {
    let (gone, left) = tokio::sync::oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    let target = Target::of(move |mut stream| {
        let gone = gone.lock().unwrap().take();
        async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            let _ = gone.map(|gone| gone.send(()));
        }
    })
    .await;
    let (lines, _guard) = Lines::catch();
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(post(target.address, "/v1/x"));
    let (mut sender, receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    sender.data(Bytes::from_static(b"begun")).await.unwrap();
    while target.count() == 0 {
        tokio::task::yield_now().await;
    }
    sender.cancel();
    drop((sender, receiver));
    tokio::time::timeout(crate::support::PATIENCE, left).await.unwrap().unwrap();
    drop(tunnel);
    world.drain(Duration::from_secs(5)).await;
    assert_eq!(lines.access("http")[0]["ended"], "cancelled");
    assert_eq!(lines.access("http")[0]["fault"], "caller");
}

fn field(name: &str, value: &str) -> Field {
    Field { name: name.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) }
}
