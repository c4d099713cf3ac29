use ::http::{Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use proto::tunnel::{
    failure::{Code, Failure},
    pb,
    receive::Part,
};

use super::*;
use crate::connect::fake::{answer, body, fail, head, opening_http};

const CALLER: (&str, &str) = ("authorization", "Bearer caller-token");

fn request(setup: &Setup, method: Method, path: &str, fields: &[(&str, &str)]) -> ::http::request::Builder {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, setup.address.to_string());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request
}

fn get(setup: &Setup, path: &str, fields: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    request(setup, Method::GET, path, fields).body(Empty::new()).unwrap()
}

/// Sends a request on a connection of its own, which a task of the bench drives.
async fn send<B>(setup: &Setup, request: Request<B>) -> hyper::Result<Response<Incoming>>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    sending(setup, request).await.await
}

/// Connects, and gives the future that sends.
async fn sending<B>(
    setup: &Setup,
    request: Request<B>,
) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(setup.client().await)).await.unwrap();
    let client = async move {
        tokio::select! {
            _ = connection => {}
        }
    };
    setup.bench.context.shutdown.spawn(client);
    async move { sender.send_request(request).await }
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn json(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_str(&text(response).await).unwrap()
}

#[tokio::test]
async fn a_request_goes_through_with_the_callers_token_as_metadata() {
    let mut setup = Setup::new("http", "").await;
    let request = get(&setup, "/v1/health?full=1", &[CALLER, ("accept", "text/plain")]);
    let (response, ()) = tokio::join!(sending(&setup, request).await, async {
        let mut call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        assert_eq!(call.metadata["authorization"], "Bearer caller-token");
        assert_eq!(call.metadata["causeway-stream-id"].len(), 26);
        assert!(!call.metadata.contains_key("causeway-actor"));
        let request = opening_http(&mut call).await;
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v1/health?full=1"));
        let fields: Vec<_> = request.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(fields, ["accept"]);
        assert!(request.no_body);
        assert_eq!(body(&mut call).await.0, b"");
        answer(call, 200, &[("content-type", "text/plain"), ("content-length", "3")], b"ok\n").await;
    });
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, "ok\n");
}

#[tokio::test]
async fn what_is_refused_here_never_reaches_the_gateway() {
    let mut setup = Setup::new("http", "").await;
    type Row<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);
    let table: &[Row<'_>] = &[
        (&[], 401, "unauthenticated"),
        (&[CALLER, ("origin", "https://evil.example")], 403, "invalid_request"),
        (&[CALLER, ("sec-fetch-site", "cross-site")], 403, "invalid_request"),
    ];
    for (fields, status, code) in table {
        let response = send(&setup, get(&setup, "/", fields)).await.unwrap();
        assert_eq!(response.status().as_u16(), *status, "{fields:?}");
        assert_eq!(response.headers()["causeway-error"], *code);
        let text = json(response).await;
        assert_eq!(text["decided_by"], "connector");
        assert_eq!(text["reached_target"], "no");
        assert!(!text["remedy"].as_str().unwrap().is_empty());
    }
    let rebound = Request::get("/").header(header::HOST, "evil.example").header(CALLER.0, CALLER.1);
    let response = send(&setup, rebound.body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(setup.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_failure_of_the_gateway_is_an_answer_that_says_so() {
    let mut setup = Setup::new("http", "").await;
    let request = get(&setup, "/v1/x", &[CALLER]);
    let (response, ()) = tokio::join!(sending(&setup, request).await, async {
        let call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        fail(call, &Failure::before_target(Code::PolicyDenied, "no rule for entra/7d5c"));
    });
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.headers()["causeway-error"], "policy_denied");
    let text = json(response).await;
    assert_eq!(text["decided_by"], "gateway factory-a");
    assert_eq!(text["message"], "no rule for entra/7d5c");
    assert_eq!(text["stream_id"].as_str().unwrap().len(), 26);
}

#[tokio::test]
async fn a_body_is_sent_again_when_the_tunnel_drained_before_the_target_saw_it() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let request = request(&setup, Method::POST, "/score", &[]).body(Full::new(Bytes::from_static(b"input"))).unwrap();
    let (response, ()) = tokio::join!(sending(&setup, request).await, async {
        let mut first = soon("a call arrives", setup.calls.recv()).await.unwrap();
        opening_http(&mut first).await;
        assert_eq!(body(&mut first).await.0, b"input");
        fail(first, &Failure::before_target(Code::Draining, "going away"));
        let mut second = soon("it is tried again", setup.calls.recv()).await.unwrap();
        opening_http(&mut second).await;
        assert_eq!(body(&mut second).await.0, b"input");
        answer(second, 200, &[], b"done").await;
    });
    assert_eq!(text(response.unwrap()).await, "done");
}

