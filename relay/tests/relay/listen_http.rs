//! HTTP requests, from a relay played by the test to handlers of a program that embeds the listener.
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use daemon::process::Context;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use proto::ws::message::Part;
use relay::{
    dial::Dialer,
    listen::{HybridConnection, Limits, Listener, Listening, Received, RequestBody},
    sender::{Address, Credential},
};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    sync::{Notify, mpsc},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    listener::plain_tls,
    script::{Frames, Script, Socket, body, close, command, next, response, say},
    support::{LISTEN_KEY, until},
};

/// A program with a listener in it.
pub(crate) struct Program {
    pub(crate) context: Context,
    pub(crate) listening: Listening,
}

impl Program {
    /// Listens on `e` of a scripted relay with one channel.
    pub(crate) fn start(script: &Script, change: impl FnOnce(HybridConnection) -> HybridConnection) -> Self {
        Self::with(script, &Limits::default(), change)
    }

    pub(crate) fn with(
        script: &Script,
        limits: &Limits,
        change: impl FnOnce(HybridConnection) -> HybridConnection,
    ) -> Self {
        let context = Context::new("causeway_listener");
        let address: Address = script.url().parse().unwrap();
        let credential = Credential::rule("listen", identity::secret::Secret::new(LISTEN_KEY));
        let listener = Listener::new(&context, Dialer::default(), plain_tls(), limits);
        let on = HybridConnection::new(address, credential).channels(1);
        Self { listening: listener.listen(change(on)), context }
    }

    pub(crate) fn counts(&self, line: &str) -> bool {
        self.context.metrics.encode().contains(line)
    }

    /// What a counter says; a hybrid connection that never counted says nothing.
    pub(crate) async fn counted(&self, line: &str) {
        until(line, || self.counts(line)).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.context.shutdown.force();
    }
}

/// A body that the test feeds.
pub(crate) struct Fed(mpsc::Receiver<Result<Bytes, &'static str>>);

pub(crate) fn fed() -> (mpsc::Sender<Result<Bytes, &'static str>>, Fed) {
    let (feed, body) = mpsc::channel(1);
    (feed, Fed(body))
}

impl Body for Fed {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
    }
}

fn full(text: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(text.into())
}

/// Says what came, in the body.
async fn describe(request: Request<RequestBody>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let received = head.extensions.get::<Received>().unwrap().clone();
    let body = body.collect().await.map(|body| body.to_bytes());
    let said = format!(
        "{} {} below={} remote={:?} host={:?} body={:?}",
        head.method,
        head.uri,
        received.below,
        received.remote,
        head.headers.get("host"),
        body,
    );
    Response::new(full(said))
}

#[tokio::test]
async fn a_small_request_is_answered_on_the_control_channel() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| on.on_request(describe));
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({}))).await;
    let (head, said) = response(&mut control).await;
    assert_eq!(head["requestId"], "r1");
    assert_eq!(head["statusCode"], 200);
    assert_eq!(head["statusDescription"], "OK");
    assert_eq!(
        said,
        "GET /e/path?q=1 below=/path?q=1 remote=Some(203.0.113.9:4711) host=Some(\"ns.example.com\") body=Ok(b\"\")"
    );
    say(&mut control, &script.request("r2", json!({ "method": "POST", "body": true }))).await;
    control.send(Message::binary(b"hello".to_vec())).await.unwrap();
    let (head, said) = response(&mut control).await;
    assert_eq!(head["requestId"], "r2");
    assert!(said.ends_with("body=Ok(b\"hello\")"), "{said}");
}

