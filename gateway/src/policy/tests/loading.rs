//! What a policy file may not say, and what a reload tells.

use super::{policy, try_policy};

/// One rule with the given lines.
fn rule(lines: &str) -> String {
    format!("rules:\n  - name: r\n    who: {{ authenticator: entra, subjects: [alice] }}\n{lines}\n")
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_reason() {
    let http = "    http: { hosts: [a.svc], ports: [80] }";
    for (yaml, problem) in [
        (rule(""), "exactly one kind"),
        (rule(&format!("{http}\n    describe: {{}}")), "exactly one kind"),
        (rule("    unix: { names: [] }"), "at least one"),
        (rule("    unix: { names: [\"/run/docker.sock\"] }"), "`names` of a unix rule"),
        (rule("    unix: { names: [docker] }\n    external: true"), "a Unix socket has none"),
        (rule("    unix: { names: [docker] }\n    describe: {}"), "exactly one kind"),
        (rule("    http: { hosts: [], ports: [80] }"), "may not be empty"),
        (rule("    http: { hosts: [a.svc], ports: [] }"), "may not be empty"),
        (rule("    tcp: { hosts: [a.svc], ports: [0] }"), "0 is not a port"),
        (rule("    http: { hosts: [\"a*\"], ports: [80] }"), "partial wildcards"),
        (rule("    http: { hosts: [\"127.1\"], ports: [80] }"), "is an address"),
        (rule("    http: { hosts: [a.svc], ports: [80], methods: [get] }"), "upper-case"),
        (rule("    http: { hosts: [a.svc], ports: [80], methods: [CONNECT] }"), "never forwarded"),
        (rule("    http: { hosts: [a.svc], ports: [80], paths: [v1] }"), "begins with `/`"),
        (rule("    http: { hosts: [a.svc], ports: [80], path: [/v1] }"), "path"),
        (rule("    describe: {}\n    external: true"), "a describe rule has none"),
        (rule(&format!("{http}\n    until: 1970-01-01T12:00:00Z")), "go together"),
        (rule(&format!("{http}\n    reason: because")), "go together"),
        (rule(&format!("{http}\n    until: 1970-01-01T12:00:00Z\n    reason: \" \"")), "go together"),
        (rule(&format!("{http}\n    until: tomorrow\n    reason: x")), "is not a time"),
        (rule(&format!("{http}\n    until: 1970-01-02T00:00:01Z\n    reason: x")), "24 hours"),
    ] {
        let error = try_policy(&yaml).expect_err(&yaml);
        assert!(error.contains(problem), "{error} should speak of {problem}");
    }
}

#[test]
fn who_must_be_said_in_full() {
    for (who, problem) in [
        ("{}", "names nobody"),
        ("{ subjects: [alice] }", "no authenticator"),
        ("{ authenticator: entra }", "without subjects or groups"),
        ("{ authenticator: entra, subjects: [\"*\", alice] }", "stands alone"),
        ("{ authenticator: entar, subjects: [alice] }", "no authenticator \"entar\""),
        ("{ actor: { authenticator: kube } }", "without subjects or groups"),
    ] {
        let error = try_policy(&format!("rules: [{{ name: r, who: {who}, describe: {{}} }}]")).expect_err(who);
        assert!(error.contains(problem), "{error} should speak of {problem}");
    }
    assert!(try_policy("rules: [{ name: r, who: { authenticator: mtls, subjects: [c] }, describe: {} }]").is_ok());
}

#[test]
fn names_are_plain_and_unique() {
    let twice = "rules: [{ name: r, who: { authenticator: entra, subjects: [a] }, describe: {} }, \
                 { name: r, who: { authenticator: entra, subjects: [b] }, describe: {} }]";
    assert!(try_policy(twice).unwrap_err().contains("unique"));
    let odd = "rules: [{ name: \"a\\nb\", who: { authenticator: entra, subjects: [a] }, describe: {} }]";
    assert!(try_policy(odd).unwrap_err().contains("a name has"));
}

#[test]
fn tcp_past_an_http_limit_must_be_meant() {
    let pair = |tcp: &str| {
        format!(
            "rules:
  - {{ name: limited, who: {{ authenticator: entra, subjects: [a] }}, http: {{ hosts: [\"*.models.svc\"], ports: [80] }} }}
  - {{ name: open, who: {{ authenticator: entra, subjects: [b] }}, tcp: {tcp} }}"
        )
    };
    let error = try_policy(&pair("{ hosts: [scorer.models.svc], ports: [80] }")).unwrap_err();
    assert!(error.starts_with("rule \"open\"") && error.contains("rule \"limited\""), "{error}");
    assert!(try_policy(&pair("{ hosts: [\"**\"], ports: [80, 81] }")).is_err());
    assert!(try_policy(&pair("{ hosts: [10.43.0.9], ports: [80] }")).is_err(), "an address may be behind any name");
    assert!(try_policy(&pair("{ hosts: [scorer.models.svc], ports: [81] }")).is_ok());
    assert!(try_policy(&pair("{ hosts: [scorer.other.svc], ports: [80] }")).is_ok());
    assert!(try_policy(&pair("{ hosts: [scorer.models.svc], ports: [80], bypasses_http: true }")).is_ok());
}

#[test]
fn a_break_glass_rule_that_is_over_does_not_break_the_file() {
    let over = rule("    tcp: { hosts: [a.svc], ports: [1] }\n    until: 1969-12-31T00:00:00Z\n    reason: ticket 1");
    assert_eq!(policy(&over).rules().len(), 1);
}

#[test]
fn a_reload_tells_what_was_granted_and_what_was_taken_away() {
    let old = policy(
        "rules:
  - { name: kept, who: { authenticator: entra, subjects: [a] }, describe: {} }
  - { name: changed, who: { authenticator: entra, subjects: [a] }, describe: {} }
  - { name: gone, who: { authenticator: entra, subjects: [a] }, describe: {} }",
    );
    let new = policy(
        "rules:
  - { name: kept, who: { authenticator: entra, subjects: [a] }, describe: {} }
  - { name: changed, who: { authenticator: entra, subjects: [b] }, describe: {} }
  - { name: new, who: { authenticator: entra, subjects: [a] }, describe: {} }",
    );
    let (added, removed) = old.difference(&new);
    assert_eq!(added.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["changed", "new"]);
    assert_eq!(removed.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["changed", "gone"]);
}
