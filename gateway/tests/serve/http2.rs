//! Targets that speak HTTP/2, gRPC among them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderName, HeaderValue, Request, Response};
use proto::tunnel::{
    failure::{Code, Reached},
    pb::{Field, Fin, HttpRequest, forward_response},
    receive::Part,
};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use crate::support::{
    PATIENCE, Setup, World, fetch, get, logs::Lines, open_http, post, receive, rules, subject, targets::Target,
};

type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A target that gives each request to `serve`.
async fn target<F>(serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static) -> Target
where
    F: Future<Output = ()> + Send + 'static,
{
    Target::of(move |stream| connection(stream, serve.clone())).await
}

async fn connection<F>(stream: TcpStream, serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(serve(request, respond));
    }
}

fn http2(request: HttpRequest) -> HttpRequest {
    HttpRequest { protocol: "h2".to_owned(), ..request }
}

fn field(name: &str, value: &str) -> Field {
    Field { name: name.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn status(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// Sends back what it gets, trailers too, and says how it was called.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let mut response = status(200);
    for (name, value) in [
        ("x-uri", head.uri.to_string()),
        ("x-te", head.headers.get("te").map_or("", |te| te.to_str().unwrap()).to_owned()),
        ("x-timeout", head.headers.get("grpc-timeout").map_or("", |te| te.to_str().unwrap()).to_owned()),
        ("x-host", head.headers.contains_key("host").to_string()),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
    }
    let mut send = respond.send_response(response, false).unwrap();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        send.reserve_capacity(data.len());
        while send.capacity() < data.len() {
            if std::future::poll_fn(|cx| send.poll_capacity(cx)).await.is_none() {
                return;
            }
        }
        send.send_data(data, false).unwrap();
    }
    let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("causeway-forged", HeaderValue::from_static("1"));
    send.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn a_request_and_its_trailers_pass_both_ways_while_both_are_open() {
    let (lines, _guard) = Lines::catch();
    let target = target(echo).await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let fields = vec![field("content-type", "application/grpc"), field("grpc-timeout", "5S")];
    // gRPC needs no further word.
    let request = HttpRequest { fields, ..post(target.address, "/v1/pkg.Service/Method") };
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap();
    let Some(Ok(Part::Message(message))) = receiver.next().await else { panic!("a head") };
    let Some(forward_response::Part::Head(head)) = message.part else { panic!("a head") };
    let told = |name: &str| head.fields.iter().find(|field| field.name == name).unwrap().value.clone();
    let uri = format!("http://scorer.models.svc:{}/v1/pkg.Service/Method", target.address.port());
    assert_eq!(told("x-uri"), uri);
    assert_eq!((told("x-te"), told("x-timeout"), told("x-host")), ("trailers".into(), "5S".into(), "false".into()));
    for round in 0..3_u8 {
        sender.data(Bytes::from(vec![round; 100])).await.unwrap();
        let mut back = 0;
        while back < 100 {
            let Some(Ok(Part::Data(data))) = receiver.next().await else { panic!("data") };
            assert!(data.iter().all(|byte| *byte == round));
            back += data.len();
            receiver.taken(data.len());
        }
    }
    sender.fin(Fin { trailers: vec![field("x-sum", "42")] }).await.unwrap();
    let mut answer = receive(&mut receiver).await.unwrap();
    answer.trailers.sort();
    assert_eq!(answer.trailers, [("grpc-status".to_owned(), "0".into()), ("x-sum".to_owned(), "42".into())]);
    drop(tunnel);
    world.drain(PATIENCE).await;
    assert_eq!(lines.access("http")[0]["ended"], "ok", "{}", lines.text());
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let target = target(echo).await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let (tunnel, token, request) = (tunnel.clone(), token.clone(), http2(get(target.address, "/v1/x")));
        calls.spawn(async move { fetch(&tunnel, &token, request).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap().head.status, 200);
    }
    assert_eq!(target.count(), 1);
}

#[tokio::test]
async fn a_large_body_passes_whole_both_ways() {
    let target = target(echo).await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let request = HttpRequest {
        fields: vec![field("content-length", &(8 << 20).to_string())],
        ..http2(post(target.address, "/v1/x"))
    };
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open_http(request)).await.unwrap();
    let upload = async {
        for round in 0..128_u8 {
            sender.data(Bytes::from(vec![round; 65_536])).await.unwrap();
        }
        sender.fin(Fin::default()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(receive(&mut receiver), upload);
    let body = answer.unwrap().body;
    assert_eq!(body.len(), 8 << 20);
    for (round, piece) in (0_u8..).zip(body.chunks(65_536)) {
        assert!(piece.iter().all(|byte| *byte == round), "{round}");
    }
}

#[tokio::test]
async fn a_caller_who_does_not_read_holds_up_nobody_else() {
    // Sends for ever.
    let target = target(|request, mut respond: SendResponse<Bytes>| async move {
        if request.uri().path() == "/v1/x" {
            let _ = respond.send_response(status(204), true);
            return;
        }
        let mut send = respond.send_response(status(200), false).unwrap();
        loop {
            send.reserve_capacity(16_384);
            match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(room)) => send.send_data(Bytes::from(vec![0; room]), false).unwrap(),
                _ => return,
            }
        }
    })
    .await;
    let world = World::with_http(target.address).await;
    let token = world.token("alice");
    let mut stalled = Vec::new();
    for _ in 0..10 {
        // As many on each tunnel as it bears.
        let tunnel = world.held().await;
        for _ in 0..3 {
            let open = open_http(http2(get(target.address, "/v1/endless")));
            let (sender, mut receiver) = tunnel.forward(subject(&token), open).await.unwrap();
            // A first piece, and no credit for it.
            while !matches!(receiver.next().await, Some(Ok(Part::Data(_)))) {}
            stalled.push((tunnel.clone(), sender, receiver));
        }
    }
    let tunnel = world.held().await;
    let quick = fetch(&tunnel, &token, http2(get(target.address, "/v1/x")));
    let answer = tokio::time::timeout(PATIENCE, quick).await.unwrap().unwrap();
    assert_eq!((answer.head.status, target.count()), (204, 1));
}

#[tokio::test]
async fn interim_answers_pass_in_http2_too() {
    let target = target(|mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        respond.send_informational(status(103)).unwrap();
        if request.headers().contains_key("expect") {
            respond.send_informational(status(100)).unwrap();
            let body = request.body_mut().data().await.unwrap().unwrap();
            assert_eq!(body, "body");
        }
        respond.send_response(status(204), true).unwrap();
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let answer = fetch(&tunnel, &token, http2(get(target.address, "/v1/x"))).await.unwrap();
    let interim: Vec<_> = answer.interim.iter().map(|head| head.status).collect();
    assert_eq!((answer.head.status, interim), (204, vec![103]));
    let request = HttpRequest { fields: vec![field("expect", "100-continue")], ..http2(post(target.address, "/v1/x")) };
    let (mut sender, mut receiver) = tunnel.forward(subject(&token), open_http(request)).await.unwrap();
    for expected in [103, 100] {
        let Some(Ok(Part::Message(message))) = receiver.next().await else { panic!("an interim head") };
        assert!(matches!(message.part, Some(forward_response::Part::Head(head)) if head.status == expected));
    }
    sender.data(Bytes::from_static(b"body")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert_eq!(receive(&mut receiver).await.unwrap().head.status, 204);
}

/// A target that sends interim answers as fast as they are taken; tells when that is stopped.
async fn endless() -> (Target, mpsc::UnboundedReceiver<Reason>) {
    let (stopped, stops) = mpsc::unbounded_channel();
    let target = target(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let stopped = stopped.clone();
        async move {
            let stop = loop {
                let reset = std::future::poll_fn(|cx| Poll::Ready(respond.poll_reset(cx))).await;
                if let Poll::Ready(reason) = reset {
                    break reason.unwrap();
                }
                let _ = respond.send_informational(status(103));
                tokio::task::yield_now().await;
            };
            drop(request);
            let _ = stopped.send(stop);
        }
    })
    .await;
    (target, stops)
}

#[tokio::test]
async fn endless_interim_answers_break_in_http2_though_the_caller_takes_none() {
    let (target, mut stops) = endless().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel_of_window(0).await;
    let open = open_http(http2(get(target.address, "/v1/x")));
    let (_sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    let failure = receive(&mut receiver).await.unwrap_err();
    assert_eq!(failure.code, Code::TargetBroken, "{failure}");
    tokio::time::timeout(PATIENCE, stops.recv()).await.expect("the target is stopped").unwrap();
}

#[tokio::test]
async fn endless_interim_answers_break_in_http2_though_the_caller_has_moved_too_many_bytes() {
    let (target, mut stops) = endless().await;
    // What it sends below takes it minutes to make up for.
    let more = "limits: { per_subject: { bytes_per_second: 1Ki } }";
    let setup = Setup { rules: rules(target.address), targets: &[("scorer.models.svc", target.address)], more };
    let world = World::start(setup).await;
    let tunnel = world.held().await;
    let open = open_http(http2(post(target.address, "/v1/x")));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    sender.data(Bytes::from(vec![0; 256 * 1024])).await.unwrap();
    let failure = receive(&mut receiver).await.unwrap_err();
    assert_eq!(failure.code, Code::TargetBroken, "{failure}");
    tokio::time::timeout(PATIENCE, stops.recv()).await.expect("the target is stopped").unwrap();
}

#[tokio::test]
async fn a_caller_that_gives_up_resets_its_stream_and_no_other() {
    let (calls, mut arrived) = mpsc::unbounded_channel::<Call>();
    let target = target(move |request, respond| {
        let _ = calls.send((request, respond));
        std::future::ready(())
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let open = || open_http(http2(post(target.address, "/v1/x")));
    let (kept_sender, mut kept) = tunnel.forward(subject(&token), open()).await.unwrap();
    let (_request, mut kept_respond) = arrived.recv().await.unwrap();
    for answered in [false, true] {
        let (mut sender, receiver) = tunnel.forward(subject(&token), open()).await.unwrap();
        let (mut request, mut respond) = arrived.recv().await.unwrap();
        let send = answered.then(|| respond.send_response(status(200), false).unwrap());
        sender.data(Bytes::from_static(b"begun")).await.unwrap();
        request.body_mut().data().await.unwrap().unwrap();
        sender.cancel();
        drop((sender, receiver));
        let reset = async {
            match send {
                Some(mut send) => std::future::poll_fn(|cx| send.poll_reset(cx)).await,
                None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
            }
        };
        let reset = tokio::time::timeout(PATIENCE, reset).await.unwrap();
        assert_eq!(reset.unwrap(), Reason::CANCEL, "answered: {answered}");
    }
    kept_respond.send_response(status(204), true).unwrap();
    drop(kept_sender);
    // Its own direction was cancelled by dropping it, so the answer may be cut; the stream was not before.
    let _ = kept.next().await;
    assert_eq!(target.count(), 1);
}

#[tokio::test]
async fn a_target_that_breaks_a_stream_off_is_named() {
    let target = target(|_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(status(200), false).unwrap();
        send.send_data(Bytes::from_static(b"half"), false).unwrap();
        send.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let failure = fetch(&tunnel, &world.token("alice"), http2(get(target.address, "/v1/x"))).await.unwrap_err();
    // The answer may not have begun when the reset came.
    assert_eq!(failure.code, Code::TargetBroken, "{failure}");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_stops_it() {
    let target = target(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        respond.send_response(status(413), true).unwrap();
        // Without the other half, HTTP/2 tells the sender to stop.
        drop(request);
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(http2(post(target.address, "/v1/x")));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    let upload = async { while sender.data(Bytes::from(vec![0; 65_536])).await.is_ok() {} };
    let (answer, ()) = tokio::join!(receive(&mut receiver), upload);
    assert_eq!(answer.unwrap().head.status, 413);
}

#[tokio::test]
async fn a_request_that_was_refused_unseen_is_sent_again_whatever_its_method() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let target = target(move |_, mut respond: SendResponse<Bytes>| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                respond.send_response(status(204), true).unwrap();
            }
        }
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let request = HttpRequest { no_body: true, ..http2(post(target.address, "/v1/x")) };
    let answer = fetch(&tunnel, &world.token("alice"), request).await.unwrap();
    assert_eq!((answer.head.status, refused.load(Ordering::SeqCst)), (204, 2));
}

#[tokio::test]
async fn a_body_that_was_refused_unseen_is_said_not_to_have_reached_the_target() {
    let target = target(|mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let _ = request.body_mut().data().await;
        respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(http2(post(target.address, "/v1/x")));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    sender.data(Bytes::from_static(b"begun")).await.unwrap();
    let failure = receive(&mut receiver).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::TargetBroken, Reached::No), "{failure}");
}

#[tokio::test]
async fn a_connection_that_goes_away_finishes_its_requests_and_gets_no_new_ones() {
    // Says GOAWAY after its first request.
    let target = Target::of(|stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let Some(Ok((_request, mut respond))) = connection.accept().await else { return };
        connection.graceful_shutdown();
        respond.send_response(status(204), true).unwrap();
        while connection.accept().await.is_some() {}
    })
    .await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    for _ in 0..5 {
        let request = HttpRequest { no_body: true, ..http2(post(target.address, "/v1/x")) };
        assert_eq!(fetch(&tunnel, &token, request).await.unwrap().head.status, 204);
    }
}

#[tokio::test]
async fn a_target_of_http1_that_is_called_in_http2_is_named_before_it_gets_the_request() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let failure = fetch(&tunnel, &world.token("alice"), http2(get(target.address, "/v1/x"))).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::TargetRefused, Reached::No), "{failure}");
}
