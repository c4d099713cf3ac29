//! The gRPC status of a call as header fields: `grpc-status`, `grpc-message` (percent-encoded) and
//! `grpc-status-details-bin` (base64 of `google.rpc.Status`), in trailers or, when nothing else was sent, in the
//! response head ("Trailers-Only"). Source: the gRPC over HTTP/2 protocol description.
//!
//! A status that cannot be read is never taken for success.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use prost::Message;

use super::{
    failure::{Code, Failure},
    rpc,
};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// `content-type` of every call.
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Bytes that `grpc-message` must not carry as they are; everything beyond ASCII is encoded anyway.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Written without padding, read either way, as the protocol asks.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Trailers of a call that succeeded.
pub(crate) fn ok() -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))])
}

/// Trailers of a call that failed.
pub(crate) fn failed(failure: &Failure) -> HeaderMap {
    let status = failure.to_status();
    let message = utf8_percent_encode(&status.message, ESCAPED).to_string();
    let details = BASE64.encode(status.encode_to_vec());
    let mut trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from(failure.code.grpc() as i32))]);
    // Neither can fail: both texts are printable ASCII now.
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(MESSAGE, message);
    }
    if let Ok(details) = HeaderValue::from_str(&details) {
        trailers.insert(DETAILS, details);
    }
    trailers
}

/// A response head that is all there is: status and trailers in one.
pub(crate) fn trailers_only(trailers: HeaderMap) -> http::Response<()> {
    let mut response = head();
    response.headers_mut().extend(trailers);
    response
}

/// The head of a response that messages follow.
pub(crate) fn head() -> http::Response<()> {
    let mut response = http::Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The status in these fields; `None` if there is none.
pub(crate) fn read(fields: &HeaderMap) -> Option<Result<(), Failure>> {
    let code = tonic::Code::from_bytes(fields.get(STATUS)?.as_bytes());
    if code == tonic::Code::Ok {
        return Some(Ok(()));
    }
    let message = fields.get(MESSAGE).map(HeaderValue::as_bytes).unwrap_or_default();
    let message = percent_decode(message).decode_utf8_lossy();
    let details = fields
        .get(DETAILS)
        .and_then(|details| BASE64.decode(details).ok())
        .and_then(|details| rpc::Status::decode(details.as_slice()).ok());
    Some(Err(Failure::from_status(code, &message, details.as_ref())))
}

/// What a response head without a status says, if it is no gRPC answer at all (a proxy's error page, say).
pub(crate) fn check_head(status: StatusCode, fields: &HeaderMap) -> Result<(), Failure> {
    if status != StatusCode::OK {
        let code = match status.as_u16() {
            400 => Code::ProtocolError,
            401 => Code::Unauthenticated,
            403 => Code::PolicyDenied,
            404 => Code::Unsupported,
            429 => Code::LimitReached,
            502..=504 => Code::TunnelLost,
            _ => Code::ProtocolError,
        };
        return Err(Failure::perhaps(code, format!("the peer answered the call with HTTP status {}", status.as_u16())));
    }
    if !is_grpc(fields) {
        return Err(Failure::perhaps(Code::ProtocolError, "the peer's answer is not gRPC (content-type)"));
    }
    Ok(())
}

/// Whether `content-type` is one of gRPC's with protobuf messages.
pub(crate) fn is_grpc(fields: &HeaderMap) -> bool {
    let Some(kind) = fields.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/grpc") || essence.eq_ignore_ascii_case("application/grpc+proto")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_comes_back_with_its_details() {
        let failure = Failure::after_target(Code::TargetBroken, "100 % kaputt – \"ü\"\n");
        let trailers = failed(&failure);
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "100 %25 kaputt %E2%80%93 \"%C3%BC\"%0A");
        let read = read(&trailers).unwrap().unwrap_err();
        assert_eq!((read.code, read.reached), (failure.code, failure.reached));
        assert_eq!(read.message, "100 % kaputt – \"ü\" ");
    }

    #[test]
    fn status_that_cannot_be_read_is_not_success() {
        let fields = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("zero"))]);
        assert!(read(&fields).unwrap().is_err());
        assert!(read(&HeaderMap::new()).is_none());
    }

    #[test]
    fn details_are_read_with_and_without_padding() {
        let mut fields = failed(&Failure::before_target(Code::Draining, "x"));
        let bare = fields["grpc-status-details-bin"].to_str().unwrap().to_owned();
        let padded = format!("{bare}{}", "=".repeat((4 - bare.len() % 4) % 4));
        fields.insert(DETAILS, padded.parse().unwrap());
        assert_eq!(read(&fields).unwrap().unwrap_err(), Failure::before_target(Code::Draining, "x"));
    }

    #[test]
    fn error_page_of_a_proxy_is_a_failure() {
        let fields = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
        assert_eq!(check_head(StatusCode::BAD_GATEWAY, &fields).unwrap_err().code, Code::TunnelLost);
        assert_eq!(check_head(StatusCode::OK, &fields).unwrap_err().code, Code::ProtocolError);
        assert!(is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"))])));
        assert!(!is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web"))])));
    }
}
