//! Who is denied whatever the rules say.

use std::time::SystemTime;

use daemon::config::Validate;

use super::policy;
use crate::policy::{Ask, Deny, Party, Question, decide::Why, deny::Denied};

const RULES: &str = "rules: [{ name: all, who: { authenticator: entra, subjects: [\"*\"] }, describe: {} }]";

fn deny(yaml: &str) -> Deny {
    serde_saphyr::from_str(yaml).unwrap()
}

fn why(deny: Deny, subject: Party<'_>, actor: Party<'_>) -> Option<Why> {
    let question = Question { subject, actor, ask: Ask::Describe, external: false, at: SystemTime::UNIX_EPOCH };
    policy(RULES).denying(deny).decide(&question).err().map(|denial| denial.why)
}

#[test]
fn people_tokens_keys_and_certificates_are_denied_as_subject_and_as_actor() {
    let alice = Party {
        token_id: Some("t-1"),
        key_id: Some("k-1"),
        serial: Some("a1b2"),
        ..Party::named("entra", "alice", &[])
    };
    let bob = Party::named("entra", "bob", &[]);
    for (yaml, denied) in [
        ("subjects: [entra/alice]", Some(Denied::Subject)),
        ("jti: [t-1]", Some(Denied::Token)),
        ("kid: [k-1]", Some(Denied::Key)),
        ("serials: [\"00:A1:B2\"]", Some(Denied::Certificate)),
        ("subjects: [kube/alice, entra/alic, entra/alice/x]", None),
        ("{ jti: [k-1, T-1], kid: [t-1], serials: [a1b20] }", None),
        ("{}", None),
    ] {
        assert_eq!(why(deny(yaml), alice, bob), denied.map(Why::SubjectDenied), "{yaml}");
        assert_eq!(why(deny(yaml), bob, alice), denied.map(Why::ActorDenied), "{yaml}");
        assert_eq!(why(deny(yaml), bob, bob), None, "{yaml}");
    }
    let spiffe = Party::named("mtls", "spiffe://corp/connector", &[]);
    assert_eq!(deny("subjects: [\"mtls/spiffe://corp/connector\"]").find(&spiffe), Some(Denied::Subject));
}

#[test]
fn an_entry_that_could_never_be_met_is_a_mistake_and_named() {
    for (yaml, key) in [
        ("subjects: [entra/alice, alice]", "subjects[1]"),
        ("subjects: [/alice]", "subjects[0]"),
        ("subjects: [entra/]", "subjects[0]"),
        ("jti: [\"\"]", "jti[0]"),
        ("kid: [a, \"\"]", "kid[1]"),
        ("serials: [\"xyz\"]", "serials[0]"),
        ("serials: [\":\"]", "serials[0]"),
    ] {
        assert_eq!(deny(yaml).validate().unwrap_err().0, key, "{yaml}");
    }
    assert_eq!(deny("{ subjects: [a/b], jti: [x], kid: [y], serials: [\"0\"] }").validate(), Ok(()));
}

#[test]
fn a_claim_counts_beside_the_name() {
    let rules = "rules: [{ name: ml, who: { authenticator: entra, subjects: [\"*\"], claims: { team: [ml, data] } }, describe: {} }]";
    let policy = policy(rules);
    for (claims, granted) in [
        (&[("team", "ml")][..], true),
        (&[("team", "web"), ("team", "data")], true),
        (&[("team", "web")], false),
        (&[("other", "ml")], false),
        (&[], false),
    ] {
        let claims: Vec<_> = claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let who = Party { claims: &claims, ..Party::named("entra", "alice", &[]) };
        let question =
            Question { subject: who, actor: who, ask: Ask::Describe, external: false, at: SystemTime::UNIX_EPOCH };
        assert_eq!(policy.decide(&question).is_ok(), granted, "{claims:?}");
    }
}
