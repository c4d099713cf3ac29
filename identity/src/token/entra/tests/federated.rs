//! Federated tokens, from a file and from the Kubernetes API server.
use std::time::UNIX_EPOCH;

use super::*;
use crate::{
    jwt::Signer,
    token::{
        fakes::{self, CLIENT, Fake, Jwt, TENANT, TOKEN, Trusted, aadsts, granted, kubernetes_status},
        source_in,
    },
};

const ISSUER: &str = "https://oidc.example.com/cluster";
const SUBJECT: &str = "system:serviceaccount:models:scorer";
const EXCHANGE: &str = "api://AzureADTokenExchange";

/// A cluster whose tokens an application trusts, and a folder for its files.
struct Cluster {
    signer: Arc<Signer>,
    folder: tempfile::TempDir,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self { signer: Arc::new(Signer::generate("cluster-1")), folder: tempfile::tempdir().unwrap() };
        let pod = json!({ "namespace": "models", "pod": { "name": "scorer-0", "uid": "u-1" } });
        let own = json!({
            "iss": ISSUER, "sub": SUBJECT, "aud": ["https://kubernetes"], "exp": now() + 3600, "kubernetes.io": pod,
        });
        cluster.write("own", cluster.signer.sign(&own).expose());
        cluster
    }

    fn write(&self, name: &str, text: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, self.folder.path().join(name)).unwrap();
    }

    /// What the kubelet mounts.
    fn mount(&self, changes: Value) {
        let mut claims = json!({ "iss": ISSUER, "sub": SUBJECT, "aud": [EXCHANGE], "exp": now() + 3600 });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.write("federated", &format!("{}\n", self.signer.sign(&claims).expose()));
    }

    fn trusted(&self) -> Trusted {
        let text = str::to_owned;
        let (issuer, subject, audience) = (text(ISSUER), text(SUBJECT), text(EXCHANGE));
        Trusted::Federation { key: self.signer.jwk(), issuer, subject, audience }
    }

    /// By what the pod's environment says alone.
    fn workload_identity(&self, authority: String) -> Arc<dyn Source> {
        let path = self.folder.path().join("federated").display().to_string();
        let environment = move |name: &str| match name {
            "AZURE_TENANT_ID" => Some(TENANT.to_owned()),
            "AZURE_CLIENT_ID" => Some(CLIENT.to_owned()),
            "AZURE_FEDERATED_TOKEN_FILE" => Some(path.clone()),
            "AZURE_AUTHORITY_HOST" => Some(authority.clone()),
            _ => None,
        };
        let config: SourceConfig = serde_json::from_value(json!({ "source": "workload_identity" })).unwrap();
        assert_eq!(config.identity_in(&environment).unwrap(), CLIENT);
        source_in(&config, Path::new(""), &environment).unwrap()
    }

    /// The API server, which issues tokens for the pod that shows its own.
    async fn api_server(&self) -> Fake {
        let own = std::fs::read_to_string(self.folder.path().join("own")).unwrap();
        let signer = self.signer.clone();
        Fake::start(move |request| {
            if request.header("authorization") != Some(&format!("Bearer {own}")) {
                return kubernetes_status(401, "Unauthorized");
            }
            let path = "/api/v1/namespaces/models/serviceaccounts/scorer/token";
            if (request.method.as_str(), request.path.as_str()) != ("POST", path) {
                return kubernetes_status(403, "Forbidden");
            }
            let body: Value = serde_json::from_str(&request.body).unwrap();
            let spec = &body["spec"];
            let pod = json!({ "apiVersion": "v1", "kind": "Pod", "name": "scorer-0", "uid": "u-1" });
            let fits = request.header("content-type") == Some("application/json")
                && body["kind"] == "TokenRequest"
                && body["apiVersion"] == "authentication.k8s.io/v1"
                && spec["expirationSeconds"].as_u64().is_some_and(|seconds| seconds >= 600)
                && spec["boundObjectRef"] == pod;
            if !fits {
                return kubernetes_status(422, "Invalid");
            }
            let claims =
                json!({ "iss": ISSUER, "sub": SUBJECT, "aud": spec["audiences"], "exp": now() + 600, "jti": request.body });
            let status = json!({ "token": signer.sign(&claims).expose(), "expirationTimestamp": "2026-01-01T00:00:00Z" });
            Reply::json(json!({ "kind": "TokenRequest", "status": status }).to_string()).with_status(201)
        })
        .await
    }

    fn token_request(&self, api: &Fake, entra: &Fake, changes: Value) -> Arc<dyn Source> {
        let mut config = json!({
            "source": "token_request", "authority": entra.url(""), "tenant": TENANT, "client_id": CLIENT,
            "kubernetes": { "api_server": api.url(""), "token": "own" },
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        source(&serde_json::from_value(config).unwrap(), self.folder.path()).unwrap()
    }
}

fn assertions(server: &Fake) -> Vec<String> {
    let of = |form: Vec<(String, String)>| form.into_iter().find(|(name, _)| name == "client_assertion").unwrap().1;
    server.seen().iter().map(|request| of(request.form())).collect()
}

#[tokio::test]
async fn a_mounted_token_is_shown_without_its_newline() {
    let cluster = Cluster::new();
    cluster.mount(json!({}));
    let server = fakes::entra(cluster.trusted()).await;
    let token = cluster.workload_identity(server.url("/")).fetch(AUDIENCE).await.unwrap();
    assert_eq!(token.secret.expose(), TOKEN);
    let form = server.seen()[0].form();
    let names: Vec<_> = form.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["client_id", "grant_type", "scope", "client_assertion_type", "client_assertion"]);
    let mounted = std::fs::read_to_string(cluster.folder.path().join("federated")).unwrap();
    assert_eq!(assertions(&server), [mounted.trim_end()]);
}

