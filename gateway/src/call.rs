//! `gateway call`: one request through a tunnel of its own, like curl. It uses the connector's configuration, opens no
//! port, and says on failure what was judged, who decided, whether the target was reached, and what to do.
use std::{
    fmt::Write as _,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use daemon::{config::Loaded, process::Context};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
use identity::secret::Secret;
use proto::tunnel::{
    client::Client,
    failure::{Code, Failure, Reached},
    pb::{self, forward_response},
    receive::{Part, Receiver},
};
use tokio::io::AsyncRead;

use crate::blocked::Blocked;
use crate::connect::{
    Cluster, Config, StartError,
    actor::bearer,
    config::Speaks,
    face::{
        head::{self, Outgoing},
        refusal::{By, Refusal},
        upload::Upload,
    },
    stream_id::StreamId,
    target::{Target, TargetError},
    way::{Opened, error::WayError},
};

/// A request body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Size of the pieces in which a body is read.
const PIECE: usize = 64 * 1024;

/// What to ask for.
#[derive(Debug)]
pub struct Call {
    /// A cluster of the configuration.
    pub cluster: String,
    /// `http://host[:port]/path` as the cluster knows it.
    pub url: Uri,
    /// Method.
    pub method: Method,
    /// Further fields; `Authorization` is the application's.
    pub fields: HeaderMap,
    /// Token of the subject; without it the connector speaks for itself.
    pub subject: Option<Secret>,
    /// Body, if there is one.
    pub body: Option<Body>,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Answer {
    /// Status of the target.
    pub status: StatusCode,
    /// Fields of the target.
    pub fields: HeaderMap,
    /// The name that both logs carry.
    pub stream: String,
    /// The way that the tunnel took.
    pub way: String,
    receiver: Receiver<pb::ForwardResponse>,
    taken: usize,
    cluster: String,
    /// Keeps the tunnel open.
    _client: Client,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The configuration names no such cluster.
    #[error("no cluster `{name}` in the configuration; there is: {known}")]
    UnknownCluster {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The URL leads nowhere.
    #[error("{0}")]
    Url(&'static str),
    /// Host or port of the URL cannot be used.
    #[error("the URL's host or port cannot be used")]
    Target(#[source] TargetError),
    /// The token cannot be a field's value.
    #[error("the token has characters that no header field may have")]
    Token,
    /// Files that the configuration names cannot be used.
    #[error("the configuration cannot be used")]
    Start(#[from] StartError),
    /// No way led to a gateway.
    #[error("no way leads to cluster {cluster}")]
    NoWay {
        /// Which cluster.
        cluster: String,
        /// Each way and why it failed.
        ways: Vec<(String, WayError)>,
    },
    /// The request failed. Boxed, because it is by far the largest.
    #[error("{} {}: {}", .0.status.as_u16(), .0.failure.code.name(), .0.failure.message)]
    Failed(Box<Failed>),
}

/// A failure, and what is known about it.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The failure.
    pub failure: Failure,
    /// As an HTTP face would answer.
    pub status: StatusCode,
    /// The name that both logs carry.
    pub stream: String,
    /// Who decided.
    pub decided_by: String,
    /// The next thing to do.
    pub remedy: &'static str,
}

impl Failed {
    fn of(refusal: Refusal, stream: StreamId, cluster: &str) -> Self {
        Self {
            status: refusal.status,
            stream: stream.to_string(),
            decided_by: refusal.by.shown(cluster),
            remedy: refusal.remedy(),
            failure: refusal.failure,
        }
    }
}

impl CallError {
    /// Whether the command line or the configuration is to blame (exit code 64).
    pub fn is_bad_config(&self) -> bool {
        !matches!(self, Self::NoWay { .. } | Self::Failed(_))
    }

    /// Everything that is known, in lines for people.
    pub fn explained(&self) -> String {
        let mut text = daemon::process::explain(self);
        match self {
            Self::NoWay { ways, .. } => {
                for (way, error) in ways {
                    // Writing to a String cannot fail.
                    let _ = write!(
                        text,
                        "\n    {way}: {} ({}) at {}: {}",
                        error.code.name(),
                        error.code.id(),
                        error.stage.name(),
                        error.explained()
                    );
                    let _ = write!(text, "\n        {}", error.code.remedy());
                }
            }
            Self::Failed(failed) => {
                let contact = match failed.failure.reached {
                    Reached::No => "target not contacted",
                    Reached::Yes => "target was contacted",
                    Reached::Maybe => "target may have been contacted",
                };
                let _ = write!(
                    text,
                    "\n    {}   stream {}  decided by {}, {contact}",
                    failed.remedy, failed.stream, failed.decided_by
                );
            }
            _ => {}
        }
        text
    }
}

/// A body of known bytes.
pub fn body_of(bytes: Bytes) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is read as it is sent.
pub fn body_from(reader: impl AsyncRead + Send + 'static) -> Body {
    use futures_util::StreamExt;
    use http_body_util::BodyExt;
    let pieces = tokio_util::io::ReaderStream::with_capacity(reader, PIECE);
    StreamBody::new(pieces.map(|piece| piece.map(http_body::Frame::data))).boxed_unsync()
}

/// Opens a tunnel, sends the request, and waits for the answer's head. Tasks belong to `context.shutdown`.
///
/// # Errors
/// The request cannot be made, no way leads to the cluster, or the request failed before the target answered.
pub async fn send(config: Loaded<Config>, context: &Context, call: Call) -> Result<Answer, CallError> {
    let (target, path) = target(&call)?;
    let mut parts = Request::new(()).into_parts().0;
    (parts.method, parts.headers, parts.version) = (call.method, call.fields, Version::HTTP_11);
    parts.uri = path;
    let speaks = match &call.subject {
        None => Speaks::Connector,
        Some(token) => {
            let value = bearer(token.expose()).ok_or(CallError::Token)?;
            parts.headers.insert("causeway-authorization", value);
            Speaks::Caller
        }
    };
    let cluster = Cluster::of(&config, &call.cluster, context)?.ok_or_else(|| unknown(&config, &call.cluster))?;
    let opened = open(&cluster, &call.cluster).await?;
    let stream = StreamId::new(context.clock.now());
    let failed = |refusal: Refusal| CallError::Failed(Box::new(Failed::of(refusal, stream, &call.cluster)));

    let outgoing = Outgoing::read(&parts, speaks, call.body.is_none()).map_err(failed)?;
    if let Some(protocol) = outgoing.upgrade() {
        let text = format!("`gateway call` sends one request and does not change to `{protocol}`: use an http face");
        return Err(failed(Refusal::unsupported(text)));
    }
    let (metadata, open) = outgoing.open(&target, stream);
    let Opened { client, driver, way, address, .. } = opened;
    context.shutdown.spawn(driver);
    let (mut sender, mut receiver) =
        client.forward(metadata, open).await.map_err(|failure| failed(Refusal::from(failure)))?;
    match call.body {
        // What goes wrong with what is sent is told by the half that receives, and better.
        None => drop(sender.fin(pb::Fin::default()).await),
        Some(body) => {
            let upload = Upload::new(body, Arc::<AtomicU64>::default(), Blocked::default());
            upload.commit();
            context.shutdown.spawn(upload.send(sender));
        }
    }
    let (status, fields) =
        head::receive(&mut receiver, false, |_| {}).await.map_err(|failure| failed(Refusal::from(failure)))?;
    Ok(Answer {
        status,
        fields,
        stream: stream.to_string(),
        way: format!("{way} {address}"),
        receiver,
        taken: 0,
        cluster: call.cluster,
        _client: client,
    })
}

impl Answer {
    /// The next piece of the body; `None` at its end. Credit goes back when the next piece is asked for.
    ///
    /// # Errors
    /// The body was cut short.
    pub async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        self.receiver.taken(std::mem::take(&mut self.taken));
        loop {
            match self.receiver.next().await? {
                Ok(Part::Data(bytes)) => {
                    self.taken = bytes.len();
                    return Some(Ok(bytes));
                }
                Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Fin(_)) })) => {}
                Ok(Part::Message(_)) => {
                    let failure = Failure::after_target(Code::ProtocolError, "a message that has no place in a body");
                    return Some(Err(self.cut(failure)));
                }
                Err(failure) => return Some(Err(self.cut(failure))),
            }
        }
    }

    fn cut(&self, failure: Failure) -> CallError {
        let decided_by = By::of(&failure).shown(&self.cluster);
        let (status, remedy) = (failure.code.http_status(), failure.code.remedy());
        CallError::Failed(Box::new(Failed { failure, status, remedy, decided_by, stream: self.stream.clone() }))
    }
}

