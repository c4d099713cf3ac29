//! Fair shares: what one principal may have, and what whoever wants more is told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::ca::Authority;
use proto::tunnel::{
    client::{Client, Sender},
    failure::{Code, Failure, Reached},
    pb::{Fin, ForwardResponse},
    receive::{Part, Receiver},
};
use tokio::time::timeout;

use crate::support::{
    Beside, PATIENCE, Setup, World, actor, fetch, get, leaf, logs::Lines, open_http, post, receive, rules, subject,
    targets::Target,
};

async fn world(target: &Target, limits: &str) -> World {
    let both = rules(target.address).replace("subjects: [alice]", "subjects: [alice, bob]");
    let more = format!("limits: {{ {limits} }}");
    World::start(Setup { rules: both, targets: &[("scorer.models.svc", target.address)], more: &more }).await
}

/// An open stream; the target has its head.
async fn running(
    tunnel: &Client,
    world: &World,
    target: &Target,
    who: &str,
) -> Result<(Sender, Receiver<ForwardResponse>), Failure> {
    let open = open_http(post(target.address, "/v1/echo"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token(who)), open).await?;
    sender.data(Bytes::from_static(b"a")).await?;
    timeout(PATIENCE, receiver.next()).await.expect("an answer comes").unwrap()?;
    Ok((sender, receiver))
}

fn refused(outcome: Result<impl Sized, Failure>) -> String {
    let failure = outcome.err().expect("it is refused");
    assert_eq!((failure.code, failure.reached), (Code::LimitReached, Reached::No), "{failure}");
    failure.message
}