#[tokio::test]
async fn a_replaced_token_is_shown_at_the_next_fetch() {
    let cluster = Cluster::new();
    cluster.mount(json!({ "jti": 1 }));
    let server = fakes::entra(cluster.trusted()).await;
    let source = cluster.workload_identity(server.url(""));
    source.fetch(AUDIENCE).await.unwrap();
    let before = source.generation();
    cluster.mount(json!({ "jti": 2 }));
    assert_ne!(before, source.generation());
    source.fetch(AUDIENCE).await.unwrap();
    let shown: Vec<_> =
        assertions(&server).iter().map(|text| Jwt::parse(text).unwrap().claims["jti"].clone()).collect();
    assert_eq!(shown, [1, 2]);
}

#[tokio::test]
async fn a_mismatch_tells_what_was_shown() {
    let cluster = Cluster::new();
    let server = fakes::entra(cluster.trusted()).await;
    for (changes, shown) in [
        (json!({ "iss": "https://oidc.example.com/other" }), "issuer https://oidc.example.com/other,"),
        (json!({ "sub": "system:serviceaccount:models:Scorer" }), "subject system:serviceaccount:models:Scorer,"),
        (json!({ "aud": ["https://kubernetes"] }), "audience https://kubernetes"),
        (json!({ "iss": format!("{ISSUER}\n hunter2") }), "issuer (none)"),
    ] {
        cluster.mount(changes);
        let error = cluster.workload_identity(server.url("")).fetch(AUDIENCE).await.unwrap_err();
        assert_eq!((error.code, error.stage), (ErrorCode::FederationMismatch, Stage::Token), "{error}");
        assert!(error.message.contains(shown) && !error.message.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_has_ended_is_shown_to_nobody() {
    let cluster = Cluster::new();
    cluster.mount(json!({ "exp": now() - 1 }));
    let server = fakes::entra(cluster.trusted()).await;
    let error = cluster.workload_identity(server.url("")).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::AssertionExpired, Stage::Proof));
    assert!(error.message.contains("federated"), "{error}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_read_when_it_is() {
    let cluster = Cluster::new();
    let server = fakes::entra(cluster.trusted()).await;
    let source = cluster.workload_identity(server.url(""));
    let error = source.fetch(AUDIENCE).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::FileUnreadable, Stage::Proof));
    assert!(error.code.retryable());
    cluster.mount(json!({}));
    source.fetch(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn a_token_that_entra_finds_too_old_is_replaced_once_if_there_is_a_newer_one() {
    let cluster = Arc::new(Cluster::new());
    cluster.mount(json!({ "jti": 1 }));
    let kubelet = cluster.clone();
    // The kubelet replaces the file while the old token is on its way.
    let server = Fake::start(move |request| {
        if request.body.contains(&mounted(&kubelet)) && kubelet.folder.path().join("done").exists() {
            return granted();
        }
        kubelet.mount(json!({ "jti": 2 }));
        kubelet.write("done", "");
        aadsts("invalid_client", 700024)
    })
    .await;
    cluster.workload_identity(server.url("")).fetch(AUDIENCE).await.unwrap();
    assert_eq!(server.seen().len(), 2);

    let server = Fake::start(|_| aadsts("invalid_client", 700024)).await;
    let error = cluster.workload_identity(server.url("")).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::AssertionExpired, Stage::Token));
    assert!(error.message.contains("clocks") && error.message.contains("federated"), "{error}");
    assert_eq!(server.seen().len(), 1, "the same token was shown twice");
}

