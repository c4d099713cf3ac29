//! An Entra v2 token endpoint over TLS, in the test's own process.
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

use crate::pki::Pki;

/// Tenant that it knows.
pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";

/// Application that it knows.
pub const CLIENT_ID: &str = "66666666-7777-8888-9999-000000000000";

/// That application's secret.
pub const CLIENT_SECRET: &str = "a-client-secret-that-must-not-be-logged";

/// The endpoint; it ends when this is dropped.
#[derive(Debug)]
pub struct TokenEndpoint {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl TokenEndpoint {
    /// Starts it with a certificate of `pki`.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(pki: &Pki) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let acceptor = pki.acceptor(address.ip());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, seen.clone()));
                    // A client that goes away is no error here.
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    /// The authority to configure.
    pub fn authority(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Scopes that were asked for with the right credentials, in order.
    ///
    /// # Panics
    /// Never.
    pub fn granted(&self) -> Vec<String> {
        self.requests.lock().expect("nothing panics here").clone()
    }
}

/// The token that it gives for a scope: opaque to its clients, as Entra's are.
pub fn token_for(scope: &str) -> String {
    format!("token-for-{scope}")
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let right_place =
        request.method() == Method::POST && request.uri().path() == format!("/{TENANT}/oauth2/v2.0/token");
    let body = match Limited::new(request.into_body(), 64 * 1024).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(&body).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let has = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
    let (status, body) = if !right_place {
        (StatusCode::NOT_FOUND, json!({ "error": "invalid_request" }))
    } else if !has("grant_type", "client_credentials") || !has("client_id", CLIENT_ID) {
        (StatusCode::BAD_REQUEST, json!({ "error": "unauthorized_client", "error_description": "AADSTS700016" }))
    } else if !has("client_secret", CLIENT_SECRET) {
        (StatusCode::UNAUTHORIZED, json!({ "error": "invalid_client", "error_description": "AADSTS7000215" }))
    } else {
        let scope = form.get("scope").cloned().unwrap_or_default();
        let answer = json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": token_for(&scope) });
        seen.lock().expect("nothing panics here").push(scope);
        (StatusCode::OK, answer)
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body.to_string()))).expect("the parts are valid"))
}