#[tokio::test]
async fn a_subject_has_as_many_streams_as_the_limit_says_and_one_more_when_one_ends() {
    let target = Target::http().await;
    let world = world(&target, "per_subject: { streams: 2 }").await;
    let tunnel = world.held().await;
    let first = running(&tunnel, &world, &target, "alice").await.unwrap();
    let _second = running(&tunnel, &world, &target, "alice").await.unwrap();
    assert_eq!(
        refused(running(&tunnel, &world, &target, "alice").await),
        "limits.per_subject.streams is 2, and corp/alice has 2; retry after 1 s"
    );
    running(&tunnel, &world, &target, "bob").await.expect("another subject has a limit of its own");
    let (mut sender, mut receiver) = first;
    sender.fin(Fin::default()).await.unwrap();
    receive(&mut receiver).await.unwrap();
    // The place is given back when the gateway has put the stream away, just after its last byte.
    let again = async {
        while let Err(failure) = running(&tunnel, &world, &target, "alice").await {
            assert_eq!(failure.code, Code::LimitReached);
        }
    };
    timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn an_actors_limit_counts_all_subjects_on_its_tunnels() {
    let target = Target::http().await;
    let world = world(&target, "per_actor: { streams: 2 }").await;
    let (one, two) = (world.held().await, world.held().await);
    let _streams =
        (running(&one, &world, &target, "alice").await.unwrap(), running(&two, &world, &target, "bob").await.unwrap());
    assert_eq!(
        refused(running(&one, &world, &target, "bob").await),
        "limits.per_actor.streams is 2, and corp/connector has 2; retry after 1 s"
    );
}

#[tokio::test]
async fn an_actor_has_as_many_tunnels_as_the_limit_says() {
    let target = Target::http().await;
    let world = world(&target, "per_actor: { tunnels: 2 }").await;
    let (first, _second) = (world.held().await, world.held().await);
    let third = world.tunnel().await;
    let describe = || third.describe(actor(&world.token("connector")));
    let message = refused(describe().await);
    assert_eq!(message, "limits.per_actor.tunnels is 2, and corp/connector has 2; retry after 1 s");
    // Bound or not, it serves nobody until there is room.
    refused(fetch(&third, &world.token("alice"), get(target.address, "/v1/x")).await);
    drop(first);
    timeout(PATIENCE, async { while describe().await.is_err() {} }).await.expect("there is room again");
    fetch(&third, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
}

/// As [`world`], with a file in its folder and more of `listen`.
async fn world_beside(target: &Target, limits: &str, beside: Beside<'_>) -> World {
    let more = format!("limits: {{ {limits} }}\ndeny: deny.yaml");
    let setup = Setup { rules: rules(target.address), targets: &[("scorer.models.svc", target.address)], more: &more };
    World::start_beside(setup, beside).await
}

#[tokio::test]
async fn a_tunnel_counts_for_whoever_uses_it_first_while_no_actor_is_bound() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = world(&target, "per_actor: { tunnels: 1 }").await;
    let (first, second) = (world.tunnel().await, world.tunnel().await);
    let ask = async |tunnel: &Client, who: &str| fetch(tunnel, &world.token(who), get(target.address, "/v1/x")).await;
    ask(&first, "alice").await.unwrap();
    ask(&first, "bob").await.expect("others may use a tunnel that has its place");
    let message = refused(ask(&second, "alice").await);
    assert_eq!(message, "limits.per_actor.tunnels is 1, and corp/alice has 1; retry after 1 s");
    ask(&world.tunnel().await, "bob").await.expect("it is not bob's tunnel that he was on before");
    tokio::time::pause();
    second.closed().await;
    let ended = lines.access("tunnel").into_iter().map(|line| line["ended"].as_str().unwrap().to_owned());
    let reason = "nobody had a place for it: limits.per_actor.tunnels is 1, and corp/alice has 1; retry after 1 s";
    assert!(ended.collect::<Vec<_>>().contains(&reason.to_owned()), "{}", lines.text());
}

#[tokio::test]
async fn an_actor_that_is_bound_later_needs_a_place_of_its_own() {
    let target = Target::http().await;
    let world = world(&target, "per_actor: { tunnels: 1 }").await;
    let _held = world.held().await;
    let tunnel = world.tunnel().await;
    fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
    refused(tunnel.describe(actor(&world.token("connector"))).await);
    refused(fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await);
    let another = world.tunnel().await;
    refused(fetch(&another, &world.token("alice"), get(target.address, "/v1/x")).await);
}

#[tokio::test]
async fn a_certificate_takes_its_place_before_anything_is_sent() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let authority = Authority::generate("clients", Duration::from_secs(3600)).unwrap();
    let beside = Beside {
        files: &[("clients.pem", &authority.certificate), ("deny.yaml", "subjects: []")],
        listen: ", client_ca: clients.pem",
        ..Beside::default()
    };
    let world = world_beside(&target, "per_actor: { tunnels: 1 }", beside).await;
    let certificate = leaf(&authority, "spiffe://corp/one");
    let first = world.tunnel_showing(Some(&certificate)).await;
    let second = world.tunnel_showing(Some(&certificate)).await;
    tokio::time::pause();
    second.closed().await;
    assert!(first.is_open());
    let ended = lines.access("tunnel")[0]["ended"].clone();
    let who = "mtls/spiffe://corp/one";
    let reason = format!("nobody had a place for it: limits.per_actor.tunnels is 1, and {who} has 1; retry after 1 s");
    assert_eq!(ended, reason);
}

#[tokio::test]
async fn whoever_is_denied_holds_no_tunnel() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let beside = Beside { files: &[("deny.yaml", "subjects: [corp/alice]")], ..Beside::default() };
    let world = world_beside(&target, "tunnels: 1000", beside).await;
    let tunnel = world.tunnel().await;
    let token = world.token("alice");
    let failure = fetch(&tunnel, &token, get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied);
    assert!(failure.message.contains("corp/alice is on the cluster owner's deny list"), "{failure}");
    tokio::time::pause();
    tunnel.closed().await;
    let ended = lines.access("tunnel")[0]["ended"].clone();
    assert_eq!(ended, "nobody had a place for it: corp/alice is on the cluster owner's deny list");
}

