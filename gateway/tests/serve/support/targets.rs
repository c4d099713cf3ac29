//! Services "in the cluster": ordinary ones on hyper, hostile ones in bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

type Body = BoxBody<Bytes, hyper::Error>;

/// A running target; ends when it is dropped.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Connections it has accepted.
    pub(crate) connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Target {
    /// Gives each connection to `serve`.
    pub(crate) async fn of<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                open.spawn(serve(stream));
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    /// An ordinary HTTP service.
    pub(crate) async fn http() -> Self {
        Self::of(|stream| async move {
            // A client that leaves is nothing to a server.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        })
        .await
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/v1/echo" => Response::new(request.into_body().boxed()),
        "/v1/head" => text(format!("{:#?}", request.headers())),
        "/v1/hostile" => {
            let mut response = text("hostile".to_owned());
            for (name, value) in [("causeway-actor", "forged"), ("keep-alive", "timeout=1"), ("x-app", "kept")] {
                response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            response
        }
        "/v1/trailers" => {
            let trailers = HeaderMap::from_iter([
                (HeaderName::from_static("x-checksum"), HeaderValue::from_static("abc")),
                (HeaderName::from_static("causeway-forged"), HeaderValue::from_static("1")),
            ]);
            let body = Full::new(Bytes::from_static(b"body")).with_trailers(std::future::ready(Some(Ok(trailers))));
            let mut response = Response::new(body.map_err(|never| match never {}).boxed());
            let declared = HeaderValue::from_static("x-checksum, causeway-forged");
            response.headers_mut().insert(http::header::TRAILER, declared);
            // Without it the length would be declared, which leaves no room for trailers.
            response.headers_mut().insert(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            response
        }
        "/v1/sum" => {
            let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
            text(trailers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect())
        }
        "/v1/never" => std::future::pending().await,
        "/v1/close" => {
            let mut response = text("bye".to_owned());
            response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
        "/v1/empty" => {
            let mut response = text(String::new());
            *response.status_mut() = http::StatusCode::NO_CONTENT;
            response
        }
        _ => text(format!("{} {path}", request.method())),
    })
}

fn text(text: String) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed())
}