#[tokio::test]
async fn a_request_that_may_have_reached_the_target_is_not_repeated() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let request = request(&setup, Method::POST, "/pay", &[]).body(Full::new(Bytes::from_static(b"1"))).unwrap();
    let (response, ()) = tokio::join!(sending(&setup, request).await, async {
        let call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        fail(call, &Failure::after_target(Code::TunnelLost, "cut"));
    });
    assert_eq!(response.unwrap().status(), Code::TunnelLost.http_status());
    assert!(setup.calls.try_recv().is_err());
}

#[tokio::test]
async fn bodies_flow_both_ways_at_once() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let (pieces, feed) = tokio::sync::mpsc::channel::<Bytes>(1);
    let pieces_body = StreamBody::new(futures_util::stream::unfold(feed, |mut feed| async move {
        let piece = feed.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece)), feed))
    }));
    let request = request(&setup, Method::POST, "/echo", &[]).body(Box::pin(pieces_body)).unwrap();
    let response = sending(&setup, request).await;
    let (response, mut call) = tokio::join!(response, async {
        let mut call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        assert!(!opening_http(&mut call).await.no_body);
        call.sender.message(head(200, &[])).await.unwrap();
        call
    });
    let mut answer = response.unwrap().into_body();
    for round in 0..5u8 {
        let piece = Bytes::from(vec![round; 1000]);
        pieces.send(piece.clone()).await.unwrap();
        let mut seen = 0;
        while seen < piece.len() {
            let Some(Ok(Part::Data(bytes))) = soon("the piece arrives", call.receiver.next()).await else {
                panic!("no data");
            };
            seen += bytes.len();
            call.receiver.taken(bytes.len());
            call.sender.data(bytes).await.unwrap();
        }
        let mut back = 0;
        while back < piece.len() {
            // Flushed as it arrives: nothing else follows until the next round.
            let frame = soon("the piece comes back", answer.frame()).await.unwrap().unwrap();
            back += frame.data_ref().unwrap().len();
        }
    }
    drop(pieces);
    assert_eq!(body(&mut call).await.0, b"");
    call.sender.fin(pb::Fin::default()).await.unwrap();
    call.sender.finish();
    assert!(soon("the answer ends", answer.frame()).await.is_none());
}

#[tokio::test]
async fn trailers_cross_both_ways() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut trailers = ::http::HeaderMap::new();
    trailers.insert("x-sum", "abc".parse().unwrap());
    trailers.insert("causeway-forged", "x".parse().unwrap());
    let frames = [http_body::Frame::data(Bytes::from_static(b"data")), http_body::Frame::trailers(trailers)];
    let sent = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let request = request(&setup, Method::POST, "/", &[("te", "trailers"), ("trailer", "x-sum, causeway-forged")])
        .body(sent)
        .unwrap();
    let (response, ()) = tokio::join!(sending(&setup, request).await, async {
        let mut call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        opening_http(&mut call).await;
        let (_, trailers) = body(&mut call).await;
        assert_eq!(trailers, [pb::Field { name: "x-sum".to_owned(), value: Bytes::from_static(b"abc") }]);
        call.sender.message(head(200, &[("trailer", "grpc-status")])).await.unwrap();
        call.sender.data(Bytes::from_static(b"answer")).await.unwrap();
        let status = pb::Field { name: "grpc-status".to_owned(), value: Bytes::from_static(b"0") };
        call.sender.fin(pb::Fin { trailers: vec![status] }).await.unwrap();
        call.sender.finish();
    });
    let collected = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "answer");
}

