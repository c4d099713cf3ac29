//! Why there is no token, and at which stage. Codes are stable: they appear in answers, metrics and the catalogue.
use std::{fmt, time::Duration};

/// Longest message; what SDKs print should fit a terminal.
const MAX_MESSAGE: usize = 1024;

/// Why there is no token: stage, cause, whether trying again can help. Codes are those of the catalogue.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code} ({stage}): {message}", code = .code.name())]
pub struct TokenError {
    /// Stable code.
    pub code: ErrorCode,
    /// How far it came.
    pub stage: Stage,
    /// For people; no secrets.
    pub message: String,
    /// The issuer's hint, or how long the cache will not try again.
    pub retry_after: Option<Duration>,
}

impl TokenError {
    /// An error at the last stage, without a hint; a message beyond 1 KiB is cut.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { code, stage: Stage::Token, message, retry_after: None }
    }

    /// A setting that cannot work.
    pub(super) fn setting(key: &str, message: impl fmt::Display) -> Self {
        Self::new(ErrorCode::SourceMisconfigured, format!("{key}: {message}")).at(Stage::Settings)
    }

    /// The same at another stage.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// The same with a hint when to try again.
    #[must_use]
    pub fn after(mut self, hint: Option<Duration>) -> Self {
        self.retry_after = hint;
        self
    }
}

/// How far a fetch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading the settings.
    Settings,
    /// Getting what proves the identity: a secret, a signature, a Kubernetes token.
    Proof,
    /// Answering the challenge of a local agent.
    Challenge,
    /// Asking for the token itself, or keeping it.
    Token,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "settings",
            Self::Proof => "proof",
            Self::Challenge => "challenge",
            Self::Token => "token",
        })
    }
}

/// Stable codes (`identity` catalogue).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Network or 5xx.
    SourceUnavailable,
    /// 429.
    SourceThrottled,
    /// The local endpoint does not serve us.
    SourceRefused,
    /// The machine has no such identity.
    IdentitySourceMissing,
    /// The issuer says no.
    EntraRejected,
    /// The issuer does not trust this issuer, subject or audience.
    FederationMismatch,
    /// What proves the identity has ended.
    AssertionExpired,
    /// A local agent's challenge leads where it may not.
    ChallengeUnsafe,
    /// The Kubernetes API server says no.
    KubernetesRefused,
    /// 200 without a usable token.
    UpstreamShape,
    /// A file cannot be read.
    FileUnreadable,
    /// Nothing valid is left.
    TokenExpired,
    /// A setting of the source cannot work.
    SourceMisconfigured,
}

/// What helps against an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Time.
    Soon,
    /// Time, if it has just been set up; else a person.
    Propagation,
    /// A person.
    Person,
}

impl ErrorCode {
    /// All of them, for the catalogue.
    pub const ALL: &[Self] = &[
        Self::SourceUnavailable,
        Self::SourceThrottled,
        Self::SourceRefused,
        Self::IdentitySourceMissing,
        Self::EntraRejected,
        Self::FederationMismatch,
        Self::AssertionExpired,
        Self::ChallengeUnsafe,
        Self::KubernetesRefused,
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
        self.entry().2
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        self.entry().3
    }

    /// Whether trying again can help without anybody changing anything.
    pub fn retryable(self) -> bool {
        self.patience() == Patience::Soon
    }

    /// How soon it is worth trying again.
    pub(super) fn patience(self) -> Patience {
        self.entry().1
    }

    fn entry(self) -> (&'static str, Patience, &'static str, &'static str) {
        match self {
            Self::SourceUnavailable => (
                "SourceUnavailable",
                Patience::Soon,
                "the token source did not answer, or answered that it cannot now",
                "check network, proxy and firewall between this machine and the host in the message",
            ),
            Self::SourceThrottled => (
                "SourceThrottled",
                Patience::Soon,
                "the token source asks for fewer requests",
                "wait; if it stays, look for another program that asks with the same identity",
            ),
            Self::SourceRefused => (
                "SourceRefused",
                Patience::Person,
                "the managed-identity endpoint does not serve this process",
                "compare `source` with where this runs; restart after its secret header has changed; keep proxies away from it",
            ),
            Self::IdentitySourceMissing => (
                "IdentitySourceMissing",
                Patience::Person,
                "no such identity is assigned to this machine",
                "assign the identity to the machine, or correct `client_id`, `object_id` or `resource_id`",
            ),
            Self::EntraRejected => (
                "EntraRejected",
                Patience::Person,
                "the token endpoint refused the request as it is configured",
                "the AADSTS number in the message says what to change: tenant, client id, secret or audience",
            ),
            Self::FederationMismatch => (
                "FederationMismatch",
                Patience::Propagation,
                "the application has no federated credential for this issuer, subject and audience",
                "compare the federated credential with what the message says, letter by letter; a new one needs some minutes",
            ),
            Self::AssertionExpired => (
                "AssertionExpired",
                Patience::Soon,
                "what proves the identity to the token endpoint is outside its time",
                "compare the clocks; see whether the file in the message is still renewed",
            ),
            Self::ChallengeUnsafe => (
                "ChallengeUnsafe",
                Patience::Person,
                "the local agent asked for a file that it may not ask for",
                "see which program answers at `endpoint`; it is not the Azure Arc agent, or its folder was tampered with",
            ),
            Self::KubernetesRefused => (
                "KubernetesRefused",
                Patience::Person,
                "the Kubernetes API server refused what this source needs",
                "grant the service account the verb and resource in the message, or make the object that is missing",
            ),
            Self::UpstreamShape => (
                "UpstreamShape",
                Patience::Soon,
                "the token source answered with success, but without a usable token",
                "check that the authority is a token endpoint and not a proxy's page; the answer is not logged",
            ),
            Self::FileUnreadable => (
                "FileUnreadable",
                Patience::Soon,
                "a file with a token, a secret or a key cannot be read",
                "check path, owner and mode of the file in the message",
            ),
            Self::TokenExpired => (
                "TokenExpired",
                Patience::Soon,
                "the last token has expired, and no new one could be had",
                "the cause stands in the message",
            ),
            Self::SourceMisconfigured => (
                "SourceMisconfigured",
                Patience::Person,
                "a setting of the token source cannot work",
                "mend the key that the message names",
            ),
        }
    }
}