fn mounted(cluster: &Cluster) -> String {
    std::fs::read_to_string(cluster.folder.path().join("federated")).unwrap().trim_end().to_owned()
}

#[test]
fn what_neither_file_nor_environment_says_is_named() {
    let full = json!({ "source": "workload_identity", "tenant": TENANT, "client_id": CLIENT, "path": "token" });
    let nothing = |_: &str| None;
    for (key, variable) in
        [("tenant", "AZURE_TENANT_ID"), ("client_id", "AZURE_CLIENT_ID"), ("path", "AZURE_FEDERATED_TOKEN_FILE")]
    {
        let mut config = full.clone();
        config.as_object_mut().unwrap().remove(key);
        let config: SourceConfig = serde_json::from_value(config).unwrap();
        config.check().expect("the environment may say it");
        let error = source_in(&config, Path::new(""), &nothing).unwrap_err();
        assert_eq!((error.code, error.stage), (ErrorCode::SourceMisconfigured, Stage::Settings));
        assert!(error.message.contains(key) && error.message.contains(variable), "{error}");
    }
    let config: SourceConfig = serde_json::from_value(full).unwrap();
    let hostile = |name: &str| (name == "AZURE_AUTHORITY_HOST").then(|| "http://login.example.com".to_owned());
    assert!(source_in(&config, Path::new(""), &hostile).unwrap_err().message.contains("authority"));
}

#[tokio::test]
async fn a_token_is_requested_for_the_pods_own_account_and_never_touches_a_disk() {
    let cluster = Cluster::new();
    let (api, entra) = (cluster.api_server().await, fakes::entra(cluster.trusted()).await);
    let source = cluster.token_request(&api, &entra, json!({}));
    assert_eq!(source.fetch(AUDIENCE).await.unwrap().secret.expose(), TOKEN);
    assert_eq!(api.seen().len(), 1);
    assert_eq!(std::fs::read_dir(cluster.folder.path()).unwrap().count(), 1, "only the pod's own token is there");
}

#[tokio::test]
async fn the_api_server_is_trusted_by_the_ca_that_is_mounted_now_and_by_no_other() {
    let cluster = Cluster::new();
    let issued = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap(), key)
    };
    let ((right, key), (wrong, _)) = (issued(), issued());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![right.der().clone()], key)
        .unwrap();
    let server = HttpServer::start_tls(tls, |_| kubernetes_status(403, "Forbidden")).await;
    let entra = fakes::entra(cluster.trusted()).await;
    let address = server.url("").replace("http://", "https://");
    let settings = json!({ "kubernetes": { "api_server": address, "token": "own", "ca": "ca.crt" } });
    let source = cluster.token_request(&entra, &entra, settings);
    assert_eq!(source.fetch(AUDIENCE).await.unwrap_err().code, ErrorCode::FileUnreadable, "there is no CA yet");
    cluster.write("ca.crt", &wrong.pem());
    let error = source.fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceUnavailable);
    assert!(error.message.contains("certificate"), "{error}");
    cluster.write("ca.crt", &right.pem());
    assert_eq!(source.fetch(AUDIENCE).await.unwrap_err().code, ErrorCode::KubernetesRefused, "it was reached");
}

