//! The audit stream: everything that was let through or refused is in it, and nothing happens without, where it must not.

use std::io::BufReader;

use proto::tunnel::failure::{Code, Reached};
use serde_json::Value;

use crate::support::{Setup, World, fetch, get, rules, targets::Target};

fn lines(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.path("audit.jsonl")).unwrap();
    // The last line may be half written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn grants_refusals_and_policies_are_written_into_one_whole_chain_without_a_secret() {
    let target = Target::http().await;
    let setup = Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "audit: { file: audit.jsonl, required: true }",
    };
    let world = World::start(setup).await;
    let tunnel = world.held().await;
    let (alice, bob) = (world.token("alice"), world.token("bob"));
    fetch(&tunnel, &alice, get(target.address, "/v1/x?token=secret")).await.unwrap();
    // What is granted is written before it is done, so it is there now.
    let granted = lines(&world);
    let line = granted.iter().find(|line| line["asked"] == "http").unwrap();
    assert_eq!(line["kind"], "granted");
    assert_eq!((&line["subject"], &line["actor"]), (&"corp/alice".into(), &"corp/connector".into()));
    assert_eq!((&line["method"], &line["path"], &line["rule"]), (&"GET".into(), &"/v1/x".into(), &"scoring".into()));
    assert_eq!(granted[1]["kind"], "policy");
    fetch(&tunnel, &bob, get(target.address, "/v1/x")).await.unwrap_err();
    // The next grant is confirmed behind the refusal.
    fetch(&tunnel, &alice, get(target.address, "/v1/x")).await.unwrap();
    let all = lines(&world);
    let refused = all.iter().find(|line| line["kind"] == "refused").unwrap();
    assert_eq!((&refused["subject"], &refused["code"]), (&"corp/bob".into(), &"policy_denied".into()));
    assert!(refused["reason"].as_str().unwrap().contains("lacks this subject"), "{refused}");
    let file = std::fs::File::open(world.path("audit.jsonl")).unwrap();
    assert_eq!(daemon::audit::verify(BufReader::new(file)).unwrap().lines, all.len() as u64);
    let text = std::fs::read_to_string(world.path("audit.jsonl")).unwrap();
    for secret in [alice.expose(), bob.expose(), "token=secret"] {
        assert!(!text.contains(secret));
    }
}

#[tokio::test]
async fn nothing_is_let_through_while_a_required_audit_line_cannot_be_written() {
    let target = Target::http().await;
    let targets = [("scorer.models.svc", target.address)];
    let setup = |more| Setup { rules: rules(target.address), targets: &targets, more };
    let world = World::start(setup("audit: { file: audit.jsonl, required: true }")).await;
    let tunnel = world.held().await;
    std::fs::rename(world.path("audit.jsonl"), world.path("old")).unwrap();
    std::fs::create_dir(world.path("audit.jsonl")).unwrap();
    let failure = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::AuditUnavailable, Reached::No));
    assert_eq!(target.count(), 0);
    std::fs::remove_dir(world.path("audit.jsonl")).unwrap();
    fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();

    let world = World::start(setup("audit: { file: audit.jsonl }")).await;
    let tunnel = world.held().await;
    // Lines that nobody waits for: `begun`, the policy, and that the connector may describe.
    while lines(&world).len() < 3 {
        tokio::task::yield_now().await;
    }
    std::fs::rename(world.path("audit.jsonl"), world.path("old")).unwrap();
    std::fs::create_dir(world.path("audit.jsonl")).unwrap();
    fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
}
