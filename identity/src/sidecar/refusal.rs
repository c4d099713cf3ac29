//! Why a request gets no token although the source might have one. Names are stable: SDKs print them, and the catalogue
//! explains them. The status decides how long an SDK tries: 400, 401 and 403 end at once; others would be repeated.
use http::StatusCode;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No such path.
    UnknownPath,
    /// Not a GET.
    UnknownMethod,
    /// `Host` is not this machine.
    BadHost,
    /// The request passed a proxy, or asks us to be one.
    ForwardedRequest,
    /// `X-IDENTITY-HEADER` is missing or wrong.
    BadSecretHeader,
    /// A doubled parameter, or another `api-version`.
    UnknownParameter,
    /// No `resource`.
    MissingResource,
    /// More than one of `client_id`, `object_id`, ….
    AmbiguousIdentity,
    /// An identity is asked for that is not ours.
    IdentityNotBound,
    /// The audience is not in `allow`.
    AudienceNotAllowed,
    /// The process is ending.
    Draining,
}

impl Refusal {
    /// All of them, for the catalogue.
    pub const ALL: &[Self] = &[
        Self::UnknownPath,
        Self::UnknownMethod,
        Self::BadHost,
        Self::ForwardedRequest,
        Self::BadSecretHeader,
        Self::UnknownParameter,
        Self::MissingResource,
        Self::AmbiguousIdentity,
        Self::IdentityNotBound,
        Self::AudienceNotAllowed,
        Self::Draining,
    ];

    /// Stable name.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Status that it is answered with.
    pub fn status(self) -> StatusCode {
        self.entry().1
    }

    /// What happened.
    pub fn meaning(self) -> &'static str {
        self.entry().2
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        self.entry().3
    }

    fn entry(self) -> (&'static str, StatusCode, &'static str, &'static str) {
        match self {
            Self::UnknownPath => (
                "UnknownPath",
                StatusCode::NOT_FOUND,
                "nothing is served at this path",
                "set IDENTITY_ENDPOINT to http://127.0.0.1:<port>/msi/token",
            ),
            Self::UnknownMethod => {
                ("UnknownMethod", StatusCode::METHOD_NOT_ALLOWED, "tokens are asked for with GET", "use an Azure SDK")
            }
            Self::BadHost => (
                "BadHost",
                StatusCode::BAD_REQUEST,
                "the Host of the request is not this machine",
                "set IDENTITY_ENDPOINT to http://127.0.0.1:<port>/msi/token",
            ),
            Self::ForwardedRequest => (
                "ForwardedRequest",
                StatusCode::BAD_REQUEST,
                "the request came through a proxy",
                "add 127.0.0.1,localhost to NO_PROXY and no_proxy",
            ),
            Self::BadSecretHeader => (
                "BadSecretHeader",
                StatusCode::UNAUTHORIZED,
                "the header X-IDENTITY-HEADER is missing or wrong",
                "set IDENTITY_HEADER to the sidecar's value; restart the container if it has changed",
            ),
            Self::UnknownParameter => (
                "UnknownParameter",
                StatusCode::BAD_REQUEST,
                "a query parameter is doubled, too long, or api-version is not 2019-08-01",
                "use an SDK's managed-identity credential",
            ),
            Self::MissingResource => (
                "MissingResource",
                StatusCode::BAD_REQUEST,
                "the query has no resource",
                "ask with resource=<audience>, without /.default",
            ),
            Self::AmbiguousIdentity => (
                "AmbiguousIdentity",
                StatusCode::BAD_REQUEST,
                "the query names more than one identity",
                "name one by client_id, or none",
            ),
            Self::IdentityNotBound => (
                "IdentityNotBound",
                StatusCode::FORBIDDEN,
                "the query names an identity that is not this sidecar's",
                "leave the identity out, or use the client id of the sidecar's source",
            ),
            Self::AudienceNotAllowed => (
                "AudienceNotAllowed",
                StatusCode::FORBIDDEN,
                "tokens for this audience are not allowed here",
                "add the audience to `allow` of the sidecar",
            ),
            Self::Draining => (
                "Draining",
                StatusCode::SERVICE_UNAVAILABLE,
                "the sidecar is ending",
                "try again; another one will answer",
            ),
        }
    }
}
