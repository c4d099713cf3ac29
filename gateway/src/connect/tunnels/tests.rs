//! Placement, waiting, replacement and renewal, on tunnels in memory and simulated time.
use std::sync::{Mutex as StdMutex, atomic::Ordering};

use super::{keep::keep, *};
use crate::connect::{
    fake::{ACTOR_LIFE, Bench, Gateway, fail, opening, soon, tcp_open, until},
    way::{
        Opened,
        candidate::{Candidate, Opening, Ways},
        error::{Cause, Stage},
    },
};

#[tokio::test(start_paused = true)]
async fn without_a_tunnel_a_stream_waits_no_longer_than_it_says_and_tells_why() {
    let bench = Bench::new();
    let error = WayError::new(Stage::Tcp, WayCode::Refused, Cause::Said("connection refused"));
    bench.tunnels.failed("direct", "wss://gw:1", &error);
    let began = tokio::time::Instant::now();
    let failure = bench.tunnels.open(tcp_open).await.unwrap_err();
    assert_eq!(began.elapsed(), WAIT_FOR_TUNNEL);
    assert_eq!((failure.code, failure.reached), (Code::TunnelLost, Reached::No));
    for part in ["factory-a", "wss://gw:1", "C201", "connection refused"] {
        assert!(failure.message.contains(part), "{part} in: {}", failure.message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_takes_the_first_tunnel_that_comes_up() {
    let bench = Bench::new();
    let (gateway, mut calls) = Gateway::new(&bench.context);
    let (stream, ()) = tokio::join!(bench.tunnels.open(tcp_open), async {
        tokio::time::sleep(WAIT_FOR_TUNNEL / 2).await;
        bench.connect(&gateway).await;
    });
    assert!(stream.is_ok());
    assert!(soon("the call arrives", calls.recv()).await.is_some());
}

#[tokio::test]
async fn streams_go_to_the_least_loaded_tunnel() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    bench.connect(&gateway).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(bench.tunnels.open(tcp_open).await.unwrap());
    }
    let first = streams[0].tunnel.id;
    assert_eq!(streams.iter().filter(|stream| stream.tunnel.id == first).count(), 3);
    // Those on one tunnel end; the next ones go there.
    streams.retain(|stream| stream.tunnel.id != first);
    for _ in 0..3 {
        let stream = bench.tunnels.open(tcp_open).await.unwrap();
        assert_eq!(stream.tunnel.id, first);
        streams.push(stream);
    }
}

#[tokio::test]
async fn bulk_gets_a_tunnel_of_its_own_when_it_is_first_needed_and_takes_any_until_then() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    let bulk = bench.tunnels.for_bulk();
    let mut wanted = Box::pin(bulk.wanted());
    bench.tunnels.wanted().await;
    let shared = bench.tunnels.open(tcp_open).await.unwrap();
    assert!(futures_util::poll!(&mut wanted).is_pending(), "nobody needs it yet");
    let first = bulk.open(tcp_open).await.unwrap();
    assert_eq!(first.tunnel.id, shared.tunnel.id);
    soon("it is needed now", wanted).await;

    bench.connect_as(&bulk, &gateway).await;
    let own = bulk.open(tcp_open).await.unwrap();
    assert_ne!(own.tunnel.id, shared.tunnel.id);
    let mut streams = vec![shared, first, own];
    for _ in 0..3 {
        let stream = bench.tunnels.open(tcp_open).await.unwrap();
        assert_eq!(stream.tunnel.id, streams[0].tunnel.id, "even though it is the more loaded one");
        streams.push(stream);
    }
}

#[tokio::test]
async fn others_take_the_tunnel_for_bulk_if_there_is_no_other() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect_as(&bench.tunnels.for_bulk(), &gateway).await;
    assert!(bench.tunnels.open(tcp_open).await.is_ok());
}

#[tokio::test]
async fn streams_keep_away_from_a_tunnel_whose_stream_has_turned_out_to_be_bulk() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    bench.connect(&gateway).await;
    let heavy = bench.tunnels.open(tcp_open).await.unwrap();
    heavy.tunnel.bulk_begins();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let stream = bench.tunnels.open(tcp_open).await.unwrap();
        assert_ne!(stream.tunnel.id, heavy.tunnel.id);
        streams.push(stream);
    }
    heavy.tunnel.bulk_ends();
    assert_eq!(bench.tunnels.open(tcp_open).await.unwrap().tunnel.id, heavy.tunnel.id);
}