fn target(call: &Call) -> Result<(Target, Uri), CallError> {
    match call.url.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(CallError::Url("https targets are not served: the tunnel itself is encrypted, write http://"));
        }
        _ => return Err(CallError::Url("write http://<host>[:<port>]/<path>")),
    }
    let authority = call.url.authority().ok_or(CallError::Url("the URL has no host"))?;
    if authority.as_str().contains('@') {
        return Err(CallError::Url("the URL must not hold a user name or password"));
    }
    let port = call.url.port_u16().unwrap_or(80);
    let target = Target::within(&call.cluster, &format!("{}:{port}", authority.host())).map_err(CallError::Target)?;
    let path = call.url.path_and_query().map_or("/", |path| path.as_str());
    let path = path.parse().map_err(|_| CallError::Url("the URL's path cannot be used"))?;
    Ok((target, path))
}

/// What is wrong with a cluster's name.
pub(crate) fn unknown(config: &Loaded<Config>, name: &str) -> CallError {
    let known = config.values.clusters.keys().cloned().collect::<Vec<_>>().join(", ");
    CallError::UnknownCluster { name: name.to_owned(), known }
}

/// Tries the ways in their order.
pub(crate) async fn open(cluster: &Cluster, name: &str) -> Result<Opened, CallError> {
    let mut ways = Vec::new();
    for way in &*cluster.ways {
        match way.open().await {
            Ok(opened) => return Ok(opened),
            Err(error) => ways.push((format!("{} {}", way.kind, way.address), error)),
        }
    }
    Err(CallError::NoWay { cluster: name.to_owned(), ways })
}

/// A field given as `name: value`.
pub fn field(text: &str) -> Option<(http::HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, HeaderValue::from_str(value.trim()).ok()?))
}