#[tokio::test]
async fn another_cloud_names_another_audience() {
    let cluster = Cluster::new();
    let (api, entra) = (cluster.api_server().await, fakes::entra(cluster.trusted()).await);
    let other = json!({ "assertion_audience": "api://AzureADTokenExchangeChina" });
    let error = cluster.token_request(&api, &entra, other).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::FederationMismatch);
    assert!(error.message.contains("audience api://AzureADTokenExchangeChina"), "{error}");
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_as_verb_and_resource() {
    let cluster = Cluster::new();
    let entra = fakes::entra(cluster.trusted()).await;
    for (reply, code) in [
        (kubernetes_status(401, "Unauthorized"), ErrorCode::KubernetesRefused),
        (kubernetes_status(403, "Forbidden"), ErrorCode::KubernetesRefused),
        (kubernetes_status(404, "NotFound"), ErrorCode::KubernetesRefused),
        (kubernetes_status(422, "Invalid"), ErrorCode::KubernetesRefused),
        (kubernetes_status(429, "TooManyRequests").header("retry-after", "1"), ErrorCode::SourceThrottled),
        (kubernetes_status(500, "InternalError"), ErrorCode::SourceUnavailable),
        (Reply::page(302), ErrorCode::SourceUnavailable),
        (Reply::page(200), ErrorCode::UpstreamShape),
        (Reply::json("{}".into()), ErrorCode::UpstreamShape),
        (Reply::json(json!({ "status": { "token": "hunter2\n" } }).to_string()), ErrorCode::UpstreamShape),
        (Reply::hang_up(), ErrorCode::SourceUnavailable),
    ] {
        let told = format!("{reply:?}");
        let api = Fake::start(move |_| reply.clone()).await;
        let error = cluster.token_request(&api, &entra, json!({})).fetch(AUDIENCE).await.expect_err(&told);
        assert_eq!((error.code, error.stage), (code, Stage::Proof), "{told}: {error}");
        assert!(
            error.message.contains("Kubernetes create /api/v1/namespaces/models/serviceaccounts/scorer/token"),
            "{error}"
        );
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert!(entra.seen().is_empty());
}

#[tokio::test]
async fn only_a_service_account_can_ask_for_its_own_token() {
    let cluster = Cluster::new();
    let entra = fakes::entra(cluster.trusted()).await;
    let api = cluster.api_server().await;
    let source = cluster.token_request(&api, &entra, json!({}));
    for subject in [
        "",
        "system:serviceaccount:models",
        "system:node:x",
        "system:serviceaccount:a/b:c",
        "system:serviceaccount:..:c",
    ] {
        let own = cluster.signer.sign(&json!({ "sub": subject, "exp": now() + 60 }));
        cluster.write("own", own.expose());
        let error = source.fetch(AUDIENCE).await.unwrap_err();
        assert_eq!((error.code, error.stage), (ErrorCode::UpstreamShape, Stage::Proof), "{subject}: {error}");
    }
    assert!(api.seen().is_empty());
}

#[test]
fn outside_a_pod_the_api_server_must_be_named() {
    let config: SourceConfig =
        serde_json::from_value(json!({ "source": "token_request", "tenant": TENANT, "client_id": CLIENT })).unwrap();
    let error = source_in(&config, Path::new(""), &|_| None).unwrap_err();
    assert!(error.message.contains("KUBERNETES_SERVICE_HOST"), "{error}");
    for host in ["10.0.0.1", "fd00::1"] {
        let pod = move |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| host.to_owned());
        let source = source_in(&config, Path::new(""), &pod).unwrap();
        assert!(format!("{source:?}").contains("token request"));
    }
    let plain = json!({ "api_server": "http://kubernetes.default" });
    let config = SourceConfig { kubernetes: serde_json::from_value(plain).unwrap(), ..config };
    assert_eq!(config.check().unwrap_err().0, "kubernetes.api_server");
}

#[tokio::test]
async fn neither_tokens_nor_secrets_are_in_debug_output() {
    let cluster = Cluster::new();
    cluster.mount(json!({}));
    let server = fakes::entra(cluster.trusted()).await;
    let source = cluster.workload_identity(server.url(""));
    let token = source.fetch(AUDIENCE).await.unwrap();
    let shown = mounted(&cluster);
    for text in [format!("{source:?}"), format!("{token:?}")] {
        assert!(!text.contains(TOKEN) && !text.contains(&shown), "{text}");
    }
}
