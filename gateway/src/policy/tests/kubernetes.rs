//! Rules of the kind `kubernetes`: what they grant, as whom, and what cannot be meant.

use std::time::SystemTime;

use super::{policy, try_policy};
use crate::policy::{Ask, Party, Policy, Question, kubernetes::Request};

const RULES: &str = r#"
rules:
  - name: readers
    who: { authenticator: entra, subjects: [alice] }
    kubernetes: { verbs: [get, list, watch], namespaces: [models, causeway], as_groups: ["causeway:readers"] }
  - name: sre
    who: { authenticator: entra, groups: [sre, oncall] }
    kubernetes: { verbs: ["*"], resources: ["*"] }
  - name: scalers
    who: { authenticator: entra, subjects: [bob] }
    kubernetes: { verbs: [get, update], resources: [deployments.apps/scale, "pods/*"], as_user: robot }
  - name: probes
    who: { authenticator: entra, subjects: [carol] }
    kubernetes: { verbs: [get], paths: [/healthz, /metrics/**] }
  - name: nodes
    who: { authenticator: entra, subjects: [dora] }
    kubernetes: { verbs: [connect], resources: ["*", nodes/proxy] }
  - name: owners
    who: { authenticator: entra, subjects: [owner] }
    kubernetes: { verbs: ["*"], resources: ["*"], self_manage: true, as_groups: ["system:authenticated"] }
  - name: everyone
    who: { authenticator: kube, subjects: ["*"] }
    kubernetes: { verbs: [get], resources: [pods] }
"#;

/// `rule: user [groups]`, or the refusal.
fn ask(policy: &Policy, subject: &str, groups: &[&str], method: &str, path: &str) -> Result<String, String> {
    let (authenticator, subject) = subject.split_once('/').unwrap();
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let party = Party::named(authenticator, subject, &groups);
    let request = Request::read(method, path, false).unwrap();
    let ask = Ask::Kubernetes { request: &request, ours: request.touches_ours("causeway"), identity: None };
    let question = Question { subject: party, actor: party, ask, external: false, at: SystemTime::UNIX_EPOCH };
    let rule = policy.decide(&question).map_err(|denial| denial.to_string())?;
    let identity = rule.identity(&party).unwrap().map_err(|error| error.to_string())?;
    Ok(format!("{}: {} [{}]", rule.name(), identity.user, identity.groups.join(", ")))
}

#[test]
fn a_rule_grants_its_verbs_on_its_resources_in_its_namespaces() {
    let policy = policy(RULES);
    for (who, method, path, granted) in [
        ("entra/alice", "GET", "/api/v1/namespaces/models/pods", true),
        ("entra/alice", "GET", "/apis/apps/v1/namespaces/models/deployments/a", true),
        ("entra/alice", "GET", "/api/v1/namespaces/models/pods?watch=1", true),
        ("entra/alice", "GET", "/api/v1/namespaces/models/pods/a/log", true),
        ("entra/alice", "GET", "/api/v1/namespaces/models", true),
        ("entra/alice", "GET", "/api/v1/namespaces", false),
        ("entra/alice", "GET", "/api/v1/pods", false),
        ("entra/alice", "GET", "/api/v1/namespaces/others/pods", false),
        ("entra/alice", "DELETE", "/api/v1/namespaces/models/pods/a", false),
        ("entra/alice", "GET", "/api/v1/namespaces/models/pods/a/exec", false),
        ("entra/alice", "GET", "/metrics", false),
        ("entra/bob", "PUT", "/apis/apps/v1/namespaces/models/deployments/a/scale", true),
        ("entra/bob", "PUT", "/apis/apps/v1/namespaces/models/deployments/a", false),
        ("entra/bob", "GET", "/api/v1/namespaces/models/pods/a", true),
        ("entra/bob", "GET", "/api/v1/namespaces/models/pods/a/log", true),
        ("entra/bob", "GET", "/apis/metrics.k8s.io/v1/namespaces/models/pods/a", false),
        ("entra/carol", "GET", "/healthz", true),
        ("entra/carol", "GET", "/metrics/cadvisor", true),
        ("entra/carol", "GET", "/logs", false),
        ("entra/carol", "GET", "/api/v1/pods", false),
        ("entra/dora", "GET", "/api/v1/nodes/n/proxy/pods", true),
        ("entra/nobody", "GET", "/api/v1/pods", false),
    ] {
        assert_eq!(ask(&policy, who, &[], method, path).is_ok(), granted, "{who} {method} {path}");
    }
}

#[test]
fn everybody_with_a_rule_may_see_what_kinds_there_are_and_nobody_else() {
    let policy = policy(RULES);
    for path in ["/api", "/apis", "/apis/apps/v1", "/openapi/v2", "/version"] {
        assert!(ask(&policy, "entra/bob", &[], "GET", path).is_ok(), "{path}");
        assert!(ask(&policy, "entra/nobody", &[], "GET", path).is_err(), "{path}");
        assert!(ask(&policy, "entra/bob", &[], "DELETE", path).is_err(), "{path}");
    }
}

#[test]
fn a_rule_for_everything_has_still_to_name_what_reaches_everything() {
    let policy = policy(RULES);
    let refusal = ask(&policy, "entra/x", &["sre"], "GET", "/api/v1/nodes/n/proxy/run").unwrap_err();
    assert_eq!(
        refusal,
        "no rule for entra/x kubernetes connect nodes/proxy n; nearest: rule \"sre\" lacks `nodes/proxy` by its full name"
    );
    for (method, path, asked) in [
        ("PATCH", "/api/v1/namespaces/causeway/configmaps/p", "patch configmaps causeway/p"),
        ("POST", "/api/v1/namespaces/causeway/pods/g/exec", "connect pods/exec causeway/g"),
        ("GET", "/api/v1/secrets", "list secrets of the whole cluster"),
        ("GET", "/api/v1/namespaces/causeway/secrets", "list secrets causeway/"),
    ] {
        let refusal = ask(&policy, "entra/x", &["sre"], method, path).unwrap_err();
        assert_eq!(
            refusal,
            format!(
                "no rule for entra/x kubernetes {asked}; nearest: rule \"sre\" lacks `self_manage: true` (it touches what \
                 the gateway itself stands on)"
            )
        );
        assert!(ask(&policy, "entra/owner", &[], method, path).is_ok(), "{path}");
    }
}

#[test]
fn the_refusal_names_what_the_nearest_rule_lacks() {
    let refusal = ask(&policy(RULES), "entra/alice", &[], "DELETE", "/apis/apps/v1/namespaces/models/deployments/a");
    assert_eq!(
        refusal.unwrap_err(),
        "no rule for entra/alice kubernetes delete deployments.apps models/a; nearest: rule \"readers\" lacks this verb"
    );
}

#[test]
fn names_have_our_prefix_unless_the_rule_maps_them() {
    let policy = policy(RULES);
    let pods = "/api/v1/namespaces/models/pods/a";
    for (who, groups, expected) in [
        ("entra/alice", &["others"][..], "readers: causeway:entra/alice [causeway:readers]"),
        ("entra/x", &["oncall", "others", "sre"], "sre: causeway:entra/x [causeway:entra/sre, causeway:entra/oncall]"),
        ("entra/bob", &["sre-not"], "scalers: robot []"),
        ("entra/owner", &[], "owners: causeway:entra/owner [system:authenticated]"),
        ("kube/system:masters", &["system:masters"], "everyone: causeway:kube/system:masters []"),
    ] {
        assert_eq!(ask(&policy, who, groups, "GET", pods).unwrap(), expected);
    }
    for subject in ["kube/al\u{ef}ce", "kube/trailing ", "kube/a\nb"] {
        assert!(ask(&policy, subject, &[], "GET", pods).is_err(), "{subject:?} has no name that could be a user's");
    }
}

#[test]
fn a_request_goes_on_only_as_whom_it_was_begun() {
    let (before, groups) = (policy(RULES), Vec::new());
    let party = Party::named("entra", "alice", &groups);
    let request = Request::read("GET", "/api/v1/namespaces/models/pods?watch=1", false).unwrap();
    let ask = |identity| Ask::Kubernetes { request: &request, ours: false, identity };
    let question = |ask| Question { subject: party, actor: party, ask, external: false, at: SystemTime::UNIX_EPOCH };
    let begun = before.decide(&question(ask(None))).unwrap().identity(&party).unwrap().unwrap();
    assert!(before.decide(&question(ask(Some(&begun)))).is_ok());
    let after = policy(&RULES.replace("causeway:readers", "causeway:guests"));
    let refusal = after.decide(&question(ask(Some(&begun)))).unwrap_err().to_string();
    assert!(refusal.ends_with("rule \"readers\" lacks the user and groups as which it was begun"), "{refusal}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_reason() {
    for (kubernetes, problem) in [
        ("{ verbs: [get] }", "names neither resources, namespaces nor paths"),
        ("{ verbs: [], resources: [pods] }", "`verbs` may not be empty"),
        ("{ verbs: [read], resources: [pods] }", "verb \"read\": verbs are get, list"),
        ("{ verbs: [get, \"*\"], resources: [pods] }", "or `*` alone"),
        ("{ verbs: [GET], resources: [pods] }", "verb \"GET\""),
        ("{ verbs: [get], resources: [Pods] }", "resource \"Pods\""),
        ("{ verbs: [get], resources: [\"po*\"] }", "resource \"po*\""),
        ("{ verbs: [get], resources: [\"*/log\"] }", "resource \"*/log\""),
        ("{ verbs: [get], resources: [\"pods/\"] }", "resource \"pods/\""),
        ("{ verbs: [get], resources: [\"pods.\"] }", "resource \"pods.\""),
        ("{ verbs: [get], namespaces: [\"*\"] }", "namespace \"*\""),
        ("{ verbs: [get], namespaces: [Models] }", "namespace \"Models\""),
        ("{ verbs: [get], paths: [healthz] }", "begins with `/`"),
        ("{ verbs: [get], resources: [pods], as_user: \"\" }", "1 to 512 characters"),
        ("{ verbs: [get], resources: [pods], as_user: \"system:masters\" }", "nobody ever becomes system:masters"),
        ("{ verbs: [get], resources: [pods], as_groups: [\"system:masters\"] }", "nobody ever becomes system:masters"),
        ("{ verbs: [get], resources: [pods], as_groups: [\" system:masters\"] }", "no space at its ends"),
        ("{ verbs: [get], resources: [pods], as_groups: [\"system:*\"] }", "there are no wildcards"),
        ("{ verbs: [get], resources: [pods], as: x }", "as_user"),
    ] {
        let yaml =
            format!("rules: [{{ name: r, who: {{ authenticator: entra, subjects: [a] }}, kubernetes: {kubernetes} }}]");
        let error = try_policy(&yaml).expect_err(&yaml);
        assert!(error.contains(problem), "{error} should speak of {problem}");
    }
    let many = vec!["g"; 65].join(", ");
    let rule = |groups: &str| {
        format!(
            "rules: [{{ name: r, who: {{ authenticator: entra, subjects: [a] }}, \
             kubernetes: {{ verbs: [get], resources: [pods], as_groups: [{groups}] }} }}]"
        )
    };
    assert!(try_policy(&rule(&many)).unwrap_err().contains("more than 64"));
    assert!(try_policy(&rule(&many[3..])).is_ok());
    assert!(try_policy(&rule("g").replace(" }]", ", external: true }]")).unwrap_err().contains("API server's"));
    assert!(try_policy(&rule("g").replace(" }]", ", describe: {} }]")).unwrap_err().contains("exactly one kind"));
}
