//! Claims about all sources together.
use std::{path::PathBuf, sync::Mutex, time::UNIX_EPOCH};

use daemon::{clock::SystemClock, shutdown::Shutdown};
use serde_json::{Value, json};

use super::*;
use crate::{
    jwt::Signer,
    testing::Reply,
    token::fakes::{AUDIENCE, CLIENT, Fake, Machine, TENANT, TOKEN, Trusted},
};

/// In every secret of this test.
const MARK: &str = "hunter2";

const ALL: [SourceKind; 9] = [
    SourceKind::File,
    SourceKind::ClientSecret,
    SourceKind::ClientCertificate,
    SourceKind::WorkloadIdentity,
    SourceKind::TokenRequest,
    SourceKind::Imds,
    SourceKind::AppService,
    SourceKind::Arc,
    SourceKind::ArcExtension,
];

/// The smallest settings that can work.
fn settings(kind: SourceKind) -> Value {
    let entra = json!({ "tenant": TENANT, "client_id": CLIENT });
    let own = match kind {
        SourceKind::File => json!({ "path": "token" }),
        SourceKind::ClientSecret => json!({ "client_secret": { "file_readable_by_others": "secret" } }),
        SourceKind::ClientCertificate => {
            json!({ "certificate": "app.crt", "key": { "file_readable_by_others": "app.key" } })
        }
        SourceKind::WorkloadIdentity => json!({ "path": "token" }),
        SourceKind::TokenRequest => json!({ "kubernetes": { "token": "token" } }),
        SourceKind::Imds | SourceKind::Arc => json!({}),
        SourceKind::AppService => json!({ "header": { "file_readable_by_others": "secret" } }),
        SourceKind::ArcExtension => json!({ "request": "causeway", "kubernetes": { "token": "token" } }),
    };
    let mut settings = json!({ "source": kind.name() });
    let asks_entra = matches!(
        kind,
        SourceKind::ClientSecret
            | SourceKind::ClientCertificate
            | SourceKind::WorkloadIdentity
            | SourceKind::TokenRequest
    );
    for part in [own, if asks_entra { entra } else { json!({}) }] {
        settings.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    settings
}

/// The same, asking one server for everything.
fn at(kind: SourceKind, server: &Fake) -> SourceConfig {
    let mut settings = settings(kind);
    match kind {
        SourceKind::File => {}
        SourceKind::Imds | SourceKind::Arc | SourceKind::AppService => settings["endpoint"] = server.url("/x").into(),
        SourceKind::ArcExtension => settings["kubernetes"]["api_server"] = server.url("").into(),
        SourceKind::TokenRequest => {
            settings["kubernetes"]["api_server"] = server.url("").into();
            settings["authority"] = server.url("").into();
        }
        _ => settings["authority"] = server.url("").into(),
    }
    serde_json::from_value(settings).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
        let claims = json!({ "sub": "system:serviceaccount:models:scorer", "exp": hour });
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("app.crt", &certificate.pem());
        write("app.key", &key.serialize_pem());
        write("secret", "hunter2-secret");
        write("token", Signer::generate("k").sign(&claims).expose());
        Self(folder)
    }

    fn source(&self, config: &SourceConfig) -> Arc<dyn Source> {
        source(config, self.0.path()).unwrap()
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.0.path().join("token")).unwrap()
    }
}

#[test]
fn each_source_knows_its_own_keys_and_refuses_those_of_others() {
    for kind in ALL {
        assert_eq!(serde_json::from_value::<SourceKind>(kind.name().into()).unwrap(), kind);
        let config: SourceConfig = serde_json::from_value(settings(kind)).unwrap();
        config.check().unwrap_or_else(|fault| panic!("{kind:?}: {fault:?}"));
        let own = settings(kind);
        for (key, value) in ALL.iter().flat_map(|other| settings(*other).as_object().unwrap().clone()) {
            if key == "source" {
                continue;
            }
            let mut mixed = own.clone();
            mixed[&key] = value.clone();
            let refused = serde_json::from_value::<SourceConfig>(mixed).unwrap().check().err().map(|fault| fault.0);
            let shared = own.get(&key).is_some()
                || (key == "client_id" && matches!(kind, SourceKind::Imds | SourceKind::AppService | SourceKind::Arc));
            assert_eq!(refused, (!shared).then_some(key), "{kind:?}");
        }
    }
}

