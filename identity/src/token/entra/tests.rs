//! Claims about the token endpoint, over real sockets; the server checks what Entra checks, or is scripted where a fault
//! is wanted. Federated tokens are in [`federated`], certificates in [`certificates`].
mod certificates;
mod federated;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::{
    testing::{HttpServer, Reply, Request},
    token::{Token, source},
};

const AUDIENCE: &str = "https://storage.azure.com";

fn config(authority: &str) -> SourceConfig {
    serde_json::from_value(json!({
        "source": "client_secret", "authority": authority, "tenant": "contoso", "client_id": "app-1",
        "client_secret": { "file": "secret" },
    }))
    .unwrap()
}

fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(folder.path().join("secret")).unwrap();
    std::io::Write::write_all(&mut file, b"hunter2&=+\n").unwrap();
    folder
}

async fn fetch_from(answer: impl Fn(Request) -> Reply + Send + Sync + 'static) -> Result<Token, TokenError> {
    let (server, folder) = (HttpServer::start(answer).await, folder());
    source(&config(&server.url("")), folder.path()).unwrap().fetch(AUDIENCE).await
}

fn success(changes: Value) -> Reply {
    let mut body =
        json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": "a.b.c" });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    Reply::json(body.to_string())
}

fn failure(status: u16, error: &str, number: u64) -> Reply {
    let body = json!({
        "error": error, "error_codes": [number], "error_description": "AADSTS: hunter2 in plain text",
        "correlation_id": "0f8fad5b-d9cb-469f-a165-70867728950e", "trace_id": "x y\nforged",
    });
    Reply::json(body.to_string()).with_status(status)
}

#[tokio::test]
async fn the_request_is_what_entra_expects() {
    let seen = Arc::new(Mutex::new(None));
    let sink = seen.clone();
    fetch_from(move |request| {
        *sink.lock().unwrap() = Some(request);
        success(json!({}))
    })
    .await
    .unwrap();
    let request = seen.lock().unwrap().take().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/contoso/oauth2/v2.0/token"));
    let form: std::collections::BTreeMap<_, _> = url::form_urlencoded::parse(request.body.as_bytes()).collect();
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(form["client_id"], "app-1");
    assert_eq!(form["client_secret"], "hunter2&=+", "one newline at the end of the file is not part of the secret");
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["scope"], "https://storage.azure.com/.default");
    assert_eq!(form.len(), 4);
}

#[tokio::test]
async fn entra_accepts_the_right_secret_and_no_other() {
    use crate::token::fakes::{self, CLIENT, TENANT, Trusted};
    let folder = folder();
    for (known, code) in [("hunter2&=+", None), ("hunter3", Some(ErrorCode::EntraRejected))] {
        let server = fakes::entra(Trusted::Secret(known.to_owned())).await;
        let ours =
            SourceConfig { tenant: Some(TENANT.into()), client_id: Some(CLIENT.into()), ..config(&server.url("")) };
        let fetched = source(&ours, folder.path()).unwrap().fetch(AUDIENCE).await;
        assert_eq!(fetched.err().map(|error| error.code), code);
    }
}

#[tokio::test]
async fn life_and_hint_are_taken_from_the_answer() {
    let before = SystemTime::now();
    let token = fetch_from(|_| success(json!({ "expires_in": 86_399, "refresh_in": 43_199 }))).await.unwrap();
    let after = SystemTime::now();
    let (life, hint) = (Duration::from_secs(86_399), Duration::from_secs(43_199));
    assert_eq!(token.secret.expose(), "a.b.c");
    assert!(token.expires >= before + life && token.expires <= after + life);
    assert!(token.refresh.unwrap() >= before + hint && token.refresh.unwrap() <= after + hint);
    assert!(fetch_from(|_| success(json!({ "expires_in": "3599" }))).await.is_ok());
}

