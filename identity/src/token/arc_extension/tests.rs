//! Claims about the identity request, against an API server that keeps its objects as the real one does.
use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    jwt::Signer,
    testing::{Reply, Request as HttpRequest},
    token::{
        fakes::{AUDIENCE, Fake, kubernetes_status},
        source,
    },
};

const REQUEST: &str =
    "/apis/clusterconfig.azure.com/v1beta1/namespaces/azure-arc/azureclusteridentityrequests/causeway";
const SECRET: &str = "/api/v1/namespaces/azure-arc/secrets/causeway-token";
const OWN: &str = "own.hunter2.token";

/// What the API server keeps.
#[derive(Default)]
struct Objects {
    request: Option<Value>,
    secret: Option<Value>,
    patches: usize,
    /// The answer to a patch, when it is refused.
    refused: Option<Reply>,
}

struct World {
    server: Fake,
    objects: Arc<Mutex<Objects>>,
    folder: tempfile::TempDir,
}

fn in_seconds(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::seconds(seconds)
}

fn token(seconds: i64) -> String {
    let token = Signer::generate("k").sign(&json!({ "exp": in_seconds(seconds).unix_timestamp() }));
    token.expose().to_owned()
}

fn answer(objects: &mut Objects, request: &HttpRequest) -> Reply {
    if request.header("authorization") != Some(&format!("Bearer {OWN}")) {
        return kubernetes_status(401, "Unauthorized");
    }
    let found = match (request.method.as_str(), request.path.as_str()) {
        ("GET", REQUEST) => &objects.request,
        ("GET", SECRET) => &objects.secret,
        ("PATCH", path) if path == format!("{REQUEST}/status") => {
            if let Some(refused) = &objects.refused {
                return refused.clone();
            }
            if request.header("content-type") != Some("application/merge-patch+json") {
                return kubernetes_status(415, "UnsupportedMediaType");
            }
            assert_eq!(request.body, r#"{"status":{"expirationTime":""}}"#);
            objects.patches += 1;
            objects.request.as_mut().unwrap()["status"]["expirationTime"] = "".into();
            &objects.request
        }
        _ => return kubernetes_status(403, "Forbidden"),
    };
    found.as_ref().map_or(kubernetes_status(404, "NotFound"), |object| Reply::json(object.to_string()))
}

impl World {
    async fn new() -> Self {
        let objects = Arc::new(Mutex::new(Objects::default()));
        let shared = objects.clone();
        let server = Fake::start(move |request| answer(&mut shared.lock().unwrap(), request)).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("own"), OWN).unwrap();
        Self { server, objects, folder }
    }

    /// The agents have put a token with this much life beside the request.
    fn issued(self, seconds: i64) -> Self {
        self.set(&token(seconds), &in_seconds(seconds).format(&Rfc3339).unwrap());
        self
    }

    fn set(&self, token: &str, end: &str) {
        let reference = json!({ "secretName": "causeway-token", "dataName": "cluster-identity-token" });
        let mut objects = self.objects.lock().unwrap();
        objects.request = Some(json!({
            "spec": { "audience": format!("{AUDIENCE}/") },
            "status": { "expirationTime": end, "tokenReference": reference },
        }));
        objects.secret = Some(json!({ "data": { "cluster-identity-token": STANDARD.encode(token) } }));
    }

    fn change(&self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.objects.lock().unwrap());
    }

    async fn fetch(&self) -> Result<Token, TokenError> {
        let config = json!({
            "source": "arc_extension", "request": "causeway",
            "kubernetes": { "api_server": self.server.url(""), "token": "own" },
        });
        source(&serde_json::from_value(config).unwrap(), self.folder.path()).unwrap().fetch(AUDIENCE).await
    }

    fn patches(&self) -> usize {
        self.objects.lock().unwrap().patches
    }
}

#[tokio::test]
async fn the_token_beside_the_request_is_handed_out() {
    let world = World::new().await.issued(24 * 3600);
    let token = world.fetch().await.unwrap();
    assert!(token.secret.expose().split('.').count() == 3 && token.expires > SystemTime::now() + 23 * RENEW);
    assert_eq!(world.patches(), 0);
    let asked: Vec<_> = world.server.seen().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, [REQUEST, SECRET]);
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_once_and_served_meanwhile() {
    let world = World::new().await.issued(29 * 60);
    let first = world.fetch().await.unwrap();
    let second = world.fetch().await.unwrap();
    assert_eq!(world.patches(), 1, "what is being renewed is not asked for again");
    assert_eq!(first.secret.expose(), second.secret.expose());
    world.set(&token(24 * 3600), &in_seconds(24 * 3600).format(&Rfc3339).unwrap());
    assert!(world.fetch().await.unwrap().expires > first.expires);
    assert_eq!(world.patches(), 1);
}