/// Failures that every service can have, whatever it speaks.
fn faults() -> Vec<(Reply, ErrorCode)> {
    vec![
        (Reply::hang_up(), ErrorCode::SourceUnavailable),
        (Reply::page(200).broken_off(), ErrorCode::SourceUnavailable),
        (Reply::page(502), ErrorCode::SourceUnavailable),
        (Reply::status(302).header("location", "http://127.0.0.1:1/"), ErrorCode::SourceUnavailable),
        (Reply::status(429).header("retry-after", "9"), ErrorCode::SourceThrottled),
        (Reply::status(500), ErrorCode::SourceUnavailable),
        (Reply::page(200), ErrorCode::UpstreamShape),
        (Reply::json(format!("\"{}", "x".repeat(300 * 1024))), ErrorCode::UpstreamShape),
    ]
}

#[tokio::test]
async fn every_source_tells_the_same_faults_apart() {
    let folder = Folder::new();
    for (reply, code) in faults() {
        let answer = reply.clone();
        let server = Fake::start(move |_| answer.clone()).await;
        for kind in ALL.into_iter().filter(|kind| *kind != SourceKind::File) {
            let error = folder.source(&at(kind, &server)).fetch(AUDIENCE).await.unwrap_err();
            assert_eq!(error.code, code, "{kind:?} {reply:?}: {error}");
            assert!(!error.to_string().contains(MARK), "{error}");
            let hint = (code == ErrorCode::SourceThrottled).then_some(Duration::from_secs(9));
            assert_eq!(error.retry_after, hint, "{kind:?} {reply:?}");
        }
    }
}

#[tokio::test]
async fn every_source_gives_up_at_its_deadline() {
    let folder = Folder::new();
    let server = Fake::start(|_| Reply::silence()).await;
    let deadline = Some(daemon::config::Span(Duration::from_millis(20)));
    for kind in ALL.into_iter().filter(|kind| *kind != SourceKind::File) {
        let error = folder.source(&SourceConfig { deadline, ..at(kind, &server) }).fetch(AUDIENCE).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::SourceUnavailable, "{kind:?}: {error}");
        assert!(error.message.contains("did not answer within"), "{error}");
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_logs_errors_or_debug_output() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // For this thread, on which the whole runtime of the test runs.
    let _capturing = tracing::subscriber::set_default(subscriber);
    let folder = Folder::new();
    let keys: PathBuf = folder.0.path().into();
    let mut told = String::new();
    let good = [
        (SourceKind::ClientSecret, fakes::entra(Trusted::Secret("hunter2-secret".into())).await, ""),
        (SourceKind::Imds, fakes::imds(Machine::with(&[("", "")])).await, "/metadata/identity/oauth2/token"),
        (SourceKind::AppService, fakes::app_service(Machine::with(&[("", "")]), "hunter2-secret").await, "/msi/token"),
    ];
    let mut sources: Vec<Arc<dyn Source>> = vec![folder.source(&at(SourceKind::File, &good[0].1))];
    for (kind, server, path) in &good {
        let mut config = at(*kind, server);
        config.endpoint = config.endpoint.map(|_| server.url(path));
        sources.push(folder.source(&config));
    }
    for reply in [fakes::aadsts("invalid_client", 7000215), fakes::oauth(400, "x"), fakes::granted(), Reply::page(200)]
    {
        let server = Fake::start(move |_| reply.clone()).await;
        sources.extend(ALL.map(|kind| folder.source(&at(kind, &server))));
    }
    let shutdown = Shutdown::new();
    let (mut granted, mut failed) = (0, 0);
    for source in sources {
        let cache = Cache::new(source.clone(), Arc::new(SystemClock), shutdown.clone());
        match cache.get(AUDIENCE).await {
            Ok(token) => {
                granted += 1;
                told.push_str(&format!("{token:?}"));
            }
            Err(error) => {
                failed += 1;
                told.push_str(&format!("{error:?} {error}"));
            }
        }
        told.push_str(&format!("{source:?} {cache:?} {}", cache.overview()));
    }
    assert!(granted >= 8 && failed >= 20, "{granted} {failed}");
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("token fetched") && log.contains("no new token"), "nothing was captured");
    let key = std::fs::read_to_string(keys.join("app.key")).unwrap();
    let key = key.lines().nth(1).unwrap();
    for secret in [MARK, TOKEN, "eyJ", &folder.token(), key] {
        assert!(!told.contains(secret), "{secret} is told");
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