#[tokio::test]
async fn half_a_success_is_a_failure_and_its_body_is_not_told() {
    for reply in [
        success(json!({ "access_token": null })),
        success(json!({ "access_token": "" })),
        success(json!({ "access_token": "hunter2 \r\nx" })),
        success(json!({ "access_token": ["hunter2"] })),
        success(json!({ "token_type": "pop" })),
        success(json!({ "token_type": null })),
        success(json!({ "expires_in": null })),
        success(json!({ "expires_in": 0 })),
        success(json!({ "expires_in": -1 })),
        success(json!({ "expires_in": "soon" })),
        Reply::page(200),
        Reply::json(format!("{{\"access_token\":\"{}", "x".repeat(300 * 1024))),
        Reply::status(200),
    ] {
        let told = format!("{reply:?}");
        let error = fetch_from(move |_| reply.clone()).await.expect_err(&told);
        assert_eq!(error.code, ErrorCode::UpstreamShape, "{told}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn refusals_are_classed_by_number_and_status_never_by_text() {
    for (reply, code, word) in [
        (failure(400, "unauthorized_client", 700016), ErrorCode::EntraRejected, "client_id and tenant"),
        (failure(401, "invalid_client", 7000215), ErrorCode::EntraRejected, "secret is wrong"),
        (failure(401, "invalid_client", 7000222), ErrorCode::EntraRejected, "expired"),
        (failure(400, "invalid_resource", 500011), ErrorCode::EntraRejected, "audience"),
        (failure(400, "invalid_request", 90002), ErrorCode::EntraRejected, "tenant"),
        (failure(400, "invalid_scope", 70011), ErrorCode::EntraRejected, ".default"),
        (failure(400, "invalid_request", 1), ErrorCode::EntraRejected, "AADSTS1"),
        (failure(400, "invalid_request", 50196), ErrorCode::SourceThrottled, "too often"),
        (failure(400, "server_error", 90033), ErrorCode::SourceUnavailable, "90033"),
        (failure(400, "temporarily_unavailable", 0), ErrorCode::SourceUnavailable, "pass"),
        (failure(429, "", 0), ErrorCode::SourceThrottled, "429"),
        (failure(500, "invalid_client", 7000215), ErrorCode::SourceUnavailable, "500"),
        (Reply::status(503), ErrorCode::SourceUnavailable, "503"),
        (Reply::status(503).header("retry-after", "7"), ErrorCode::SourceThrottled, "503"),
        (Reply::status(404), ErrorCode::SourceUnavailable, "proxy"),
        (Reply::status(407), ErrorCode::SourceUnavailable, "proxy"),
        (Reply::page(403), ErrorCode::SourceUnavailable, "text/html"),
        (failure(400, "invalid_request", 90061), ErrorCode::SourceUnavailable, "OpenID configuration"),
        (failure(401, "invalid_client", 700027), ErrorCode::EntraRejected, "upload"),
        (success(json!({})).broken_off(), ErrorCode::SourceUnavailable, "cannot be reached"),
        (Reply::status(302).header("location", "http://127.0.0.1:1/"), ErrorCode::SourceUnavailable, "redirects"),
    ] {
        let told = format!("{reply:?}");
        let error = fetch_from(move |_| reply.clone()).await.unwrap_err();
        assert_eq!(error.code, code, "{told}: {error}");
        assert!(error.message.contains(word), "{word}: {error}");
        assert!(!error.message.contains("hunter2") && !error.message.contains("forged"), "{error}");
    }
}

#[tokio::test]
async fn ids_of_the_answer_are_told() {
    let error = fetch_from(|_| failure(401, "invalid_client", 7000215)).await.unwrap_err();
    for wanted in [AUDIENCE, "127.0.0.1", "status 401", "invalid_client", "AADSTS7000215", "0f8fad5b-d9cb-469f"] {
        assert!(error.message.contains(wanted), "{wanted}: {error}");
    }
}

#[tokio::test]
async fn retry_after_is_seconds_or_a_date() {
    let date = "Tue, 24 Nov 2026 08:00:00 GMT";
    let later = "Tue, 24 Nov 2026 08:00:30 GMT";
    for (reply, hint) in [
        (Reply::status(429).header("retry-after", "17"), Some(17)),
        (Reply::status(429).header("retry-after", later).header("date", date), Some(30)),
        (Reply::status(429).header("retry-after", date).header("date", later), Some(0)),
        (Reply::status(429).header("retry-after", "soon"), None),
        (Reply::status(429), None),
    ] {
        let error = fetch_from(move |_| reply.clone()).await.unwrap_err();
        assert_eq!(error.retry_after.map(|hint| hint.as_secs()), hint);
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_a_closed_port_at_once() {
    let (server, folder) = (HttpServer::start(|_| Reply::silence()).await, folder());
    let slow =
        SourceConfig { deadline: Some(daemon::config::Span(Duration::from_millis(50))), ..config(&server.url("")) };
    let error = source(&slow, folder.path()).unwrap().fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnavailable);
    assert!(error.message.contains("did not answer within"), "{error}");

    let error = fetch_from(|_| Reply::hang_up()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnavailable);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = source(&config(&closed), folder.path()).unwrap().fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnavailable);
    assert!(error.message.contains("127.0.0.1 cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_rotated_secret_is_used_for_the_next_fetch() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let server = HttpServer::start(move |request| {
        sink.lock().unwrap().push(request.body.contains("client_secret=rotated"));
        success(json!({}))
    })
    .await;
    let folder = folder();
    let source = source(&config(&server.url("")), folder.path()).unwrap();
    source.fetch(AUDIENCE).await.unwrap();
    let before = source.generation();
    std::fs::write(folder.path().join("secret"), "rotated").unwrap();
    assert_ne!(before, source.generation());
    source.fetch(AUDIENCE).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [false, true]);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let good = config("https://login.example.com");
    good.check().unwrap();
    type Change = fn(&mut SourceConfig);
    let cases: [(Change, &str); 10] = [
        (|config| config.tenant = None, "tenant"),
        (|config| config.tenant = Some("a/../b".to_owned()), "tenant"),
        (|config| config.client_id = Some(String::new()), "client_id"),
        (|config| config.client_secret = None, "client_secret"),
        (|config| config.authority = Some("http://login.example.com".to_owned()), "authority"),
        (|config| config.authority = Some("https://login.example.com?x=".to_owned()), "authority"),
        (|config| config.authority = Some("login.example.com".to_owned()), "authority"),
        (|config| config.path = Some("token".into()), "path"),
        (|config| config.endpoint = Some("http://127.0.0.1/".into()), "endpoint"),
        (|config| config.source = SourceKind::File, "authority"),
    ];
    for (change, key) in cases {
        let mut config = good.clone();
        change(&mut config);
        assert_eq!(config.check().unwrap_err().0, key);
    }
}

#[test]
fn every_cloud_is_an_authority_like_any_other() {
    for (authority, wanted) in [
        ("https://login.microsoftonline.us", "https://login.microsoftonline.us/t/oauth2/v2.0/token"),
        ("https://login.chinacloudapi.cn/", "https://login.chinacloudapi.cn/t/oauth2/v2.0/token"),
        ("https://adfs.example.com:8443/adfs", "https://adfs.example.com:8443/adfs/t/oauth2/v2.0/token"),
    ] {
        assert_eq!(endpoint(authority, "t").unwrap().as_str(), wanted);
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_named_at_the_start() {
    let empty = tempfile::tempdir().unwrap();
    let error = source(&config("http://127.0.0.1:1"), empty.path()).unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::FileUnreadable, Stage::Proof));
    assert!(error.message.contains("secret"), "{error}");
}
