//! `token: { source: …, … }`: which source, and what it needs. Keys of another source are refused, so that nobody
//! believes in a setting that has no effect. What may come from the environment of a pod is read when the source is
//! built; what is written in the file comes first.
use std::path::PathBuf;

use daemon::config::{SecretRef, Span};
use serde::Deserialize;

use super::{entra, managed::Kind};
use crate::http_client;

/// `token: { source: …, … }` in a config file: how a program gets its own bearer token.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Which source.
    pub source: SourceKind,
    /// Audience asked for; default none, where the program knows it otherwise.
    pub audience: Option<String>,
    /// `file`: a token that something else renews (a projected service-account token). `workload_identity`: the
    /// federated token, default `AZURE_FEDERATED_TOKEN_FILE`. Read again when it changes.
    pub path: Option<PathBuf>,
    /// Entra sources: the authority of your cloud; default `AZURE_AUTHORITY_HOST` for `workload_identity` where it is
    /// set, else `https://login.microsoftonline.com`.
    pub authority: Option<String>,
    /// Entra sources: tenant; `workload_identity` takes `AZURE_TENANT_ID` where this is absent.
    pub tenant: Option<String>,
    /// Entra sources: application; `workload_identity` takes `AZURE_CLIENT_ID` where this is absent. Managed identities:
    /// the client id of a user-assigned identity, default the system-assigned one.
    pub client_id: Option<String>,
    /// Managed identities: the object id of a user-assigned identity, instead of `client_id`.
    pub object_id: Option<String>,
    /// Managed identities: the resource id of a user-assigned identity, instead of `client_id`.
    pub resource_id: Option<String>,
    /// `client_secret`: the secret; read again at every fetch.
    pub client_secret: Option<SecretRef>,
    /// `client_certificate`: PEM file with the certificate, its chain after it; read again at every fetch.
    pub certificate: Option<PathBuf>,
    /// `client_certificate`: its RSA private key in PEM, which may stand in the same file; read again at every fetch.
    pub key: Option<SecretRef>,
    /// `client_certificate`: how the assertion is signed; default `ps256`.
    pub signature: Option<Signature>,
    /// `client_certificate`: send the chain along, for applications that trust a subject name and issuer instead of one
    /// certificate; default false.
    pub send_chain: Option<bool>,
    /// `token_request`: audience of the Kubernetes token, as the federated credential names it; default
    /// `api://AzureADTokenExchange`.
    pub assertion_audience: Option<String>,
    /// `token_request`, `arc_extension`: the API server; default as every pod finds it.
    pub kubernetes: Option<KubernetesConfig>,
    /// `arc_extension`: name of an `AzureClusterIdentityRequest` in the namespace `azure-arc`, made by the cluster's
    /// owner for this audience.
    pub request: Option<String>,
    /// Managed identities: the endpoint. `imds`: default `http://169.254.169.254/metadata/identity/oauth2/token`.
    /// `app_service`: default `IDENTITY_ENDPOINT`. `arc`: default `IDENTITY_ENDPOINT` where `IMDS_ENDPOINT` is set too,
    /// else `http://127.0.0.1:40342/metadata/identity/oauth2/token`.
    pub endpoint: Option<String>,
    /// `app_service`: the secret header; default the variable `IDENTITY_HEADER`.
    pub header: Option<SecretRef>,
    /// Entra sources: PEM CA for the authority, beside the system's roots; default none.
    pub ca: Option<PathBuf>,
    /// Deadline of one fetch with all its steps; default 10s.
    pub deadline: Option<Span>,
}

/// The sources there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A file with a bearer token.
    File,
    /// Entra: a client secret.
    ClientSecret,
    /// Entra: a certificate.
    ClientCertificate,
    /// Entra: a federated token in a file, as Azure workload identity mounts it.
    WorkloadIdentity,
    /// Entra: a federated token that the Kubernetes API server issues for the pod's own service account at each fetch;
    /// nothing of it lies on a disk.
    TokenRequest,
    /// Managed identity of an Azure VM or AKS node.
    Imds,
    /// Managed identity where `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` are set: App Service, Container Apps, a sidecar.
    AppService,
    /// Managed identity of an Azure Arc-enabled server.
    Arc,
    /// Identity of an extension in an Azure Arc-connected Kubernetes cluster; experimental.
    ArcExtension,
}

/// How a client assertion is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// RSA-PSS with SHA-256; the certificate is named by its SHA-256.
    Ps256,
    /// PKCS#1 v1.5 with SHA-256; the certificate is named by its SHA-1, for authorities that know no other.
    Rs256,
}

/// Where the Kubernetes API server is, and what proves the pod to it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// `https://host:port`; default from `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub api_server: Option<String>,
    /// The pod's own token; default `/var/run/secrets/kubernetes.io/serviceaccount/token`; read again at every fetch.
    pub token: Option<PathBuf>,
    /// PEM CA of the API server, the only one trusted; default `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`;
    /// read again at every fetch.
    pub ca: Option<PathBuf>,
}

/// A problem: key and message.
pub(super) type Fault = (String, String);

/// What the environment says, so that tests need not change that of their process.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process; an empty variable is an absent one.
pub(super) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Keys of all sources that ask a token endpoint.
const ENTRA: [&str; 5] = ["authority", "tenant", "client_id", "ca", "deadline"];
/// Keys of all managed identities.
const MANAGED: [&str; 5] = ["client_id", "object_id", "resource_id", "endpoint", "deadline"];

