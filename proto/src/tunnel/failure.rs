//! Typed failures: what went wrong, whose doing it was, and whether the request had reached the target.
//!
//! On the wire a failure is a gRPC status with a `google.rpc.Status` in `grpc-status-details-bin` that holds one
//! `ErrorInfo` (`reason` = [`Code::name`], `domain` = [`DOMAIN`]). A reason that this version does not know is mapped by
//! its gRPC code and kept in the text, so that an older peer still behaves sensibly and says what it was told.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::rpc;
use crate::limits::FAILURE_TEXT_MAX;

/// `ErrorInfo.domain` of our failures.
pub const DOMAIN: &str = "causeway.dev";

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// Whether the target may have seen the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It certainly did not: safe to try again elsewhere.
    No,
    /// It did.
    Yes,
    /// Unknown.
    Maybe,
}

impl Reached {
    /// As in `ErrorInfo.metadata["reached_target"]` and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Maybe => "maybe",
        }
    }

    fn from_name(name: &str) -> Self {
        match name {
            "no" => Self::No,
            "yes" => Self::Yes,
            _ => Self::Maybe,
        }
    }
}

/// Stable failure codes: the catalogue of the tunnel. Each has a gRPC code, an HTTP status for plain faces, a text
/// and a remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// No principal: token or certificate absent.
    Unauthenticated,
    /// The token was refused.
    TokenRefused,
    /// No rule allows it.
    PolicyDenied,
    /// The path could be read in two ways.
    AmbiguousPath,
    /// The request head breaks HTTP grammar or this contract.
    InvalidRequest,
    /// Understood, but not served by this version.
    Unsupported,
    /// The address is of a class that is never dialled.
    AddressRefused,
    /// The name does not resolve.
    TargetUnresolved,
    /// The target refused the connection.
    TargetRefused,
    /// The target did not answer in time.
    TargetTimeout,
    /// The target broke the connection or its protocol.
    TargetBroken,
    /// The caller's own deadline has passed.
    DeadlineExceeded,
    /// A limit was reached.
    LimitReached,
    /// The gateway may do nothing that it cannot write down.
    AuditUnavailable,
    /// The gateway goes away.
    Draining,
    /// The caller cancelled.
    Cancelled,
    /// The tunnel broke.
    TunnelLost,
    /// The peer broke the contract.
    ProtocolError,
    /// Our own fault.
    Internal,
}

struct Entry {
    name: &'static str,
    meaning: &'static str,
    remedy: &'static str,
    grpc: tonic::Code,
    http: u16,
}

impl Code {
    /// Every code, in the order of the catalogue.
    pub const ALL: &[Self] = &[
        Self::Unauthenticated,
        Self::TokenRefused,
        Self::PolicyDenied,
        Self::AmbiguousPath,
        Self::InvalidRequest,
        Self::Unsupported,
        Self::AddressRefused,
        Self::TargetUnresolved,
        Self::TargetRefused,
        Self::TargetTimeout,
        Self::TargetBroken,
        Self::DeadlineExceeded,
        Self::LimitReached,
        Self::AuditUnavailable,
        Self::Draining,
        Self::Cancelled,
        Self::TunnelLost,
        Self::ProtocolError,
        Self::Internal,
    ];

