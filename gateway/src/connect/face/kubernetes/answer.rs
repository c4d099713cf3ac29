//! What comes back: the answer's head, with or without a change of protocol; and failures of ours, in the words of API
//! servers (`kind: Status`).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{self, forward_response},
    receive::{Part, Receiver},
};

use crate::connect::{
    face::{
        head::{self, Head, INTERIM_MAX},
        refusal::Refusal,
    },
    stream_id::StreamId,
};

/// The answer to a request for a pipe.
#[derive(Debug)]
pub(super) enum Received {
    /// 101: these fields, and bytes from here on.
    Switched(HeaderMap),
    /// Anything else is a plain answer.
    Plain(Head),
}

/// Waits for the final head; other interim ones are passed over.
pub(super) async fn receive(receiver: &mut Receiver<pb::ForwardResponse>) -> Result<Received, Failure> {
    let broken = |message: String| Failure::perhaps(Code::ProtocolError, message);
    for _ in 0..INTERIM_MAX {
        match receiver.next().await {
            Some(Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Head(head)) }))) => {
                let switched = head.status == u32::from(StatusCode::SWITCHING_PROTOCOLS.as_u16());
                if switched {
                    let fields = head::passing(&head.fields).map_err(|error| broken(error.to_string()))?;
                    return Ok(Received::Switched(fields));
                }
                let head = head::answer(&head).map_err(|error| broken(error.to_string()))?;
                if !head.0.is_informational() {
                    return Ok(Received::Plain(head));
                }
            }
            Some(Err(failure)) => return Err(failure),
            Some(Ok(_)) => return Err(broken("the gateway sent something else before the answer's head".to_owned())),
            None => return Err(broken("the gateway ended the stream without an answer".to_owned())),
        }
    }
    Err(broken(format!("the API server sent more than {INTERIM_MAX} interim answers")))
}

/// A failure as an API server tells it. kubectl shows `message`.
pub(super) fn status(refusal: &Refusal, stream: StreamId, cluster: &str) -> Response<Bytes> {
    let reason = match refusal.status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::GATEWAY_TIMEOUT => "Timeout",
        _ => "InternalError",
    };
    let (failure, by) = (&refusal.failure, refusal.by.shown(cluster));
    let message = format!(
        "{}: {}; {} (stream {stream}, decided by {by}, API server reached: {})",
        failure.code.name(),
        failure.message,
        refusal.remedy(),
        failure.reached.name(),
    );
    let text = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "details": { "causes": [{ "reason": failure.code.name(), "message": failure.message }] },
        "code": refusal.status.as_u16(),
    });
    let (parts, _) = refusal.answer(stream, cluster).into_parts();
    Response::from_parts(parts, Bytes::from(format!("{text}\n")))
}

/// Beginning of the fields by which clients ask to be somebody else.
pub(super) fn asks_to_be(name: &HeaderName) -> bool {
    name.as_str().replace('_', "-").starts_with("impersonate-")
}