#[tokio::test]
async fn a_draining_tunnel_gets_no_new_streams_and_keeps_its_old_ones() {
    let bench = Bench::new();
    let (old, mut old_calls) = Gateway::new(&bench.context);
    let (new, mut new_calls) = Gateway::new(&bench.context);
    bench.connect(&old).await;
    let mut kept = bench.tunnels.open(tcp_open).await.unwrap();
    let mut serving = soon("the call arrives", old_calls.recv()).await.unwrap();
    opening(&mut serving).await;

    bench.connect(&new).await;
    old.drain();
    until("the old tunnel has retired", || bench.tunnels.up() == 1).await;
    let _stream = bench.tunnels.open(tcp_open).await.unwrap();
    assert!(soon("the new gateway gets it", new_calls.recv()).await.is_some());

    serving.sender.message(crate::connect::fake::connected()).await.unwrap();
    assert!(soon("the old stream goes on", kept.receiver.next()).await.unwrap().is_ok());
}

#[test]
fn only_what_certainly_went_nowhere_is_repeated() {
    let failure = |code, reached| Failure { code, message: String::new(), reached };
    assert!(is_repeatable(&failure(Code::TunnelLost, Reached::No)));
    assert!(is_repeatable(&failure(Code::Draining, Reached::No)));
    for reached in [Reached::Yes, Reached::Maybe] {
        assert!(!is_repeatable(&failure(Code::TunnelLost, reached)));
    }
    for code in [Code::PolicyDenied, Code::TargetRefused, Code::LimitReached, Code::Internal] {
        assert!(!is_repeatable(&failure(code, Reached::No)));
    }
}

/// When a way was taken.
type Dials = Arc<StdMutex<Vec<tokio::time::Instant>>>;

/// A way that leads to a gateway, or does not, as a test wants it.
#[derive(Clone)]
struct Road {
    gateway: Gateway,
    dials: Dials,
    state: Arc<StdMutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Leads,
    Refuses,
    /// Nobody answers.
    Silent,
}

impl Road {
    fn new(gateway: &Gateway, state: State) -> Self {
        Self { gateway: gateway.clone(), dials: Dials::default(), state: Arc::new(StdMutex::new(state)) }
    }

    fn is(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    fn dials(&self) -> usize {
        self.dials.lock().unwrap().len()
    }

    fn candidate(&self, bench: &Bench, kind: &'static str) -> Arc<Candidate> {
        let road = self.clone();
        let open = move || -> Opening {
            let road = road.clone();
            Box::pin(async move {
                road.dials.lock().unwrap().push(tokio::time::Instant::now());
                let state = *road.state.lock().unwrap();
                match state {
                    State::Leads => Ok(Opened { way: kind, address: kind.to_owned(), ..road.gateway.open().await }),
                    State::Refuses => Err(WayError::new(Stage::Tcp, WayCode::Refused, Cause::Said("refused"))),
                    State::Silent => std::future::pending().await,
                }
            })
        };
        Arc::new(Candidate::with(kind, kind.to_owned(), bench.care().actor, open))
    }
}

/// Keeps one place filled by these ways.
fn keeping(bench: &Bench, ways: Vec<Arc<Candidate>>) -> tokio::sync::watch::Sender<Ways> {
    let (publish, ways) = tokio::sync::watch::channel(Ways::from(ways));
    bench.context.shutdown.spawn(keep(bench.care(), ways));
    publish
}

/// Keeps one place filled from `gateway`, noting when it dials.
fn kept(bench: &Bench, gateway: &Gateway) -> Dials {
    let road = Road::new(gateway, State::Leads);
    keeping(bench, vec![road.candidate(bench, "direct")]);
    road.dials
}

/// The ways of the tunnels in the pool.
fn on(bench: &Bench) -> Vec<&'static str> {
    bench.tunnels.live().iter().map(|tunnel| tunnel.way).collect()
}

