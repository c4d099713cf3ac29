//! One answer per request, made from memory: which requests are listened to, and what they are told.
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::{Either, Full};

use super::{
    Readiness, Status,
    events::{Events, FOLLOWERS_MAX, Follower, Patience},
    readiness::Waiting,
};
use crate::{
    metrics::{self, Metrics},
    shutdown::Shutdown,
};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// By this browsers say where a request comes from: `none` is a person who types.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Names the last event that a follower has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// A text that is there already, or events as they come.
pub(super) type Body = Either<Full<Bytes>, Follower>;

type Answer = (StatusCode, &'static str, Body);

/// Everything an answer is made of.
pub(super) struct View {
    pub(super) address: SocketAddr,
    pub(super) readiness: Readiness,
    pub(super) metrics: Metrics,
    pub(super) status: Status,
    pub(super) events: Events,
    pub(super) shutdown: Shutdown,
}

impl View {
    /// Looks at the head alone; a body is never read.
    pub(super) fn answer<B>(&self, request: &Request<B>, patience: &Patience) -> Response<Body> {
        let (status, kind, body) = self.decide(request, patience);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        // Nothing here is for a browser to run, embed, sniff or keep.
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static("default-src 'none'"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn decide<B>(&self, request: &Request<B>, patience: &Patience) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: this port changes nothing\n");
        }
        if let Err(why) = host_is_ours(request) {
            return text(StatusCode::MISDIRECTED_REQUEST, why);
        }
        if is_of_a_web_page(request) {
            return text(StatusCode::FORBIDDEN, "not for web pages of others\n");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match request.uri().query().map(|query| query.split_once('=').ok_or(query)) {
                None => self.readyz(false),
                Some(Err("verbose")) => self.readyz(true),
                Some(Ok((kind, name))) => self.ready_one(kind, name),
                Some(Err(_)) => text(StatusCode::NOT_FOUND, "only ?verbose or ?<kind>=<name> can be asked\n"),
            },
            "/statusz" | "/metrics" | "/events" if !is_loopback(self.address.ip()) => {
                text(StatusCode::FORBIDDEN, "only on a loopback address; here /livez and /readyz answer\n")
            }
            "/statusz" => whole(StatusCode::OK, JSON, format!("{:#}\n", (self.status)())),
            "/metrics" => whole(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.encode()),
            "/events" => self.events(request, patience),
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /livez, /readyz, /readyz?verbose, /statusz, /metrics and /events\n",
            ),
        }
    }

    fn events<B>(&self, request: &Request<B>, patience: &Patience) -> Answer {
        // An id that is none has seen nothing.
        let seen = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.trim().parse().ok());
        match self.events.follow(seen, patience) {
            Some(follower) => (StatusCode::OK, EVENTS, Either::Right(follower)),
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{FOLLOWERS_MAX} followers are here already, which is the limit\n"),
            ),
        }
    }

    fn ready_one(&self, kind: &str, name: &str) -> Answer {
        match self.readiness.ask(kind, name).map(|asked| asked.map_err(|why| self.shown(why))) {
            _ if self.shutdown.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n- draining\n"),
            Some(Ok(())) => text(StatusCode::OK, "ready\n"),
            Some(Err(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n- {why}\n")),
            None => text(StatusCode::NOT_FOUND, "there is none of this kind and name\n"),
        }
    }

    /// What a check says, which may quote a peer. Anybody may ask at an address that is not loopback.
    fn shown(&self, why: String) -> String {
        if is_loopback(self.address.ip()) {
            why
        } else {
            "not ready; why, /readyz and /statusz say on loopback".to_owned()
        }
    }

    fn readyz(&self, verbose: bool) -> Answer {
        let standing = self.readiness.standing();
        let draining = self.shutdown.is_draining();
        let ready = !draining && standing.iter().all(|item| item.waiting.is_none());
        let mut body = String::from(if ready { "ready\n" } else { "not ready\n" });
        if draining {
            body.push_str("- draining\n");
        }
        for item in &standing {
            // Writing to a String does not fail.
            let _ = match (&item.waiting, item.took) {
                (Some(Waiting::Guard(why)), _) => writeln!(body, "- {}: {why}", item.name),
                (Some(Waiting::Check(why)), _) => writeln!(body, "- {}: {}", item.name, self.shown(why.clone())),
                (None, _) if !verbose => Ok(()),
                (None, Some(took)) => writeln!(body, "+ {}: after {} ms", item.name, took.as_millis()),
                (None, None) => writeln!(body, "+ {}", item.name),
            };
        }
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    whole(status, TEXT, body.into())
}

fn whole(status: StatusCode, kind: &'static str, body: String) -> Answer {
    (status, kind, Either::Left(Full::new(Bytes::from(body))))
}

/// A web page that gets its own name to resolve to this address (DNS rebinding) still sends that name. Addresses and
/// `localhost` cannot be taken over like that, so nothing else is answered.
fn host_is_ours<B>(request: &Request<B>) -> Result<(), &'static str> {
    const REFUSED: &str = "Host must be localhost or an IP address\n";
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("exactly one Host is needed\n");
    };
    let named = Authority::try_from(host.as_bytes()).map_err(|_| REFUSED)?;
    let asked = request.uri().authority();
    if std::iter::once(&named).chain(asked).all(|authority| is_local_name(authority.host())) {
        Ok(())
    } else {
        Err(REFUSED)
    }
}

/// A web page cannot read what it is answered, but its requests take places, and followers stay. Browsers say where a
/// request comes from: of another site, of another port of this host, or of a script that may be anybody's.
fn is_of_a_web_page<B>(request: &Request<B>) -> bool {
    let mut sites = request.headers().get_all(SEC_FETCH_SITE).iter();
    request.headers().contains_key(header::ORIGIN)
        || sites.any(|site| !matches!(site.as_bytes(), b"none" | b"same-origin"))
}

fn is_local_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok()
        || bare.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
