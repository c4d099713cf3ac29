//! HTTP senders, our relay and our listener.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::process::Context;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use relay::{
    dial::Dialer,
    listen::{BoxError, HybridConnection, Limits, Listener, Listening, Received, RequestBody},
    sender::{Address, Credential},
};
use tokio::{
    io::AsyncReadExt as _,
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use super::support::Client;
use crate::{
    listener::plain_tls,
    support::{LISTEN_KEY, Relay, until},
};

struct Program {
    context: Context,
    listening: Listening,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.context.shutdown.force();
    }
}

impl Program {
    fn start(relay: &Relay, change: impl FnOnce(HybridConnection) -> HybridConnection) -> Self {
        let context = Context::new("causeway_listener");
        let address: Address = format!("ws://{}/e", relay.address).parse().unwrap();
        let credential = Credential::rule("listen", identity::secret::Secret::new(LISTEN_KEY));
        let listener = Listener::new(&context, Dialer::default(), plain_tls(), &Limits::default());
        let listening = listener.listen(change(HybridConnection::new(address, credential)));
        Self { context, listening }
    }

    async fn up(&self, channels: usize) {
        until("all control channels are up", || self.listening.channels().len() == channels).await;
    }
}

/// Sends back what came.
async fn echo(request: Request<RequestBody>) -> Response<Full<Bytes>> {
    let below = request.extensions().get::<Received>().unwrap().below.to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::builder()
        .header("X-Below", below)
        .header("Set-Cookie", "a=1")
        .header("Set-Cookie", "b=2")
        .body(Full::new(body))
        .unwrap()
}

/// A relay whose entity `e` takes both kinds of senders and this many listeners.
async fn relay_for(listeners: usize) -> Relay {
    let text = crate::support::config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 200");
    let limit = format!("listeners: {listeners}");
    Relay::with(&text.replace("  e:\n", "  e:\n    kind: both\n").replace("listeners: 3", &limit)).await
}

async fn world(change: impl FnOnce(HybridConnection) -> HybridConnection) -> (Relay, Program) {
    let relay = relay_for(9).await;
    let program = Program::start(&relay, change);
    program.up(2).await;
    (relay, program)
}

#[tokio::test]
async fn bodies_of_every_size_come_back_as_they_were_and_cookies_stay_apart() {
    let (relay, _program) = world(|on| on.on_request(echo)).await;
    let mut client = Client::new(&relay).await;
    for size in [0, 1, 65_536, 65_537, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|at: u32| ((at * 131) >> 5) as u8).collect();
        client.with_body("POST /e/sub?x=1", &[], &body).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.whole), (200, true), "{size}");
        assert!(reply.body == body, "{size} bytes changed on the way");
        assert_eq!(reply.one("X-Below"), Some("/sub?x=1"));
        assert_eq!(reply.all("Set-Cookie"), ["a=1", "b=2"]);
    }
}

#[tokio::test]
async fn events_reach_the_sender_one_by_one_and_its_end_reaches_the_handler() {
    let (feed, fed) = mpsc::channel::<Result<http_body::Frame<Bytes>, BoxError>>(1);
    let fed = std::sync::Mutex::new(Some(fed));
    let (relay, program) = world(|on| {
        on.on_request(move |_| {
            let mut fed = fed.lock().unwrap().take().unwrap();
            async move {
                let events = futures_util::stream::poll_fn(move |cx| fed.poll_recv(cx));
                Response::builder().header("Content-Type", "text/event-stream").body(StreamBody::new(events)).unwrap()
            }
        })
    })
    .await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e/events", &[]).await;
    assert_eq!(client.reply_head().await.status, 200);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        feed.send(Ok(http_body::Frame::data(Bytes::from_static(event.as_bytes())))).await.unwrap();
        assert_eq!(client.next_chunk().await.unwrap(), event.as_bytes());
    }
    drop(client);
    feed.closed().await;
    until("the request is over", || program.listening.requests() == 0).await;
}

/// Requests without a pause until `stop`; gives how many there were, all of which were answered.
async fn keep_asking(relay: Arc<Relay>, stop: Arc<std::sync::atomic::AtomicBool>) -> usize {
    let mut count = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let mut client = Client::new(&relay).await;
        client.with_body("POST /e/x", &[], format!("{count}").as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.body), (200, format!("{count}").into_bytes()), "{}", reply.reason);
        count += 1;
    }
    count
}