impl SourceKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::ClientSecret => "client_secret",
            Self::ClientCertificate => "client_certificate",
            Self::WorkloadIdentity => "workload_identity",
            Self::TokenRequest => "token_request",
            Self::Imds => "imds",
            Self::AppService => "app_service",
            Self::Arc => "arc",
            Self::ArcExtension => "arc_extension",
        }
    }

    /// Keys that mean something to it.
    fn knows(self, key: &str) -> bool {
        let (common, own): (&[&str], &[&str]) = match self {
            Self::File => (&[], &["path"]),
            Self::ClientSecret => (&ENTRA, &["client_secret"]),
            Self::ClientCertificate => (&ENTRA, &["certificate", "key", "signature", "send_chain"]),
            Self::WorkloadIdentity => (&ENTRA, &["path"]),
            Self::TokenRequest => (&ENTRA, &["assertion_audience", "kubernetes"]),
            Self::Imds | Self::Arc => (&MANAGED, &[]),
            Self::AppService => (&MANAGED, &["header"]),
            Self::ArcExtension => (&[], &["request", "kubernetes", "deadline"]),
        };
        common.contains(&key) || own.contains(&key)
    }
}

impl SourceConfig {
    /// First problem found, as (key, message), for programs that validate before a port opens. Neither files nor the
    /// environment are read.
    pub fn check(&self) -> Result<(), Fault> {
        let foreign = self.keys().into_iter().find(|(key, set)| *set && !self.source.knows(key));
        if let Some((key, _)) = foreign {
            return fault(key, "does not belong to this source; remove it or change `source`");
        }
        if self.deadline.is_some_and(|deadline| deadline.0.is_zero()) {
            return fault("deadline", "leaves no time for an answer");
        }
        match self.source {
            SourceKind::File => self.needs("path", self.path.is_some()),
            SourceKind::ClientSecret => {
                self.needs_identity()?;
                self.needs("client_secret", self.client_secret.is_some())
            }
            SourceKind::ClientCertificate => {
                self.needs_identity()?;
                self.needs("certificate", self.certificate.is_some())?;
                self.needs("key", self.key.is_some())
            }
            SourceKind::TokenRequest => {
                self.needs_identity()?;
                self.check_kubernetes()
            }
            SourceKind::WorkloadIdentity => Ok(()),
            SourceKind::Imds => self.check_managed(Kind::Imds),
            SourceKind::AppService => self.check_managed(Kind::AppService),
            SourceKind::Arc => self.check_managed(Kind::Arc),
            SourceKind::ArcExtension => {
                let request = self.request.as_deref().unwrap_or_default();
                self.needs("request", !request.is_empty())?;
                if !super::kubernetes::is_name(request) {
                    return fault(
                        "request",
                        "is no name of a Kubernetes object: lower-case letters, digits, `-` and `.`",
                    );
                }
                self.check_kubernetes()
            }
        }?;
        entra::check(self)
    }

    /// The identity in whose name tokens are fetched, where it is known by its client id.
    pub fn identity(&self) -> Option<String> {
        self.identity_in(&process_environment)
    }

    pub(super) fn identity_in(&self, environment: Environment<'_>) -> Option<String> {
        let federated = self.source == SourceKind::WorkloadIdentity;
        self.client_id.clone().or_else(|| environment("AZURE_CLIENT_ID").filter(|_| federated))
    }

    fn needs(&self, key: &str, there: bool) -> Result<(), Fault> {
        if there { Ok(()) } else { fault(key, &format!("`source: {}` needs it", self.source.name())) }
    }

    fn needs_identity(&self) -> Result<(), Fault> {
        self.needs("tenant", self.tenant.is_some())?;
        self.needs("client_id", self.client_id.is_some())
    }

    fn check_managed(&self, kind: Kind) -> Result<(), Fault> {
        let selectors =
            [("object_id", &self.object_id), ("resource_id", &self.resource_id), ("client_id", &self.client_id)];
        let mut set = selectors.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        if let Some((key, value)) = set.next() {
            if value.is_empty() || value.len() > MAX_SELECTOR || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return fault(key, "holds no identity; leave it out for the system-assigned one");
            }
            if set.next().is_some() {
                return fault(key, "an identity is chosen by one of client_id, object_id and resource_id, not by two");
            }
        }
        match &self.endpoint {
            Some(endpoint) => kind.endpoint(endpoint).map(|_| ()).map_err(|message| ("endpoint".to_owned(), message)),
            None => Ok(()),
        }
    }

    fn check_kubernetes(&self) -> Result<(), Fault> {
        let server = self.kubernetes.as_ref().and_then(|kubernetes| kubernetes.api_server.as_deref());
        match server.map(http_client::checked) {
            Some(Err(error)) => fault("kubernetes.api_server", &error.to_string()),
            _ => Ok(()),
        }
    }

    /// Every key that belongs to some sources only, and whether it is set.
    fn keys(&self) -> [(&'static str, bool); 18] {
        [
            ("path", self.path.is_some()),
            ("authority", self.authority.is_some()),
            ("tenant", self.tenant.is_some()),
            ("client_id", self.client_id.is_some()),
            ("object_id", self.object_id.is_some()),
            ("resource_id", self.resource_id.is_some()),
            ("client_secret", self.client_secret.is_some()),
            ("certificate", self.certificate.is_some()),
            ("key", self.key.is_some()),
            ("signature", self.signature.is_some()),
            ("send_chain", self.send_chain.is_some()),
            ("assertion_audience", self.assertion_audience.is_some()),
            ("kubernetes", self.kubernetes.is_some()),
            ("request", self.request.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("header", self.header.is_some()),
            ("ca", self.ca.is_some()),
            ("deadline", self.deadline.is_some()),
        ]
    }
}

/// Longest selector of an identity; resource ids are the longest, and Azure bounds their parts.
const MAX_SELECTOR: usize = 1024;

fn fault(key: &str, message: &str) -> Result<(), Fault> {
    Err((key.to_owned(), message.to_owned()))
}