#[tokio::test]
async fn a_body_of_64_kib_stays_on_the_control_channel_and_one_byte_more_goes_by_rendezvous() {
    let script = Script::new().await;
    let program = Program::start(&script, |on| {
        on.on_request(|request: Request<RequestBody>| async move {
            let size = request.uri().query().unwrap().parse().unwrap();
            Response::new(full(vec![b'x'; size]))
        })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({ "requestTarget": "/e?65536" }))).await;
    assert_eq!(command(&mut control, "response").await["body"], true);
    assert_eq!(body(&mut control).await.len(), 65_536);
    say(&mut control, &script.request("r2", json!({ "requestTarget": "/e?65537" }))).await;
    let mut rendezvous = script.rendezvous("r2").await;
    assert_eq!(command(&mut rendezvous, "response").await["requestId"], "r2");
    assert_eq!(body(&mut rendezvous).await.len(), 65_537);
    assert!(matches!(next(&mut rendezvous).await, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
    program.counted("requests_total{outcome=\"answered\",by=\"control\"} 1").await;
    program.counted("requests_total{outcome=\"answered\",by=\"rendezvous\"} 1").await;
    program.counted("active_requests 0").await;
}

#[tokio::test]
async fn answers_without_a_body_have_none_whatever_the_handler_made() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| {
        on.on_request(|request: Request<RequestBody>| async move {
            let mut answer = Response::new(full("a body"));
            *answer.status_mut() = request.uri().query().unwrap().parse().unwrap();
            answer
        })
    });
    let mut control = script.control().await;
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let change = json!({ "method": method, "requestTarget": format!("/e?{status}") });
        say(&mut control, &script.request("r", change)).await;
        let head = command(&mut control, "response").await;
        assert_eq!((head["statusCode"].as_u64(), head["body"].as_bool()), (Some(status), Some(false)), "{method}");
    }
    say(&mut control, &script.request("r", json!({ "requestTarget": "/e?200" }))).await;
    assert_eq!(response(&mut control).await.1, "a body");
}

#[tokio::test]
async fn forty_requests_at_once_all_match_up_in_any_order() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| {
        on.on_request(|request: Request<RequestBody>| async move {
            let number: u64 = request.uri().query().unwrap().parse().unwrap();
            for _ in 0..(40 - number) {
                tokio::task::yield_now().await;
            }
            Response::new(full(number.to_string()))
        })
    });
    let mut control = script.control().await;
    for number in 0..40 {
        let change = json!({ "requestTarget": format!("/e?{number}") });
        say(&mut control, &script.request(&format!("r{number}"), change)).await;
    }
    for _ in 0..40 {
        let (head, said) = response(&mut control).await;
        assert_eq!(head["requestId"], format!("r{said}"));
    }
}

/// What a handler of these tests is fed with, once.
fn once<T: Send + 'static>(what: T) -> impl Fn() -> T + Send + Sync {
    let what = std::sync::Mutex::new(Some(what));
    move || what.lock().unwrap().take().expect("one request")
}