#[tokio::test(start_paused = true)]
async fn the_next_way_is_tried_at_once_when_one_fails() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let (direct, relay) = (Road::new(&gateway, State::Refuses), Road::new(&gateway, State::Leads));
    let began = tokio::time::Instant::now();
    keeping(&bench, vec![direct.candidate(&bench, "direct"), relay.candidate(&bench, "relay")]);
    until("it is up", || on(&bench) == ["relay"]).await;
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    assert!(bench.tunnels.explain_absence().contains("C201"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_way_holds_up_the_next_one_for_a_moment_only() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let silent = [Road::new(&gateway, State::Silent), Road::new(&gateway, State::Silent)];
    let relay = Road::new(&gateway, State::Leads);
    let ways = [&silent[0], &silent[1], &relay].map(|road| road.candidate(&bench, "any")).to_vec();
    let began = tokio::time::Instant::now();
    keeping(&bench, ways);
    // Whoever waits for a tunnel meanwhile gets this one.
    bench.tunnels.open(tcp_open).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 2 * choose::HEAD_START.as_secs());
}

#[tokio::test(start_paused = true)]
async fn fail_over_goes_from_relay_to_relay_and_comes_back_without_a_gap() {
    let bench = Bench::new();
    let (gateway, mut calls) = Gateway::new(&bench.context);
    let roads = ["direct", "relay-1", "relay-2"].map(|_| Road::new(&gateway, State::Refuses));
    let names = ["direct", "relay-1", "relay-2"];
    let ways = roads.iter().zip(names).map(|(road, name)| road.candidate(&bench, name)).collect();
    roads[2].is(State::Leads);
    keeping(&bench, ways);
    until("the last way is taken", || on(&bench) == ["relay-2"]).await;
    let mut kept = bench.tunnels.open(tcp_open).await.unwrap();
    let mut serving = soon("the call arrives", calls.recv()).await.unwrap();
    opening(&mut serving).await;

    roads[0].is(State::Leads);
    let was_down = Arc::new(AtomicUsize::new(0));
    let watching = async {
        while on(&bench) != ["direct"] {
            if bench.tunnels.up() == 0 {
                was_down.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let back = tokio::time::timeout(Duration::from_secs(91), watching).await;
    assert!(back.is_ok(), "still on {:?}", on(&bench));
    assert_eq!(was_down.load(Ordering::Relaxed), 0);
    serving.sender.message(crate::connect::fake::connected()).await.unwrap();
    assert!(soon("the old stream goes on", kept.receiver.next()).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_better_way_that_stays_away_is_tried_less_and_less_often() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let (direct, relay) = (Road::new(&gateway, State::Refuses), Road::new(&gateway, State::Leads));
    keeping(&bench, vec![direct.candidate(&bench, "direct"), relay.candidate(&bench, "relay")]);
    until("it is up", || on(&bench) == ["relay"]).await;
    tokio::time::sleep(Duration::from_secs(50 * 60)).await;
    // Half of each interval on average, and never sooner than half a minute after the last try.
    assert!((3..30).contains(&direct.dials()), "{} tries", direct.dials());
    assert!(direct.dials.lock().unwrap().windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(30)));
    // The worse way was never given up for it.
    assert_eq!(relay.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_way_out_of_the_configuration_is_left_for_another_and_one_that_stays_is_kept() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let roads = ["direct", "relay"].map(|_| Road::new(&gateway, State::Leads));
    let (direct, relay) = (roads[0].candidate(&bench, "direct"), roads[1].candidate(&bench, "relay"));
    let configure = keeping(&bench, vec![Arc::clone(&direct)]);
    until("it is up", || on(&bench) == ["direct"]).await;
    configure.send_replace(Ways::from([Arc::clone(&direct), Arc::clone(&relay)]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((roads[0].dials(), roads[1].dials()), (1, 0), "a new way besides changes nothing");
    configure.send_replace(Ways::from([relay]));
    until("the other way is taken", || on(&bench) == ["relay"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_way_out_of_the_configuration_is_left_even_if_no_other_leads() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let (direct, relay) = (Road::new(&gateway, State::Leads), Road::new(&gateway, State::Silent));
    let configure = keeping(&bench, vec![direct.candidate(&bench, "direct")]);
    until("it is up", || bench.tunnels.up() == 1).await;
    configure.send_replace(Ways::from([relay.candidate(&bench, "relay")]));
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(on(&bench), ["direct"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(on(&bench).is_empty());
}

#[tokio::test(start_paused = true)]
async fn ways_that_are_configured_while_none_leads_are_tried_at_once() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let (direct, relay) = (Road::new(&gateway, State::Silent), Road::new(&gateway, State::Leads));
    let configure = keeping(&bench, vec![direct.candidate(&bench, "direct")]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    configure.send_replace(Ways::from([relay.candidate(&bench, "relay")]));
    let asked = tokio::time::Instant::now();
    until("it is up", || on(&bench) == ["relay"]).await;
    assert!(asked.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_lost_tunnel_is_replaced() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    for round in 1..=5 {
        until("it is up", || bench.tunnels.up() == 1 && gateway.opened.load(Ordering::Relaxed) == round).await;
        gateway.kill();
        until("it is gone or replaced", || gateway.opened.load(Ordering::Relaxed) > round || bench.tunnels.up() == 0)
            .await;
    }
    assert!(dials.lock().unwrap().len() >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_has_gone_without_a_word_is_found_out_and_replaced_within_thirty_seconds() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let mut stream = bench.tunnels.open(tcp_open).await.unwrap();
    let gone = tokio::time::Instant::now();
    gateway.freeze();
    let failure = stream.receiver.next().await.unwrap().unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::TunnelLost, Reached::Maybe));
    until("its replacement is up", || dials.lock().unwrap().len() == 2 && bench.tunnels.up() == 1).await;
    assert!(gone.elapsed() < Duration::from_secs(30), "{:?}", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_healthy_tunnel_that_drains_is_replaced_at_once() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = tokio::time::Instant::now();
    gateway.drain();
    until("its replacement is dialled", || dials.lock().unwrap().len() == 2).await;
    assert!(dials.lock().unwrap()[1] - asked < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_whose_relay_goes_takes_streams_until_another_is_up() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let road = Road::new(&gateway, State::Leads);
    keeping(&bench, vec![road.candidate(&bench, "relay")]);
    until("it is up", || bench.tunnels.up() == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let first = bench.tunnels.live()[0].id;
    road.is(State::Refuses);
    gateway.notice();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(road.dials() > 1, "another is looked for");
    assert_eq!(bench.tunnels.open(tcp_open).await.unwrap().tunnel.id, first);
    road.is(State::Leads);
    until("it has been replaced", || bench.tunnels.up() == 1 && bench.tunnels.live()[0].id != first).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_replaced_within_its_hour_without_a_gap() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    let began = tokio::time::Instant::now();
    while dials.lock().unwrap().len() == 1 {
        assert!(bench.tunnels.up() >= 1);
        assert!(began.elapsed() <= Duration::from_secs(60 * 60 + 1), "it is as old as it may be");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(54 * 60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn endless_drain_notices_cause_no_storm_of_dials() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        gateway.notice();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = dials.lock().unwrap().len();
    assert!((2..40).contains(&count), "{count} dials in a minute of notices");
}

#[tokio::test(start_paused = true)]
async fn the_actor_is_renewed_before_its_proof_ends() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let _dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    tokio::time::sleep(ACTOR_LIFE / 100 * 69).await;
    assert_eq!(gateway.described.load(Ordering::Relaxed), 0);
    tokio::time::sleep(ACTOR_LIFE / 100 * 2).await;
    until("it is renewed", || gateway.described.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_actor_is_renewed_early() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    let stream = bench.tunnels.open(tcp_open).await.unwrap();
    stream.tunnel.renew_actor();
    until("it is renewed", || gateway.described.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn keepers_and_tunnels_end_when_they_are_stopped() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let _dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    bench.stop.cancel();
    until("it is gone", || bench.tunnels.up() == 0).await;
}

#[tokio::test]
async fn a_refusal_of_the_gateway_is_not_tried_again() {
    let bench = Bench::new();
    let (gateway, mut calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    let mut stream = bench.tunnels.open(tcp_open).await.unwrap();
    let refused = Failure::before_target(Code::PolicyDenied, "no rule");
    fail(soon("the call arrives", calls.recv()).await.unwrap(), &refused);
    assert_eq!(soon("it fails", stream.receiver.next()).await.unwrap().unwrap_err(), refused);
    assert!(calls.try_recv().is_err());
}
