//! What the pieces cost that every byte or every stream goes through. Compiled with the tests, run by hand:
//! `cargo bench -p causeway-tests --bench pieces`.
#![expect(clippy::unwrap_used, reason = "a bench is a program, and fails by panicking")]

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use causeway_tests::tokens::{ISSUER, Issuer};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use daemon::{clock::SystemClock, shutdown::Shutdown};
use gateway::policy::{Ask, Host, Party, PolicyFile, Question, Setting, compile};
use http::HeaderMap;
use identity::jwt::{AuthenticatorConfig, Authenticators};
use proto::{
    tunnel::{client, pb, receive::Part, server, settings::Settings},
    ws::{
        Role,
        frame::{Decoder, Event, Header, Opcode},
    },
};
use tokio::{runtime::Runtime, task::JoinSet};

/// Payload of a full frame as tunnels send it.
const FRAME: usize = 64 * 1024;

/// A masked frame decoded, and so unmasked in place; and a header written.
fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("websocket");
    let header = Header { fin: true, opcode: Opcode::Binary, mask: Some([1, 2, 3, 4]), len: FRAME as u64 };
    let mut head = [0; 14];
    let length = header.encode(&mut head);
    let mut frame = BytesMut::from(&head[..length]);
    frame.resize(length + FRAME, 7);
    group.throughput(Throughput::Bytes(FRAME as u64));
    group.bench_function("decode and unmask 64 KiB", |b| {
        b.iter_batched(
            || frame.clone(),
            |mut input| {
                let mut decoder = Decoder::new(Role::Server);
                let mut payload = 0;
                while let Some(event) = decoder.next(&mut input).unwrap() {
                    if let Event::Payload { bytes, .. } = event {
                        payload += black_box(bytes).len();
                    }
                }
                assert_eq!(payload, FRAME);
            },
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode a header", |b| b.iter(|| black_box(header).encode(&mut head)));
    group.finish();
}

/// A verdict from the cache, and a verification.
fn tokens(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (folder, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
    let issuer = Issuer::new("causeway://bench");
    std::fs::write(folder.path().join("jwks.json"), issuer.jwks()).unwrap();
    let config: AuthenticatorConfig = serde_json::from_value(serde_json::json!({
        "issuer": ISSUER, "audience": "causeway://bench", "jwks": { "file": "jwks.json" },
    }))
    .unwrap();
    let all = BTreeMap::from([("bench".to_owned(), config)]);
    let verifier =
        runtime.block_on(Authenticators::start(&all, folder.path(), Arc::new(SystemClock), &shutdown)).unwrap();
    let token = issuer.valid();
    let mut group = c.benchmark_group("token");
    group.bench_function("verdict from the cache", |b| {
        b.iter(|| runtime.block_on(verifier.verify(black_box(&token))).unwrap());
    });
    group.bench_function("ES256 verification", |b| {
        // Each token is new to the cache.
        let mut number = 0_u64;
        b.iter_batched(
            || {
                number += 1;
                issuer.with("jti", serde_json::json!(number))
            },
            |token| runtime.block_on(verifier.verify(&token)).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Messages through a whole tunnel in memory, and a stream opened and ended.
fn tunnel(c: &mut Criterion) {
    const CHUNK: usize = proto::limits::DATA_SENT_MAX;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("tunnel");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("one data message", |b| {
        b.iter_custom(|messages| runtime.block_on(time_stream(messages, Bytes::from(vec![7; CHUNK]))));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("one stream", |b| {
        b.iter_custom(|streams| {
            runtime.block_on(async {
                let (client, mut tasks) = pair().await;
                let start = Instant::now();
                for _ in 0..streams {
                    stream(&client, 0, Bytes::new()).await;
                }
                let took = start.elapsed();
                tasks.shutdown().await;
                took
            })
        });
    });
    group.finish();
}

async fn time_stream(messages: u64, payload: Bytes) -> Duration {
    let (client, mut tasks) = pair().await;
    let start = Instant::now();
    stream(&client, messages, payload).await;
    let took = start.elapsed();
    tasks.shutdown().await;
    took
}

/// One stream with so many messages, to its end on both sides.
async fn stream(client: &client::Client, messages: u64, payload: Bytes) {
    let tcp = pb::TcpTarget { host: "bench.test".to_owned(), port: 1 };
    let open = pb::Open { target: Some(pb::open::Target::Tcp(tcp)), hops: 0 };
    let (mut sender, mut receiver) = client.forward(HeaderMap::new(), open).await.unwrap();
    for _ in 0..messages {
        sender.data(payload.clone()).await.unwrap();
    }
    sender.fin(pb::Fin::default()).await.unwrap();
    while let Some(part) = receiver.next().await {
        part.unwrap();
    }
}

/// A tunnel over memory whose server takes everything.
async fn pair() -> (client::Client, JoinSet<()>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut server = server::accept(far, Settings::default()).await.unwrap();
        let mut streams = JoinSet::new();
        while let Some(Ok(call)) = server.next().await {
            if let server::Call::Forward(forward) = call {
                streams.spawn(take(forward));
            }
            while streams.try_join_next().is_some() {}
        }
    });
    let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
    tasks.spawn(async move { drop(driver.await) });
    (client, tasks)
}

async fn take(mut forward: server::Forward) {
    while let Some(part) = forward.receiver.next().await {
        match part.unwrap() {
            Part::Data(bytes) => forward.receiver.taken(bytes.len()),
            Part::Message(message) if matches!(message.part, Some(pb::forward_request::Part::Fin(_))) => break,
            Part::Message(_) => {}
        }
    }
    forward.sender.fin(pb::Fin::default()).await.unwrap();
    forward.sender.finish();
}

/// A decision among a hundred rules: the last one grants, and none does.
fn policy(c: &mut Criterion) {
    let rules: Vec<_> = (0..100)
        .map(|number| {
            serde_json::json!({
                "name": format!("rule-{number}"),
                "who": { "authenticator": "bench", "subjects": [format!("caller-{number}")] },
                "http": { "hosts": ["*.models.svc"], "ports": [80], "methods": ["GET", "POST"], "paths": ["/v1/**"] },
            })
        })
        .collect();
    let file: PolicyFile = serde_json::from_value(serde_json::json!({ "rules": rules })).unwrap();
    let at = SystemTime::now();
    let authenticators = BTreeMap::from([("bench".to_owned(), Vec::new())]);
    let setting = Setting { authenticators, domain: "cluster.local".to_owned() };
    let policy = compile(&file, &setting, at).unwrap();
    let host: Host = "scorer.models.svc".parse().unwrap();
    let question = |subject| {
        let party = Party::named("bench", subject, &[]);
        let ask = Ask::Http { host: &host, port: 80, method: "GET", path: "/v1/score?x=1", upgrade: None };
        Question { subject: party, actor: party, ask, external: false, at }
    };
    let mut group = c.benchmark_group("policy of 100 rules");
    group.bench_function("the last one grants", |b| {
        b.iter(|| assert!(policy.decide(black_box(&question("caller-99"))).is_ok()));
    });
    group.bench_function("none grants", |b| {
        b.iter(|| assert!(policy.decide(black_box(&question("stranger"))).is_err()));
    });
    group.finish();
}

criterion_group!(pieces, frames, tokens, tunnel, policy);
criterion_main!(pieces);