#[tokio::test]
async fn a_body_that_takes_its_time_moves_to_a_rendezvous_before_it_ends() {
    let script = Script::new().await;
    let (feed, body) = fed();
    let body = once(body);
    let program = Program::start(&script, |on| {
        on.on_request(move |_| {
            let body = body();
            async move { Response::new(body) }
        })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("slow", json!({}))).await;
    feed.send(Ok(Bytes::from_static(b"one "))).await.unwrap();
    // Nobody has said that there is more, or that there is not.
    let mut rendezvous = Frames::of(script.rendezvous("slow").await);
    assert_eq!(rendezvous.text().await["response"]["body"], true);
    rendezvous.bytes(b"one ").await;
    for piece in [&b"two "[..], b"three "] {
        feed.send(Ok(Bytes::from_static(piece))).await.unwrap();
        rendezvous.bytes(piece).await;
    }
    drop(feed);
    assert_eq!(rendezvous.next().await.unwrap(), Part::Bytes { bytes: Bytes::new(), last: true });
    assert!(matches!(rendezvous.next().await.unwrap(), Part::Whole(_)));
    program.counted("to_sender_bytes_total 14").await;
}

#[tokio::test]
async fn events_do_not_wait_for_anything() {
    let script = Script::new().await;
    let (_feed, body) = fed();
    let body = once(body);
    let _program = Program::start(&script, |on| {
        on.on_request(move |_| {
            let mut answer = Response::new(body());
            let kind = HeaderValue::from_static("Text/Event-Stream; charset=utf-8");
            answer.headers_mut().insert("content-type", kind);
            async move { answer }
        })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("events", json!({}))).await;
    // The head is there before the first event.
    let mut rendezvous = Frames::of(script.rendezvous("events").await);
    assert_eq!(rendezvous.text().await["response"]["requestId"], "events");
}

#[tokio::test]
async fn a_body_that_breaks_off_before_its_head_was_sent_is_an_error_and_later_an_abrupt_end() {
    let script = Script::new().await;
    let bodies = std::sync::Mutex::new(Vec::new());
    let (first, second) = (fed(), fed());
    bodies.lock().unwrap().extend([second.1, first.1]);
    let program = Program::start(&script, |on| {
        on.on_request(move |_| {
            let body = bodies.lock().unwrap().pop().unwrap();
            async move { Response::new(body) }
        })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({}))).await;
    first.0.send(Err("broken")).await.unwrap();
    let (head, _) = response(&mut control).await;
    assert_eq!((head["requestId"].as_str(), head["statusCode"].as_u64()), (Some("r1"), Some(502)));
    say(&mut control, &script.request("r2", json!({}))).await;
    let mut rendezvous = Frames::of(script.rendezvous("r2").await);
    assert_eq!(rendezvous.text().await["response"]["statusCode"], 200);
    second.0.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    rendezvous.bytes(b"half").await;
    second.0.send(Err("broken")).await.unwrap();
    // Neither an end of the message nor a Close: nobody takes it for the whole.
    assert_eq!(rendezvous.next().await.unwrap_err(), "connection lost");
    program.counted("requests_total{outcome=\"target_lost\",by=\"rendezvous\"} 1").await;
}

/// Announces a request by address alone, and gives its rendezvous.
async fn announced(script: &Script, control: &mut Socket, name: &str) -> Socket {
    say(control, &json!({ "request": { "address": script.rendezvous_address(name) } })).await;
    script.rendezvous(name).await
}

#[tokio::test]
async fn a_request_by_rendezvous_is_read_as_it_comes_and_answered_on_the_same_socket() {
    let script = Script::new().await;
    let (seen, mut sees) = mpsc::channel(1);
    let program = Program::start(&script, |on| {
        on.on_request(move |request: Request<RequestBody>| {
            let seen = seen.clone();
            async move {
                let mut body = request.into_body();
                let mut all = Vec::new();
                while let Some(frame) = body.frame().await {
                    let bytes = frame.unwrap().into_data().unwrap();
                    all.extend_from_slice(&bytes);
                    seen.send(bytes).await.unwrap();
                }
                Response::new(full(all))
            }
        })
    });
    let mut control = script.control().await;
    let mut rendezvous = Frames::of(announced(&script, &mut control, "big").await);
    rendezvous.send_text(&script.request("big", json!({ "method": "PUT", "body": true }))).await;
    for (at, piece) in [&b"one "[..], b"two ", b"three"].into_iter().enumerate() {
        rendezvous.send_piece(piece, at == 0, false).await;
        assert_eq!(sees.recv().await.unwrap(), piece);
    }
    rendezvous.send_piece(b"", false, true).await;
    let head = rendezvous.text().await;
    assert_eq!(head["response"]["requestId"], "big");
    rendezvous.bytes(b"one two three").await;
    program.counted("to_target_bytes_total 13").await;
}

#[tokio::test]
async fn an_announced_request_may_have_no_body_and_a_small_answer_uses_its_socket_too() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| on.on_request(describe));
    let mut control = script.control().await;
    let mut rendezvous = announced(&script, &mut control, "r").await;
    say(&mut rendezvous, &script.request("r", json!({}))).await;
    let (head, said) = response(&mut rendezvous).await;
    assert_eq!(head["requestId"], "r");
    assert!(said.starts_with("GET /e/path?q=1"), "{said}");
    assert!(matches!(next(&mut rendezvous).await, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
}

#[tokio::test]
async fn a_body_that_nobody_reads_holds_up_its_sender_and_not_the_answer() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| {
        on.on_request(|_| async { Response::builder().status(413).body(full("too large")).unwrap() })
    });
    let mut control = script.control().await;
    let rendezvous = announced(&script, &mut control, "r").await;
    let mut rendezvous = Frames::of(rendezvous);
    rendezvous.send_text(&script.request("r", json!({ "method": "POST", "body": true }))).await;
    rendezvous.send_piece(b"there is more to come", true, false).await;
    assert_eq!(rendezvous.text().await["response"]["statusCode"], 413);
    rendezvous.bytes(b"too large").await;
}

/// Tells when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// An answer that does not end and keeps the request's body, which it does not read.
struct Keeping(Fed, RequestBody);