#[tokio::test]
async fn a_tunnel_that_only_the_denied_used_is_ended() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let beside = Beside { files: &[("deny.yaml", "subjects: []")], ..Beside::default() };
    let world = world_beside(&target, "tunnels: 1000", beside).await;
    let (alone, shared) = (world.tunnel().await, world.tunnel().await);
    for tunnel in [&alone, &shared] {
        fetch(tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
    }
    shared.describe(subject(&world.token("connector"))).await.unwrap();
    world.write("deny.yaml", "subjects: [corp/alice]");
    timeout(PATIENCE, alone.closed()).await.expect("the tunnel ends");
    let ended = lines.access("tunnel")[0]["ended"].clone();
    assert_eq!(ended, "corp/alice is on the cluster owner's deny list");
    shared.describe(subject(&world.token("connector"))).await.expect("it serves others, too");
}

#[tokio::test]
async fn new_streams_have_a_rate_and_the_refusal_says_when_to_come_again() {
    let target = Target::http().await;
    let world = world(&target, "per_subject: { streams_per_second: 3 }").await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let begin = Instant::now();
    let mut served = 0_u32;
    let message = loop {
        match fetch(&tunnel, &token, get(target.address, "/v1/x")).await {
            Ok(_) => served += 1,
            Err(failure) => break refused(Err::<(), _>(failure)),
        }
    };
    // Three at once, and as many more as the time has brought.
    assert!(served >= 3 && f64::from(served) <= 3.0 + 3.0 * begin.elapsed().as_secs_f64(), "{served}");
    assert_eq!(message, "limits.per_subject.streams_per_second is 3, and corp/alice has 3; retry after 1 s");
    fetch(&tunnel, &world.token("bob"), get(target.address, "/v1/x")).await.expect("others are not held up");
}

#[tokio::test]
async fn whoever_moves_more_bytes_than_its_rate_is_slowed_down_and_others_are_not() {
    let target = Target::http().await;
    let world = world(&target, "per_subject: { bytes_per_second: 256Ki }").await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = running(&tunnel, &world, &target, "alice").await.unwrap();
    let begin = Instant::now();
    // Out and back, it is twice as much: a second's worth at once, and the rest takes its time.
    let size = 512 * 1024;
    let upload = async {
        for _ in 0..size / 65_536 {
            sender.data(Bytes::from(vec![7; 65_536])).await.unwrap();
        }
        sender.fin(Fin::default()).await.unwrap();
    };
    let download = async {
        let mut came = 0;
        let mut refusal = None;
        while let Some(part) = timeout(PATIENCE, receiver.next()).await.expect("it goes on") {
            if let Part::Data(data) = part.unwrap() {
                came += data.len();
                receiver.taken(data.len());
            }
            if came >= size / 2 && refusal.is_none() {
                fetch(&tunnel, &world.token("bob"), get(target.address, "/v1/x"))
                    .await
                    .expect("others are not held up");
                refusal = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.err();
            }
        }
        (came, refusal)
    };
    let ((), (came, refusal)) = tokio::join!(upload, download);
    assert!(came >= size, "nothing is lost: {came}");
    let at_least = Duration::from_secs_f64((2 * size) as f64 / (256.0 * 1024.0) - 2.0);
    assert!(begin.elapsed() >= at_least, "{:?}", begin.elapsed());
    let message = refused(Err::<(), _>(refusal.expect("in debt, nothing new is opened")));
    assert!(message.starts_with("limits.per_subject.bytes_per_second is 262144, and corp/alice has"), "{message}");
}

#[tokio::test]
async fn nobody_has_more_than_a_quarter_once_half_of_all_streams_are_taken() {
    let target = Target::http().await;
    let world = world(&target, "streams: 8").await;
    let tunnel = world.tunnel().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(running(&tunnel, &world, &target, "alice").await.expect("half is free to whoever comes"));
    }
    assert_eq!(
        refused(running(&tunnel, &world, &target, "alice").await),
        "a caller's share of limits.streams while half of them are taken is 2, and corp/alice has 4; retry after 1 s"
    );
    for _ in 0..2 {
        held.push(running(&tunnel, &world, &target, "bob").await.expect("a quarter is everybody's"));
    }
    refused(running(&tunnel, &world, &target, "bob").await);
}
