//! `policy.yaml`: what the cluster owner writes. Types only; [`mod@super::compile`] judges what they say.

use std::collections::BTreeMap;

use daemon::config::Validate;
use serde::Deserialize;

/// The policy file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFile {
    /// Kill switch: `true` ends every stream within a second and refuses new ones. Default `false`. A file named
    /// `suspended` beside the policy file that holds `true` does the same.
    pub suspended: bool,
    /// What is granted. Default: nothing.
    pub rules: Vec<RuleConfig>,
}

impl Validate for PolicyFile {
    fn validate(&self) -> Result<(), (String, String)> {
        super::compile::check_shape(self).map_err(|error| (error.key(), error.to_string()))
    }
}

/// One grant, of exactly one kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Name in logs and refusals; unique in the file; letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Who it is granted to.
    pub who: WhoConfig,
    /// Grants HTTP requests.
    #[serde(default)]
    pub http: Option<HttpConfig>,
    /// Grants TCP connections.
    #[serde(default)]
    pub tcp: Option<TcpConfig>,
    /// Grants `Describe`, `Watch`, health and reflection: `describe: {}`. Whoever holds a tunnel needs it.
    #[serde(default)]
    pub describe: Option<DescribeConfig>,
    /// Grants requests to the API server of the gateway's cluster. The first rule of this kind that grants a request also
    /// says as whom it is made.
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// Grants connections to Unix sockets of the gateway's machine.
    #[serde(default)]
    pub unix: Option<UnixConfig>,
    /// The target may resolve outside of the configured pod and service ranges. Default `false`.
    #[serde(default)]
    pub external: bool,
    /// Break-glass: the grant ends at this time (RFC 3339), at most 24 h after the policy was loaded. Default: no end.
    #[serde(default)]
    pub until: Option<String>,
    /// Break-glass: why; required with `until`.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Who a rule speaks of. The plain keys speak of the subject, whose request it is; `actor` speaks of who holds the
/// tunnel. A rule may name either or both; what it names must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WhoConfig {
    /// Name of the authenticator that vouches for the subject.
    pub authenticator: Option<String>,
    /// Exact subjects; `"*"` alone means everyone this authenticator vouches for.
    pub subjects: Vec<String>,
    /// Groups or roles; being in one is enough.
    pub groups: Vec<String>,
    /// Claims that the token must have besides, with the values that will do: one for each claim is enough. The
    /// authenticator's `claims` lists which there are.
    pub claims: BTreeMap<String, Vec<String>>,
    /// The same for the actor. Default: any actor.
    pub actor: Option<PartyConfig>,
}

/// One of the two principals of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartyConfig {
    /// Name of the authenticator that vouches.
    pub authenticator: String,
    /// Exact subjects; `"*"` alone means everyone this authenticator vouches for.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// Groups or roles; being in one is enough.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Claims that the token must have besides, with the values that will do: one for each claim is enough.
    #[serde(default)]
    pub claims: BTreeMap<String, Vec<String>>,
}

/// An HTTP grant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Host patterns: `*` is one label, a leading `**` is one or more; or IP addresses.
    pub hosts: Vec<String>,
    /// Ports.
    pub ports: Vec<u16>,
    /// Methods, upper case. Default: any.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Path patterns: `*` is one segment, a trailing `**` is anything beneath. Default (and `/**`): any.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Protocols a connection may be upgraded to. Default: none.
    #[serde(default)]
    pub upgrade: Vec<Upgrade>,
}

/// A TCP grant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpConfig {
    /// Host patterns: `*` is one label, a leading `**` is one or more; or IP addresses.
    pub hosts: Vec<String>,
    /// Ports.
    pub ports: Vec<u16>,
    /// Says that the owner knows: this grant reaches a port whose HTTP requests another rule limits. Default `false`.
    #[serde(default)]
    pub bypasses_http: bool,
}

/// A grant of requests to the Kubernetes API server. It always includes reading what kinds the API server knows (`/api`,
/// `/apis`, `/openapi`, `/version`). The cluster's own RBAC decides besides, about the user that the caller becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Verbs as in RBAC: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the
    /// method in lower case; `connect` for whatever opens a pipe (`exec`, `attach`, `portforward`, `proxy`), whatever its
    /// method; or `*` alone.
    pub verbs: Vec<String>,
    /// `pods`, `pods/log`, `deployments.apps`, `pods/*`, `*.apps` or `*`; a name without group is of the core group. What
    /// reaches everything on a node, `nodes/proxy`, counts only by its full name. Default: any, if `namespaces` are given.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Exact names; requests that lie in no namespace, or in all, are then not granted. Default: any, and none.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Patterns of paths that are no resources, such as `/healthz`. Default: none but those of discovery.
    #[serde(default)]
    pub paths: Vec<String>,
    /// The user that the caller becomes. Default `causeway:<authenticator>/<subject>`.
    #[serde(default)]
    pub as_user: Option<String>,
    /// Groups that the caller becomes a member of. Default `causeway:<authenticator>/<group>` for each of the caller's groups
    /// that `who` names.
    #[serde(default)]
    pub as_groups: Option<Vec<String>>,
    /// Also grants what decides about callers: writes and `connect` in the gateway's own namespace, its Secrets and lists of
    /// all Secrets, its kinds, and the webhooks and policies of admission. Default `false`.
    #[serde(default)]
    pub self_manage: bool,
}

/// A grant of Unix sockets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnixConfig {
    /// Names out of `unix` in the gateway's config, exactly.
    pub names: Vec<String>,
}

/// A grant to ask what the gateway is; it has no settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DescribeConfig {}

/// What an HTTP connection may be upgraded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Upgrade {
    /// WebSocket.
    Websocket,
    /// SPDY/3.1.
    Spdy,
    /// Anything else.
    Other,
}

impl Upgrade {
    /// As it stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Spdy => "spdy",
            Self::Other => "other",
        }
    }
}
