//! One request: what it wants, who answers it, and what the access line says about a refusal.
use std::sync::Arc;

use ::http::{Request, Response, StatusCode, header};
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
    body::Body,
    connect, control, describe,
    door::Visitor,
    http,
    refusal::{Refusal, bare},
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
    /// By the relay, since nobody listens for HTTP senders: the entity's status for it.
    Nobody(StatusCode),
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

impl Denied {
    /// What the peer is told.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::By(refusal) | Self::Over(refusal, _) => refusal.status(),
            Self::Nobody(status) | Self::ByListener { status, .. } => *status,
            Self::Rejects => StatusCode::GONE,
        }
    }
}

/// A request with everything that its handlers need.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) target: Target,
    /// It came on the plain path: from an HTTP sender.
    pub(crate) plain: bool,
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
    let (parsed, plain) = match Target::parse(&whole) {
        Err(TargetError::PlainPath) => (Target::plain(&whole), true),
        parsed => (parsed, false),
    };
    let id = match parsed.as_ref().ok().and_then(Target::id) {
        Some(id) => clean(id, ID_SHOWN),
        None => new_id(),
    };
    line.id.clone_from(&id);
    let mut path = line.path.clone();
    let denied = match parsed {
        Err(_) => Refusal::BadTarget.into(),
        Ok(target) => {
            path = clean(target.path(), PATH_SHOWN);
            line.path.clone_from(&path);
            let asked = Asked { target, plain, id: id.clone(), request };
            match dispatch(visitor, asked, line).await {
                Ok(response) => return response,
                Err((denied, back)) => {
                    line = back;
                    denied
                }
            }
        }
    };
    // Who sent a good token may send the next request where it is.
    let may_go_on = plain && visitor.is_proven();
    visitor.proven();
    let namespace = visitor.relay.namespace();
    let entity = namespace.find(&path).map_or("", |entity| &entity.name);
    let tracking = Tracking { id: &id, namespace: &namespace.host, path: &path, at: visitor.relay.clock.now() };
    let mut response = match denied {
        Denied::By(refusal) => refused(visitor, entity, &mut line, refusal, &tracking),
        Denied::Nobody(status) => {
            let mut response = refused(visitor, entity, &mut line, Refusal::NoListener, &tracking);
            *response.status_mut() = status;
            response
        }
        Denied::Over(refusal, excess) => {
            visitor.relay.metrics.refused(entity, refusal);
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
            bare(status, &reason(phrase, &tracking), String::new())
        }
        Denied::Rejects => {
            line.end("rejects", "none");
            bare(StatusCode::GONE, &reason("The sender was rejected", &tracking), String::new())
        }
    };
    if may_go_on && !visitor.relay.shutdown.is_draining() {
        response.headers_mut().remove(header::CONNECTION);
    }
    line.answers(response.status().as_u16());
    response
}

fn refused(
    visitor: &Visitor,
    entity: &str,
    line: &mut Line,
    refusal: Refusal,
    tracking: &Tracking<'_>,
) -> Response<Body> {
    visitor.relay.metrics.refused(entity, refusal);
    line.end(refusal.name(), refusal.fault());
    line.because(refusal.text());
    refusal.answer(tracking, None)
}

/// Handlers keep the line when they take the connection over, and give it back when they refuse.
async fn dispatch(
    visitor: &Arc<Visitor>,
    asked: Asked,
    mut line: Box<Line>,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    if asked.plain && describe::is_asked_for(asked.request.headers()) {
        return describe::describe(visitor, asked, line).await;
    }
    if asked.plain {
        return http::send(visitor, asked, line).await;
    }
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
        Action::Accept | Action::Request => accept::accept(visitor, asked, accept, line),
    }
}
