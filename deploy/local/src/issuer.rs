//! The embedded token endpoint: OAuth 2.0 client credentials in the shape of an Entra v2 endpoint, over TLS, with real
//! ES256 tokens whose public key the gateway reads as a JWKS file.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use daemon::shutdown::Shutdown;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::{ca::Leaf, secret::Secret, tls::ServerTls};
use serde_json::json;
use tokio::net::TcpListener;

/// Life of a minted token, as Entra's shortest.
const LIFE: Duration = Duration::from_secs(3600);
/// Longest token request that is read.
const FORM_MAX: usize = 16 * 1024;
/// Tenant in the endpoint's path.
pub(crate) const TENANT: &str = "local";
const KEY_ID: &str = "local-1";

/// An application that may have tokens.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    /// `client_id`.
    pub(crate) id: String,
    /// `client_secret`.
    pub(crate) secret: Secret,
}

/// A running token endpoint.
#[derive(Debug)]
pub(crate) struct Issuer {
    address: SocketAddr,
    keys: serde_json::Value,
}

struct Signer {
    key: jsonwebtoken::EncodingKey,
    issuer: String,
    applications: Vec<Application>,
}

impl Issuer {
    /// Starts it on a free loopback port with a certificate for 127.0.0.1.
    pub(crate) async fn start(
        leaf: &Leaf,
        applications: Vec<Application>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .context("making the issuer's signing key")?;
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref())
            .context("reading the issuer's signing key")?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("binding the token endpoint")?;
        let address = listener.local_addr()?;
        let tls = ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), &[b"http/1.1"])?;
        let signer = Arc::new(Signer {
            key: jsonwebtoken::EncodingKey::from_ec_der(pair.as_ref()),
            issuer: issuer_of(address),
            applications,
        });
        shutdown.spawn(accept(listener, tls, signer, shutdown.clone()));
        Ok(Self { address, keys: key_set(signing.public_key().as_ref()) })
    }

    /// `iss` of every token.
    pub(crate) fn issuer(&self) -> String {
        issuer_of(self.address)
    }

    /// Where clients are pointed.
    pub(crate) fn authority(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The public keys, as a JWKS document.
    pub(crate) fn keys(&self) -> &serde_json::Value {
        &self.keys
    }
}

fn issuer_of(address: SocketAddr) -> String {
    format!("https://{address}/{TENANT}/v2.0")
}

/// The JWKS of one P-256 key given as an uncompressed point (0x04, x, y).
fn key_set(point: &[u8]) -> serde_json::Value {
    let (x, y) = (&point[1..33], &point[33..65]);
    json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }] })
}

async fn accept(listener: TcpListener, tls: ServerTls, signer: Arc<Signer>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.draining() => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (tls, signer, ending) = (tls.current(), signer.clone(), shutdown.clone());
                shutdown.spawn(async move {
                    let served = async {
                        let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                        let answer = service_fn(move |request| {
                            let signer = signer.clone();
                            async move { Ok::<_, Infallible>(signer.answer(request).await) }
                        });
                        // A broken connection shows at the client, which reports it.
                        let _ = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(Duration::from_secs(5))
                            .serve_connection(TokioIo::new(stream), answer)
                            .await;
                    };
                    tokio::select! {
                        () = ending.draining() => {}
                        () = served => {}
                    }
                });
            }
        }
    }
}

impl Signer {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let expected = format!("/{TENANT}/oauth2/v2.0/token");
        if request.method() != Method::POST || request.uri().path() != expected {
            return json_answer(StatusCode::NOT_FOUND, &json!({ "error": "not_found" }));
        }
        let Ok(form) = Limited::new(request.into_body(), FORM_MAX).collect().await else {
            return refused("invalid_request", "AADSTS900144: the request body is missing or too large.");
        };
        let form = form.to_bytes();
        let field = |name: &str| {
            url::form_urlencoded::parse(&form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        if field("grant_type").as_deref() != Some("client_credentials") {
            return refused("unsupported_grant_type", "AADSTS70003: only client_credentials is served.");
        }
        let (id, secret) = (field("client_id").unwrap_or_default(), field("client_secret").unwrap_or_default());
        let Some(application) = self.applications.iter().find(|application| application.id == id) else {
            return refused("unauthorized_client", "AADSTS700016: application not found.");
        };
        if !application.secret.matches(&secret) {
            return refused("invalid_client", "AADSTS7000215: invalid client secret provided.");
        }
        let scope = field("scope").unwrap_or_default();
        let Some(audience) = scope.strip_suffix("/.default").filter(|audience| !audience.is_empty()) else {
            return refused("invalid_scope", "AADSTS70011: the scope must end with /.default.");
        };
        match self.mint(&application.id, audience) {
            Ok(token) => json_answer(
                StatusCode::OK,
                &json!({ "token_type": "Bearer", "expires_in": LIFE.as_secs(), "ext_expires_in": LIFE.as_secs(),
                         "access_token": token }),
            ),
            Err(_) => json_answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "server_error" })),
        }
    }

    fn mint(&self, subject: &str, audience: &str) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some(KEY_ID.to_owned());
        let claims = json!({ "iss": self.issuer, "aud": audience, "sub": subject, "oid": subject, "appid": subject,
                             "iat": now, "nbf": now, "exp": now + LIFE.as_secs() });
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

fn refused(error: &str, description: &str) -> Response<Full<Bytes>> {
    json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": error, "error_description": description }))
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}