impl Body for Keeping {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        assert!(!self.1.is_end_stream());
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

/// A program that reads no bodies. Asked for `answer` it begins one; `feeds` are closed when it is let go.
fn reads_nothing(script: &Script) -> (Program, mpsc::Receiver<mpsc::Sender<Result<Bytes, &'static str>>>) {
    let (feeds, fed_ones) = mpsc::channel(1);
    let program = Program::start(script, |on| {
        on.on_request(move |request: Request<RequestBody>| {
            let feeds = feeds.clone();
            async move {
                let (feed, unfinished) = fed();
                let (head, body) = request.into_parts();
                let answer = Keeping(unfinished, body);
                feeds.send(feed).await.unwrap();
                if head.uri.query() != Some("answer") {
                    std::future::pending::<()>().await;
                }
                Response::new(answer)
            }
        })
    });
    (program, fed_ones)
}

fn asking(when: &str) -> serde_json::Value {
    json!({ "requestTarget": format!("/e?{when}"), "method": "POST", "body": true })
}

/// A rendezvous with a request whose body is not read, before (`never`) or within its answer (`answer`).
async fn unread(script: &Script, control: &mut Socket, when: &str) -> Frames {
    let mut rendezvous = Frames::of(announced(script, control, "r").await);
    rendezvous.send_text(&script.request("r", asking(when))).await;
    if when == "answer" {
        assert_eq!(rendezvous.text().await["response"]["statusCode"], 200);
    }
    rendezvous
}

#[tokio::test]
async fn a_sender_that_goes_away_is_noticed_behind_a_body_that_nobody_reads() {
    let script = Script::new().await;
    let (program, mut feeds) = reads_nothing(&script);
    let mut control = script.control().await;
    for (at, when) in ["never", "answer"].into_iter().enumerate() {
        let rendezvous = unread(&script, &mut control, when).await;
        for piece in 0..40 {
            rendezvous.send_piece(&[b'x'; 1000], piece == 0, false).await;
        }
        let feed = feeds.recv().await.unwrap();
        assert_eq!(program.listening.requests(), 1);
        rendezvous.close(1001).await;
        until("the handler or its answer is let go", || feed.is_closed()).await;
        program.counted(&format!("requests_total{{outcome=\"sender_gone\",by=\"rendezvous\"}} {}", at + 1)).await;
        assert_eq!(program.listening.requests(), 0);
    }
}

#[tokio::test]
async fn a_relay_that_ends_the_connection_is_noticed_however_much_lies_before_its_end() {
    let script = Script::new().await;
    let (program, mut feeds) = reads_nothing(&script);
    let mut control = script.control().await;
    for (at, when) in ["never", "answer"].into_iter().enumerate() {
        let mut rendezvous = announced(&script, &mut control, "r").await;
        say(&mut rendezvous, &script.request("r", asking(when))).await;
        if when == "answer" {
            assert_eq!(command(&mut rendezvous, "response").await["statusCode"], 200);
        }
        let feed = feeds.recv().await.unwrap();
        let mut stream = rendezvous.into_inner();
        // The beginning of a long frame: more than anybody keeps in hand.
        let frame = [&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0][..], &[b'x'; 160 * 1024]].concat();
        stream.write_all(&frame).await.unwrap();
        assert_eq!(program.listening.requests(), 1);
        stream.set_zero_linger().unwrap();
        drop(stream);
        until("the handler or its answer is let go", || feed.is_closed()).await;
        program.counted(&format!("requests_total{{outcome=\"relay_lost\",by=\"rendezvous\"}} {}", at + 1)).await;
        assert_eq!(program.listening.requests(), 0);
    }
}

#[tokio::test]
async fn a_body_that_nobody_takes_for_a_minute_is_given_up() {
    let script = Script::new().await;
    let (program, mut feeds) = reads_nothing(&script);
    let mut control = script.control().await;
    let rendezvous = unread(&script, &mut control, "answer").await;
    let feed = feeds.recv().await.unwrap();
    tokio::time::pause();
    for piece in 0..10 {
        rendezvous.send_piece(&[b'x'; 16 * 1024], piece == 0, false).await;
    }
    rendezvous.close(1001).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(!feed.is_closed() && program.listening.requests() == 1, "the Close is behind more than is kept");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(feed.is_closed() && program.counts("requests_total{outcome=\"sender_gone\",by=\"rendezvous\"} 1"));
    assert_eq!(program.listening.requests(), 0);
}

