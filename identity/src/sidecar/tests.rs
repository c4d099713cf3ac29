//! Claims about the sidecar, over real sockets against a token endpoint that does as a test says.
use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use daemon::{
    config::{self, Validate},
    shutdown::Outcome,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::testing::{HttpServer, Reply};

const HEADER: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "hunter2-the-client-secret";
const TOKEN: &str = "eyJtoken-that-must-not-be-logged";
const AUDIENCE: &str = "https://storage.azure.com";
const QUERY: &str = "api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com";

fn yaml(authority: &str, more: &str) -> String {
    format!(
        "listen: 127.0.0.1:0
source:
  source: client_secret
  authority: {authority}
  tenant: contoso
  client_id: app-1
  client_secret: {{ file: secret }}
faces: {{ app_service: {{ header: {{ file: header }} }} }}
allow: [{AUDIENCE}, https://vault.azure.net/]
{more}"
    )
}

fn good() -> Reply {
    Reply::json(json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": TOKEN }).to_string())
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

struct World {
    context: Context,
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _endpoint: HttpServer,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(more: &str, answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let endpoint = HttpServer::start(move |_| answer(counter.fetch_add(1, Ordering::SeqCst))).await;
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "secret", SECRET);
        write(folder.path(), "header", HEADER);
        let path = folder.path().join("sidecar.yaml");
        let values: Config = config::parse(&yaml(&endpoint.url(""), more), &path).unwrap();
        let context = Context::new("test");
        let loaded = Loaded { values, base: folder.path().to_owned(), path };
        let running = start(loaded, context.clone()).await.unwrap();
        Self { context, address: running.address, asked, _endpoint: endpoint, _folder: folder }
    }

    async fn healthy() -> Self {
        Self::new("", |_| good()).await
    }

    /// Sends a request as it stands, and reads one answer.
    async fn raw(&self, request: &str) -> Got {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read(&mut stream).await
    }

    /// A good request with another query and more header lines.
    async fn ask(&self, query: &str, lines: &str) -> Got {
        self.raw(&request(query, lines)).await
    }
}

fn request(query: &str, lines: &str) -> String {
    format!("GET /msi/token?{query} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX-IDENTITY-HEADER: {HEADER}\r\n{lines}\r\n")
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    text: String,
    body: Value,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")))?;
        Some(line.split_once(": ").unwrap().1)
    }

    #[track_caller]
    fn is_refused(&self, refusal: Refusal) {
        assert_eq!((self.status, &self.body["error"]), (refusal.status().as_u16(), &json!(refusal.name())), "{self:?}");
    }
}

async fn read(stream: &mut TcpStream) -> Got {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length is told");
            if body.len() == length.parse::<usize>().unwrap() {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                let body = serde_json::from_str(body).expect("every body is JSON");
                return Got { status, head: head.to_owned(), text, body };
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed after {text:?}");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_grant_has_the_shape_that_every_sdk_reads() {
    let world = World::healthy().await;
    let got = world.ask(QUERY, "").await;
    assert_eq!(got.status, 200, "{got:?}");
    let body = got.body.as_object().unwrap();
    assert!(body.values().all(Value::is_string), "some SDKs take nothing but texts: {body:?}");
    let number = |name: &str| body[name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!((&body["access_token"], &body["token_type"]), (&json!(TOKEN), &json!("Bearer")));
    assert_eq!((&body["resource"], &body["client_id"]), (&json!(AUDIENCE), &json!("app-1")));
    assert!((3590..=3599).contains(&number("expires_in")) && (3590..=3599).contains(&number("ext_expires_in")));
    assert!((now() + 3590..=now() + 3599).contains(&number("expires_on")));
    assert!(number("not_before") <= now());
    let place = |name: &str| got.text.find(&format!("\"{name}\"")).unwrap();
    assert!(place("expires_in") < place("expires_on"), "the later one wins in some SDKs");
    assert_eq!(got.field("content-type"), Some("application/json"));
    assert_eq!(got.field("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn head_and_body_leave_in_one_write() {
    let world = World::healthy().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(request(QUERY, "").as_bytes()).await.unwrap();
        let mut bytes = vec![0; 8192];
        let length = stream.read(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes[..length]);
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with('}'), "the body came apart from its head: {text}");
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 1, "a connection is kept, and so is the token");
}

#[tokio::test]
async fn requests_that_no_sdk_makes_are_refused_by_name() {
    let world = World::healthy().await;
    let line = |method: &str, target: &str, host: &str| {
        format!("{method} {target}?{QUERY} HTTP/1.1\r\nHost: {host}\r\nX-IDENTITY-HEADER: {HEADER}\r\n\r\n")
    };
    for (request, refusal) in [
        (line("GET", "/", "127.0.0.1"), Refusal::UnknownPath),
        (line("GET", "/msi/token//", "127.0.0.1"), Refusal::UnknownPath),
        (line("GET", "/metadata/identity/oauth2/token", "127.0.0.1"), Refusal::UnknownPath),
        (line("GET", "/msi/../msi/token", "127.0.0.1"), Refusal::UnknownPath),
        (line("POST", "/msi/token", "127.0.0.1"), Refusal::UnknownMethod),
        (line("DELETE", "/msi/token", "127.0.0.1"), Refusal::UnknownMethod),
        (line("OPTIONS", "/msi/token", "127.0.0.1"), Refusal::UnknownMethod),
        (line("GET", "/msi/token", "evil.example.com"), Refusal::BadHost),
        (line("GET", "/msi/token", "127.0.0.1.evil.example.com"), Refusal::BadHost),
        (line("GET", "/msi/token", "localhost:80x"), Refusal::BadHost),
        (line("GET", "/msi/token", "127.0.0.1\r\nHost: 127.0.0.1"), Refusal::BadHost),
        (line("GET", "/msi/token", "").replace("Host: \r\n", ""), Refusal::BadHost),
        (line("GET", "http://127.0.0.1/msi/token", "127.0.0.1"), Refusal::ForwardedRequest),
    ] {
        world.raw(&request).await.is_refused(refusal);
    }
    for host in ["127.0.0.1", "127.0.0.1:40345", "localhost:1", "LOCALHOST", "[::1]:1", "169.254.169.254"] {
        assert_eq!(world.raw(&line("GET", "/msi/token/", host)).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_request_that_came_through_a_proxy_is_refused() {
    let world = World::healthy().await;
    for lines in ["X-Forwarded-For: 10.0.0.1\r\n", "x-forwarded-for:\r\n", "Forwarded: for=x\r\n", "Via: 1.1 x\r\n"] {
        world.ask(QUERY, lines).await.is_refused(Refusal::ForwardedRequest);
    }
}

#[tokio::test]
async fn without_the_exact_secret_header_nothing_is_told_or_asked() {
    let world = World::healthy().await;
    let with = |lines: &str| format!("GET /msi/token?{QUERY} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n");
    for lines in [
        String::new(),
        "Metadata: true\r\n".to_owned(),
        "X-IDENTITY-HEADER:\r\n".to_owned(),
        format!("X-IDENTITY-HEADER: {}\r\n", &HEADER[1..]),
        format!("X-IDENTITY-HEADER: {HEADER}0\r\n"),
        format!("X-IDENTITY-HEADER: {}\r\n", HEADER.to_uppercase()),
        format!("X-IDENTITY-HEADER: wrong\r\nX-IDENTITY-HEADER: {HEADER}\r\n"),
        format!("secret: {HEADER}\r\n"),
    ] {
        let got = world.raw(&with(&lines)).await;
        got.is_refused(Refusal::BadSecretHeader);
        assert!(!got.text.contains(HEADER), "{got:?}");
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_query_is_judged() {
    let world = World::healthy().await;
    let long = format!("{QUERY}&x={}", "a".repeat(4096));
    for (query, refusal) in [
        ("", Refusal::UnknownParameter),
        ("resource=https://storage.azure.com", Refusal::UnknownParameter),
        ("api-version=2018-02-01&resource=https://storage.azure.com", Refusal::UnknownParameter),
        (&format!("{QUERY}&resource=https://vault.azure.net"), Refusal::UnknownParameter),
        (&format!("{QUERY}&api-version=2019-08-01"), Refusal::UnknownParameter),
        (&long, Refusal::UnknownParameter),
        ("api-version=2019-08-01", Refusal::MissingResource),
        ("api-version=2019-08-01&resource=", Refusal::MissingResource),
        (&format!("{QUERY}&client_id=app-1&object_id=x"), Refusal::AmbiguousIdentity),
        (&format!("{QUERY}&client_id=app-2"), Refusal::IdentityNotBound),
        (&format!("{QUERY}&object_id=x"), Refusal::IdentityNotBound),
        (&format!("{QUERY}&mi_res_id=x"), Refusal::IdentityNotBound),
        ("api-version=2019-08-01&resource=https://management.azure.com", Refusal::AudienceNotAllowed),
        ("api-version=2019-08-01&resource=https://storage.azure.com.evil", Refusal::AudienceNotAllowed),
        ("api-version=2019-08-01&resource=https://storage.azure.com/.default", Refusal::AudienceNotAllowed),
    ] {
        world.ask(query, "").await.is_refused(refusal);
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 0);
    for query in [
        &format!("{QUERY}&client_id=app-1"),
        &format!("{QUERY}&client_id=&object_id="),
        &format!("{QUERY}&xms_cc=cp1"),
        "api-version=2019-08-01&resource=https://storage.azure.com/",
        "api-version=2019-08-01&resource=https://vault.azure.net",
    ] {
        assert_eq!(world.ask(query, "").await.status, 200, "{query}");
    }
}

#[tokio::test]
async fn a_failure_says_the_same_under_every_name_that_an_sdk_prints() {
    let world = World::healthy().await;
    let got = world.ask("", "").await;
    assert_eq!(got.body["error_description"], got.body["message"]);
    assert_eq!(got.body["statusCode"], json!(400));
    assert_eq!(got.body["correlationId"].as_str().unwrap().len(), 32);
    assert!(got.body["message"].as_str().unwrap().starts_with("UnknownParameter: "));
    assert_eq!(got.field("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn the_callers_id_is_echoed_if_it_is_one() {
    let world = World::healthy().await;
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let got = world.ask(QUERY, &format!("x-ms-client-request-id: {id}\r\n")).await;
    assert_eq!(got.field("x-ms-client-request-id"), Some(id));
    for bad in ["a b", "<script>", &"a".repeat(65)] {
        let got = world.ask(QUERY, &format!("x-ms-client-request-id: {bad}\r\n")).await;
        assert_eq!((got.status, got.field("x-ms-client-request-id")), (200, None));
    }
}

#[tokio::test]
async fn what_a_person_must_mend_is_told_at_once_and_what_may_pass_says_when() {
    let rejected = json!({ "error": "invalid_client", "error_codes": [7000222] }).to_string();
    let world = World::new("", move |_| Reply::json(rejected.clone()).with_status(401)).await;
    let got = world.ask(QUERY, "").await;
    assert_eq!((got.status, &got.body["error"]), (403, &json!("EntraRejected")));
    assert!(got.body["message"].as_str().unwrap().contains("AADSTS7000222"), "{got:?}");

    for (reply, code) in [
        (Reply::status(429).header("retry-after", "600"), "SourceThrottled"),
        (Reply::status(500), "SourceUnavailable"),
        (Reply::json("{}".to_owned()), "UpstreamShape"),
    ] {
        let world = World::new("hold_until_first_token: 0s", move |_| reply.clone()).await;
        let got = world.ask(QUERY, "").await;
        assert_eq!((got.status, &got.body["error"]), (503, &json!(code)));
        let hint: u64 = got.field("retry-after").expect("a 503 says when").parse().unwrap();
        assert!((1..=5).contains(&hint), "an SDK would wait {hint} s at each of its attempts");
    }
}

#[tokio::test]
async fn the_first_request_is_held_until_there_is_a_token() {
    let world = World::new("", |number| if number < 2 { Reply::status(503) } else { good() }).await;
    assert_eq!(world.ask(QUERY, "").await.status, 200);
    assert_eq!(world.asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn once_there_was_a_token_nobody_is_held() {
    let world = World::new("", |number| if number == 0 { good() } else { Reply::status(503) }).await;
    assert_eq!(world.ask(QUERY, "").await.status, 200);
    let got = world.ask("api-version=2019-08-01&resource=https://vault.azure.net", "").await;
    assert_eq!(got.status, 503);
    assert_eq!(world.asked.load(Ordering::SeqCst), 2, "held, and tried again, although it had had a token");
}

#[tokio::test]
async fn warm_audiences_are_there_before_anybody_asks() {
    let world = World::new(&format!("warm: [{AUDIENCE}]"), |_| good()).await;
    let fetched = async {
        while world.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), fetched).await.unwrap();
    assert_eq!(world.ask(QUERY, "").await.status, 200);
    assert_eq!(world.asked.load(Ordering::SeqCst), 1);
    let overview = world.context.status.status()();
    assert_eq!(overview["tokens"][0]["audience"], json!(AUDIENCE));
    assert!(!overview.to_string().contains(TOKEN));
}

#[tokio::test]
async fn a_hash_of_a_revoked_token_has_a_younger_one_fetched_but_not_in_a_loop() {
    let world = World::healthy().await;
    let hash = crate::tls::pem::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, TOKEN.as_bytes()).as_ref());
    for _ in 0..5 {
        assert_eq!(world.ask(&format!("{QUERY}&token_sha256_to_refresh={hash}"), "").await.status, 200);
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 1, "it was fetched within the last ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_let_go() {
    let world = World::healthy().await;
    for said in ["", "GET /msi/token HTTP/1.1\r\nHost: 127"] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_head_without_end_is_cut() {
    let world = World::healthy().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let endless = format!("GET /msi/token HTTP/1.1\r\nX: {}", "a".repeat(64 * 1024));
    // The other side may close while we are still writing.
    let _closed = stream.write_all(endless.as_bytes()).await;
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(world.ask(QUERY, "").await.status, 200);
}

#[tokio::test]
async fn a_drain_ends_open_connections() {
    let world = World::new(&format!("warm: [{AUDIENCE}]"), |_| good()).await;
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    idle.write_all(request(QUERY, "").as_bytes()).await.unwrap();
    assert_eq!(read(&mut idle).await.status, 200);
    assert_eq!(world.context.shutdown.run(Duration::from_secs(20)).await, Outcome::Drained);
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn a_held_request_ends_with_the_process() {
    let world = World::new("", |_| Reply::status(503)).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(request(QUERY, "").as_bytes()).await.unwrap();
    while world.asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    world.context.shutdown.begin();
    let got = read(&mut stream).await;
    got.is_refused(Refusal::Draining);
    assert_eq!(got.field("retry-after"), Some("1"));
}

/// Collects log lines of every level.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_request_leaves_one_access_line_and_no_secret() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // For this thread, on which the whole runtime of the test runs.
    let _capturing = tracing::subscriber::set_default(subscriber);
    let world = World::healthy().await;
    world.ask(QUERY, "x-ms-client-request-id: caller-1\r\n").await;
    world.ask("api-version=2019-08-01&resource=https://made.up", "").await;
    world.ask("api-version=2019-08-01&resource=https://made.up/?sig=hunter2", "").await;
    world.raw("GET /msi/token?hunter2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-IDENTITY-HEADER: hunter2\r\n\r\n").await;
    world.context.shutdown.run(Duration::from_secs(20)).await;
    let metrics = world.context.metrics.encode();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let access: Vec<_> = text.lines().filter(|line| line.contains(" access: ")).collect();
    assert_eq!(access.len(), 4, "{text}");
    for (line, words) in access.iter().zip([
        ["outcome=\"granted\"", AUDIENCE, "caller-1"],
        ["outcome=\"AudienceNotAllowed\"", "https://made.up", "correlation_id="],
        ["outcome=\"AudienceNotAllowed\"", "status=403", "correlation_id="],
        ["outcome=\"BadSecretHeader\"", "status=401", "peer=127.0.0.1"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    let ours: String = text.lines().filter(|line| !line.contains(" hyper")).collect();
    for secret in [TOKEN, SECRET, HEADER, "hunter2"] {
        assert!(!ours.contains(secret), "{secret} is in the log");
    }
    assert!(metrics.contains("test_token_requests_total{outcome=\"granted\"} 1"), "{metrics}");
}

#[test]
fn settings_that_cannot_be_safe_are_refused_by_key() {
    let base = yaml("https://login.example.com", "");
    let fault = |text: &str| {
        let parsed: Result<Config, _> = config::parse(text, Path::new("sidecar.yaml"));
        parsed.expect_err(text).to_string()
    };
    for (from, to, words) in [
        ("127.0.0.1:0", "0.0.0.0:40345", ["listen", "hands out tokens"]),
        ("127.0.0.1:0", "10.0.0.1:40345", ["listen", "127.0.0.1"]),
        ("  tenant: contoso\n", "", ["source.tenant", "needs it"]),
        ("https://login.example.com", "http://login.example.com", ["source.authority", "loopback"]),
        (&format!("[{AUDIENCE}, https://vault.azure.net/]"), "[]", ["allow", "no audience"]),
        (AUDIENCE, "https://storage.azure.com/.default", ["allow[0]", "/.default"]),
        ("allow:", "warm: [https://graph.microsoft.com]\nallow:", ["warm[0]", "allow"]),
        ("faces:", "faecs:", ["faecs", "faces"]),
        ("{ file: header }", "hunter2", ["header", "file"]),
    ] {
        let told = fault(&base.replace(from, to));
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let parsed: Config = config::parse(&base.replace("listen: 127.0.0.1:0\n", ""), Path::new("x")).unwrap();
    assert_eq!(parsed.listen, "127.0.0.1:40345".parse().unwrap());
    parsed.validate().unwrap();
}

#[tokio::test]
async fn a_weak_or_missing_secret_header_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "secret", SECRET);
    let path = folder.path().join("sidecar.yaml");
    let values: Config = config::parse(&yaml("http://127.0.0.1:1", ""), &path).unwrap();
    let loaded = Loaded { values, base: folder.path().to_owned(), path };
    let missing = start(loaded.clone(), Context::new("test")).await.unwrap_err();
    assert!(missing.is_bad_config(), "{missing}");
    write(folder.path(), "header", "short");
    let weak = start(loaded, Context::new("test")).await.unwrap_err();
    assert!(weak.is_bad_config() && daemon::process::explain(&weak).contains("22 characters"), "{weak}");
}

#[test]
fn the_catalogue_is_complete_and_never_makes_an_sdk_spin() {
    for refusal in Refusal::ALL {
        assert!(!refusal.meaning().is_empty() && !refusal.remedy().is_empty());
        // A 404 makes clients repeat for half a minute: only for paths, where a real host would answer so too.
        let spins = refusal.status().is_server_error() || matches!(refusal.status().as_u16(), 404 | 410 | 429);
        assert_eq!(spins, matches!(refusal, Refusal::UnknownPath | Refusal::Draining), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_token_source_of_ours_takes_tokens_from_a_sidecar() {
    let world = World::healthy().await;
    let fetch = async |header: &str, settings: Value| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "header", header);
        let endpoint = format!("http://{}/msi/token", world.address);
        let mut config = json!({ "source": "app_service", "endpoint": endpoint, "header": { "file": "header" } });
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let source = token::source(&serde_json::from_value(config).unwrap(), folder.path()).unwrap();
        (source.fetch(AUDIENCE).await, source.fetch("https://made.up").await)
    };
    for settings in [json!({}), json!({ "client_id": "app-1" })] {
        let (token, refused) = fetch(HEADER, settings).await;
        assert_eq!(token.unwrap().secret.expose(), TOKEN);
        let refused = refused.unwrap_err();
        assert!(!refused.code.retryable() && refused.message.contains("AudienceNotAllowed"), "{refused}");
    }
    let (wrong, _) = fetch("another", json!({})).await;
    assert!(wrong.unwrap_err().message.contains("secret header"));
    let (other, _) = fetch(HEADER, json!({ "client_id": "app-2" })).await;
    assert!(other.unwrap_err().message.contains("IdentityNotBound"));
}
