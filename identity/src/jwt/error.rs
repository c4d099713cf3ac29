//! Why a token was refused: one variant per reason, so that logs, tests and callers can tell them apart.

/// Why a token was refused. Texts never hold the token, nor anything taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.meaning())]
pub enum JwtError {
    /// Longer than [`super::MAX_TOKEN`].
    TooLong,
    /// Not three base64url parts with a JSON head and JSON claims.
    Malformed,
    /// `alg: none`.
    Unsigned,
    /// An algorithm that no authenticator lists; symmetric ones never are.
    Algorithm,
    /// `crit` names an extension.
    Critical,
    /// `typ` says that it is some other kind of token.
    Type,
    /// An ID token: it tells a client who logged in, and opens nothing.
    IdToken,
    /// No authenticator has the key that the token names.
    UnknownKey,
    /// The keys of the token's issuer are not known at the moment.
    KeysUnavailable,
    /// The signature does not verify.
    Signature,
    /// No `exp`.
    ExpiryMissing,
    /// `exp` is not a point in time.
    ExpiryType,
    /// Past `exp`.
    Expired,
    /// `nbf` is not a point in time.
    NotBeforeType,
    /// Before `nbf`.
    NotYetValid,
    /// No `iss`.
    IssuerMissing,
    /// `iss` is not a text.
    IssuerType,
    /// Another issuer.
    Issuer,
    /// No `aud`.
    AudienceMissing,
    /// `aud` is neither a text nor a list of texts.
    AudienceType,
    /// Another audience.
    Audience,
    /// The subject claim is missing.
    SubjectMissing,
    /// The subject claim is not a text, or not one that can name somebody.
    SubjectType,
    /// `groups` or `roles` is not a list of texts.
    GroupsType,
    /// `scp` or `scope` is neither a text nor a list of texts.
    ScopeType,
    /// `cnf`: bound to a key whose possession is not proven here.
    Bound,
}

impl JwtError {
    /// All of them, for the catalogue.
    pub const ALL: &[Self] = &[
        Self::TooLong,
        Self::Malformed,
        Self::Unsigned,
        Self::Algorithm,
        Self::Critical,
        Self::Type,
        Self::IdToken,
        Self::UnknownKey,
        Self::KeysUnavailable,
        Self::Signature,
        Self::ExpiryMissing,
        Self::ExpiryType,
        Self::Expired,
        Self::NotBeforeType,
        Self::NotYetValid,
        Self::IssuerMissing,
        Self::IssuerType,
        Self::Issuer,
        Self::AudienceMissing,
        Self::AudienceType,
        Self::Audience,
        Self::SubjectMissing,
        Self::SubjectType,
        Self::GroupsType,
        Self::ScopeType,
        Self::Bound,
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

    /// Whether the same token may be accepted later without anybody changing it.
    pub fn retryable(self) -> bool {
        matches!(self, Self::KeysUnavailable | Self::NotYetValid)
    }

    fn entry(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::TooLong => (
                "token_too_long",
                "the token is longer than 16 KiB",
                "ask the issuer for fewer group claims, or for application roles instead",
            ),
            Self::Malformed => (
                "token_malformed",
                "the token is not a JWT: three base64url parts with a JSON head and JSON claims",
                "send the access token itself, without quotes, line breaks or a second prefix",
            ),
            Self::Unsigned => {
                ("token_unsigned", "the token says it is not signed", "send a token that the issuer signed")
            }
            Self::Algorithm => (
                "token_algorithm",
                "the token is signed with an algorithm that is not allowed",
                "list the algorithm under the authenticator if the issuer really uses it; symmetric ones cannot be listed",
            ),
            Self::Critical => (
                "token_critical",
                "the token demands an extension that is not understood",
                "ask the issuer for a plain access token",
            ),
            Self::Type => (
                "token_type",
                "the token is of a type that is not allowed",
                "send an access token; list its `typ` under the authenticator if the issuer uses another one",
            ),
            Self::IdToken => (
                "token_is_id_token",
                "the token is an ID token, which says who logged in and opens nothing",
                "request an access token for the audience of this cluster",
            ),
            Self::UnknownKey => (
                "token_unknown_key",
                "no authenticator knows the key that signed the token",
                "compare the token's issuer with the authenticators; after a key rotation, wait a minute",
            ),
            Self::KeysUnavailable => (
                "token_keys_unavailable",
                "the keys of the issuer have not been loaded, or are too old to be trusted",
                "see the log for why the key set cannot be fetched; try again",
            ),
            Self::Signature => (
                "token_signature",
                "the signature of the token does not verify",
                "send the token unchanged; if it is, compare the authenticator's key set with the issuer's",
            ),
            Self::ExpiryMissing => {
                ("token_exp_missing", "the token has no `exp` claim", "use tokens that end; others are never accepted")
            }
            Self::ExpiryType => ("token_exp_type", "the `exp` claim is not a point in time", "mend the issuer"),
            Self::Expired => (
                "token_expired",
                "the token has expired",
                "request a new one; if it is new, compare the clocks of both machines",
            ),
            Self::NotBeforeType => ("token_nbf_type", "the `nbf` claim is not a point in time", "mend the issuer"),
            Self::NotYetValid => (
                "token_not_yet_valid",
                "the token is not valid yet",
                "compare the clocks of issuer and gateway, or raise `leeway`",
            ),
            Self::IssuerMissing => ("token_iss_missing", "the token has no `iss` claim", "mend the issuer"),
            Self::IssuerType => ("token_iss_type", "the `iss` claim is not a text", "mend the issuer"),
            Self::Issuer => (
                "token_issuer",
                "the token is from another issuer than the authenticator names",
                "compare `iss` and the authenticator's `issuer` letter by letter, trailing slash included",
            ),
            Self::AudienceMissing => ("token_aud_missing", "the token has no `aud` claim", "mend the issuer"),
            Self::AudienceType => {
                ("token_aud_type", "the `aud` claim is neither a text nor a list of texts", "mend the issuer")
            }
            Self::Audience => (
                "token_audience",
                "the token is meant for another audience",
                "request a token for the audience that the authenticator names",
            ),
            Self::SubjectMissing => (
                "token_subject_missing",
                "the token lacks the claim that names the subject",
                "let the issuer add the claim, or set `subject` of the authenticator to one that it sends",
            ),
            Self::SubjectType => (
                "token_subject_type",
                "the claim that names the subject is not a text of 1 to 512 printable bytes",
                "set `subject` of the authenticator to a claim that is",
            ),
            Self::GroupsType => {
                ("token_groups_type", "the `groups` or `roles` claim is not a list of texts", "mend the issuer")
            }
            Self::ScopeType => (
                "token_scope_type",
                "the `scp` or `scope` claim is neither a text nor a list of texts",
                "mend the issuer",
            ),
            Self::Bound => (
                "token_bound",
                "the token is bound to a key (`cnf`), and possession of the key is not proven here",
                "request a plain bearer token",
            ),
        }
    }
}
