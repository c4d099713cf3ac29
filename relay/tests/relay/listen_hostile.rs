//! A relay that means harm, or is broken: what a listener does not let itself be made to do.
use std::time::Duration;

use bytes::Bytes;
use daemon::process::Context;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::Full;
use relay::{
    dial::Dialer,
    listen::{HybridConnection, Limits, RequestBody},
    sender::Credential,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    listen_http::Program,
    listen_web::Target,
    listener::{Listener, plain_tls},
    script::{Script, Socket, next, response, say},
    support::{LISTEN_KEY, until},
};

async fn ok(_: Request<RequestBody>) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from_static(b"ok")))
}

fn accept(address: &str) -> Value {
    json!({ "accept": { "address": address, "id": "a", "connectHeaders": { "Host": "ns" } } })
}

/// The listener's Close code, when it ends a channel.
async fn blamed(control: &mut Socket) -> u16 {
    match next(control).await {
        Message::Close(Some(frame)) => frame.code.into(),
        other => panic!("no Close: {other:?}"),
    }
}

#[tokio::test]
async fn no_packet_leaves_for_an_address_inside_whatever_carries_it() {
    let (script, inside) = (Script::new().await, Target::new().await);
    let program = Program::start(&script, |on| on.on_request(ok).on_websocket(|knock| async { drop(knock) }));
    let mut control = script.control().await;
    let (own, port) = (script.address.port(), inside.address.port());
    let addresses = [
        format!("ws://{}/$hc/e?x", inside.address),
        format!("ws://localhost:{port}/$hc/e?x"),
        format!("wss://127.0.0.1:{port}/$hc/e?x"),
        format!("http://127.0.0.1:{port}/$hc/e?x"),
        format!("ws://[::1]:{own}/$hc/e?x"),
        format!("ws://127.0.0.2:{own}/$hc/e?x"),
        format!("ws://169.254.169.254:{own}/$hc/e?x"),
        format!("ws://10.0.0.1:{own}/$hc/e?x"),
        format!("ws://kubernetes.default.svc:{own}/$hc/e?x"),
        format!("ws://127.0.0.1:{own}@127.0.0.1:{port}/$hc/e?x"),
        format!("ws://127.0.0.1:{own}/$hc/other?x"),
        format!("ws://127.0.0.1:{own}/$hc/e/../other?x"),
        format!("ws://127.0.0.1:{own}/secrets"),
        "/$hc/e?x".to_owned(),
        "ws://".to_owned(),
        "\r\n".to_owned(),
        String::new(),
    ];
    for address in &addresses {
        say(&mut control, &accept(address)).await;
        say(&mut control, &json!({ "request": { "address": address } })).await;
    }
    let refused = |family: &str| -> usize {
        let metrics = program.context.metrics.encode();
        let lines = metrics.lines().filter(|line| line.contains(family) && line.contains("outcome=\"refused_"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    };
    until("each is refused", || {
        refused("listener_rendezvous_total") == addresses.len() && refused("listener_requests_total") == addresses.len()
    })
    .await;
    assert!(inside.is_untouched().await);
    // The next thing that anybody dialled at the relay is what it may name.
    say(&mut control, &json!({ "request": { "address": script.rendezvous_address("good") } })).await;
    let mut rendezvous = script.rendezvous("good").await;
    say(&mut rendezvous, &script.request("good", json!({}))).await;
    assert_eq!(response(&mut rendezvous).await.1, "ok");
}

#[tokio::test]
async fn an_answer_is_not_carried_to_an_address_inside_either() {
    let (script, inside) = (Script::new().await, Target::new().await);
    let program = Program::start(&script, |on| {
        on.on_request(|_| async { Response::new(Full::new(Bytes::from(vec![b'x'; 70_000]))) })
    });
    let mut control = script.control().await;
    let address = format!("ws://{}/$hc/e?x", inside.address);
    say(&mut control, &script.request("r", json!({ "address": address }))).await;
    program.counted("requests_total{outcome=\"refused_port\",by=\"control\"} 1").await;
    assert!(inside.is_untouched().await);
}

#[tokio::test]
async fn a_rendezvous_that_redirects_is_not_followed() {
    let (script, inside) = (Script::new().await, Target::new().await);
    let program = Program::start(&script, |on| on.on_request(ok));
    let mut control = script.control().await;
    say(&mut control, &json!({ "request": { "address": script.rendezvous_address("r") } })).await;
    let mut stream = script.tcp().await;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: ws://{}/$hc/e\r\nContent-Length: 0\r\n\r\n", inside.address);
    stream.write_all(redirect.as_bytes()).await.unwrap();
    program.counted("requests_total{outcome=\"dial_failed\",by=\"rendezvous\"} 1").await;
    assert!(inside.is_untouched().await);
}

#[tokio::test]
async fn what_a_relay_says_cannot_change_the_request_that_a_target_reads() {
    let (script, target) = (Script::new().await, Target::new().await);
    let forward = format!("{{ http: \"http://{}\" }}", target.address);
    let _listener = Listener::new(&script.url(), "channels: 1", &forward, None).await;
    let mut control = script.control().await;
    for change in [
        json!({ "requestHeaders": { "X": "a\r\nInjected: 1" } }),
        json!({ "requestHeaders": { "X\r\nInjected": "1" } }),
        json!({ "requestHeaders": { ":authority": "inside" } }),
        json!({ "requestHeaders": { "Content-Length": ["1", "2"] } }),
        json!({ "method": "GET / HTTP/1.1\r\nX: " }),
        json!({ "method": "CONNECT" }),
        json!({ "method": "" }),
        json!({ "requestTarget": "http://169.254.169.254/latest" }),
        json!({ "requestTarget": "//inside/e" }),
        json!({ "requestTarget": "/e//inside/x" }),
        json!({ "requestTarget": "/e HTTP/1.1\r\nHost: inside\r\n\r\nGET /" }),
        json!({ "requestTarget": "/other" }),
        json!({ "requestTarget": "/e/../other" }),
        json!({ "requestTarget": "*" }),
        json!({ "requestTarget": "" }),
    ] {
        say(&mut control, &script.request("r", change.clone())).await;
        let (head, _) = response(&mut control).await;
        assert_eq!((head["requestId"].as_str(), head["statusCode"].as_u64()), (Some("r"), Some(400)), "{change}");
    }
    assert!(target.is_untouched().await);
}

#[tokio::test]
async fn messages_that_break_the_rules_end_the_channel_which_comes_back() {
    let announced = || json!({ "request": { "id": "r", "method": "PUT", "body": true } }).to_string();
    for (messages, code) in [
        (vec![Message::binary(b"nothing announced this".to_vec())], 1002),
        (vec![Message::text(announced()), Message::text("{}")], 1002),
        (vec![Message::text("x".repeat(70_000))], 1009),
        (vec![Message::text(announced()), Message::binary(vec![0; 65_537])], 1009),
    ] {
        let script = Script::new().await;
        let _program = Program::start(&script, |on| on.on_request(ok));
        let mut control = script.control().await;
        for message in messages {
            // The listener may have had enough before all of it was said.
            let _ = control.send(message).await;
        }
        assert_eq!(blamed(&mut control).await, code);
        while let Some(Ok(_)) = control.next().await {}
        let mut control = script.control().await;
        say(&mut control, &script.request("r", json!({}))).await;
        assert_eq!(response(&mut control).await.1, "ok");
    }
}

#[tokio::test]
async fn thousands_of_accepts_make_as_many_dials_as_the_limits_allow() {
    let script = Script::new().await;
    let limits = Limits { dials: 4, dials_waiting: 8, ..Limits::default() };
    let program =
        Program::with(&script, &limits, |on| on.on_websocket(|knock| async move { drop(knock.accept(None).await) }));
    let mut control = script.control().await;
    let message = accept(&script.rendezvous_address("a"));
    for _ in 0..4 {
        say(&mut control, &message).await;
    }
    // Four dials that the relay leaves unanswered.
    let mut dials = Vec::new();
    for _ in 0..4 {
        dials.push(script.tcp().await);
    }
    for _ in 0..8 {
        say(&mut control, &message).await;
    }
    for _ in 0..3000 {
        say(&mut control, &message).await;
    }
    program.counted("listener_rendezvous_total{outcome=\"crowded\"} 3000").await;
    // Each dial that ends lets one of the waiting go on.
    for _ in 0..8 {
        drop(dials.pop());
        dials.push(script.tcp().await);
    }
    drop(dials);
    program.counted("listener_rendezvous_total{outcome=\"dial_failed\"} 12").await;
}

#[tokio::test]
async fn one_joined_sender_more_than_the_limit_is_dropped_until_one_leaves() {
    let script = Script::new().await;
    let limits = Limits { joined: 2, ..Limits::default() };
    let program = Program::with(&script, &limits, |on| {
        on.on_websocket(|knock| async move {
            let mut stream = knock.accept(None).await.unwrap().into_stream();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        })
    });
    let mut control = script.control().await;
    let mut joined = Vec::new();
    for name in ["a", "b"] {
        say(&mut control, &accept(&script.rendezvous_address(name))).await;
        joined.push(script.rendezvous(name).await);
    }
    say(&mut control, &accept(&script.rendezvous_address("c"))).await;
    program.counted("listener_rendezvous_total{outcome=\"crowded\"} 1").await;
    drop(joined.pop());
    program.counted("listener_rendezvous_total{outcome=\"accepted\"} 1").await;
    say(&mut control, &accept(&script.rendezvous_address("d"))).await;
    script.rendezvous("d").await;
}

#[tokio::test]
async fn a_relay_that_takes_every_place_leaves_the_others_theirs() {
    let (greedy, modest) = (Script::new().await, Script::new().await);
    let limits = Limits { dials: 4, dials_waiting: 4, joined: 16, ..Limits::default() };
    let context = Context::new("causeway_listener");
    let listener = relay::listen::Listener::new(&context, Dialer::default(), plain_tls(), &limits);
    for script in [&greedy, &modest] {
        let credential = Credential::rule("listen", identity::secret::Secret::new(LISTEN_KEY));
        let on = HybridConnection::new(script.url().parse().unwrap(), credential).channels(1);
        let big = async |_| Response::new(Full::new(Bytes::from(vec![b'x'; 70_000])));
        listener.listen(on.on_request(big).on_websocket(|knock| async move {
            let mut stream = knock.accept(None).await.unwrap().into_stream();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }));
    }
    let (mut from_greedy, mut from_modest) = (greedy.control().await, modest.control().await);

    // Twelve joined senders, of which it lets go none; then dials, for requests and for senders, that it never answers.
    let message = accept(&greedy.rendezvous_address("a"));
    let mut kept = Vec::new();
    for _ in 0..12 {
        say(&mut from_greedy, &message).await;
        kept.push(greedy.rendezvous("a").await);
    }
    say(&mut from_greedy, &message).await;
    until("its thirteenth is dropped", || context.metrics.encode().contains("outcome=\"crowded\"} 1")).await;
    kept.pop();
    let mut dials = Vec::new();
    for _ in 0..3 {
        say(&mut from_greedy, &json!({ "request": { "address": greedy.rendezvous_address("r") } })).await;
        dials.push(greedy.tcp().await);
    }
    for _ in 0..20 {
        say(&mut from_greedy, &json!({ "request": { "address": greedy.rendezvous_address("r") } })).await;
        say(&mut from_greedy, &message).await;
    }

    // The other has a quarter of all, as its own part of half.
    let mut joined = Vec::new();
    for _ in 0..4 {
        say(&mut from_modest, &accept(&modest.rendezvous_address("b"))).await;
        joined.push(modest.rendezvous("b").await);
    }
    say(&mut from_modest, &modest.request("r", json!({}))).await;
    let mut rendezvous = modest.rendezvous("r").await;
    next(&mut rendezvous).await;
    assert_eq!(crate::script::body(&mut rendezvous).await.len(), 70_000);
    context.shutdown.force();
}

#[tokio::test]
async fn a_rendezvous_that_never_opens_is_given_up_and_its_place_is_free_again() {
    let script = Script::new().await;
    let program = Program::start(&script, |on| {
        on.on_request(|_| async { Response::new(Full::new(Bytes::from(vec![b'x'; 70_000]))) })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    // Taken, and never answered.
    let _stream = script.tcp().await;
    assert_eq!(program.listening.requests(), 1);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(program.listening.requests(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(program.counts("requests_total{outcome=\"too_slow\",by=\"control\"} 1"));
    assert_eq!(program.listening.requests(), 0);
}

#[tokio::test]
async fn a_rendezvous_that_brings_no_request_is_given_up() {
    let script = Script::new().await;
    let program = Program::start(&script, |on| on.on_request(ok));
    let mut control = script.control().await;
    for (at, said) in [Message::text("{}"), Message::binary(b"body".to_vec()), Message::text("x".repeat(70_000))]
        .into_iter()
        .enumerate()
    {
        say(&mut control, &json!({ "request": { "address": script.rendezvous_address("r") } })).await;
        let mut rendezvous = script.rendezvous("r").await;
        rendezvous.send(said).await.unwrap();
        program.counted(&format!("requests_total{{outcome=\"relay_lost\",by=\"rendezvous\"}} {}", at + 1)).await;
    }
    say(&mut control, &json!({ "request": { "address": script.rendezvous_address("r") } })).await;
    let _silent = script.rendezvous("r").await;
    until("it waits", || program.listening.requests() == 1).await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(program.listening.requests(), 0);
}

#[tokio::test]
async fn an_ipv6_sender_is_named_to_a_target_that_wants_the_proxy_protocol() {
    let script = Script::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = target.local_addr().unwrap();
    let forward = format!("{{ tcp: \"{to}\", proxy_protocol: true }}");
    let _listener = Listener::new(&script.url(), "channels: 1", &forward, None).await;
    let mut control = script.control().await;
    let mut message = accept(&script.rendezvous_address("v6"));
    message["accept"]["remoteEndpoint"] = json!({ "address": "2001:db8::9", "port": 4711 });
    say(&mut control, &message).await;
    let (mut stream, _) = target.accept().await.unwrap();
    let mut header = [0; 16 + 36 + 4];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(&header[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x21");
    assert_eq!(header[16..32], "2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(header[32..48], std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
    assert_eq!(header[48..52], [4711_u16.to_be_bytes(), to.port().to_be_bytes()].concat());
    assert_eq!(&header[52..], b"\x05\x00\x01a");
    script.rendezvous("v6").await;
}