#[tokio::test]
async fn a_body_that_breaks_is_no_end() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let request = get(&setup, "/", &[]);
    let (response, call) = tokio::join!(sending(&setup, request).await, async {
        let mut call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        call.sender.message(head(200, &[])).await.unwrap();
        call.sender.data(Bytes::from_static(b"half")).await.unwrap();
        call
    });
    let mut answer = response.unwrap().into_body();
    assert_eq!(soon("half arrives", answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
    fail(call, &Failure::after_target(Code::TargetBroken, "gone"));
    assert!(soon("it breaks", answer.frame()).await.unwrap().is_err());
}

#[tokio::test]
async fn answers_without_body_need_none() {
    let mut setup = Setup::new("http", ", as: connector").await;
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 304), (Method::GET, 204)] {
        let request = request(&setup, method, "/", &[]).body(Empty::new()).unwrap();
        let fields: &[(&str, &str)] = if status == 200 { &[("content-length", "5")] } else { &[] };
        let (response, ()) = tokio::join!(sending(&setup, request).await, async {
            answer(soon("a call arrives", setup.calls.recv()).await.unwrap(), status, fields, b"").await;
        });
        let response = response.unwrap();
        assert_eq!(u32::from(response.status().as_u16()), status);
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_stream() {
    let mut setup = Setup::new("http", ", as: connector").await;
    for answered in [false, true] {
        let request = get(&setup, "/", &[]);
        let mut client = setup.client().await;
        let text = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", request.uri(), setup.address);
        tokio::io::AsyncWriteExt::write_all(&mut client, text.as_bytes()).await.unwrap();
        let mut call = setup.call().await;
        if answered {
            call.sender.message(head(200, &[])).await.unwrap();
        }
        drop(client);
        soon("the stream is cancelled", call.sender.cancelled()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_tunnel_the_answer_comes_in_bounded_time() {
    let setup = Setup::without_tunnel("http", ", as: connector").await;
    let response = send(&setup, get(&setup, "/", &[])).await.unwrap();
    assert_eq!(response.status(), Code::TunnelLost.http_status());
    let text = json(response).await;
    assert_eq!((&text["code"], &text["decided_by"]), (&"tunnel_lost".into(), &"connector".into()));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let large = "x".repeat(60 * 1024);
    let response = send(&setup, get(&setup, "/", &[("x-large", &large)])).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(setup.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_protocol_that_the_target_agrees_to_change_to_is_carried_as_bytes() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut client = setup.client().await;
    let request = format!(
        "GET /chat HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\nearly",
        setup.address
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut call = setup.call().await;
    let asked = opening_http(&mut call).await;
    assert_eq!((asked.upgrade.as_str(), asked.no_body), ("websocket", true));
    call.sender.message(head(101, &[("sec-websocket-accept", "y")])).await.unwrap();
    call.sender.data(Bytes::from_static(b"hello")).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello") {
        soon("the answer arrives", client.read_buf(&mut seen)).await.unwrap();
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 101 ") && seen.contains("upgrade: websocket\r\n"), "{seen}");
    assert!(seen.contains("connection: upgrade\r\n") && seen.contains("sec-websocket-accept: y\r\n"), "{seen}");
    client.shutdown().await.unwrap();
    assert_eq!(body(&mut call).await.0, b"early");
    call.sender.fin(pb::Fin::default()).await.unwrap();
    call.sender.finish();
    let mut rest = Vec::new();
    soon("the connection ends", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_target_that_does_not_change_the_protocol_gives_a_plain_answer() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let request = get(&setup, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
    let (response, ()) = tokio::join!(sending(&setup, request).await, async {
        let mut call = soon("a call arrives", setup.calls.recv()).await.unwrap();
        opening_http(&mut call).await;
        call.sender.message(head(403, &[])).await.unwrap();
        assert_eq!(body(&mut call).await.0, b"");
        call.sender.data(Bytes::from_static(b"no")).await.unwrap();
        call.sender.fin(pb::Fin::default()).await.unwrap();
        call.sender.finish();
    });
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(text(response).await, "no");
}

#[tokio::test]
async fn interim_answers_come_before_the_final_one() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut client = setup.client().await;
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", setup.address);
    client.write_all(request.as_bytes()).await.unwrap();
    let mut call = setup.call().await;
    opening_http(&mut call).await;
    call.sender.message(head(103, &[("link", "</a.css>")])).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        soon("the interim answer arrives", client.read_buf(&mut seen)).await.unwrap();
    }
    assert_eq!(seen, b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    // Both at once: the order is kept.
    call.sender.message(head(103, &[])).await.unwrap();
    answer(call, 200, &[("content-length", "2")], b"ok").await;
    while !seen.ends_with(b"ok") {
        soon("the final answer arrives", client.read_buf(&mut seen)).await.unwrap();
    }
    let seen = String::from_utf8(seen).unwrap();
    let statuses: Vec<_> = seen.match_indices("HTTP/1.1 ").map(|(at, _)| &seen[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["103", "103", "200"], "{seen}");
}

#[tokio::test]
async fn a_body_that_waits_is_asked_for_when_the_target_says_so_and_only_then() {
    let mut setup = Setup::new("http", ", as: connector").await;
    for says in [true, false] {
        let mut client = setup.client().await;
        let head_of = "expect: 100-continue\r\ncontent-length: 4\r\n";
        let request = format!("POST / HTTP/1.1\r\nhost: {}\r\n{head_of}\r\n", setup.address);
        client.write_all(request.as_bytes()).await.unwrap();
        let mut call = setup.call().await;
        assert!(opening_http(&mut call).await.fields.iter().any(|field| field.name == "expect"));
        let mut seen = Vec::new();
        if says {
            call.sender.message(head(100, &[])).await.unwrap();
            while !seen.ends_with(b"\r\n\r\n") {
                soon("the client is told to go on", client.read_buf(&mut seen)).await.unwrap();
            }
            assert_eq!(seen, b"HTTP/1.1 100 Continue\r\n\r\n");
            client.write_all(b"body").await.unwrap();
            assert_eq!(body(&mut call).await.0, b"body");
        }
        seen.clear();
        answer(call, if says { 200 } else { 417 }, &[("content-length", "0")], b"").await;
        while !seen.ends_with(b"\r\n\r\n") {
            soon("the answer arrives", client.read_buf(&mut seen)).await.unwrap();
        }
        assert!(seen.starts_with(if says { b"HTTP/1.1 200" } else { b"HTTP/1.1 417" }), "{}", seen.escape_ascii());
    }
}
