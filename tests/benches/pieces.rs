//! What the pieces cost that every byte or every stream goes through. Compiled with the tests, run by hand:
//! `cargo bench -p causeway-tests --bench pieces`.
#![expect(missing_docs, clippy::unwrap_used, reason = "a bench is a program, and fails by panicking")]

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use bytes::{Bytes, BytesMut};
use causeway_tests::tokens::{ISSUER, Issuer};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use daemon::{clock::SystemClock, shutdown::Shutdown};
use identity::jwt::{AuthenticatorConfig, Authenticators};
use proto::ws::{
    Role,
    frame::{Decoder, Event, Header, Opcode},
};
use tokio::runtime::Runtime;

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
    let verifier = runtime.block_on(Authenticators::start(&all, folder.path(), Arc::new(SystemClock), &shutdown)).unwrap();
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

criterion_group!(pieces, frames, tokens);
criterion_main!(pieces);
