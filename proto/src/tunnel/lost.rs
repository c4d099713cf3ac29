//! What an HTTP/2 error means for one stream, and whether the request can have reached the target. A stream certainly
//! did not when it was never sent, was refused (REFUSED_STREAM), or lies above the last stream of a GOAWAY (RFC 9113,
//! sections 6.8 and 8.7).

use h2::Reason;

use super::failure::{Code, Failure, Reached};

/// The error ended a stream that had been opened.
pub(super) fn stream(error: &h2::Error) -> Failure {
    if error.is_go_away() && error.is_remote() {
        // h2 gives this error only to streams above the last one that the peer will process.
        return never_sent(error);
    }
    if error.is_reset() {
        return reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR), error.is_remote());
    }
    if error.is_library() {
        return Failure::perhaps(Code::ProtocolError, format!("the tunnel was ended: {error}"));
    }
    Failure::perhaps(Code::TunnelLost, format!("the tunnel broke: {error}"))
}

/// The error kept a stream from being opened at all.
pub(super) fn never_sent(error: &h2::Error) -> Failure {
    if error.is_go_away() && error.reason() == Some(Reason::NO_ERROR) {
        return Failure::before_target(Code::Draining, "the peer takes no new streams on this tunnel");
    }
    Failure::before_target(Code::TunnelLost, format!("the tunnel cannot open a stream: {error}"))
}

/// The stream was reset, by the peer or by our own HTTP/2 guard.
pub(super) fn reset(reason: Reason, remote: bool) -> Failure {
    let who = if remote { "the peer reset the stream" } else { "the stream was reset" };
    let (code, reached) = match reason {
        Reason::REFUSED_STREAM => (Code::LimitReached, Reached::No),
        Reason::CANCEL => (Code::Cancelled, Reached::Maybe),
        Reason::NO_ERROR => (Code::Cancelled, Reached::Maybe),
        Reason::ENHANCE_YOUR_CALM => (Code::LimitReached, Reached::Maybe),
        Reason::INTERNAL_ERROR => (Code::Internal, Reached::Maybe),
        _ => (Code::ProtocolError, Reached::Maybe),
    };
    Failure { code, message: format!("{who}: {reason}"), reached }
}
