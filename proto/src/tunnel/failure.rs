//! Typed failures: what went wrong, whose doing it was, and whether the request had reached the target.

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
    /// A limit was reached.
    LimitReached,
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
}

impl Code {
    /// Stable name, as in `ErrorInfo.reason`, logs and metrics (`policy_denied`).
    pub fn name(self) -> &'static str {
        todo!()
    }
    /// HTTP status for plain HTTP faces.
    pub fn http_status(self) -> http::StatusCode {
        todo!()
    }
    /// The next thing to do.
    pub fn remedy(self) -> &'static str {
        todo!()
    }
}
