//! The section `kubernetes`: the API server of the gateway's own cluster, as every pod finds it unless said otherwise.

use std::{env, fs, path::PathBuf};

use daemon::config::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::Host;

/// Where Kubernetes puts what a pod needs to speak to its API server.
const POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API server of the gateway's own cluster.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// `https://host[:port]`. Default: what `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` say, as in every pod.
    pub server: Option<String>,
    /// PEM file with the only CAs that vouch for the API server; read again when it changes. Default: the pod's.
    pub ca: PathBuf,
    /// File with the gateway's own token; read again when it changes. Default: the pod's.
    pub token: PathBuf,
    /// The namespace that the gateway lives in, which callers may not manage. Default: the pod's.
    pub namespace: Option<String>,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        let pod = PathBuf::from(POD);
        Self { server: None, ca: pod.join("ca.crt"), token: pod.join("token"), namespace: None }
    }
}

/// Why the section cannot be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Not in a pod, and no `server`.
    #[error(
        "kubernetes.server: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not say where the API server is, as they \
         do in a pod; write `server: https://<host>:<port>`"
    )]
    Server,
    /// Not in a pod, and no `namespace`.
    #[error(
        "kubernetes.namespace: {POD}/namespace cannot be read, as in a pod it can; write the namespace that the gateway \
         lives in"
    )]
    Namespace,
    /// What is there cannot be meant.
    #[error("{0}: {1}")]
    Bad(&'static str, String),
}

impl KubernetesConfig {
    /// Where the API server is.
    ///
    /// # Errors
    /// When neither the file nor the environment says it.
    pub fn place(&self) -> Result<(Host, u16), PlaceError> {
        match &self.server {
            Some(server) => parse(server).map_err(|message| PlaceError::Bad("kubernetes.server", message)),
            None => {
                let said = |name| env::var(name).ok().filter(|value| !value.is_empty()).ok_or(PlaceError::Server);
                let (host, port) = (said("KUBERNETES_SERVICE_HOST")?, said("KUBERNETES_SERVICE_PORT")?);
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                parse(&format!("https://{host}:{port}"))
                    .map_err(|message| PlaceError::Bad("KUBERNETES_SERVICE_HOST and _PORT", message))
            }
        }
    }

    /// The namespace that the gateway lives in.
    ///
    /// # Errors
    /// When neither the file nor the pod says it.
    pub fn own_namespace(&self) -> Result<String, PlaceError> {
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => fs::read_to_string(format!("{POD}/namespace")).map_err(|_| PlaceError::Namespace)?,
        };
        let namespace = namespace.trim().to_owned();
        if namespace.is_empty() { Err(PlaceError::Namespace) } else { Ok(namespace) }
    }
}

fn parse(server: &str) -> Result<(Host, u16), String> {
    let shape = || format!("`{server}` is not https://<host>[:<port>]");
    let authority = server.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let authority = authority.filter(|text| !text.contains(['/', '?', '#', '@'])).ok_or_else(shape)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(shape)?)
        }
        _ => (authority, 443),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((host.parse().map_err(|error| format!("`{server}`: {error}"))?, port))
}

impl Validate for KubernetesConfig {
    fn validate(&self) -> Result<(), (String, String)> {
        if let Some(server) = &self.server {
            parse(server).map_err(|message| ("server".to_owned(), message))?;
        }
        if let Some(namespace) =
            self.namespace.as_ref().filter(|name| !crate::policy::kubernetes::grant::is_namespace(name))
        {
            return Err(("namespace".to_owned(), format!("`{namespace}` is no name of a namespace")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_https_a_host_and_perhaps_a_port() {
        for (text, expected) in [
            ("https://10.43.0.1", Some(("10.43.0.1", 443))),
            ("https://10.43.0.1:6443/", Some(("10.43.0.1", 6443))),
            ("https://kubernetes.default.svc:443", Some(("kubernetes.default.svc", 443))),
            ("https://[fd00::1]:6443", Some(("[fd00::1]", 6443))),
            ("https://[fd00::1]", Some(("[fd00::1]", 443))),
            ("http://10.43.0.1", None),
            ("10.43.0.1:443", None),
            ("https://10.43.0.1/api", None),
            ("https://user@10.43.0.1", None),
            ("https://10.43.0.1:0", None),
            ("https://10.43.0.1:x", None),
            ("https://", None),
        ] {
            let parsed = parse(text).ok().map(|(host, port)| (host.to_string(), port));
            assert_eq!(parsed, expected.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }
}
