//! Heads for the API server: what a caller may leave in, what the gateway adds, what it never lets through.
use bytes::Bytes;
use proto::tunnel::pb::Field;

use super::*;
use crate::serve::config::Networks;

fn api() -> (tempfile::TempDir, std::sync::Arc<Api>) {
    identity::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let authority = identity::ca::Authority::generate("test", std::time::Duration::from_secs(60)).unwrap();
    std::fs::write(folder.path().join("ca"), authority.certificate).unwrap();
    std::fs::write(folder.path().join("token"), "ours").unwrap();
    let config =
        serde_saphyr::from_str("{ server: \"https://127.0.0.1:1\", ca: ca, token: token, namespace: causeway }")
            .unwrap();
    let context = daemon::process::Context::new("test");
    let api = Api::start(&config, &Networks::default(), folder.path(), &context).unwrap();
    (folder, api)
}

fn request(fields: &[(&str, &str)]) -> KubernetesRequest {
    KubernetesRequest {
        method: "GET".to_owned(),
        path: "/api".to_owned(),
        fields: fields
            .iter()
            .map(|(name, value)| Field { name: (*name).to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) })
            .collect(),
        no_body: true,
        upgrade: String::new(),
    }
}

/// Checked and signed for `causeway:entra/alice`, as it goes out.
fn sent(fields: &[(&str, &str)]) -> HeaderMap {
    let (_folder, api) = api();
    let mut checked = check(request(fields), &api).unwrap();
    let identity = Identity { user: "causeway:entra/alice".to_owned(), groups: vec!["g1".to_owned(), "g2".to_owned()] };
    let speaker = Speaker { identity: &identity, stream: "01", actor: "kube/connector", subject: "entra/alice" };
    sign(&mut checked, &api.credential(), speaker).unwrap();
    let request = checked.request((), std::net::IpAddr::from([10, 0, 0, 1]), None);
    request.headers().clone()
}

fn all<'a>(fields: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    fields.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn whatever_a_caller_says_of_itself_only_ours_is_sent() {
    for name in [
        "impersonate-user",
        "Impersonate-User",
        "IMPERSONATE-GROUP",
        "impersonate_user",
        "Impersonate_Uid",
        "impersonate-extra-scopes",
        "impersonate-extra_causeway.dev%2fstream",
        "impersonate-anything",
        "x-remote-user",
        "X_Remote_Group",
        "x-remote-extra-a",
        "authorization",
        "AUTHORIZATION",
    ] {
        let fields = sent(&[(name, "system:masters"), ("accept", "application/json")]);
        assert_eq!(all(&fields, "impersonate-user"), ["causeway:entra/alice"], "{name}");
        assert_eq!(all(&fields, "impersonate-group"), ["g1", "g2"], "{name}");
        assert_eq!(all(&fields, "authorization"), ["Bearer ours"], "{name}");
        assert_eq!(all(&fields, "accept"), ["application/json"]);
        let forged = fields.values().any(|value| value == "system:masters");
        assert!(!forged, "{name}: {fields:?}");
    }
    let fields = sent(&[]);
    assert_eq!(all(&fields, "impersonate-extra-causeway.dev%2fstream"), ["01"]);
    assert_eq!(all(&fields, "impersonate-extra-causeway.dev%2factor"), ["kube/connector"]);
    assert_eq!(all(&fields, "impersonate-extra-causeway.dev%2fsubject"), ["entra/alice"]);
    assert!(fields["authorization"].is_sensitive());
}

#[tokio::test]
async fn what_connection_names_goes_before_ours_come() {
    let fields = sent(&[
        ("connection", "Impersonate-User, authorization, X-Mine"),
        ("connection", "keep-alive"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "spdy/3.1"),
        ("x-theirs", "2"),
    ]);
    assert_eq!(all(&fields, "impersonate-user"), ["causeway:entra/alice"]);
    assert_eq!(all(&fields, "authorization"), ["Bearer ours"]);
    assert_eq!(all(&fields, "x-theirs"), ["2"]);
    for name in ["connection", "x-mine", "keep-alive", "te", "transfer-encoding", "upgrade"] {
        assert!(!fields.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_token_among_websocket_protocols_stays_behind() {
    for (given, expected) in [
        ("v4.channel.k8s.io", &["v4.channel.k8s.io"][..]),
        ("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4", &["v4.channel.k8s.io"]),
        ("Base64URL.Bearer.Authorization.K8s.io.dG9rZW4,a , b", &["a, b"]),
        ("base64url.bearer.authorization.k8s.io.dG9rZW4", &[]),
    ] {
        assert_eq!(all(&sent(&[("sec-websocket-protocol", given)]), "sec-websocket-protocol"), expected, "{given}");
    }
}

#[tokio::test]
async fn heads_that_break_http_are_refused() {
    let (_folder, api) = api();
    for broken in [
        KubernetesRequest { method: "CONNECT".to_owned(), ..request(&[]) },
        KubernetesRequest { method: "GE T".to_owned(), ..request(&[]) },
        KubernetesRequest { path: "http://elsewhere/api".to_owned(), ..request(&[]) },
        KubernetesRequest { path: "/api x".to_owned(), ..request(&[]) },
        KubernetesRequest { upgrade: "h2c".to_owned(), ..request(&[]) },
        KubernetesRequest { upgrade: "spdy/3.1".to_owned(), no_body: false, ..request(&[]) },
        request(&[("a b", "c")]),
        request(&[("a", "b\r\nimpersonate-user: c")]),
        request(&[("content-length", "1")]),
        request(&[("content-length", "0"), ("content-length", "0")]),
        request(&[("content-length", "x")]),
        request(&vec![("a", "b"); head::FIELDS_MAX + 1]),
    ] {
        let shown = format!("{broken:?}");
        assert_eq!(check(broken, &api).unwrap_err().code, Code::InvalidRequest, "{shown}");
    }
    assert!(check(request(&vec![("a", "b"); head::FIELDS_MAX]), &api).is_ok());
}

#[tokio::test]
async fn somebody_without_a_name_that_can_be_told_is_refused() {
    let (_folder, api) = api();
    let mut checked = check(request(&[]), &api).unwrap();
    let identity = Identity { user: "a\nb".to_owned(), groups: Vec::new() };
    let speaker = Speaker { identity: &identity, stream: "01", actor: "a/b", subject: "a/b" };
    assert_eq!(sign(&mut checked, &api.credential(), speaker).unwrap_err().code, Code::PolicyDenied);
}

#[tokio::test]
async fn no_field_of_a_caller_says_who_it_is() {
    let (_folder, api) = api();
    let names = "([Ii][Mm][Pp][Ee][Rr][Ss][Oo][Nn][Aa][Tt][Ee]|[Xx][-_][Rr][Ee][Mm][Oo][Tt][Ee])[-_][!-~]{0,12}";
    let mut runner = proptest::test_runner::TestRunner::default();
    let tried = runner.run(&(names, "[ -~]{0,30}"), |(name, connection)| {
        let fields = [(name.as_str(), "forged"), ("connection", connection.as_str())];
        if let Ok(checked) = check(request(&fields), &api) {
            proptest::prop_assert!(checked.fields.values().all(|value| value != "forged"), "{}", name);
        }
        Ok(())
    });
    tried.unwrap();
}