#[tokio::test]
async fn an_ended_token_is_renewed_and_not_served() {
    let world = World::new().await.issued(-60);
    let error = world.fetch().await.unwrap_err();
    assert_eq!((error.code, error.retry_after), (ErrorCode::SourceUnavailable, Some(LOOK_AGAIN)));
    assert_eq!(world.patches(), 1);
}

#[tokio::test]
async fn a_renewal_that_is_refused_does_not_take_the_token_along() {
    let world = World::new().await.issued(600);
    world.change(|objects| objects.refused = Some(kubernetes_status(403, "Forbidden")));
    world.fetch().await.unwrap();
    let world = World::new().await;
    let request = json!({ "spec": { "audience": AUDIENCE }, "status": { "expirationTime": "2020-01-01T00:00:00Z" } });
    world.change(|objects| {
        objects.request = Some(request);
        objects.refused = Some(kubernetes_status(403, "Forbidden"));
    });
    let error = world.fetch().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::KubernetesRefused);
    assert!(error.message.contains("Kubernetes patch /apis/clusterconfig.azure.com"), "{error}");
}

#[tokio::test]
async fn a_new_request_is_waited_for() {
    let world = World::new().await;
    for status in [json!({}), json!({ "status": {} }), json!({ "status": { "tokenReference": {} } })] {
        let mut request = json!({ "spec": { "audience": AUDIENCE } });
        request.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        world.change(|objects| objects.request = Some(request));
        let error = world.fetch().await.unwrap_err();
        assert_eq!((error.code, error.retry_after), (ErrorCode::SourceUnavailable, Some(LOOK_AGAIN)), "{error}");
    }
    assert_eq!(world.patches(), 0);
}

#[tokio::test]
async fn a_request_that_is_missing_or_for_another_audience_is_told() {
    let world = World::new().await;
    let error = world.fetch().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::KubernetesRefused);
    assert!(error.message.contains("azureclusteridentityrequests/causeway"), "{error}");
    world.change(|objects| objects.request = Some(json!({ "spec": { "audience": "https://vault.azure.net" } })));
    let error = world.fetch().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceMisconfigured);
    assert!(error.message.contains(AUDIENCE), "{error}");
}

#[tokio::test]
async fn only_a_jwt_is_passed_on_and_only_from_a_secret_with_a_name() {
    let world = World::new().await;
    for text in ["hunter2", "-----BEGIN PRIVATE KEY-----", ""] {
        world.set(text, &in_seconds(3600).format(&Rfc3339).unwrap());
        let error = world.fetch().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::UpstreamShape, "{text}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for name in ["../../kube-system/secrets/x", "a/b", "", "A"] {
        world.set(&token(3600), &in_seconds(3600).format(&Rfc3339).unwrap());
        world.change(|objects| {
            objects.request.as_mut().unwrap()["status"]["tokenReference"]["secretName"] = name.into();
        });
        let before = world.server.seen().len();
        assert_eq!(world.fetch().await.unwrap_err().code, ErrorCode::SourceUnavailable, "{name}");
        assert_eq!(world.server.seen().len(), before + 1, "{name} was asked for");
    }
}

#[tokio::test]
async fn the_earlier_end_counts() {
    let world = World::new().await;
    world.set(&token(3600), &in_seconds(7200).format(&Rfc3339).unwrap());
    assert!(world.fetch().await.unwrap().expires < SystemTime::now() + 3 * RENEW);
    world.set(&token(7200), &in_seconds(3600).format(&Rfc3339).unwrap());
    assert!(world.fetch().await.unwrap().expires < SystemTime::now() + 3 * RENEW);
}

#[test]
fn the_request_must_have_a_name() {
    for request in [json!(null), json!(""), json!("A"), json!("a/b"), json!("../x"), json!("x".repeat(254))] {
        let config: SourceConfig =
            serde_json::from_value(json!({ "source": "arc_extension", "request": request })).unwrap();
        assert_eq!(config.check().unwrap_err().0, "request");
    }
}
