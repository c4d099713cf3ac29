//! Claims about managed identities, over real sockets, against endpoints that check what the real ones check.
use serde_json::{Value, json};

use super::*;
use crate::{
    testing::{Reply, Request},
    token::{
        fakes::{self, AUDIENCE, Fake, Machine, TOKEN, oauth},
        source, source_in,
    },
};

const SYSTEM: (&str, &str) = ("", "");
const CLIENT: (&str, &str) = ("client_id", "aaaa-1");

fn config(source: &str, settings: Value) -> SourceConfig {
    let mut config = json!({ "source": source });
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

fn imds(server: &Fake, settings: Value) -> Managed {
    let mut config = config("imds", settings);
    config.endpoint = Some(server.url("/metadata/identity/oauth2/token"));
    Managed::new(Kind::Imds, &config, Duration::from_secs(10), Path::new(""), &|_| None).unwrap()
}

fn arc(endpoint: &str, keys: &Path, settings: Value) -> Managed {
    let mut config = config("arc", settings);
    config.endpoint = Some(endpoint.to_owned());
    let made = Managed::new(Kind::Arc, &config, Duration::from_secs(10), Path::new(""), &|_| None).unwrap();
    Managed { keys: keys.to_owned(), ..made }
}

fn app_service(endpoint: &str, folder: &Path, settings: Value) -> Managed {
    let mut config = config("app_service", settings);
    config.endpoint = Some(endpoint.to_owned());
    config.header = Some(SecretRef::FileReadableByOthers("header".into()));
    Managed::new(Kind::AppService, &config, Duration::from_secs(10), folder, &|_| None).unwrap()
}

fn header_in(folder: &Path, text: &str) {
    std::fs::write(folder.join("header"), text).unwrap();
}

/// What becomes of an answer of IMDS.
async fn fetch_from(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Token, TokenError> {
    imds(&Fake::start(answer).await, json!({})).fetch(AUDIENCE).await
}

fn success(changes: Value) -> Reply {
    let mut body = json!({ "access_token": TOKEN, "expires_in": "3600", "expires_on": "1", "token_type": "Bearer" });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    Reply::json(body.to_string())
}

#[tokio::test]
async fn imds_is_asked_as_it_wants_to_be() {
    let server = fakes::imds(Machine::with(&[SYSTEM, CLIENT, ("msi_res_id", "/subscriptions/s/x y")])).await;
    let before = SystemTime::now();
    let token = imds(&server, json!({})).fetch(AUDIENCE).await.unwrap();
    assert_eq!(token.secret.expose(), TOKEN);
    assert!(token.expires >= before + Duration::from_secs(86_399));
    imds(&server, json!({ "client_id": "aaaa-1" })).fetch(AUDIENCE).await.unwrap();
    let seen = server.seen();
    let golden = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com";
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("GET", golden));
    assert_eq!(seen[1].path, format!("{golden}&client_id=aaaa-1"));
    assert_eq!(seen[0].header("metadata"), Some("true"));
}

#[tokio::test]
async fn an_identity_is_chosen_by_object_or_resource_id_in_each_endpoints_spelling() {
    let folder = tempfile::tempdir().unwrap();
    header_in(folder.path(), "hunter2-header");
    for (key, of_imds, of_app) in [("object_id", "object_id", "object_id"), ("resource_id", "msi_res_id", "mi_res_id")]
    {
        let settings = || json!({ key: "/subscriptions/s" });
        let server = fakes::imds(Machine::with(&[(of_imds, "/subscriptions/s")])).await;
        imds(&server, settings()).fetch(AUDIENCE).await.unwrap();
        let server = fakes::app_service(Machine::with(&[(of_app, "/subscriptions/s")]), "hunter2-header").await;
        app_service(&server.url("/msi/token"), folder.path(), settings()).fetch(AUDIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn an_identity_that_the_machine_does_not_have_is_named() {
    let server = fakes::imds(Machine::with(&[SYSTEM])).await;
    let error = imds(&server, json!({ "client_id": "bbbb-2" })).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::IdentitySourceMissing);
    assert!(error.message.contains("client_id bbbb-2"), "{error}");
    let server = fakes::imds(Machine::with(&[CLIENT])).await;
    let error = imds(&server, json!({})).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::IdentitySourceMissing);
    assert!(error.message.contains("system-assigned"), "{error}");
}

#[tokio::test]
async fn app_service_is_shown_the_secret_header_of_now() {
    let folder = tempfile::tempdir().unwrap();
    header_in(folder.path(), "hunter2-header");
    let server = fakes::app_service(Machine::with(&[SYSTEM]), "hunter2-rotated").await;
    let source = app_service(&server.url("/msi/token"), folder.path(), json!({}));
    let error = source.fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceRefused);
    assert!(error.message.contains("secret header"), "{error}");
    let before = source.generation();
    header_in(folder.path(), "hunter2-rotated");
    assert_ne!(before, source.generation());
    let began = SystemTime::now();
    let token = source.fetch(AUDIENCE).await.unwrap();
    assert!(token.expires >= began + Duration::from_secs(86_390), "its end is taken from expires_on");
    let golden = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com";
    assert_eq!(server.seen()[1].path, golden);
}

#[tokio::test]
async fn the_environment_of_a_pod_stands_in_for_settings() {
    let folder = tempfile::tempdir().unwrap();
    header_in(folder.path(), "hunter2-header");
    let server = fakes::app_service(Machine::with(&[SYSTEM]), "hunter2-header").await;
    let endpoint = server.url("/msi/token");
    let settings = config("app_service", json!({ "header": { "file_readable_by_others": "header" } }));
    let environment = |name: &str| (name == "IDENTITY_ENDPOINT").then(|| endpoint.clone());
    source_in(&settings, folder.path(), &environment).unwrap().fetch(AUDIENCE).await.unwrap();
    let error = source_in(&settings, folder.path(), &|_| None).unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::SourceMisconfigured, Stage::Settings));
    assert!(error.message.contains("IDENTITY_ENDPOINT"), "{error}");

    let told = |name: &str| match name {
        "IDENTITY_ENDPOINT" => Some("http://127.0.0.1:1/arc".to_owned()),
        "IMDS_ENDPOINT" => Some("http://127.0.0.1:1".to_owned()),
        _ => None,
    };
    let endpoint_of = |environment: Environment<'_>| {
        Managed::new(Kind::Arc, &config("arc", json!({})), Duration::from_secs(1), Path::new(""), environment)
            .unwrap()
            .endpoint
    };
    assert_eq!(endpoint_of(&told).as_str(), "http://127.0.0.1:1/arc");
    let without_imds = |name: &str| told(name).filter(|_| name == "IDENTITY_ENDPOINT");
    assert_eq!(endpoint_of(&without_imds).as_str(), "http://127.0.0.1:40342/metadata/identity/oauth2/token");
}

