//! The answer to a request, as a response message and a body.
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response as HttpResponse, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::ext::ReasonPhrase;
use proto::hybrid::{
    message::{BODY_MAX, Headers, Message, Response},
    status::clean,
};
use tokio::time::{Instant, timeout_at};

use super::{UPGRADE_AFTER, fields, line::Line};
use crate::listen::ResponseBody;

/// Longest reason phrase passed on, in bytes.
const DESCRIPTION_MAX: usize = 256;

/// What an answer that we made ourselves says in the access line: an extension of it.
#[derive(Debug, Clone)]
pub(in crate::listen) struct Told {
    /// Stable name.
    pub(in crate::listen) outcome: &'static str,
    /// Whose doing it was.
    pub(in crate::listen) fault: &'static str,
    /// Why, for the owner's eyes.
    pub(in crate::listen) detail: String,
}

/// An answer that we made ourselves. The sender gets status and text.
pub(in crate::listen) fn problem(status: StatusCode, text: &str, told: Told) -> HttpResponse<ResponseBody> {
    let body = Full::new(Bytes::from(format!("{text}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut answer = HttpResponse::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let Ok(phrase) = ReasonPhrase::try_from(clean(text, DESCRIPTION_MAX).into_bytes()) {
        answer.extensions_mut().insert(phrase);
    }
    answer.extensions_mut().insert(told);
    answer
}

/// What the sender is told when there are too many requests.
pub(super) fn too_many() -> HttpResponse<ResponseBody> {
    let told = Told { outcome: "crowded", fault: "listener", detail: "http.requests".to_owned() };
    problem(StatusCode::SERVICE_UNAVAILABLE, "The listener handles too many requests", told)
}

/// The same for the control channel, without a body: whoever has no place gets no memory.
pub(super) fn crowded(line: &mut Line, id: String) -> Response {
    let (outgoing, _) = Outgoing::new(too_many(), true, false);
    outgoing.record(line);
    outgoing.message(id, false)
}

/// The head of an answer on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    status: u16,
    description: Option<String>,
    fields: Headers,
    told: Option<Told>,
    /// The body is known not to fit the control channel, or not to end soon.
    pub(super) is_stream: bool,
}

/// What of the body came within [`UPGRADE_AFTER`].
#[derive(Debug)]
pub(super) enum Gathered {
    /// All of it, and it fits the control channel.
    Whole(Bytes),
    /// A part.
    Begun(Vec<Bytes>),
    /// It broke off.
    Broken(String),
}

impl Outgoing {
    /// `bodiless` for an answer to HEAD, `lists` where the relay takes several fields of one name. Answers that have no
    /// body by definition have none, whatever the handler made.
    pub(super) fn new(answer: HttpResponse<ResponseBody>, bodiless: bool, lists: bool) -> (Self, Option<ResponseBody>) {
        let (mut head, body) = answer.into_parts();
        let told = head.extensions.remove::<Told>();
        if head.status.is_informational() {
            // No relay takes one as an answer, least of all 101.
            let told =
                Told { outcome: "bad_answer", fault: "target", detail: format!("status {}", head.status.as_u16()) };
            return Self::new(problem(StatusCode::BAD_GATEWAY, "The answer is no answer", told), bodiless, lists);
        }
        let description = match head.extensions.get::<ReasonPhrase>() {
            Some(phrase) => Some(clean(&String::from_utf8_lossy(phrase.as_bytes()), DESCRIPTION_MAX)),
            None => head.status.canonical_reason().map(str::to_owned),
        };
        let bodiless = bodiless || matches!(head.status.as_u16(), 204 | 304) || http_body::Body::is_end_stream(&body);
        let size = http_body::Body::size_hint(&body);
        let is_events = head.headers.get(header::CONTENT_TYPE).is_some_and(is_event_stream);
        let outgoing = Self {
            status: head.status.as_u16(),
            description,
            fields: fields::of_answer(&head.headers, lists),
            told,
            is_stream: is_events || size.lower() > BODY_MAX as u64,
        };
        (outgoing, (!bodiless).then_some(body))
    }

    /// Says in the line that the head is there.
    pub(super) fn record(&self, line: &mut Line) {
        line.answered(self.status, self.told.clone());
    }

    /// The message that goes in front of the body.
    pub(super) fn message(&self, id: String, body: bool) -> Response {
        Response {
            request_id: id,
            status_code: self.status,
            status_description: self.description.clone(),
            response_headers: self.fields.clone(),
            body,
        }
    }

    /// The same as text; nothing when the head is larger than any relay takes.
    pub(super) fn text(&self, id: String, body: bool) -> Option<String> {
        Message::Response(self.message(id, body)).write().ok()
    }
}

fn is_event_stream(value: &HeaderValue) -> bool {
    let kind = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Waits a moment for the whole body.
pub(super) async fn gather(body: &mut ResponseBody) -> Gathered {
    let deadline = Instant::now() + UPGRADE_AFTER;
    let (mut pieces, mut size) = (Vec::new(), 0);
    loop {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Gathered::Begun(pieces),
            Ok(None) => return Gathered::Whole(joined(pieces)),
            Ok(Some(Err(error))) => return Gathered::Broken(error.to_string()),
            Ok(Some(Ok(frame))) => {
                // Trailers have no place in a response message.
                let Ok(bytes) = frame.into_data() else { continue };
                size += bytes.len();
                pieces.push(bytes);
                if size > BODY_MAX {
                    return Gathered::Begun(pieces);
                }
            }
        }
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 => Bytes::new(),
        1 => pieces.swap_remove(0),
        _ => pieces
            .into_iter()
            .fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(&piece);
                all
            })
            .freeze(),
    }
}
