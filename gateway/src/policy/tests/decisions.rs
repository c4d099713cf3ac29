//! What is granted, what is not, and what the refusal says.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::policy;
use crate::policy::{Ask, Host, Party, Policy, Question, decide::Why, file::Upgrade};

const RULES: &str = r#"
rules:
  - name: scoring
    who: { authenticator: entra, subjects: [alice] }
    http: { hosts: ["*.models.svc"], ports: [80], methods: [GET, POST], paths: [/v1/**, /score] }
  - name: notebooks
    who: { authenticator: entra, groups: [scientists] }
    http: { hosts: [hub.jupyter.svc], ports: [8000], upgrade: [websocket] }
  - name: database
    who: { authenticator: entra, subjects: [alice] }
    tcp: { hosts: [postgres.db.svc], ports: [5432] }
  - name: held-by-connector
    who: { authenticator: entra, subjects: [carol], actor: { authenticator: kube, subjects: [connector] } }
    http: { hosts: [held.svc], ports: [80] }
  - name: outside
    who: { authenticator: entra, subjects: ["*"] }
    http: { hosts: [api.example.com], ports: [80] }
    external: true
  - name: sockets
    who: { authenticator: entra, subjects: [alice] }
    unix: { names: [docker] }
  - name: connectors
    who: { authenticator: kube, subjects: [connector] }
    describe: {}
  - name: emergency
    who: { authenticator: entra, subjects: [dave] }
    tcp: { hosts: [postgres.db.svc], ports: [5433] }
    until: 1970-01-01T01:00:00Z
    reason: ticket 4711
"#;

struct Case {
    subject: &'static str,
    actor: &'static str,
    groups: Vec<String>,
    external: bool,
    at: u64,
}

impl Case {
    fn of(subject: &'static str) -> Self {
        Self { subject, actor: subject, groups: Vec::new(), external: false, at: 0 }
    }

    /// The rule that grants it, or the refusal's text.
    fn ask(&self, policy: &Policy, ask: Ask<'_>) -> Result<String, String> {
        let party = |text: &'static str| {
            let (authenticator, subject) = text.split_once('/').expect("authenticator/subject");
            Party::named(authenticator, subject, &self.groups)
        };
        let question = Question {
            subject: party(self.subject),
            actor: party(self.actor),
            ask,
            external: self.external,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(self.at),
        };
        policy.decide(&question).map(|rule| rule.name().to_string()).map_err(|denial| denial.to_string())
    }

    fn http(&self, method: &str, host: &str, port: u16, path: &str) -> Result<String, String> {
        let host: Host = host.parse().unwrap();
        self.ask(&policy(RULES), Ask::Http { host: &host, port, method, path, upgrade: None })
    }

    fn tcp(&self, host: &str, port: u16) -> Result<String, String> {
        let host: Host = host.parse().unwrap();
        self.ask(&policy(RULES), Ask::Tcp { host: &host, port })
    }
}

#[test]
fn a_rule_grants_what_it_names_and_nothing_else() {
    let alice = Case::of("entra/alice");
    for (method, host, port, path, granted) in [
        ("GET", "scorer.models.svc", 80, "/v1/x", true),
        ("GET", "scorer.models.svc", 80, "/v1/x?q=/../../%2f", true),
        ("POST", "other.models.svc", 80, "/score", true),
        ("DELETE", "scorer.models.svc", 80, "/v1/x", false),
        ("get", "scorer.models.svc", 80, "/v1/x", false),
        ("GET", "scorer.models.svc", 81, "/v1/x", false),
        ("GET", "scorer.models.svc", 80, "/v2/x", false),
        ("GET", "scorer.models.svc", 80, "/", false),
        ("GET", "scorer.other.svc", 80, "/v1/x", false),
        ("GET", "models.svc", 80, "/v1/x", false),
        ("GET", "10.0.0.1", 80, "/v1/x", false),
    ] {
        assert_eq!(alice.http(method, host, port, path).is_ok(), granted, "{method} {host}:{port}{path}");
    }
}

#[test]
fn the_same_subject_of_another_authenticator_is_somebody_else() {
    let refusal = Case::of("kube/alice").http("GET", "scorer.models.svc", 80, "/v1/x").unwrap_err();
    assert_eq!(
        refusal,
        "no rule for kube/alice GET scorer.models.svc:80 /v1/x; nearest: rule \"scoring\" lacks this subject"
    );
}

#[test]
fn the_refusal_names_the_nearest_rule_and_everything_it_lacks() {
    let refusal = Case::of("entra/alice").http("DELETE", "scorer.models.svc", 80, "/v2/x?token=secret").unwrap_err();
    assert_eq!(
        refusal,
        "no rule for entra/alice DELETE scorer.models.svc:80 /v2/x; nearest: rule \"scoring\" lacks this method, this path"
    );
    let empty = policy("rules: []");
    let refusal = empty.decide(&Question {
        subject: Party::named("a", "b", &[]),
        actor: Party::named("c", "d", &[]),
        ask: Ask::Describe,
        external: false,
        at: SystemTime::UNIX_EPOCH,
    });
    assert_eq!(
        refusal.unwrap_err().to_string(),
        "no rule for a/b (through c/d) describe; no rule grants this kind at all"
    );
}

#[test]
fn http_does_not_grant_tcp_nor_the_other_way_round() {
    let alice = Case::of("entra/alice");
    assert!(alice.tcp("scorer.models.svc", 80).is_err());
    assert!(alice.http("GET", "postgres.db.svc", 5432, "/").is_err());
    assert_eq!(alice.tcp("postgres.db.svc", 5432).unwrap(), "database");
}

#[test]
fn a_socket_is_granted_by_its_exact_name_and_by_no_other_kind() {
    let rules = policy(RULES);
    let alice = Case::of("entra/alice");
    assert_eq!(alice.ask(&rules, Ask::Unix { name: "docker" }).unwrap(), "sockets");
    assert_eq!(
        alice.ask(&rules, Ask::Unix { name: "Docker" }).unwrap_err(),
        "no rule for entra/alice unix Docker; nearest: rule \"sockets\" lacks this socket"
    );
    assert!(Case::of("entra/bob").ask(&rules, Ask::Unix { name: "docker" }).is_err());
}

#[test]
fn being_in_one_group_is_enough_and_in_none_is_not() {
    let mut bob = Case::of("entra/bob");
    assert!(bob.http("GET", "hub.jupyter.svc", 8000, "/").is_err());
    bob.groups = vec!["others".to_owned(), "scientists".to_owned()];
    assert_eq!(bob.http("DELETE", "hub.jupyter.svc", 8000, "/any//../thing").unwrap(), "notebooks");
}

#[test]
fn an_upgrade_is_a_permission_of_its_own() {
    let host: Host = "hub.jupyter.svc".parse().unwrap();
    let mut bob = Case::of("entra/bob");
    bob.groups = vec!["scientists".to_owned()];
    let ask = |upgrade| Ask::Http { host: &host, port: 8000, method: "GET", path: "/", upgrade };
    assert!(bob.ask(&policy(RULES), ask(Some(Upgrade::Websocket))).is_ok());
    assert!(bob.ask(&policy(RULES), ask(Some(Upgrade::Spdy))).unwrap_err().ends_with("lacks this upgrade"));
}

#[test]
fn ambiguous_paths_are_refused_only_where_paths_are_limited() {
    let alice = Case::of("entra/alice");
    for path in ["/v1/../admin", "/v1//x", "/v1/%2e%2e/x", "/v1/x;y", "/v1/%2fx"] {
        let refusal = alice.http("GET", "scorer.models.svc", 80, path).unwrap_err();
        assert!(refusal.starts_with("ambiguous path in entra/alice GET"), "{refusal}");
        assert!(refusal.ends_with("rule \"scoring\" limits paths"), "{refusal}");
    }
}

#[test]
fn a_rule_may_ask_for_the_actor_too() {
    let mut carol = Case::of("entra/carol");
    assert!(carol.http("GET", "held.svc", 80, "/").unwrap_err().contains("lacks this actor"));
    carol.actor = "kube/connector";
    assert_eq!(carol.http("GET", "held.svc", 80, "/").unwrap(), "held-by-connector");
}

#[test]
fn a_target_outside_of_the_cluster_needs_a_rule_that_says_so() {
    let mut alice = Case::of("entra/alice");
    alice.external = true;
    assert!(alice.tcp("postgres.db.svc", 5432).unwrap_err().contains("lacks `external: true`"));
    assert_eq!(alice.http("GET", "api.example.com", 80, "/").unwrap(), "outside");
}

#[test]
fn break_glass_ends_by_itself() {
    let mut dave = Case::of("entra/dave");
    assert_eq!(dave.tcp("postgres.db.svc", 5433).unwrap(), "emergency");
    dave.at = 3600;
    assert!(dave.tcp("postgres.db.svc", 5433).unwrap_err().contains("lacks time"));
}

#[test]
fn suspension_refuses_everything() {
    let suspended = policy(RULES).suspend(true);
    let host: Host = "postgres.db.svc".parse().unwrap();
    let refusal = Case::of("entra/alice").ask(&suspended, Ask::Tcp { host: &host, port: 5432 }).unwrap_err();
    assert!(refusal.starts_with("the cluster owner has suspended everything"));
    assert!(Case::of("kube/connector").ask(&suspended, Ask::Describe).is_err());
    assert!(policy("suspended: true").suspend(false).is_suspended());
}

#[test]
fn describe_needs_a_rule() {
    assert_eq!(Case::of("kube/connector").ask(&policy(RULES), Ask::Describe).unwrap(), "connectors");
    assert!(Case::of("entra/alice").ask(&policy(RULES), Ask::Describe).is_err());
}

proptest! {
    #[test]
    fn the_order_of_rules_does_not_change_the_answer(
        seed in any::<u64>(), host in "(scorer|x)\\.(models|db)\\.svc", path in "(/(v1|score|\\.\\.|x)){1,3}",
        method in "(GET|POST|PUT)", port in prop_oneof![Just(80_u16), Just(81)]
    ) {
        let host: Host = host.parse().unwrap();
        let ask = Ask::Http { host: &host, port, method: &method, path: &path, upgrade: None };
        let alice = Case::of("entra/alice");
        let forward = policy(RULES);
        let mut shuffled = forward.clone();
        let count = shuffled.rules.len();
        for index in 0..count {
            let other = usize::try_from((seed >> index) % count as u64).unwrap();
            shuffled.rules.swap(index, other);
        }
        prop_assert_eq!(alice.ask(&forward, ask).is_ok(), alice.ask(&shuffled, ask).is_ok());
    }

    #[test]
    fn with_no_rules_nothing_is_granted(subject in "[a-z]{1,8}", path in "/[ -~]{0,30}", port in 1_u16..) {
        let host = Host::Name("a.svc".to_owned());
        let party = Party::named("entra", &subject, &[]);
        let ask = Ask::Http { host: &host, port, method: "GET", path: &path, upgrade: None };
        let at = SystemTime::UNIX_EPOCH;
        let empty = Policy::default();
        let denial = empty.decide(&Question { subject: party, actor: party, ask, external: false, at });
        prop_assert_eq!(denial.unwrap_err().why, Why::NoRule);
    }
}
