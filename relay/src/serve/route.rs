//! One request: what it wants, who answers it, and what the access line says about a refusal.
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use proto::{
    hybrid::{
        address::{Action, Target, TargetError},
        new_id,
        status::{Tracking, clean, reason},
    },
    ws::handshake,
};

use super::{
    accept,
    access::Line,
    connect, control,
    door::Visitor,
    refusal::{Body, Refusal, plain},
    share::Excess,
};

/// Longest path that a log line shows.
const PATH_SHOWN: usize = 300;

/// Longest client-chosen id that a log line or a status shows.
const ID_SHOWN: usize = 64;

/// Why a request is not served.
#[derive(Debug)]
pub(crate) enum Denied {
    /// By the relay.
    By(Refusal),
    /// By the relay, because of a limit.
    Over(Refusal, Excess),
    /// By a listener, for its sender.
    ByListener {
        /// Its status.
        status: StatusCode,
        /// Its words.
        description: String,
    },
    /// A listener's dial that rejects its sender: 410, and that is success.
    Rejects,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::By(refusal)
    }
}

/// A request with everything that its handlers need.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) target: Target,
    /// Tracing id: the client's, if it is fit for a log line, or a new one.
    pub(crate) id: String,
    pub(crate) request: Request<Incoming>,
}

/// Answers one request.
pub(crate) async fn answer(visitor: &Arc<Visitor>, request: Request<Incoming>) -> Response<Body> {
    let mut line = visitor.take_line().unwrap_or_else(|| Box::new(Line::new(visitor.peer)));
    let whole = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let path_asked = whole.split('?').next().unwrap_or_default();
    line.path = clean(path_asked.trim_start_matches('/'), PATH_SHOWN);
    let parsed = Target::parse(&whole);
    let id = match parsed.as_ref().ok().and_then(Target::id) {
        Some(id) => clean(id, ID_SHOWN),
        None => new_id(),
    };
    line.id.clone_from(&id);
    let mut path = line.path.clone();
    let denied = match parsed {
        Err(error) => Denied::By(refusal_of(error, request.headers())),
        Ok(target) => {
            path = clean(target.path(), PATH_SHOWN);
            line.path.clone_from(&path);
            let asked = Asked { target, id: id.clone(), request };
            match dispatch(visitor, asked, line).await {
                Ok(response) => return response,
                Err((denied, back)) => {
                    line = back;
                    denied
                }
            }
        }
    };
    visitor.proven();
    let namespace = visitor.relay.namespace();
    let tracking = Tracking { id: &id, namespace: &namespace.host, path: &path, at: visitor.relay.clock.now() };
    let response = match denied {
        Denied::By(refusal) => {
            visitor.relay.metrics.refused(refusal);
            line.end(refusal.name(), "peer");
            line.because(refusal.text());
            refusal.answer(&tracking, None)
        }
        Denied::Over(refusal, excess) => {
            visitor.relay.metrics.refused(refusal);
            line.end(refusal.name(), "peer");
            line.because(excess);
            refusal.answer(&tracking, Some(excess))
        }
        Denied::ByListener { status, description } => {
            line.end("rejected", "listener");
            line.because(clean(&description, PATH_SHOWN));
            let phrase = if description.is_empty() {
                status.canonical_reason().unwrap_or("Rejected by the listener")
            } else {
                &description
            };
            plain(status, &reason(phrase, &tracking), String::new())
        }
        Denied::Rejects => {
            line.end("rejects", "none");
            plain(StatusCode::GONE, &reason("The sender was rejected", &tracking), String::new())
        }
    };
    line.status = response.status().as_u16();
    response
}

/// Handlers keep the line when they take the connection over, and give it back when they refuse.
async fn dispatch(
    visitor: &Arc<Visitor>,
    asked: Asked,
    mut line: Box<Line>,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    let accept = match handshake::check_request(&asked.request) {
        Ok(accept) => accept,
        Err(handshake::RequestError::Version) => return Err((Refusal::WebSocketVersion.into(), line)),
        Err(_) => return Err((Refusal::NotWebSocket.into(), line)),
    };
    line.kind = match asked.target.action() {
        Action::Listen => "listener",
        Action::Connect => "sender",
        Action::Accept | Action::Request => "rendezvous",
    };
    match asked.target.action() {
        Action::Listen => control::listen(visitor, asked, accept, line).await,
        Action::Connect => connect::connect(visitor, asked, accept, line).await,
        // No address for a `request` is ever given out, so none is known.
        Action::Accept | Action::Request => accept::accept(visitor, asked, accept, line),
    }
}

fn refusal_of(error: TargetError, headers: &HeaderMap) -> Refusal {
    match error {
        TargetError::PlainPath if headers.contains_key(http::header::UPGRADE) => Refusal::PlainPathWebSocket,
        TargetError::PlainPath => Refusal::HttpSender,
        TargetError::DotSegment | TargetError::UnknownAction => Refusal::BadTarget,
    }
}