#[tokio::test]
async fn a_sender_that_goes_away_ends_the_handler_before_and_after_its_answer() {
    let script = Script::new().await;
    let dropped = Arc::new(Notify::new());
    let (handler_dropped, answers) = (dropped.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let (feed, unfinished) = fed();
    answers.lock().unwrap().push(unfinished);
    let program = Program::start(&script, |on| {
        on.on_request(move |request: Request<RequestBody>| {
            let guard = Dropped(handler_dropped.clone());
            let answers = answers.clone();
            async move {
                if request.uri().query() == Some("never") {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                }
                Response::new(answers.lock().unwrap().pop().unwrap())
            }
        })
    });
    let mut control = script.control().await;
    let mut rendezvous = announced(&script, &mut control, "r1").await;
    say(&mut rendezvous, &script.request("r1", json!({ "requestTarget": "/e?never" }))).await;
    until("the handler runs", || program.listening.requests() == 1).await;
    close(&mut rendezvous, 1001).await;
    dropped.notified().await;
    program.counted("requests_total{outcome=\"sender_gone\",by=\"rendezvous\"} 1").await;

    let rendezvous = announced(&script, &mut control, "r2").await;
    let mut rendezvous = Frames::of(rendezvous);
    rendezvous.send_text(&script.request("r2", json!({}))).await;
    assert_eq!(rendezvous.text().await["response"]["statusCode"], 200);
    rendezvous.close(1001).await;
    feed.closed().await;
    program.counted("requests_total{outcome=\"sender_gone\",by=\"rendezvous\"} 2").await;
    program.counted("active_requests 0").await;
}

#[tokio::test]
async fn a_channel_that_is_lost_ends_the_handlers_of_its_requests() {
    let script = Script::new().await;
    let dropped = Arc::new(Notify::new());
    let guard = dropped.clone();
    let program = Program::start(&script, |on| {
        on.on_request(move |_| {
            let guard = Dropped(guard.clone());
            async move {
                let _guard = guard;
                std::future::pending::<Response<Full<Bytes>>>().await
            }
        })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    until("the handler runs", || program.listening.requests() == 1).await;
    drop(control);
    dropped.notified().await;
    program.counted("requests_total{outcome=\"channel_lost\",by=\"control\"} 1").await;
}

#[tokio::test]
async fn every_request_is_answered_whatever_becomes_of_its_handler() {
    let script = Script::new().await;
    let program = Program::start(&script, |on| {
        on.answer_within(Duration::from_millis(50)).on_request(|request: Request<RequestBody>| async move {
            match request.uri().query() {
                Some("panic") => panic!("a handler's own fault"),
                Some("never") => std::future::pending().await,
                Some("head") => Response::builder().header("x", "y".repeat(70_000)).body(full("")).unwrap(),
                _ => Response::builder().status(101).body(full("")).unwrap(),
            }
        })
    });
    let mut control = script.control().await;
    for (query, status, outcome) in [
        ("panic", StatusCode::INTERNAL_SERVER_ERROR, "panicked"),
        ("never", StatusCode::GATEWAY_TIMEOUT, "too_slow"),
        ("head", StatusCode::BAD_GATEWAY, "bad_answer"),
        ("switch", StatusCode::BAD_GATEWAY, "bad_answer"),
    ] {
        say(&mut control, &script.request("r", json!({ "requestTarget": format!("/e?{query}") }))).await;
        assert_eq!(response(&mut control).await.0["statusCode"], status.as_u16(), "{query}");
        program.counted(&format!("requests_total{{outcome=\"{outcome}\",by=\"control\"}}")).await;
    }
}

#[tokio::test]
async fn who_handles_no_requests_says_so() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| on);
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    assert_eq!(response(&mut control).await.0["statusCode"], 501);
    let mut rendezvous = announced(&script, &mut control, "r2").await;
    say(&mut rendezvous, &script.request("r2", json!({}))).await;
    assert_eq!(response(&mut rendezvous).await.0["statusCode"], 501);
}

#[tokio::test]
async fn one_request_more_than_the_limit_is_answered_with_503_on_either_way() {
    let script = Script::new().await;
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let program = Program::start(&script, |on| {
        on.requests(2).on_request(move |_| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                Response::new(full("done"))
            }
        })
    });
    let mut control = script.control().await;
    for id in ["r1", "r2", "r3"] {
        say(&mut control, &script.request(id, json!({}))).await;
    }
    let (head, _) = response(&mut control).await;
    assert_eq!((head["requestId"].as_str(), head["statusCode"].as_u64()), (Some("r3"), Some(503)));
    assert_eq!(head["responseHeaders"]["retry-after"], "1");
    let mut rendezvous = announced(&script, &mut control, "r4").await;
    say(&mut rendezvous, &script.request("r4", json!({}))).await;
    assert_eq!(response(&mut rendezvous).await.0["statusCode"], 503);
    assert_eq!(program.listening.requests(), 2);
    go.notify_waiters();
    go.notify_one();
    for _ in 0..2 {
        assert_eq!(response(&mut control).await.1, "done");
        go.notify_one();
    }
    program.counted("requests_total{outcome=\"crowded\",by=\"control\"} 1").await;
    program.counted("requests_total{outcome=\"crowded\",by=\"rendezvous\"} 1").await;
}

