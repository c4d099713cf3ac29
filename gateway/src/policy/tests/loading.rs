//! What a policy file may not say, and what a reload tells.

use super::{policy, try_policy};
use crate::policy::Rule;

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
        ("{ claims: { team: [ml] } }", "no authenticator"),
        ("{ authenticator: entra, subjects: [\"*\"], claims: { team: [] } }", "no values"),
        ("{ authenticator: kube, subjects: [\"*\"], claims: { team: [ml] } }", "does not keep the claim \"team\""),
        ("{ authenticator: mtls, subjects: [\"*\"], claims: { team: [ml] } }", "does not keep the claim \"team\""),
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
    // The same host, with the cluster's domain written out.
    for host in ["scorer.models.svc.cluster.local", "*.*.svc.cluster.local", "**.local", "**.svc.cluster.local"] {
        assert!(try_policy(&pair(&format!("{{ hosts: [\"{host}\"], ports: [80] }}"))).is_err(), "{host}");
    }
    for host in ["scorer.models.svc.cluster.other", "scorer.models.svc.local", "scorer.other.svc.cluster.local"] {
        assert!(try_policy(&pair(&format!("{{ hosts: [\"{host}\"], ports: [80] }}"))).is_ok(), "{host}");
    }
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
    let shown = |rules: Vec<&Rule>| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(added), ["changed: entra/b may describe", "new: entra/a may describe"]);
    assert_eq!(shown(removed), ["changed: entra/a may describe", "gone: entra/a may describe"]);
}

#[test]
fn a_rule_is_shown_in_one_line_that_says_all_of_it() {
    for (rule, shown) in [
        (
            "who: { authenticator: entra, subjects: [a, b], groups: [g], claims: { team: [x, y] } }
    http: { hosts: [\"*.models.svc\", 10.0.0.1], ports: [80, 81], methods: [GET, POST], paths: [/v1/**, \"/a/*\"], upgrade: [websocket] }",
            "r: entra/{a,b,group:g} with team={x,y} may http GET,POST {*.models.svc,10.0.0.1}:{80,81} {/v1/**,/a/*}, upgrade to websocket",
        ),
        (
            "who: { authenticator: entra, subjects: [\"*\"], actor: { authenticator: kube, subjects: [c] } }
    tcp: { hosts: [\"**.db.svc\"], ports: [5432], bypasses_http: true }
    external: true
    until: 1970-01-01T12:00:00Z
    reason: ticket 1",
            "r: entra/* through kube/c may tcp **.db.svc:5432, past the limits of http rules, also outside of the cluster, until 1970-01-01T12:00:00Z: ticket 1",
        ),
        (
            "who: { actor: { authenticator: kube, subjects: [c] } }
    unix: { names: [docker] }",
            "r: anybody through kube/c may unix docker",
        ),
    ] {
        let policy = policy(&format!("rules:\n  - name: r\n    {rule}\n"));
        assert_eq!(policy.rules()[0].to_string(), shown);
    }
}
