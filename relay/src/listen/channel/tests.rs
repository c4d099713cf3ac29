//! Control channels over simulated time: a relay that is a script, and hours that pass when everything waits.
use std::{
    collections::VecDeque,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use daemon::{clock::Clock, config::SecretRef, process::Context};
use identity::{
    chance::Chance,
    sas::{Rights, Rule, verify},
    secret::Secret,
    token::{Cache, Source, Token, TokenError},
};
use proto::{
    hybrid::new_id,
    ws::{
        Role,
        handshake::UpgradeError,
        message::{Message, Sender, split},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{DuplexStream, duplex},
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use super::{
    OpenError, Opener,
    open::{Features, Open},
};
use crate::{
    dial::{Dialer, ReachError},
    listen::{Held, HybridConnection, Limits, Listener, Listening},
    sender::{Address, Credential, CredentialConfig, DialError, JoinLogin},
};

const HOUR: Duration = Duration::from_secs(3600);
const KEY: &str = "bGlzdGVuLWtleS1vZi1hdC1sZWFzdC0xMjgtYml0cw==";
const OTHER_KEY: &str = "b3RoZXItLS1rZXktb2YtYXQtbGVhc3QtMTI4LWJpdHM=";

/// A wall clock that goes with simulated time.
#[derive(Debug)]
struct Simulated(SystemTime, Instant);

impl Clock for Simulated {
    fn now(&self) -> SystemTime {
        self.0 + self.1.elapsed()
    }
    fn instant(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// What the relay does with an attempt.
#[derive(Debug, Clone, Copy)]
enum Step {
    Open,
    /// After so many seconds.
    OpenIn(u64),
    Nobody,
    Refuse(u16, &'static str, Option<u64>),
}

struct Script {
    steps: Mutex<VecDeque<Step>>,
    then: Step,
    features: Features,
    attempts: Mutex<Vec<Instant>>,
    opened: mpsc::UnboundedSender<Peer>,
}

/// The relay's end of a control channel.
struct Peer {
    token: String,
    opened: Instant,
    sender: Sender,
    messages: mpsc::UnboundedReceiver<Message>,
    reading: AbortHandle,
    _tasks: JoinSet<()>,
}

impl Opener for Arc<Script> {
    type Io = DuplexStream;

    async fn open(&self, held: &Held, _slot: usize) -> Result<Open<DuplexStream>, OpenError> {
        self.attempts.lock().unwrap().push(Instant::now());
        let step = self.steps.lock().unwrap().pop_front().unwrap_or(self.then);
        match step {
            Step::Open => {}
            Step::OpenIn(seconds) => sleep(Duration::from_secs(seconds)).await,
            Step::Nobody => {
                let source = std::io::ErrorKind::ConnectionRefused.into();
                let reach = ReachError::Connect { authority: "relay".into(), source };
                return Err(DialError::Reach(reach).into());
            }
            Step::Refuse(status, reason, retry_after) => {
                let retry_after = retry_after.map(Duration::from_secs);
                let refused =
                    UpgradeError::Refused { status, reason: reason.into(), retry_after, headers: Default::default() };
                return Err(DialError::Upgrade(refused).into());
            }
        }
        let token = held.credential.mint(&held.address).await?;
        let (io, theirs) = duplex(64 * 1024);
        let (sender, mut receiver, writer) =
            split(theirs, Role::Server, Default::default(), 1 << 20, Duration::from_secs(25));
        let (said, messages) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer);
        let reading = tasks.spawn(async move {
            while let Ok(message) = receiver.next().await {
                let _ = said.send(message);
            }
        });
        let text = token.secret.expose().to_owned();
        let peer = Peer { token: text, opened: Instant::now(), sender, messages, reading, _tasks: tasks };
        let _ = self.opened.send(peer);
        let relay = Some("203.0.113.7".parse().unwrap());
        Ok(Open { io, read_ahead: Default::default(), token, id: new_id(), relay, features: self.features })
    }
}

impl Peer {
    async fn next(&mut self) -> Option<Message> {
        timeout(100 * HOUR, self.messages.recv()).await.expect("something comes, or the channel ends")
    }

    /// The next message, which must be a command named `name`.
    async fn command(&mut self, name: &str) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                assert!(message[name].is_object(), "no {name}: {message}");
                message[name].clone()
            }
            other => panic!("no {name}: {other:?}"),
        }
    }

    /// The listener's Close, which must be the next message.
    async fn closed(&mut self) -> u16 {
        match self.next().await {
            Some(Message::Close(Some((code, _)))) => code,
            other => panic!("no Close: {other:?}"),
        }
    }

    /// Until the listener's Close, which must say that all is well.
    async fn ended(&mut self) {
        loop {
            match self.next().await {
                Some(Message::Text(_)) => {}
                Some(Message::Close(Some((1000, _)))) => return,
                other => panic!("no Close: {other:?}"),
            }
        }
    }

    async fn say(&self, message: Value) {
        self.sender.send(vec![Message::Text(message.to_string())]).await.unwrap();
    }

    async fn close(&self, code: u16) {
        self.sender.send(vec![Message::Close(Some((code, "said the script".into())))]).await.unwrap();
    }
}

/// A listener on a scripted relay.
struct World {
    context: Context,
    script: Arc<Script>,
    listening: Listening,
    peers: mpsc::UnboundedReceiver<Peer>,
    folder: TempDir,
    began: Instant,
}

fn write_key(folder: &Path, key: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(folder.join("key"), key).unwrap();
    std::fs::set_permissions(folder.join("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn simulated() -> Context {
    let clock = Arc::new(Simulated(SystemTime::now(), Instant::now()));
    Context { clock, ..Context::new("causeway_listener") }
}

impl World {
    /// One channel, and a relay that does `steps` and then `then`.
    fn new(steps: &[Step], then: Step) -> Self {
        Self::with(steps, then, Features::default(), |on| on)
    }

    fn with(
        steps: &[Step],
        then: Step,
        features: Features,
        change: impl FnOnce(HybridConnection) -> HybridConnection,
    ) -> Self {
        // Ages stay as they are written, and pauses are halved.
        Self::by_chance(0.5, steps, then, features, change)
    }

    fn by_chance(
        fraction: f64,
        steps: &[Step],
        then: Step,
        features: Features,
        change: impl FnOnce(HybridConnection) -> HybridConnection,
    ) -> Self {
        let (context, folder) = (simulated(), tempfile::tempdir().unwrap());
        write_key(folder.path(), KEY);
        let key = SecretRef::File("key".into());
        let (config, address) = (CredentialConfig::Sas { rule: "listen".into(), key }, "sb://relay/e".parse().unwrap());
        let credential = config.open(&address, folder.path(), &context).unwrap();
        Self::by(context, folder, credential, fraction, steps, then, features, change)
    }

    #[expect(clippy::too_many_arguments, reason = "what is fixed in every other test")]
    fn by(
        context: Context,
        folder: TempDir,
        credential: Credential,
        fraction: f64,
        steps: &[Step],
        then: Step,
        features: Features,
        change: impl FnOnce(HybridConnection) -> HybridConnection,
    ) -> Self {
        let address: Address = "sb://relay.example.com/e".parse().unwrap();
        let tls = identity::tls::client(rustls::RootCertStore::empty(), &[]);
        let listener = Listener::new(&context, Dialer::default(), tls, &Limits::default());
        let (opened, peers) = mpsc::unbounded_channel();
        let script = Arc::new(Script {
            steps: Mutex::new(steps.iter().copied().collect()),
            then,
            features,
            attempts: Mutex::default(),
            opened,
        });
        let on = change(HybridConnection::new(address, credential).channels(1));
        let listening = listener.listen_by(on, script.clone(), &Chance::new(move || fraction));
        Self { context, script, listening, peers, folder, began: Instant::now() }
    }

    async fn peer(&mut self) -> Peer {
        timeout(100 * HOUR, self.peers.recv()).await.expect("a channel is opened").unwrap()
    }

    /// Seconds between the attempts.
    fn pauses(&self) -> Vec<f64> {
        let attempts = self.script.attempts.lock().unwrap();
        attempts.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect()
    }

    fn counts(&self, line: &str) -> bool {
        self.context.metrics.encode().contains(line)
    }

    /// Whether a token was made with this key.
    fn is_of(&self, token: &str, key: &str) -> bool {
        let rule = Rule { name: "listen".into(), rights: Rights::default(), keys: vec![Secret::new(key)] };
        verify(token, &[&rule], "relay.example.com", "e", self.context.clock.now(), Duration::ZERO).is_ok()
    }
}

/// Its tasks would go on and try again for ever.
impl Drop for World {
    fn drop(&mut self) {
        self.context.shutdown.force();
    }
}

fn near(seconds: &[f64], expected: &[f64]) {
    assert_eq!(seconds.len(), expected.len(), "{seconds:?}");
    for (one, other) in seconds.iter().zip(expected) {
        assert!((one - other).abs() < 0.05, "{seconds:?} is not {expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_climb_as_the_sdks_do_with_jitter() {
    let world = World::new(&[], Step::Nobody);
    sleep(Duration::from_secs(60)).await;
    // Half of 0, 1, 2, 5, 10, 30, 30.
    near(&world.pauses()[..7], &[0.0, 0.5, 1.0, 2.5, 5.0, 15.0, 15.0]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_hybrid_connection_does_not_stop_a_listener() {
    let gone = Step::Refuse(404, "Endpoint does not exist", None);
    let mut world = World::new(&[gone; 20], Step::Open);
    let _peer = world.peer().await;
    assert_eq!(world.pauses().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_asks_for_patience_gets_it() {
    let busy = Step::Refuse(503, "busy", Some(20));
    let mut world = World::new(&[busy, busy], Step::Open);
    let _peer = world.peer().await;
    near(&world.pauses(), &[20.0, 20.5]);
}

#[tokio::test(start_paused = true)]
async fn only_a_healthy_spell_makes_pauses_short_again() {
    let mut world = World::new(&[], Step::Open);
    // Accepted and lost after two seconds: each time a longer pause.
    for _ in 0..5 {
        let peer = world.peer().await;
        sleep(Duration::from_secs(2)).await;
        drop(peer);
    }
    near(&world.pauses(), &[2.0, 2.5, 3.0, 4.5]);
    let peer = world.peer().await;
    sleep(Duration::from_secs(60)).await;
    let lost = Instant::now();
    drop(peer);
    let peer = world.peer().await;
    assert_eq!(peer.opened, lost, "at once");
}

#[tokio::test(start_paused = true)]
async fn readiness_does_not_wait_for_a_relay_that_was_unreachable_for_a_minute() {
    let world = World::new(&[], Step::Nobody);
    sleep(Duration::from_millis(59_900)).await;
    assert!(!world.context.readiness.is_ready());
    sleep(Duration::from_millis(200)).await;
    assert!(world.context.readiness.is_ready());
    assert!(world.listening.problem().unwrap().contains("cannot be reached"), "and it is told");
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_a_relay_that_refuses() {
    let mut world = World::new(&[Step::Refuse(401, "no", None); 30], Step::Open);
    sleep(Duration::from_secs(120)).await;
    assert!(!world.context.readiness.is_ready());
    let _peer = world.peer().await;
    sleep(Duration::from_millis(1)).await;
    assert!(world.context.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_replaced_at_its_age_and_closed_when_its_successor_is_up() {
    let mut world = World::new(&[Step::Open], Step::OpenIn(5));
    let mut first = world.peer().await;
    let second = tokio::select! {
        biased;
        second = world.peer() => second,
        () = first.ended() => panic!("the first ended before the second began"),
    };
    assert_eq!((second.opened - world.began).as_secs(), 6 * 3600 + 5);
    first.ended().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.listening.channels().len(), 1);
    assert!(world.counts("rotations_total{outcome=\"replaced\"} 1"));
    assert!(world.counts("channel_ends_total{outcome=\"retired\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn ages_are_jittered_by_a_fifth() {
    for (fraction, expected) in [(0.0, 0.8), (0.999_999, 1.2)] {
        let mut world = World::by_chance(fraction, &[], Step::Open, Features::default(), |on| on.rotate_after(HOUR));
        let (first, second) = (world.peer().await, world.peer().await);
        let age = (second.opened - first.opened).as_secs_f64() / 3600.0;
        assert!((age - expected).abs() < 0.001, "{age}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_more_listeners_are_taken_the_old_channel_is_closed_first() {
    let full = Step::Refuse(403, "TooManyListeners: MaximumListenersPerEndpoint", None);
    let mut world = World::with(&[Step::Open, full], Step::Open, Features::default(), |on| on.rotate_after(HOUR / 2));
    let mut first = world.peer().await;
    assert_eq!(first.closed().await, 1000);
    let second = world.peer().await;
    assert!(second.opened - first.opened < HOUR / 2 + Duration::from_secs(4), "at once");
    assert!(world.counts("rotations_total{outcome=\"closed_first\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_fails_leaves_the_old_channel_and_is_tried_again() {
    let mut world = World::with(&[Step::Open, Step::Nobody, Step::Nobody], Step::Open, Features::default(), |on| {
        on.rotate_after(HOUR / 2)
    });
    let mut first = world.peer().await;
    let second = world.peer().await;
    near(&world.pauses(), &[1800.0, 60.0, 60.0]);
    assert_eq!(first.closed().await, 1000);
    assert!(world.counts("rotations_total{outcome=\"failed\"} 2"));
    drop(second);
}

/// A handler that answers when it is told to.
fn waiting(go: Arc<Notify>) -> impl FnOnce(HybridConnection) -> HybridConnection {
    move |on| {
        on.rotate_after(HOUR / 2).on_request(move |_| {
            let go = go.clone();
            async move {
                go.notified().await;
                http::Response::new(http_body_util::Full::new(bytes::Bytes::from_static(b"late")))
            }
        })
    }
}

fn request(id: &str) -> Value {
    json!({ "request": {
        "address": "wss://relay.example.com/$hc/e?x", "id": id, "requestTarget": "/e", "method": "GET", "body": false,
    } })
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_gives_way_asks_for_nothing_new_and_answers_what_is_pending() {
    let go = Arc::new(Notify::new());
    let features = Features { drain: true, header_lists: true };
    let mut world = World::with(&[], Step::Open, features, waiting(go.clone()));
    let mut first = world.peer().await;
    sleep(HOUR / 2 - Duration::from_secs(5)).await;
    first.say(request("pending")).await;
    let _second = world.peer().await;
    let drain = first.command("drain").await;
    assert_eq!(drain["within_ms"], 60_000);
    first.say(request("on its way")).await;
    first.say(json!({ "drain": drain })).await;
    sleep(Duration::from_secs(10)).await;
    assert!(first.messages.is_empty(), "not closed while a request is pending");
    assert_eq!(world.listening.channels().iter().filter(|channel| channel.retiring).count(), 1);
    for id in ["pending", "on its way"] {
        go.notify_one();
        assert_eq!(first.command("response").await["requestId"], id);
        assert!(matches!(first.next().await, Some(Message::Binary(body)) if body == "late"));
    }
    assert_eq!(first.closed().await, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_relay_of_others_is_told_nothing_that_it_does_not_know() {
    let go = Arc::new(Notify::new());
    let mut world = World::with(&[], Step::Open, Features::default(), waiting(go.clone()));
    let mut first = world.peer().await;
    sleep(HOUR / 2 - Duration::from_secs(5)).await;
    first.say(request("pending")).await;
    let _second = world.peer().await;
    sleep(Duration::from_secs(10)).await;
    go.notify_one();
    assert_eq!(first.command("response").await["requestId"], "pending");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_holds_a_channel_open_for_a_minute() {
    let mut world = World::with(&[], Step::Open, Features::default(), waiting(Arc::new(Notify::new())));
    let mut first = world.peer().await;
    sleep(HOUR / 2 - Duration::from_secs(1)).await;
    first.say(request("pending")).await;
    let second = world.peer().await;
    // Its own deadline comes before that of the channel.
    assert_eq!(first.command("response").await["statusCode"], 504);
    assert!(matches!(first.next().await, Some(Message::Binary(_))));
    assert_eq!(first.closed().await, 1000);
    assert!(second.opened.elapsed() <= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn what_the_relay_said_before_it_read_our_close_is_obeyed() {
    let knocked = Arc::new(Notify::new());
    let knocks = knocked.clone();
    let mut world = World::with(&[], Step::Open, Features::default(), |on| {
        on.rotate_after(HOUR / 2).on_websocket(move |_| {
            let knocks = knocks.clone();
            async move { knocks.notify_one() }
        })
    });
    let first = world.peer().await;
    sleep(HOUR / 2 - Duration::from_secs(1)).await;
    first.reading.abort();
    let _second = world.peer().await;
    let accept = json!({ "address": "wss://relay.example.com/$hc/e?x", "id": "late", "connectHeaders": {} });
    first.say(json!({ "accept": accept })).await;
    knocked.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_its_end_and_proven_by_outliving_it() {
    let mut world = World::new(&[], Step::Open);
    let mut peer = world.peer().await;
    let renewed = peer.command("renewToken").await["token"].as_str().unwrap().to_owned();
    let at = world.began.elapsed().as_secs();
    assert!((2260..=2520).contains(&at), "after {at} s of 3600");
    assert!(renewed != peer.token && world.is_of(&renewed, KEY));
    sleep(Duration::from_secs(3600 + 359 - at)).await;
    assert!(!world.counts("renewals_total{outcome=\"proven\"}"));
    sleep(Duration::from_secs(2)).await;
    assert!(world.counts("renewals_total{outcome=\"proven\"} 1"));
    let left = world.listening.channels()[0].token_expires.duration_since(world.context.clock.now()).unwrap();
    assert!(left > Duration::from_secs(1000), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_changed_is_used_from_the_next_token_on() {
    let mut world = World::new(&[], Step::Open);
    let mut peer = world.peer().await;
    write_key(world.folder.path(), OTHER_KEY);
    let renewed = peer.command("renewToken").await["token"].as_str().unwrap().to_owned();
    assert!(world.is_of(&renewed, OTHER_KEY));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_no_longer_believes_the_token_gets_a_fresh_one_at_once() {
    let mut world = World::new(&[], Step::Open);
    let mut peer = world.peer().await;
    peer.command("renewToken").await;
    write_key(world.folder.path(), OTHER_KEY);
    let refused = Instant::now();
    peer.close(1008).await;
    let next = world.peer().await;
    assert_eq!(next.opened, refused, "at once");
    assert!(world.is_of(&next.token, OTHER_KEY), "the key was read again");
    assert!(world.counts("renewals_total{outcome=\"refused\"} 1"));
    assert!(world.counts("channel_ends_total{outcome=\"token_refused\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_until_it_succeeds() {
    let mut world = World::new(&[], Step::Open);
    let mut peer = world.peer().await;
    std::fs::remove_file(world.folder.path().join("key")).unwrap();
    sleep(Duration::from_secs(2600)).await;
    assert!(world.counts("renewals_total{outcome=\"failed\"}"));
    assert!(peer.messages.is_empty());
    write_key(world.folder.path(), KEY);
    let renewed = peer.command("renewToken").await;
    assert!(world.is_of(renewed["token"].as_str().unwrap(), KEY));
    assert!(world.began.elapsed() < Duration::from_secs(2640));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nothing_renews_is_sent_again_twice_a_minute_at_most() {
    let context = simulated();
    let expires = context.clock.now() + HOUR;
    let credential = Credential::from(JoinLogin::Signature { token: Secret::new("token"), expires });
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::by(context, folder, credential, 0.5, &[], Step::Open, Features::default(), |on| {
        on.rotate_after(3 * HOUR)
    });
    let mut peer = world.peer().await;
    sleep(HOUR).await;
    while peer.messages.try_recv().is_ok() {}
    sleep(Duration::from_secs(60)).await;
    let sent = std::iter::from_fn(|| peer.messages.try_recv().ok()).count();
    assert!((1..=2).contains(&sent), "{sent}");
}

/// Gives one token, and then lets everybody wait.
#[derive(Debug)]
struct Stuck(SystemTime, AtomicBool);

impl Source for Stuck {
    fn fetch<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        let is_first = !self.1.swap(true, Ordering::Relaxed);
        let token = Token { secret: Secret::new("token"), expires: self.0 + HOUR, refresh: None };
        Box::pin(async move { if is_first { Ok(token) } else { std::future::pending().await } })
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_a_fresh_token_is_waited_for() {
    let context = simulated();
    let stuck = Arc::new(Stuck(context.clock.now(), AtomicBool::default()));
    let cache = Cache::new(stuck, context.clock.clone(), context.shutdown.clone());
    let credential = Credential::of_source(cache, context.clock.clone());
    let go = Arc::new(Notify::new());
    let (folder, answer) = (tempfile::tempdir().unwrap(), waiting(go.clone()));
    let mut world = World::by(context, folder, credential, 0.5, &[], Step::Open, Features::default(), |on| {
        answer(on).rotate_after(100 * HOUR)
    });
    let mut peer = world.peer().await;
    // Up to the end of the only token, and through the waits for another.
    while world.began.elapsed() < HOUR + Duration::from_secs(120) {
        sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        peer.say(request("r")).await;
        go.notify_one();
        loop {
            match peer.next().await {
                Some(Message::Text(text)) if text.contains("renewToken") => {}
                Some(Message::Text(_)) => break,
                other => panic!("no answer: {other:?}"),
            }
        }
        assert_eq!(asked.elapsed(), Duration::ZERO, "{:?} after the beginning", world.began.elapsed());
        assert!(matches!(peer.next().await, Some(Message::Binary(_))));
    }
    assert!(world.counts("renewals_total{outcome=\"failed\"}"));
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_every_channel_when_its_requests_are_answered() {
    let go = Arc::new(Notify::new());
    let mut world = World::with(&[], Step::Open, Features { drain: true, ..Features::default() }, waiting(go.clone()));
    let mut peer = world.peer().await;
    peer.say(request("pending")).await;
    sleep(Duration::from_secs(1)).await;
    let shutdown = world.context.shutdown.clone();
    let (outcome, ()) = tokio::join!(shutdown.run(Duration::from_secs(30)), async {
        let drain = peer.command("drain").await;
        peer.say(json!({ "drain": drain })).await;
        sleep(Duration::from_secs(5)).await;
        assert!(peer.messages.is_empty());
        go.notify_one();
        peer.command("response").await;
        assert!(matches!(peer.next().await, Some(Message::Binary(_))));
        assert_eq!(peer.closed().await, 1000);
    });
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
    assert_eq!(world.script.attempts.lock().unwrap().len(), 1, "nothing is opened any more");
}