/// The same with WebSockets.
async fn keep_connecting(relay: Arc<Relay>, stop: Arc<std::sync::atomic::AtomicBool>) -> usize {
    let mut count = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let mut socket = relay.sender("").await.unwrap();
        socket.send(Message::binary(b"hello".to_vec())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(b"hello".to_vec()));
        count += 1;
    }
    count
}

#[tokio::test]
async fn a_sender_that_closes_with_another_code_than_1000_is_an_error_for_its_handler() {
    let relay = relay_for(1).await;
    let (told, mut ends) = mpsc::unbounded_channel();
    let program = Program::start(&relay, |on| {
        on.channels(1).on_websocket(move |knock| {
            let told = told.clone();
            async move {
                let mut stream = knock.accept(None).await.unwrap().into_stream();
                let mut came = Vec::new();
                let end = stream.read_to_end(&mut came).await.map_err(|error| error.kind());
                told.send((came, end)).unwrap();
            }
        })
    });
    program.up(1).await;
    let aborted = Err(std::io::ErrorKind::ConnectionAborted);
    for (code, expected) in [(1000, Ok(9)), (1001, aborted), (1011, aborted), (4000, aborted)] {
        let mut socket = relay.sender("").await.unwrap();
        socket.send(Message::binary(b"half".to_vec())).await.unwrap();
        socket.send(Message::text(" text")).await.unwrap();
        let close = CloseFrame { code: code.into(), reason: "".into() };
        socket.send(Message::Close(Some(close))).await.unwrap();
        assert_eq!(ends.recv().await.unwrap(), (b"half text".to_vec(), expected), "{code}");
    }
}

#[tokio::test]
async fn no_sender_is_lost_while_channels_give_way_to_their_successors() {
    let relay = Arc::new(relay_for(9).await);
    let program = Program::start(&relay, |on| {
        on.rotate_after(Duration::from_millis(100)).on_request(echo).on_websocket(|knock| async move {
            let (mut read, mut write) = tokio::io::split(knock.accept(None).await.unwrap().into_stream());
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
    });
    program.up(2).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for _ in 0..3 {
        senders.spawn(keep_asking(relay.clone(), stop.clone()));
        senders.spawn(keep_connecting(relay.clone(), stop.clone()));
    }
    let rotated = || {
        let metrics = program.context.metrics.encode();
        let line = metrics.lines().find(|line| line.contains("rotations_total{outcome=\"replaced\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).unwrap_or(0)
    };
    until("channels were replaced", || rotated() >= 20).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let asked: usize = senders.join_all().await.into_iter().sum();
    assert!(asked >= 20, "{asked}");
    let metrics = program.context.metrics.encode();
    assert!(!metrics.contains("dial_failed"), "an address was no longer valid when it was dialled: {metrics}");
}

#[tokio::test]
async fn where_the_limit_of_listeners_is_reached_channels_still_give_way() {
    let relay = relay_for(2).await;
    let program = Program::start(&relay, |on| on.rotate_after(Duration::from_millis(100)));
    until("a channel was closed for its successor", || {
        program.context.metrics.encode().contains("rotations_total{outcome=\"closed_first\"}")
    })
    .await;
    program.up(2).await;
}

#[tokio::test]
async fn a_listener_that_drains_gets_nothing_new_and_answers_what_it_has() {
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, begin) = (go.clone(), begun.clone());
    let (relay, first) = world(|on| {
        on.on_request(move |_| {
            let (wait, begin) = (wait.clone(), begin.clone());
            async move {
                begin.notify_one();
                wait.notified().await;
                Response::new(Full::new(Bytes::from_static(b"first")))
            }
        })
    })
    .await;
    let mut pending = Client::new(&relay).await;
    pending.head("GET /e", &[]).await;
    begun.notified().await;
    let second = Program::start(&relay, |on| {
        on.on_request(|_| async { Response::new(Full::new(Bytes::from_static(b"second"))) })
    });
    second.up(2).await;
    let shutdown = first.context.shutdown.clone();
    let (outcome, ()) = tokio::join!(shutdown.run(Duration::from_secs(15)), async {
        until("it drains", || first.listening.channels().iter().all(|channel| channel.retiring)).await;
        let mut client = Client::new(&relay).await;
        for _ in 0..20 {
            client.head("GET /e", &[]).await;
            let reply = client.reply().await;
            assert_eq!((reply.status, &*reply.body), (200, &b"second"[..]));
        }
        go.notify_one();
        let reply = pending.reply().await;
        assert_eq!((reply.status, &*reply.body), (200, &b"first"[..]));
    });
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}
