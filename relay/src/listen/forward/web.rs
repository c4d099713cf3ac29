//! HTTP requests, put to an HTTP target. One connection carries one exchange, and is used again when both directions are
//! complete; not when its request proved somebody's identity to the connection rather than to itself. Redirects are the
//! sender's business: none is followed.
use std::{
    future::poll_fn,
    io,
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use daemon::shutdown::Shutdown;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use identity::tls::{TlsError, client, roots};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    head,
    pool::{Io, Link, Pool},
};
use crate::{
    listen::{
        BoxError, Received, RequestBody, ResponseBody,
        config::{HostField, HttpConfig, site::Site},
        explained,
        http::{Told, problem},
    },
    transport::{self, is_untrusted},
};

/// For a connection to the target, TLS included.
const TARGET: Duration = Duration::from_secs(10);

/// An HTTP target.
#[derive(Debug)]
pub(super) struct Web {
    site: Site,
    host: HostField,
    keep_name: bool,
    tls: Option<Arc<ClientConfig>>,
    /// Senders speak TLS with the relay, as far as we know.
    senders_tls: bool,
    pool: Arc<Pool>,
}

/// Why there is no answer of the target's.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the target cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the target is not trusted")]
    Untrusted(#[source] io::Error),
    #[error("TLS with the target failed")]
    Tls(#[source] io::Error),
    #[error("the target does not speak HTTP")]
    Start(#[source] hyper::Error),
    #[error("the target broke off before it answered")]
    Broken(#[source] hyper::Error),
    #[error("the request broke off")]
    Request(#[source] hyper::Error),
    #[error("the target's path is too long")]
    TooLong,
}

impl Failed {
    /// What the sender is told: nothing about the inside but what is the matter.
    fn answer(&self) -> Response<ResponseBody> {
        let (status, text, outcome, fault) = match self {
            Self::Connect(error) => {
                let text = format!("The listener cannot reach its target ({})", error.kind());
                (StatusCode::BAD_GATEWAY, text, "target_down", "target")
            }
            Self::Untrusted(_) => (
                StatusCode::BAD_GATEWAY,
                "The listener does not trust its target".to_owned(),
                "target_untrusted",
                "target",
            ),
            Self::Tls(_) | Self::Start(_) => {
                let text = "The listener and its target do not understand each other".to_owned();
                (StatusCode::BAD_GATEWAY, text, "target_down", "target")
            }
            Self::Broken(_) => {
                (StatusCode::BAD_GATEWAY, "The target broke off before it answered".to_owned(), "target_lost", "target")
            }
            Self::Request(_) => (StatusCode::BAD_REQUEST, "The request broke off".to_owned(), "bad_request", "sender"),
            Self::TooLong => (StatusCode::URI_TOO_LONG, "The path is too long".to_owned(), "bad_request", "sender"),
        };
        problem(status, &text, Told { outcome, fault, detail: explained(self) })
    }
}

impl Web {
    pub(super) fn new(site: Site, config: &HttpConfig, senders_tls: bool, base: &Path) -> Result<Self, TlsError> {
        let tls = match site.tls {
            true => Some(client(roots(&config.trust, base)?, &[b"http/1.1"])),
            false => None,
        };
        let (host, keep_name) = (config.host.clone(), config.keep_name);
        Ok(Self { site, host, keep_name, tls, senders_tls, pool: Arc::default() })
    }

    /// Closes connections that nobody needs any more, until the drain.
    pub(super) async fn sweep(self: Arc<Self>, shutdown: Shutdown) {
        tokio::select! {
            biased;
            () = shutdown.draining() => {}
            () = self.pool.sweep() => {}
        }
    }

    /// The target's answer, or ours in its place.
    pub(super) async fn answer(self: Arc<Self>, request: Request<RequestBody>) -> Response<ResponseBody> {
        self.exchange(request).await.unwrap_or_else(|failed| failed.answer())
    }

    async fn exchange(&self, request: Request<RequestBody>) -> Result<Response<ResponseBody>, Failed> {
        let (mut parts, body) = request.into_parts();
        let Some(received) = parts.extensions.remove::<Received>() else { return Err(Failed::TooLong) };
        let asked = if self.keep_name { parts.uri.path_and_query() } else { Some(&received.below) };
        let uri = asked.and_then(|asked| head::target(&self.site, asked)).ok_or(Failed::TooLong)?;
        let pool = (!head::identifies_connection(&parts.headers)).then(|| self.pool.clone());
        head::identify(&mut parts.headers, &received, &self.site, &self.host, self.senders_tls);
        let repeat = (is_repeatable(&parts.method) && body.is_end_stream())
            .then(|| (parts.method.clone(), uri.clone(), parts.headers.clone()));
        let mut request = outgoing(parts.method, uri, parts.headers, body);
        let mut idle = self.pool.take();
        loop {
            let reused = idle.is_some();
            let link = match idle.take() {
                Some(link) => link,
                None => self.connect().await?,
            };
            // A target may close an idle connection just when the request is on its way.
            match send(link, request).await {
                Ok((link, response)) => return Ok(pass_on(link, response, pool)),
                Err((Some(unsent), _)) if reused => request = *unsent,
                Err((None, error)) if reused && !is_ours(&error) => match repeat.clone() {
                    Some((method, uri, headers)) => request = outgoing(method, uri, headers, RequestBody::none()),
                    None => return Err(Failed::Broken(error)),
                },
                Err((_, error)) if is_ours(&error) => return Err(Failed::Request(error)),
                Err((_, error)) => return Err(Failed::Broken(error)),
            }
        }
    }

    async fn connect(&self) -> Result<Link, Failed> {
        let connected = async {
            let stream =
                TcpStream::connect((self.site.host.as_str(), self.site.port)).await.map_err(Failed::Connect)?;
            transport::prepare(&stream).map_err(Failed::Connect)?;
            let io = match &self.tls {
                None => Io::Tcp(stream),
                Some(tls) => {
                    let name = ServerName::try_from(self.site.host.clone())
                        .map_err(|error| Failed::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                    match TlsConnector::from(tls.clone()).connect(name, stream).await {
                        Ok(stream) => Io::Tls(Box::new(stream)),
                        Err(error) if is_untrusted(&error) => return Err(Failed::Untrusted(error)),
                        Err(error) => return Err(Failed::Tls(error)),
                    }
                }
            };
            Link::new(io).await.map_err(Failed::Start)
        };
        timeout(TARGET, connected).await.unwrap_or_else(|_| Err(Failed::Connect(io::ErrorKind::TimedOut.into())))
    }
}

/// The target's answer; its connection goes back to `pool` behind it, if there is one.
fn pass_on(link: Link, response: Response<Incoming>, pool: Option<Arc<Pool>>) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::ALT_SVC);
    let mut answer = Answer { body, link: Some(link), pool };
    let body = if answer.body.is_end_stream() {
        answer.complete();
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        answer.boxed_unsync()
    };
    Response::from_parts(head, body)
}

/// The same request has the same effect, however often it is sent (RFC 9110 section 9.2.1: safe methods).
fn is_repeatable(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

fn outgoing(method: Method, uri: Uri, headers: HeaderMap, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    request
}

/// The request's own body failed, not the target.
fn is_ours(error: &hyper::Error) -> bool {
    error.is_user()
}

type Unsent = (Option<Box<Request<RequestBody>>>, hyper::Error);

/// Sends a request and drives its connection until the head of the answer is there. An unsent request is given back.
async fn send(mut link: Link, request: Request<RequestBody>) -> Result<(Link, Response<Incoming>), Unsent> {
    let mut answer = pin!(link.sender.try_send_request(request));
    let answer = poll_fn(|cx| {
        link.poll_drive(cx);
        answer.as_mut().poll(cx)
    })
    .await;
    match answer {
        Ok(response) => Ok((link, response)),
        Err(mut error) => Err((error.take_message().map(Box::new), error.into_error())),
    }
}

/// The body of an answer, with the connection that it comes on.
struct Answer {
    body: Incoming,
    link: Option<Link>,
    pool: Option<Arc<Pool>>,
}

impl Answer {
    fn complete(&mut self) {
        if let (Some(link), Some(pool)) = (self.link.take(), &self.pool) {
            pool.give(link);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(link) = &mut this.link {
            link.poll_drive(cx);
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) {
            this.complete();
        }
        polled.map_err(|error| format!("the target broke off: {}", explained(&error)).into())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
