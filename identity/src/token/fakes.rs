//! Stand-ins for the services behind the sources, which check what the real ones check and answer with their refusals:
//! Entra's token endpoint, the three managed-identity endpoints, and the API server of Kubernetes. What a test wants to go
//! wrong, it scripts itself.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256},
    signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
        VerificationAlgorithm,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::testing::{HttpServer, Reply, Request};

pub(super) const TENANT: &str = "contoso";
pub(super) const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
pub(super) const AUDIENCE: &str = "https://storage.azure.com";
/// Found in no error, log or `Debug` output.
pub(super) const TOKEN: &str = "issued.hunter2.token";

/// What an application is trusted for.
#[derive(Clone)]
pub(super) enum Trusted {
    Secret(String),
    /// A certificate, DER.
    Certificate(Vec<u8>),
    /// Tokens of a cluster: the key of its issuer as a JWK, issuer, subject, audience.
    Federation {
        key: Value,
        issuer: String,
        subject: String,
        audience: String,
    },
}

/// A server that counts what it has seen.
pub(super) struct Fake {
    server: HttpServer,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub(super) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let server = HttpServer::start(move |request| {
            let reply = answer(&request);
            sink.lock().unwrap().push(request);
            reply
        });
        Self { server: server.await, seen }
    }

    pub(super) fn url(&self, path: &str) -> String {
        self.server.url(path)
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// Entra's token endpoint, trusting one application.
pub(super) async fn entra(trusted: Trusted) -> Fake {
    let used = Mutex::new(BTreeSet::new());
    Fake::start(move |request| judge(&trusted, request, &used).unwrap_or_else(|refusal| refusal)).await
}

fn judge(trusted: &Trusted, request: &Request, used: &Mutex<BTreeSet<String>>) -> Result<Reply, Reply> {
    let ensure = |right: bool, error: &str, number: u64| if right { Ok(()) } else { Err(aadsts(error, number)) };
    ensure(request.method == "POST", "invalid_request", 900561)?;
    let endpoint = format!("/{TENANT}/oauth2/v2.0/token");
    ensure(request.path == endpoint, "invalid_request", 90002)?;
    let kind = request.header("content-type");
    ensure(kind == Some("application/x-www-form-urlencoded"), "invalid_request", 900144)?;
    let pairs = request.form();
    let form: BTreeMap<_, _> = pairs.iter().cloned().collect();
    ensure(form.len() == pairs.len(), "invalid_request", 9000411)?;
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    ensure(field("grant_type") == "client_credentials", "unsupported_grant_type", 70003)?;
    ensure(field("client_id") == CLIENT, "unauthorized_client", 700016)?;
    ensure(field("scope").ends_with("/.default"), "invalid_scope", 1002012)?;
    ensure(field("scope") == format!("{AUDIENCE}/.default"), "invalid_resource", 500011)?;
    let assertion = field("client_assertion");
    if let Trusted::Secret(secret) = trusted {
        ensure(assertion.is_empty(), "invalid_client", 7000216)?;
        ensure(field("client_secret") == secret, "invalid_client", 7000215)?;
    } else {
        ensure(!form.contains_key("client_secret"), "invalid_client", 7000216)?;
        let announced = field("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        ensure(announced, "invalid_client", 50027)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    match trusted {
        Trusted::Secret(_) => {}
        Trusted::Certificate(der) => {
            let jwt = Jwt::parse(assertion).ok_or_else(|| aadsts("invalid_client", 50027))?;
            ensure(jwt.is_signed_with(der), "invalid_client", 700027)?;
            let (iss, sub) = (jwt.claims["iss"].as_str(), jwt.claims["sub"].as_str());
            ensure(iss == Some(CLIENT) && sub == Some(CLIENT), "invalid_client", 700021)?;
            let here = format!("http://{}{endpoint}", request.host);
            ensure(jwt.claims["aud"] == here.as_str(), "invalid_client", 700023)?;
            let (from, to) = (jwt.claims["nbf"].as_u64().unwrap(), jwt.claims["exp"].as_u64().unwrap());
            ensure(from <= now && now < to && to - from <= 600, "invalid_client", 700024)?;
            ensure(used.lock().unwrap().insert(jwt.claims["jti"].to_string()), "invalid_client", 50027)?;
        }
        Trusted::Federation { key, issuer, subject, audience } => {
            let jwt = Jwt::parse(assertion).ok_or_else(|| aadsts("invalid_client", 50027))?;
            ensure(jwt.is_signed_by(key), "invalid_client", 50012)?;
            ensure(jwt.claims["exp"].as_u64().unwrap() > now, "invalid_client", 700024)?;
            ensure(jwt.claims["iss"] == issuer.as_str(), "invalid_client", 700211)?;
            ensure(jwt.claims["aud"] == json!([audience]), "invalid_client", 700212)?;
            ensure(jwt.claims["sub"] == subject.as_str(), "invalid_client", 700213)?;
        }
    }
    Ok(granted())
}

pub(super) fn granted() -> Reply {
    let body = json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": TOKEN });
    Reply::json(body.to_string())
}

/// A refusal as Entra words them.
pub(super) fn aadsts(error: &str, number: u64) -> Reply {
    let status = if error == "invalid_client" { 401 } else { 400 };
    let body = json!({
        "error": error, "error_codes": [number], "error_description": format!("AADSTS{number}: hunter2"),
        "correlation_id": "0f8fad5b-d9cb-469f-a165-70867728950e", "trace_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    });
    Reply::json(body.to_string()).with_status(status)
}

/// A JWT taken apart.
pub(super) struct Jwt<'a> {
    signed: &'a str,
    pub(super) head: Value,
    pub(super) claims: Value,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let (signed, signature) = text.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        Some(Self {
            signed,
            head: serde_json::from_slice(&decode(head)?).ok()?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
            signature: decode(signature)?,
        })
    }

    /// By the key of a certificate that the head names.
    fn is_signed_with(&self, der: &[u8]) -> bool {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        let named = |name: &str, algorithm| self.head[name] == URL_SAFE_NO_PAD.encode(digest::digest(algorithm, der));
        let scheme: &'static dyn VerificationAlgorithm = match self.head["alg"].as_str() {
            Some("PS256") if named("x5t#S256", &SHA256) => &RSA_PSS_2048_8192_SHA256,
            Some("RS256") if named("x5t", &SHA1_FOR_LEGACY_USE_ONLY) => &RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        self.verifies(scheme, &certificate.public_key().subject_public_key.data)
    }

    /// By the key of a cluster's issuer.
    fn is_signed_by(&self, key: &Value) -> bool {
        let mut point = vec![4];
        for coordinate in ["x", "y"] {
            point.extend(URL_SAFE_NO_PAD.decode(key[coordinate].as_str().unwrap()).unwrap());
        }
        self.head["alg"] == "ES256" && self.head["kid"] == key["kid"] && self.verifies(&ECDSA_P256_SHA256_FIXED, &point)
    }

    fn verifies(&self, scheme: &'static dyn VerificationAlgorithm, key: &[u8]) -> bool {
        UnparsedPublicKey::new(scheme, key).verify(self.signed.as_bytes(), &self.signature).is_ok()
    }
}

/// What a managed-identity endpoint knows.
#[derive(Clone)]
pub(super) struct Machine {
    /// Selectors that it answers to; `("", "")` is the system-assigned identity.
    pub(super) identities: Vec<(&'static str, &'static str)>,
    /// Echo the selector.
    pub(super) echo: bool,
}

impl Machine {
    pub(super) fn with(identities: &[(&'static str, &'static str)]) -> Self {
        Self { identities: identities.to_vec(), echo: true }
    }
}

/// IMDS.
pub(super) async fn imds(machine: Machine) -> Fake {
    Fake::start(move |request| {
        if request.path.split('?').next() != Some("/metadata/identity/oauth2/token") {
            return Reply::status(404);
        }
        if request.header("metadata") != Some("true") {
            return oauth(400, "bad_request_102");
        }
        managed(&machine, request, "2018-02-01", "msi_res_id").unwrap_or_else(|error| oauth(400, error))
    })
    .await
}

/// App Service.
pub(super) async fn app_service(machine: Machine, secret: &'static str) -> Fake {
    Fake::start(move |request| {
        let refuse = |status: u16| {
            let body = json!({ "statusCode": status, "message": "hunter2", "correlationId": "0f8fad5b-d9cb-469f" });
            Reply::json(body.to_string()).with_status(status)
        };
        if request.path.split('?').next() != Some("/msi/token") {
            return Reply::status(404);
        }
        if request.header("x-identity-header") != Some(secret) {
            return refuse(401);
        }
        managed(&machine, request, "2019-08-01", "mi_res_id").unwrap_or_else(|_| refuse(400))
    })
    .await
}

/// The Azure Arc agent, which writes a key for each request into `keys` and takes it once.
pub(super) async fn arc(machine: Machine, keys: PathBuf) -> Fake {
    let written: Mutex<BTreeMap<String, PathBuf>> = Mutex::default();
    Fake::start(move |request| {
        let mut written = written.lock().unwrap();
        let Some(proof) = request.header("authorization") else {
            let content = crate::secret::Secret::random().expose().to_owned();
            let path = keys.join(format!("{}.key", written.len()));
            std::fs::write(&path, &content).unwrap();
            let realm = format!("Basic realm={}", path.display());
            written.insert(content, path);
            return Reply::status(401).header("www-authenticate", &realm);
        };
        let Some(path) = proof.strip_prefix("Basic ").and_then(|content| written.remove(content)) else {
            return oauth(403, "unauthorized_client");
        };
        std::fs::remove_file(path).unwrap();
        if request.header("metadata") != Some("true") {
            return oauth(400, "bad_request_102");
        }
        managed(&machine, request, "2020-06-01", "msi_res_id").unwrap_or_else(|error| oauth(400, error))
    })
    .await
}

fn managed(machine: &Machine, request: &Request, version: &str, resource_id: &str) -> Result<Reply, &'static str> {
    let ensure = |right: bool, error: &'static str| if right { Ok(()) } else { Err(error) };
    ensure(request.method == "GET" && request.body.is_empty(), "invalid_request")?;
    ensure(request.header("x-forwarded-for").is_none(), "invalid_request")?;
    let pairs = request.query();
    let query: BTreeMap<_, _> = pairs.iter().cloned().collect();
    ensure(query.len() == pairs.len(), "invalid_request")?;
    ensure(query.get("api-version").is_some_and(|text| text == version), "invalid_request")?;
    ensure(query.get("resource").is_some_and(|text| text == AUDIENCE), "invalid_resource")?;
    let mut selectors = query.iter().filter(|(name, _)| !["api-version", "resource"].contains(&name.as_str()));
    let (name, value) = selectors.next().map_or(("", ""), |(name, value)| (name.as_str(), value.as_str()));
    ensure(selectors.next().is_none(), "invalid_request")?;
    ensure(["", "client_id", "object_id", resource_id].contains(&name), "invalid_request")?;
    ensure(machine.identities.contains(&(name, value)), "invalid_request")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut body = json!({
        "access_token": TOKEN, "refresh_token": "", "expires_in": "86399", "expires_on": (now + 86399).to_string(),
        "not_before": now.to_string(), "resource": AUDIENCE, "token_type": "Bearer",
    });
    if version == "2019-08-01" {
        body.as_object_mut().unwrap().remove("expires_in");
    }
    if machine.echo && !name.is_empty() {
        body[name] = value.into();
    }
    Ok(Reply::json(body.to_string()))
}

/// A refusal as IMDS words them.
pub(super) fn oauth(status: u16, error: &str) -> Reply {
    Reply::json(json!({ "error": error, "error_description": "hunter2" }).to_string()).with_status(status)
}

/// A refusal as the Kubernetes API server words them.
pub(super) fn kubernetes_status(status: u16, reason: &str) -> Reply {
    let body =
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "hunter2" });
    Reply::json(body.to_string()).with_status(status)
}