    /// Stable name, as in `ErrorInfo.reason`, logs and metrics (`policy_denied`).
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// What it says, for the catalogue.
    pub fn meaning(self) -> &'static str {
        self.entry().meaning
    }

    /// The next thing to do.
    pub fn remedy(self) -> &'static str {
        self.entry().remedy
    }

    /// Code of the gRPC status.
    pub fn grpc(self) -> tonic::Code {
        self.entry().grpc
    }

    /// HTTP status for plain HTTP faces.
    pub fn http_status(self) -> http::StatusCode {
        http::StatusCode::from_u16(self.entry().http).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The code of this name, if this version knows it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// What a bare gRPC status means, when there is no reason that we know.
    pub fn from_grpc(code: tonic::Code) -> Self {
        use tonic::Code as Grpc;
        match code {
            Grpc::Cancelled => Self::Cancelled,
            Grpc::InvalidArgument | Grpc::FailedPrecondition | Grpc::OutOfRange | Grpc::NotFound => {
                Self::InvalidRequest
            }
            Grpc::DeadlineExceeded => Self::DeadlineExceeded,
            Grpc::PermissionDenied => Self::PolicyDenied,
            Grpc::ResourceExhausted => Self::LimitReached,
            Grpc::Unimplemented => Self::Unsupported,
            Grpc::Unavailable => Self::TunnelLost,
            Grpc::Unauthenticated => Self::Unauthenticated,
            Grpc::DataLoss => Self::ProtocolError,
            Grpc::Ok | Grpc::Unknown | Grpc::AlreadyExists | Grpc::Aborted | Grpc::Internal => Self::Internal,
        }
    }

    fn entry(self) -> Entry {
        use tonic::Code as Grpc;
        let (name, grpc, http, meaning, remedy) = match self {
            Self::Unauthenticated => (
                "unauthenticated",
                Grpc::Unauthenticated,
                401,
                "The call carries neither a token nor a client certificate.",
                "Send a bearer token, or configure one for the connector.",
            ),
            Self::TokenRefused => (
                "token_refused",
                Grpc::Unauthenticated,
                401,
                "The token was read and refused: expired, wrong issuer, wrong audience, bad signature or a missing claim.",
                "Read the message for the check that failed, and get a token that passes it.",
            ),
            Self::PolicyDenied => (
                "policy_denied",
                Grpc::PermissionDenied,
                403,
                "The caller is known, and no rule of the gateway's policy allows this.",
                "Ask the cluster owner for a rule that names this subject and target.",
            ),
            Self::AmbiguousPath => (
                "ambiguous_path",
                Grpc::InvalidArgument,
                400,
                "The path could be read in two ways (dot segments, encoded slashes, backslashes), so no rule is safe.",
                "Send the path in its plain form.",
            ),
            Self::InvalidRequest => (
                "invalid_request",
                Grpc::InvalidArgument,
                400,
                "The request breaks HTTP grammar or the tunnel's contract.",
                "Correct what the message names.",
            ),
            Self::Unsupported => (
                "unsupported",
                Grpc::Unimplemented,
                501,
                "The request was understood, and this version does not serve it.",
                "Use another way, or a version whose features include it.",
            ),
            Self::AddressRefused => (
                "address_refused",
                Grpc::PermissionDenied,
                403,
                "The target's address is of a class that is never dialled: loopback, link-local, metadata or outside the configured networks.",
                "Use an address of the cluster, or have the cluster owner add an exact exception.",
            ),
            Self::TargetUnresolved => (
                "target_unresolved",
                Grpc::Unavailable,
                502,
                "The target's name does not resolve inside the cluster.",
                "Check the service name, its namespace and the cluster's DNS.",
            ),
            Self::TargetRefused => (
                "target_refused",
                Grpc::Unavailable,
                502,
                "The target refused the connection.",
                "Check that the target runs and listens on this port.",
            ),
            Self::TargetTimeout => (
                "target_timeout",
                Grpc::DeadlineExceeded,
                504,
                "The target did not answer in time.",
                "Check the target's health and load, and the network policy between it and the gateway.",
            ),
            Self::TargetBroken => (
                "target_broken",
                Grpc::Unavailable,
                502,
                "The target broke the connection or its protocol before it had finished.",
                "Look at the target's own log for this time.",
            ),
            Self::DeadlineExceeded => (
                "deadline_exceeded",
                Grpc::DeadlineExceeded,
                504,
                "The deadline that the caller set for its call (`grpc-timeout`) has passed.",
                "Give the call more time, or find out from the access lines where the time goes.",
            ),
            Self::LimitReached => (
                "limit_reached",
                Grpc::ResourceExhausted,
                503,
                "A limit was reached; the message names it.",
                "Try again later, spread the load, or raise the limit.",
            ),
            Self::AuditUnavailable => (
                "audit_unavailable",
                Grpc::Unavailable,
                503,
                "The gateway's owner requires an audit line for each stream, and it cannot be written.",
                "Make room on, or repair, the disk of the audit file; the gateway's log has the system's error.",
            ),
            Self::Draining => (
                "draining",
                Grpc::Unavailable,
                503,
                "The gateway goes away and takes no new streams.",
                "Try again: another tunnel takes its place.",
            ),
            Self::Cancelled => (
                "cancelled",
                Grpc::Cancelled,
                499,
                "The other side gave the stream up before it was finished.",
                "Nothing, if the caller meant it; otherwise look for the caller's deadline.",
            ),
            Self::TunnelLost => (
                "tunnel_lost",
                Grpc::Unavailable,
                502,
                "The tunnel broke while the stream was open, or there is none.",
                "Try again if the request may be repeated; see why the tunnel ended in the log of both ends.",
            ),
            Self::ProtocolError => (
                "protocol_error",
                Grpc::Internal,
                502,
                "The peer broke the tunnel's contract.",
                "Compare the versions of both ends; if they are in step, report it.",
            ),
            Self::Internal => {
                ("internal", Grpc::Internal, 500, "An error of Causeway's own.", "Report it with the log of both ends.")
            }
        };
        Entry { name, meaning, remedy, grpc, http }
    }
}

/// One failure, as it crosses the wire and as it is logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable code.
    pub code: Code,
    /// What happened, for people; no secrets.
    pub message: String,
    /// Whether the target may have seen it.
    pub reached: Reached,
}

