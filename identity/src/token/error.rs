//! Why there is no token. Codes are stable: they appear in answers, metrics and the catalogue.
use std::time::Duration;

/// Longest message; what SDKs print should fit a terminal.
const MAX_MESSAGE: usize = 1024;

/// Why there is no token: stage, cause, whether trying again can help. Codes are those of the catalogue.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}", code = .code.name())]
pub struct TokenError {
    /// Stable code.
    pub code: ErrorCode,
    /// For people; no secrets.
    pub message: String,
    /// The issuer's hint, or how long the cache will not try again.
    pub retry_after: Option<Duration>,
}

impl TokenError {
    /// An error without a hint; a message beyond 1 KiB is cut.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { code, message, retry_after: None }
    }

    /// The same with a hint when to try again.
    #[must_use]
    pub fn after(mut self, hint: Option<Duration>) -> Self {
        self.retry_after = hint;
        self
    }
}

/// Stable codes (`identity` catalogue).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Network or 5xx.
    SourceUnavailable,
    /// 429.
    SourceThrottled,
    /// The issuer says no.
    EntraRejected,
    /// 200 without a usable token.
    UpstreamShape,
    /// A file cannot be read.
    FileUnreadable,
    /// Nothing valid is left.
    TokenExpired,
    /// A setting of the source cannot work.
    SourceMisconfigured,
}

impl ErrorCode {
    /// All of them, for the catalogue.
    pub const ALL: &[Self] = &[
        Self::SourceUnavailable,
        Self::SourceThrottled,
        Self::EntraRejected,
        Self::UpstreamShape,
        Self::FileUnreadable,
        Self::TokenExpired,
        Self::SourceMisconfigured,
    ];

    /// Stable name.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// What happened.
    pub fn meaning(self) -> &'static str {
        self.entry().1
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        self.entry().2
    }

    /// Whether trying again can help without anybody changing anything.
    pub fn retryable(self) -> bool {
        !matches!(self, Self::EntraRejected | Self::SourceMisconfigured)
    }

    fn entry(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::SourceUnavailable => (
                "SourceUnavailable",
                "the token source did not answer, or answered that it cannot now",
                "check network, proxy and firewall between this machine and the host in the message",
            ),
            Self::SourceThrottled => (
                "SourceThrottled",
                "the token source asks for fewer requests",
                "wait; if it stays, look for another program that asks with the same identity",
            ),
            Self::EntraRejected => (
                "EntraRejected",
                "the token endpoint refused the request as it is configured",
                "the AADSTS number in the message says what to change: tenant, client id, secret or audience",
            ),
            Self::UpstreamShape => (
                "UpstreamShape",
                "the token source answered with success, but without a usable token",
                "check that the authority is a token endpoint and not a proxy's page; the answer is not logged",
            ),
            Self::FileUnreadable => (
                "FileUnreadable",
                "a file with a token or a secret cannot be read",
                "check path, owner and mode of the file in the message",
            ),
            Self::TokenExpired => (
                "TokenExpired",
                "the last token has expired, and no new one could be had",
                "the cause stands in the message",
            ),
            Self::SourceMisconfigured => (
                "SourceMisconfigured",
                "a setting of the token source cannot work",
                "mend the key that the message names",
            ),
        }
    }
}