#[tokio::test]
async fn numbers_may_be_texts_and_what_is_left_comes_before_a_point_in_time() {
    let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
    let unix = in_an_hour.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for changes in [
        json!({ "expires_in": "3600", "expires_on": "1" }),
        json!({ "expires_in": 3600, "expires_on": null }),
        json!({ "expires_in": null, "expires_on": unix }),
        json!({ "expires_in": null, "expires_on": unix.to_string() }),
        json!({ "expires_in": "", "expires_on": unix }),
    ] {
        let reply = success(changes.clone());
        let expires = fetch_from(move |_| reply.clone()).await.unwrap().expires;
        let ahead = expires.duration_since(in_an_hour).unwrap_or_default();
        assert!(expires >= in_an_hour - Duration::from_secs(1) && ahead < Duration::from_secs(10), "{changes}");
    }
    let token = fetch_from(|_| success(json!({ "refresh_in": "600" }))).await.unwrap();
    assert!(token.refresh.unwrap() < token.expires - Duration::from_secs(2900));
    let plain = success(json!({})).header("content-type", "text/plain");
    fetch_from(move |_| plain.clone()).await.expect("the body decides, not its label");
}

#[tokio::test]
async fn half_a_success_is_a_failure_and_its_body_is_not_told() {
    for reply in [
        success(json!({ "access_token": null })),
        success(json!({ "access_token": "" })),
        success(json!({ "access_token": "hunter2\r\nx: y" })),
        success(json!({ "token_type": "pop" })),
        success(json!({ "token_type": null })),
        success(json!({ "expires_in": null, "expires_on": null })),
        success(json!({ "expires_in": "0", "expires_on": "0" })),
        success(json!({ "expires_in": null, "expires_on": "06/20/2019 02:57:58 +00:00" })),
        Reply::page(200),
        Reply::json(format!("{{\"access_token\":\"hunter2{}", "x".repeat(300 * 1024))),
        Reply::status(200),
    ] {
        let told = format!("{reply:?}");
        let error = fetch_from(move |_| reply.clone()).await.expect_err(&told);
        assert_eq!(error.code, ErrorCode::UpstreamShape, "{told}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = fetch_from(|_| success(json!({})).broken_off()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnavailable, "{error}");
    let page = fetch_from(|_| Reply::page(200)).await.unwrap_err();
    assert!(page.message.contains("text/html"), "{page}");
}

#[tokio::test]
async fn a_token_for_another_identity_than_was_asked_for_is_refused() {
    for (echoed, fine) in
        [(json!({}), true), (json!({ "client_id": "AAAA-1" }), true), (json!({ "client_id": "b" }), false)]
    {
        let server = Fake::start(move |_| success(echoed.clone())).await;
        let fetched = imds(&server, json!({ "client_id": "aaaa-1" })).fetch(AUDIENCE).await;
        assert_eq!(
            fetched.map(|_| ()).map_err(|error| error.code),
            if fine { Ok(()) } else { Err(ErrorCode::UpstreamShape) }
        );
    }
}

#[tokio::test]
async fn failures_are_classed_by_status_and_error_never_by_text() {
    for (reply, code, hint) in [
        (oauth(400, "invalid_request"), ErrorCode::IdentitySourceMissing, None),
        (oauth(400, "invalid_resource"), ErrorCode::EntraRejected, None),
        (oauth(400, "bad_request_102"), ErrorCode::SourceRefused, None),
        (oauth(401, "unauthorized_client"), ErrorCode::IdentitySourceMissing, None),
        (oauth(401, "unknown_source"), ErrorCode::SourceRefused, None),
        (oauth(403, "unreachable"), ErrorCode::SourceRefused, None),
        (Reply::page(400), ErrorCode::SourceUnavailable, None),
        (Reply::page(403), ErrorCode::SourceRefused, None),
        (Reply::status(404), ErrorCode::SourceUnavailable, None),
        (Reply::status(410), ErrorCode::SourceUnavailable, Some(10)),
        (Reply::status(410).header("retry-after", "3"), ErrorCode::SourceUnavailable, Some(3)),
        (oauth(429, "invalid_request"), ErrorCode::SourceThrottled, None),
        (oauth(429, "invalid_request").header("retry-after", "7"), ErrorCode::SourceThrottled, Some(7)),
        (oauth(500, "unknown"), ErrorCode::SourceUnavailable, None),
        (Reply::status(503).header("retry-after", "5"), ErrorCode::SourceThrottled, Some(5)),
        (Reply::status(502), ErrorCode::SourceUnavailable, None),
        (Reply::status(302).header("location", "http://127.0.0.1:1/"), ErrorCode::SourceUnavailable, None),
        (Reply::json("null".into()).with_status(400), ErrorCode::SourceUnavailable, None),
        (Reply::hang_up(), ErrorCode::SourceUnavailable, None),
    ] {
        let told = format!("{reply:?}");
        let error = fetch_from(move |_| reply.clone()).await.expect_err(&told);
        assert_eq!(error.code, code, "{told}: {error}");
        assert_eq!(error.retry_after.map(|hint| hint.as_secs()), hint, "{told}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_secret_header() {
    let folder = tempfile::tempdir().unwrap();
    header_in(folder.path(), "hunter2-header");
    let thief = Fake::start(|_| success(json!({}))).await;
    let location = thief.url("/");
    let server = Fake::start(move |_| Reply::status(307).header("location", &location)).await;
    app_service(&server.url("/msi/token"), folder.path(), json!({})).fetch(AUDIENCE).await.unwrap_err();
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let server = Fake::start(|_| Reply::silence()).await;
    let slow = Managed { deadline: Duration::from_millis(50), ..imds(&server, json!({})) };
    let error = slow.fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnavailable);
    assert!(error.message.contains("did not answer within"), "{error}");
}

#[tokio::test]
async fn arc_is_asked_answers_with_a_challenge_and_is_answered() {
    let keys = tempfile::tempdir().unwrap();
    let server = fakes::arc(Machine::with(&[SYSTEM, CLIENT]), keys.path().to_owned()).await;
    let source = arc(&server.url("/metadata/identity/oauth2/token"), keys.path(), json!({}));
    assert_eq!(source.fetch(AUDIENCE).await.unwrap().secret.expose(), TOKEN);
    source.fetch(AUDIENCE).await.expect("each fetch has a key of its own");
    let seen = server.seen();
    let golden = "/metadata/identity/oauth2/token?api-version=2020-06-01&resource=https%3A%2F%2Fstorage.azure.com";
    assert!(seen.len() == 4 && seen.iter().all(|request| request.path == golden));
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(std::fs::read_dir(keys.path()).unwrap().count(), 0, "a key was left unused");
    arc(&server.url("/x"), keys.path(), json!({ "client_id": "aaaa-1" })).fetch(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn arc_must_say_for_which_identity_the_token_is() {
    let keys = tempfile::tempdir().unwrap();
    let machine = Machine { echo: false, ..Machine::with(&[CLIENT]) };
    let server = fakes::arc(machine, keys.path().to_owned()).await;
    let source = arc(&server.url("/x"), keys.path(), json!({ "client_id": "aaaa-1" }));
    assert_eq!(source.fetch(AUDIENCE).await.unwrap_err().code, ErrorCode::UpstreamShape);
}

/// Asks an agent that names this file; counts how often it was shown anything.
async fn challenged_with(keys: &Path, realm: String) -> (TokenError, usize) {
    let server = Fake::start(move |request| match request.header("authorization") {
        None => Reply::status(401).header("www-authenticate", &realm),
        Some(_) => success(json!({})),
    })
    .await;
    let error = arc(&server.url("/x"), keys, json!({})).fetch(AUDIENCE).await.unwrap_err();
    let shown = server.seen().iter().filter(|request| request.header("authorization").is_some()).count();
    (error, shown)
}

#[tokio::test]
async fn a_challenge_that_leads_elsewhere_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("tokens");
    std::fs::create_dir(&keys).unwrap();
    let elsewhere = folder.path().join("secret.key");
    std::fs::write(&elsewhere, "hunter2").unwrap();
    std::fs::write(keys.join("x.txt"), "hunter2").unwrap();
    std::fs::write(keys.join(".key"), "hunter2").unwrap();
    std::fs::create_dir(keys.join("below")).unwrap();
    std::fs::write(keys.join("below/x.key"), "hunter2").unwrap();
    std::fs::create_dir(keys.join("folder.key")).unwrap();
    std::fs::write(keys.join("empty.key"), "").unwrap();
    std::fs::write(keys.join("large.key"), "x".repeat(4097)).unwrap();
    std::fs::write(keys.join("lines.key"), "hunter2\r\nx: y").unwrap();
    std::fs::write(keys.join("bytes.key"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink(&elsewhere, keys.join("link.key")).unwrap();
    let linked = folder.path().join("linked");
    std::os::unix::fs::symlink(&keys, &linked).unwrap();
    std::fs::write(keys.join("good.key"), "x".repeat(4096)).unwrap();
    let below = |name: &str| format!("Basic realm={}", keys.join(name).display());
    let dir = keys.display();
    for realm in [
        format!("Basic realm={}", elsewhere.display()),
        below("x.txt"),
        below(".key"),
        below("below/x.key"),
        below("folder.key"),
        below("empty.key"),
        below("large.key"),
        below("lines.key"),
        below("bytes.key"),
        below("link.key"),
        format!("Basic realm={dir}/../secret.key"),
        format!("Basic realm={dir}/../tokens/good.key"),
        format!("Basic realm={dir}//good.key"),
        format!("Basic realm={dir}/./good.key"),
        format!("Basic realm=\"{dir}/good.key\""),
        "Basic realm=good.key".to_owned(),
        "Basic realm=".to_owned(),
        "Basic".to_owned(),
        format!("Bearer realm={dir}/good.key"),
    ] {
        let (error, shown) = challenged_with(&keys, realm.clone()).await;
        assert_eq!((error.code, error.stage), (ErrorCode::ChallengeUnsafe, Stage::Challenge), "{realm}: {error}");
        assert_eq!(shown, 0, "{realm}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let (error, _) = challenged_with(&linked, format!("Basic realm={}/good.key", linked.display())).await;
    assert_eq!(error.code, ErrorCode::ChallengeUnsafe, "{error}");
    let (error, _) = challenged_with(&keys, below("absent.key")).await;
    assert_eq!((error.code, error.stage), (ErrorCode::FileUnreadable, Stage::Challenge));
    assert!(error.message.contains("himds"), "{error}");
}

#[tokio::test]
async fn a_key_of_four_kib_is_the_largest() {
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join("good.key");
    std::fs::write(&path, "x".repeat(4096)).unwrap();
    let realm = format!("Basic realm={}", path.display());
    let server = Fake::start(move |request| match request.header("authorization") {
        Some(proof) if proof.len() == "Basic ".len() + 4096 => success(json!({})),
        _ => Reply::status(401).header("www-authenticate", &realm),
    })
    .await;
    arc(&server.url("/x"), keys.path(), json!({})).fetch(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_serves_without_a_challenge_or_refuses_the_key_is_told_apart() {
    let keys = tempfile::tempdir().unwrap();
    let server = Fake::start(|_| success(json!({}))).await;
    let error = arc(&server.url("/x"), keys.path(), json!({})).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::UpstreamShape, Stage::Challenge));

    std::fs::write(keys.path().join("a.key"), "hunter2").unwrap();
    let realm = format!("Basic realm={}", keys.path().join("a.key").display());
    let server = Fake::start(move |_| Reply::status(401).header("www-authenticate", &realm)).await;
    let error = arc(&server.url("/x"), keys.path(), json!({})).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::SourceRefused, Stage::Token), "{error}");

    let server = Fake::start(|_| oauth(500, "unknown")).await;
    let error = arc(&server.url("/x"), keys.path(), json!({})).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::SourceUnavailable, Stage::Challenge));
}

#[test]
fn settings_that_cannot_work_are_named() {
    for (source, settings, key) in [
        ("imds", json!({ "client_id": "a", "object_id": "b" }), "object_id"),
        ("imds", json!({ "resource_id": "" }), "resource_id"),
        ("imds", json!({ "object_id": "a b" }), "object_id"),
        ("imds", json!({ "object_id": "x".repeat(1025) }), "object_id"),
        ("imds", json!({ "endpoint": "http://10.0.0.1/token" }), "endpoint"),
        ("imds", json!({ "endpoint": "http://169.254.169.254/token?x=y" }), "endpoint"),
        ("imds", json!({ "header": { "env": "X" } }), "header"),
        ("imds", json!({ "tenant": "t" }), "tenant"),
        ("imds", json!({ "deadline": "0s" }), "deadline"),
        ("app_service", json!({ "endpoint": "http://example.com/" }), "endpoint"),
        ("arc", json!({ "endpoint": "http://169.254.169.254/token" }), "endpoint"),
        ("arc", json!({ "endpoint": "https://arc.example.com/token" }), "endpoint"),
    ] {
        let config = config(source, settings.clone());
        assert_eq!(config.check().unwrap_err().0, key, "{settings}");
        assert_eq!(source_of(&config).unwrap_err().code, ErrorCode::SourceMisconfigured);
    }
    config("imds", json!({ "object_id": "x".repeat(1024) })).check().unwrap();
}

fn source_of(config: &SourceConfig) -> Result<std::sync::Arc<dyn Source>, TokenError> {
    source(config, Path::new(""))
}
