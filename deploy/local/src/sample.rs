//! The "cluster": a small scoring service over HTTP and a TCP service that echoes. Only the gateway ever calls them.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use daemon::shutdown::Shutdown;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Largest body the scorer reads: it answers with a count of words, nobody sends more.
const BODY_MAX: usize = 64 * 1024;

/// Where the sample services listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// The HTTP scorer.
    pub(crate) scorer: SocketAddr,
    /// The TCP echo.
    pub(crate) echo: SocketAddr,
}

impl Sample {
    /// Starts both on free loopback ports.
    pub(crate) async fn start(shutdown: &Shutdown) -> anyhow::Result<Self> {
        let scorer = listen().await?;
        let echo = listen().await?;
        let sample = Self { scorer: scorer.local_addr()?, echo: echo.local_addr()? };
        shutdown.spawn(accept(scorer, shutdown.clone(), serve_scorer));
        shutdown.spawn(accept(echo, shutdown.clone(), serve_echo));
        Ok(sample)
    }
}

async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await.context("binding a loopback port for the sample service")
}

async fn accept<F, Fut>(listener: TcpListener, shutdown: Shutdown, serve: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    loop {
        tokio::select! {
            biased;
            () = shutdown.draining() => return,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let served = serve(stream);
                    let forced = shutdown.clone();
                    shutdown.spawn(async move {
                        tokio::select! {
                            () = forced.draining() => {}
                            () = served => {}
                        }
                    });
                }
            }
        }
    }
}

async fn serve_scorer(stream: TcpStream) {
    // An error here is the caller's broken connection; the gateway logs its side of it.
    let _ = stream.set_nodelay(true);
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(score)).await;
}

/// `GET /v1/health` answers `ok`; `POST /v1/score` counts the words of its body.
async fn score(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    tracing::info!(
        method = %request.method(),
        path = request.uri().path(),
        host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("none"),
        caller_token = request.headers().contains_key(header::AUTHORIZATION),
        "served"
    );
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/health") => Response::new(Full::from("ok\n")),
        (&Method::POST, "/v1/score") => match Limited::new(request.into_body(), BODY_MAX).collect().await {
            Ok(body) => {
                let words = String::from_utf8_lossy(&body.to_bytes()).split_whitespace().count();
                Response::new(Full::from(format!("{{\"words\":{words}}}\n")))
            }
            Err(_) => plain(StatusCode::PAYLOAD_TOO_LARGE, "at most 64 KiB\n"),
        },
        _ => plain(StatusCode::NOT_FOUND, "try GET /v1/health or POST /v1/score\n"),
    };
    Ok(answer)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}

/// Sends back what it reads, and ends its side when the caller has ended theirs.
async fn serve_echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut read, mut write) = stream.split();
    // A broken connection shows at the caller as missing bytes, where it is checked.
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
}