#[tokio::test]
async fn one_sender_does_not_get_the_last_quarter_of_the_places_on_either_way() {
    let script = Script::new().await;
    let program = Program::start(&script, |on| {
        on.requests(4).on_request(|request: Request<RequestBody>| async move {
            if request.uri().query() == Some("wait") {
                std::future::pending::<()>().await;
            }
            Response::new(full("done"))
        })
    });
    let mut control = script.control().await;
    for _ in 0..3 {
        say(&mut control, &script.request("r", json!({ "requestTarget": "/e?wait" }))).await;
    }
    say(&mut control, &script.request("r", json!({}))).await;
    assert_eq!(response(&mut control).await.0["statusCode"], 503);
    let mut rendezvous = announced(&script, &mut control, "r").await;
    say(&mut rendezvous, &script.request("r", json!({}))).await;
    assert_eq!(response(&mut rendezvous).await.0["statusCode"], 503);
    until("it left its place", || program.listening.requests() == 3).await;

    let other = json!({ "remoteEndpoint": { "address": "198.51.100.7", "port": 1 } });
    say(&mut control, &script.request("r", other.clone())).await;
    assert_eq!(response(&mut control).await.1, "done");
    until("it left its place", || program.listening.requests() == 3).await;
    let mut rendezvous = announced(&script, &mut control, "r").await;
    say(&mut rendezvous, &script.request("r", other)).await;
    assert_eq!(response(&mut rendezvous).await.1, "done");
}

#[tokio::test]
async fn cookies_are_a_list_for_a_relay_that_takes_lists_and_joined_for_any_other() {
    async fn cookies(_: Request<RequestBody>) -> Response<Full<Bytes>> {
        Response::builder()
            .header("Set-Cookie", "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT")
            .header("Set-Cookie", "b=2")
            .header("Connection", "keep-alive, X-Mine")
            .header("X-Mine", "1")
            .body(full(""))
            .unwrap()
    }
    for (features, expected) in [
        (None, json!("a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT, b=2")),
        (Some("header-lists"), json!(["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2"])),
    ] {
        let script = Script::with(features).await;
        let _program = Program::start(&script, |on| on.on_request(cookies));
        let mut control = script.control().await;
        say(&mut control, &script.request("r", json!({}))).await;
        let (head, _) = response(&mut control).await;
        assert_eq!(head["responseHeaders"], json!({ "set-cookie": expected }));
    }
}

#[tokio::test]
async fn unknown_commands_and_fields_are_ignored_and_so_is_an_empty_message() {
    let script = Script::new().await;
    let _program = Program::start(&script, |on| on.on_request(describe));
    let mut control = script.control().await;
    say(&mut control, &json!({ "injectFault": { "delay": 1 } })).await;
    say(&mut control, &json!({ "response": { "requestId": "x", "statusCode": 200 } })).await;
    control.send(Message::binary(Vec::new())).await.unwrap();
    control.send(Message::text("[]")).await.unwrap();
    say(&mut control, &script.request("r", json!({ "unheardOf": [1] }))).await;
    assert_eq!(response(&mut control).await.0["statusCode"], 200);
}

#[tokio::test]
async fn streams_are_cut_and_named_when_the_grace_is_over() {
    let script = Script::new().await;
    let (_feed, body) = fed();
    let body = once(body);
    let program = Program::start(&script, |on| {
        on.on_request(move |_| {
            let body = body();
            async move { Response::new(body) }
        })
    });
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let mut rendezvous = Frames::of(script.rendezvous("r").await);
    rendezvous.text().await;
    let outcome = program.context.shutdown.run(Duration::ZERO).await;
    assert!(matches!(outcome, daemon::shutdown::Outcome::Forced(_)), "{outcome:?}");
    assert_eq!(rendezvous.next().await.unwrap_err(), "connection lost");
    program.counted("requests_total{outcome=\"forced\",by=\"rendezvous\"} 1").await;
    while let Some(Ok(_)) = control.next().await {}
}
