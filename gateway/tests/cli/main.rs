//! The `gateway` program as it is typed: exit codes, and what goes to which stream.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::{
    path::Path,
    process::{Command, Output},
};

const CONFIG: &str = "
cluster: factory-a
listen: { address: 127.0.0.1:0 }
identity: { directory: identity }
networks: { pods: 10.42.0.0/16, hosts: { outside.models.svc: 203.0.113.7 } }
authenticators: { entra: { issuer: \"https://issuer.test\", audience: \"api://causeway/factory-a\", jwks: { file: jwks.json } } }
policy: policy.yaml
";

const POLICY: &str = "
rules:
  - name: scoring
    who: { authenticator: entra, subjects: [alice] }
    http: { hosts: [\"*.models.svc\"], ports: [80], methods: [GET, POST], paths: [/v1/**, /score] }
  - name: notebooks
    who: { authenticator: entra, groups: [scientists] }
    http: { hosts: [hub.jupyter.svc], ports: [8000], upgrade: [websocket] }
  - name: database
    who: { authenticator: entra, subjects: [alice], actor: { authenticator: entra, subjects: [connector] } }
    tcp: { hosts: [postgres.db.svc], ports: [5432] }
";

/// A folder with a config and this policy.
fn folder(policy: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), CONFIG).unwrap();
    std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    folder
}

fn gateway(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_gateway")).current_dir(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn test(folder: &Path, question: &[&str]) -> (i32, String, String) {
    gateway(folder, &[&["policy", "test", "-c", "gateway.yaml"], question].concat())
}

#[test]
fn policy_test_explains_its_answer_and_exits_accordingly() {
    let folder = folder(POLICY);
    for (question, code, answer) in [
        (
            &["--as", "entra/alice", "GET", "http://scorer.models.svc/v1/x"][..],
            0,
            "allowed by rule \"scoring\": entra/alice GET scorer.models.svc:80 /v1/x\n",
        ),
        (
            &["--as", "entra/bob", "GET", "http://scorer.models.svc/v1/x"],
            1,
            "denied: no rule for entra/bob GET scorer.models.svc:80 /v1/x; nearest: rule \"scoring\" lacks this subject\n",
        ),
        (
            &["--as", "entra/alice", "GET", "http://scorer.models.svc/v1/../x"],
            1,
            "denied: ambiguous path in entra/alice GET scorer.models.svc:80 /v1/../x; rule \"scoring\" limits paths\n",
        ),
        (
            &["--as", "entra/bob", "--group", "scientists", "--upgrade", "websocket", "http://hub.jupyter.svc:8000/"],
            0,
            "allowed by rule \"notebooks\": entra/bob GET hub.jupyter.svc:8000 / (upgrade to websocket)\n",
        ),
        (
            &["--as", "entra/alice", "--actor", "entra/connector", "tcp://postgres.db.svc:5432"],
            0,
            "allowed by rule \"database\": entra/alice tcp postgres.db.svc:5432\n",
        ),
        (
            &["--as", "entra/alice", "--external", "http://scorer.models.svc/v1/x"],
            1,
            "denied: no rule for entra/alice GET scorer.models.svc:80 /v1/x; nearest: rule \"scoring\" lacks \
             `external: true` (the target lies outside of the cluster's ranges)\n",
        ),
        (
            &["--as", "entra/alice", "http://127.0.0.1/v1/x"],
            1,
            "denied: 127.0.0.1 is a loopback address, which is never called\n",
        ),
        (
            &["--as", "entra/alice", "describe"],
            1,
            "denied: no rule for entra/alice describe; no rule grants this kind at all\n",
        ),
    ] {
        let (status, stdout, stderr) = test(folder.path(), question);
        assert_eq!((status, stdout.as_str()), (code, answer), "{question:?} {stderr}");
    }
    // A name that the config leads outside is judged as what it is.
    let (status, stdout, _) = test(folder.path(), &["--as", "entra/alice", "http://outside.models.svc/v1/x"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("external"), "{stdout}");
}

#[test]
fn a_policy_that_cannot_be_used_is_bad_configuration() {
    let question = &["--as", "entra/alice", "describe"];
    let broken = folder("rules:\n  - name: r\n    who: { authenticator: entar, subjects: [a] }\n    describe: {}\n");
    let (status, stdout, stderr) = test(broken.path(), question);
    assert_eq!((status, stdout.as_str()), (64, ""));
    assert!(stderr.contains("policy.yaml") && stderr.contains("no authenticator \"entar\""), "{stderr}");
    let misspelt = folder("rules:\n  - name: r\n    hwo: {}\n    describe: {}\n");
    let (status, _, stderr) = test(misspelt.path(), question);
    assert_eq!(status, 64);
    assert!(stderr.contains("hwo") && stderr.contains("who"), "{stderr}");
    let boundless = folder(
        "rules:\n  - name: k\n    who: { authenticator: entra, subjects: [a] }\n    kubernetes: { verbs: [get] }\n",
    );
    let (status, _, stderr) = test(boundless.path(), question);
    assert_eq!(status, 64);
    assert!(stderr.contains("rule \"k\""), "{stderr}");
}

#[test]
fn policy_diff_tells_each_grant_that_another_file_adds_or_takes_away() {
    let folder = folder(POLICY);
    let diff = |text: &str| {
        std::fs::write(folder.path().join("other.yaml"), text).unwrap();
        gateway(folder.path(), &["policy", "diff", "-c", "gateway.yaml", "other.yaml"])
    };
    assert_eq!(diff(POLICY), (0, String::new(), String::new()));
    let other = POLICY.replace("[GET, POST]", "[GET]").replace("name: notebooks", "name: hub");
    let (code, told, _) = diff(&format!("suspended: true{other}"));
    assert_eq!(code, 1);
    assert_eq!(
        told,
        "- scoring: entra/alice may http GET,POST *.models.svc:80 {/v1/**,/score}
- notebooks: entra/group:scientists may http any method hub.jupyter.svc:8000, upgrade to websocket
+ scoring: entra/alice may http GET *.models.svc:80 {/v1/**,/score}
+ hub: entra/group:scientists may http any method hub.jupyter.svc:8000, upgrade to websocket
+ suspended: everything
"
    );
    let (code, told, complaint) =
        diff("rules:\n  - name: r\n    who: { authenticator: entar, subjects: [a] }\n    describe: {}\n");
    assert_eq!((code, told.as_str()), (64, ""));
    assert!(complaint.contains("other.yaml:2:") && complaint.contains("no authenticator \"entar\""), "{complaint}");
    let (code, _, complaint) = gateway(folder.path(), &["policy", "diff", "-c", "gateway.yaml", "absent.yaml"]);
    assert_eq!(code, 1);
    assert!(complaint.contains("absent.yaml cannot be read"), "{complaint}");
}

#[test]
fn policy_test_knows_the_deny_file_and_claims() {
    let folder = folder(
        &POLICY.replace("subjects: [alice] }\n    http", "subjects: [alice], claims: { team: [ml] } }\n    http"),
    );
    let config = format!(
        "{}deny: deny.yaml\n",
        CONFIG.replace("jwks: { file: jwks.json }", "claims: [team], jwks: { file: jwks.json }")
    );
    std::fs::write(folder.path().join("gateway.yaml"), config).unwrap();
    let question = &["--as", "entra/alice", "--claim", "team=ml", "http://scorer.models.svc/v1/x"];
    std::fs::write(folder.path().join("deny.yaml"), "jti: [x]").unwrap();
    assert_eq!(test(folder.path(), question).0, 0);
    assert_eq!(test(folder.path(), &["--as", "entra/alice", "http://scorer.models.svc/v1/x"]).0, 1);
    std::fs::write(folder.path().join("deny.yaml"), "subjects: [entra/alice]").unwrap();
    let (code, told, _) = test(folder.path(), question);
    assert_eq!(code, 1);
    assert!(told.starts_with("denied: the subject is on the cluster owner's deny list"), "{told}");
    std::fs::remove_file(folder.path().join("deny.yaml")).unwrap();
    let (code, _, complaint) = test(folder.path(), question);
    assert_eq!(code, 64);
    assert!(complaint.contains("deny.yaml"), "{complaint}");
}

#[test]
fn trust_export_prints_the_file_and_the_line_to_compare_apart() {
    let folder = folder(POLICY);
    let (status, stdout, stderr) = gateway(folder.path(), &["trust", "export", "-c", "gateway.yaml"]);
    assert_eq!(status, 0, "{stderr}");
    let file = gateway::trust::TrustFile::parse(&stdout).unwrap();
    assert_eq!(file.cluster, "factory-a");
    assert!(!stdout.contains("PRIVATE"), "{stdout}");
    assert!(stderr.contains(&format!("cluster factory-a   CA SHA-256 {}", file.fingerprints()[0])), "{stderr}");
    let again = gateway(folder.path(), &["trust", "export", "-c", "gateway.yaml"]);
    assert_eq!(again.1, stdout, "the identity is made once");
}

#[test]
fn serve_without_a_policy_is_bad_configuration_and_nothing_listens() {
    let folder = folder(POLICY);
    std::fs::write(folder.path().join("jwks.json"), "{\"keys\": []}").unwrap();
    std::fs::remove_file(folder.path().join("policy.yaml")).unwrap();
    let (status, _, stderr) =
        gateway(folder.path(), &["serve", "-c", "gateway.yaml", "--set", "admin.address=127.0.0.1:0"]);
    assert_eq!(status, 64, "{stderr}");
    assert!(stderr.contains("policy.yaml"), "{stderr}");
    assert!(!stderr.contains("\"what\":\"tunnel\""), "{stderr}");
}

#[test]
fn every_subcommand_explains_itself() {
    let folder = folder(POLICY);
    let (status, stdout, _) = gateway(folder.path(), &["--help"]);
    assert_eq!(status, 0);
    for subcommand in ["serve", "connect", "call", "trust", "policy"] {
        assert!(stdout.contains(subcommand), "{stdout}");
        assert_eq!(gateway(folder.path(), &[subcommand, "--help"]).0, 0, "{subcommand}");
    }
    assert_eq!(gateway(folder.path(), &["serve"]).0, 64);
    let (status, stdout, _) = gateway(folder.path(), &["serve", "-c", "gateway.yaml", "--print-config"]);
    assert_eq!(status, 0);
    assert!(stdout.contains("factory-a"), "{stdout}");
}

#[test]
fn audit_verify_tells_a_whole_chain_from_a_broken_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let begun = r#"{"instance":"a1","kind":"begun","previous":"0000000000000000000000000000000000000000000000000000000000000000","seq":1}"#;
    write("whole", &format!("{begun}\n"));
    write("broken", &format!("{begun}\n{}\n", begun.replace("\"seq\":1", "\"seq\":2")));
    let (code, said, _) = gateway(folder.path(), &["audit", "verify", "whole"]);
    assert_eq!(code, 0);
    assert!(said.starts_with("whole: whole: 1 lines of 1 processes, 0 cut off by a crash"), "{said}");
    let (code, said, _) = gateway(folder.path(), &["audit", "verify", "whole", "broken"]);
    assert_eq!(code, 1);
    assert!(said.contains("broken: broken: line 2 does not follow line 1"), "{said}");
    let (code, _, complaint) = gateway(folder.path(), &["audit", "verify", "absent"]);
    assert_eq!(code, 1);
    assert!(complaint.contains("absent cannot be opened"), "{complaint}");
}

#[test]
fn policy_explain_finds_a_stream_in_the_audit_file_and_in_a_log() {
    let folder = folder(POLICY);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "audit.jsonl",
        r#"{"kind":"granted","time":"2026-01-01T00:00:00.000Z","stream":"s-1","asked":"http","subject":"entra/alice","actor":"entra/c","target":"scorer.models.svc:80","method":"GET","path":"/v1/x","rule":"scoring"}
{"kind":"granted","time":"2026-01-01T00:00:01.000Z","stream":"s-2","asked":"http","subject":"entra/alice","rule":"gone"}
"#,
    );
    write(
        "log",
        "no JSON\n{\"timestamp\":\"2026-01-01T00:00:02.000Z\",\"target\":\"access\",\"fields\":{\"stream\":\"s-3\",\"kind\":\"tcp\",\"subject\":\"entra/bob\",\"target_host\":\"a.svc:1\",\"ended\":\"policy_denied\",\"reason\":\"no rule for entra/bob\"}}\n",
    );
    let ask = |more: &[&str]| gateway(folder.path(), &[&["policy", "explain", "-c", "gateway.yaml"], more].concat());
    let (code, _, complaint) = ask(&["s-1"]);
    assert_eq!(code, 1, "{complaint}");
    assert!(complaint.contains("names no audit file"), "{complaint}");
    write("gateway.yaml", &format!("{CONFIG}audit: {{ file: audit.jsonl }}\n"));
    assert_eq!(
        ask(&["s-1"]).1,
        "2026-01-01T00:00:00.000Z  entra/alice (through entra/c)  http GET scorer.models.svc:80 /v1/x\n    \
         allowed by rule \"scoring\", which is still in the policy\n"
    );
    assert!(ask(&["s-2"]).1.contains("rule \"gone\", which is in the policy no longer"));
    let (code, said, _) = ask(&["--log", "log", "s-3"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "2026-01-01T00:00:02.000Z  entra/bob  tcp a.svc:1\n    policy_denied: no rule for entra/bob\n")
    );
    assert_eq!(ask(&["s-4"]).0, 1);
}