impl Failure {
    /// A failure that happened before the target was contacted.
    pub fn before_target(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reached: Reached::No }
    }

    /// A failure after the target had been contacted.
    pub fn after_target(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reached: Reached::Yes }
    }

    /// A failure of which nobody can say whether the target had been contacted.
    pub fn perhaps(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reached: Reached::Maybe }
    }

    /// As the message that travels in `grpc-status-details-bin`.
    pub fn to_status(&self) -> rpc::Status {
        let info = rpc::ErrorInfo {
            reason: self.code.name().to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: HashMap::from([
                ("reached_target".to_owned(), self.reached.name().to_owned()),
                ("remedy".to_owned(), self.code.remedy().to_owned()),
            ]),
        };
        rpc::Status {
            code: self.code.grpc() as i32,
            message: clip(&self.message).to_owned(),
            details: vec![prost_types::Any { type_url: ERROR_INFO.to_owned(), value: info.encode_to_vec() }],
        }
    }

    /// Reads a status that is not OK. `details` may be absent or not ours; then the gRPC code alone decides and nobody
    /// knows whether the target was reached.
    pub fn from_status(code: tonic::Code, message: &str, details: Option<&rpc::Status>) -> Self {
        let info = details.into_iter().flat_map(|status| &status.details).find_map(our_info);
        let message = printable(message);
        let Some(info) = info else {
            return Self::perhaps(Code::from_grpc(code), message);
        };
        let reached = info.metadata.get("reached_target").map_or(Reached::Maybe, |name| Reached::from_name(name));
        match Code::from_name(&info.reason) {
            Some(code) => Self { code, message, reached },
            None => {
                let message = format!("{}: {message}", printable(&info.reason));
                Self { code: Code::from_grpc(code), message, reached }
            }
        }
    }
}

impl From<Failure> for tonic::Status {
    /// For services that tonic generated.
    fn from(failure: Failure) -> Self {
        let details = Bytes::from(failure.to_status().encode_to_vec());
        Self::with_details(failure.code.grpc(), clip(&failure.message), details)
    }
}

fn our_info(any: &prost_types::Any) -> Option<rpc::ErrorInfo> {
    if any.type_url != ERROR_INFO {
        return None;
    }
    rpc::ErrorInfo::decode(any.value.as_slice()).ok().filter(|info| info.domain == DOMAIN)
}

/// Text of the peer's, fit for one log line.
fn printable(text: &str) -> String {
    clip(text).chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn clip(text: &str) -> &str {
    let end = (0..=FAILURE_TEXT_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_comes_back_by_it() {
        for &code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(code));
            assert_ne!(code.grpc(), tonic::Code::Ok);
            assert_eq!(code.http_status().as_u16(), code.entry().http);
            assert!(code.meaning().ends_with('.') && code.remedy().ends_with('.'));
        }
    }

    #[test]
    fn survives_the_wire() {
        for &code in Code::ALL {
            for reached in [Reached::No, Reached::Yes, Reached::Maybe] {
                let failure = Failure { code, message: "was für ein Pech".to_owned(), reached };
                let status = rpc::Status::decode(failure.to_status().encode_to_vec().as_slice()).unwrap();
                assert_eq!(Failure::from_status(code.grpc(), &status.message, Some(&status)), failure);
            }
        }
    }

    #[test]
    fn unknown_reason_is_mapped_by_grpc_code_and_kept_in_the_text() {
        let info = rpc::ErrorInfo {
            reason: "quota_of_the_moon".to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: HashMap::from([("reached_target".to_owned(), "no".to_owned())]),
        };
        let any = prost_types::Any { type_url: ERROR_INFO.to_owned(), value: info.encode_to_vec() };
        let status = rpc::Status { code: 8, message: "full".to_owned(), details: vec![any] };
        let failure = Failure::from_status(tonic::Code::ResourceExhausted, "full", Some(&status));
        assert_eq!(failure, Failure::before_target(Code::LimitReached, "quota_of_the_moon: full"));
    }

    #[test]
    fn details_of_another_domain_are_not_ours() {
        let info =
            rpc::ErrorInfo { reason: "internal".to_owned(), domain: "example.com".to_owned(), ..Default::default() };
        let any = prost_types::Any { type_url: ERROR_INFO.to_owned(), value: info.encode_to_vec() };
        let status = rpc::Status { code: 7, message: String::new(), details: vec![any] };
        let failure = Failure::from_status(tonic::Code::PermissionDenied, "no", Some(&status));
        assert_eq!(failure, Failure::perhaps(Code::PolicyDenied, "no"));
    }

    #[test]
    fn long_or_hostile_text_is_clipped_and_cannot_break_a_log_line() {
        let text = format!("a\r\nlevel=error{}", "ü".repeat(FAILURE_TEXT_MAX));
        let failure = Failure::from_status(tonic::Code::Internal, &text, None);
        assert!(failure.message.len() <= FAILURE_TEXT_MAX && !failure.message.contains('\n'));
    }
}
