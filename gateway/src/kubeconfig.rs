//! A kubeconfig that points at a Kubernetes face of a connector and embeds the CA of its certificate. A token stays where
//! it is: the kubeconfig names its file, or a program that prints it; it is written into the kubeconfig only when asked for.
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use daemon::config::Loaded;
use identity::secret::Secret;
use serde_json::{Value, json};

use crate::connect::{
    Config,
    config::{FaceConfig, Speaks},
    face::kubernetes::authority::{self, AuthorityError},
};

/// How whoever uses the kubeconfig shows who they are.
#[derive(Debug)]
pub enum Credential {
    /// A file that holds a bearer token; clients read it again and again.
    File(PathBuf),
    /// A program and its arguments (`client.authentication.k8s.io/v1beta1`).
    Program(Vec<String>),
    /// The token itself.
    Inline(Secret),
}

/// Why there is no kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// Nothing to point at.
    #[error(
        "the configuration has no kubernetes face{0}: add `{{ kubernetes: 127.0.0.1:6443, to: <cluster> }}` to `faces`"
    )]
    NoFace(String),
    /// Several to point at.
    #[error("the configuration has kubernetes faces of several clusters; name one of: {0}")]
    Several(String),
    /// It will have another port at each start.
    #[error("the port of the face is chosen at each start: give it a fixed one, or name the present one with --server")]
    Port,
    /// Nobody would be let in.
    #[error("the face asks for the caller's token: name it with --token-file, or a program that prints it with --exec")]
    NoCredential,
    /// The CA cannot be used.
    #[error("state: the CA of Kubernetes faces cannot be used")]
    Authority(#[from] AuthorityError),
}

/// What to write.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Of which cluster; needed where there are several.
    pub cluster: Option<&'a str>,
    /// `https://host:port`, in place of the face's own address.
    pub server: Option<&'a str>,
    /// Namespace of the context.
    pub namespace: Option<&'a str>,
    /// Who uses it.
    pub credential: Option<Credential>,
}

/// The text of a kubeconfig. Makes the CA if no connector has made it yet.
///
/// # Errors
/// When there is no face to point at, or no way for its clients to show who they are.
pub fn write(config: &Loaded<Config>, wanted: Wanted<'_>) -> Result<String, KubeconfigError> {
    let face = find(&config.values, wanted.cluster)?;
    let cluster = face.to.as_ref().map_or("", |to| &**to.cluster());
    let server = match wanted.server {
        Some(server) => server.to_owned(),
        None => address(face).ok_or(KubeconfigError::Port)?,
    };
    let user = match wanted.credential {
        None if face.speaks() == Speaks::Caller => return Err(KubeconfigError::NoCredential),
        None => json!({}),
        Some(Credential::File(path)) => json!({ "tokenFile": path }),
        Some(Credential::Inline(token)) => json!({ "token": token.expose() }),
        Some(Credential::Program(words)) => {
            let (program, arguments) = words.split_first().ok_or(KubeconfigError::NoCredential)?;
            json!({ "exec": {
                "apiVersion": "client.authentication.k8s.io/v1beta1", "command": program, "args": arguments } })
        }
    };
    let state = config.base.join(&config.values.state);
    let authority = authority::open(&state, std::time::SystemTime::now())?;
    let certificate = BASE64.encode(&authority.certificate);
    let mut context = json!({ "cluster": cluster, "user": cluster });
    if let Some(namespace) = wanted.namespace {
        context["namespace"] = namespace.into();
    }
    let all = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": cluster,
        "clusters": [{ "name": cluster, "cluster": { "server": server, "certificate-authority-data": certificate } }],
        "contexts": [{ "name": cluster, "context": context }],
        "users": [{ "name": cluster, "user": user }],
    });
    Ok(yaml(&all, 0))
}

fn find<'a>(config: &'a Config, cluster: Option<&str>) -> Result<&'a FaceConfig, KubeconfigError> {
    let faces = config.faces.iter().filter(|face| face.kubernetes.is_some());
    let named =
        |face: &&FaceConfig| face.to.as_ref().is_some_and(|to| cluster.is_none_or(|name| **to.cluster() == *name));
    let found: Vec<_> = faces.filter(named).collect();
    let mut clusters: Vec<&str> = found.iter().filter_map(|face| Some(&**face.to.as_ref()?.cluster())).collect();
    clusters.dedup();
    match (found.first(), clusters.as_slice()) {
        (Some(face), [_]) => Ok(face),
        (Some(_), several) => Err(KubeconfigError::Several(several.join(", "))),
        (None, _) => Err(KubeconfigError::NoFace(cluster.map(|name| format!(" to `{name}`")).unwrap_or_default())),
    }
}

/// Where clients of this machine find a face that has a port of its own.
fn address(face: &FaceConfig) -> Option<String> {
    let mut address = face.kubernetes.as_ref()?.port().filter(|address| address.port() != 0)?;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    Some(format!("https://{address}"))
}

/// JSON as YAML that people can read. Texts are quoted as JSON quotes them, which YAML reads alike.
fn yaml(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => fields
            .iter()
            .map(|(name, value)| match value {
                Value::Object(inner) if !inner.is_empty() => format!("{indent}{name}:\n{}", yaml(value, depth + 1)),
                Value::Array(items) if !items.is_empty() => format!("{indent}{name}:\n{}", yaml(value, depth)),
                value => format!("{indent}{name}: {value}\n"),
            })
            .collect(),
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| match item {
                Value::Object(_) => format!("{indent}- {}", yaml(item, depth + 1).trim_start()),
                item => format!("{indent}- {item}\n"),
            })
            .collect(),
        value => format!("{indent}{value}\n"),
    }
}

/// A path as it is found from anywhere.
///
/// # Errors
/// When the present folder is not known.
pub fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "clusters:
  a: { trust: { file: a.yaml }, ways: [{ direct: wss://a }], token: { source: file, path: t } }
  b: { trust: { file: b.yaml }, ways: [{ direct: wss://b }], token: { source: file, path: t } }
faces:
  - { kubernetes: 127.0.0.1:6443, to: a }
  - { kubernetes: 127.0.0.1:0, to: b, as: connector }
";

    fn config(text: &str) -> (tempfile::TempDir, Loaded<Config>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("connector.yaml");
        std::fs::write(&path, text).unwrap();
        let loaded = daemon::config::load::<Config>(&path, &[]).unwrap();
        (folder, loaded)
    }

    fn wanted(cluster: Option<&str>, credential: Option<Credential>) -> Wanted<'_> {
        Wanted { cluster, server: None, namespace: Some("models"), credential }
    }

    #[test]
    fn it_points_at_the_face_and_embeds_its_ca_and_no_token() {
        let (folder, config) = config(CONFIG);
        let text = write(&config, wanted(Some("a"), Some(Credential::File("/run/token".into())))).unwrap();
        let parsed: Value = serde_saphyr::from_str(&text).unwrap();
        let ca = std::fs::read(folder.path().join("state/kubernetes-face/ca.crt")).unwrap();
        assert_eq!(
            parsed["clusters"][0]["cluster"],
            json!({ "server": "https://127.0.0.1:6443", "certificate-authority-data": BASE64.encode(ca) })
        );
        assert_eq!(parsed["users"][0], json!({ "name": "a", "user": { "tokenFile": "/run/token" } }));
        assert_eq!(parsed["contexts"][0]["context"], json!({ "cluster": "a", "user": "a", "namespace": "models" }));
        assert_eq!(parsed["current-context"], "a");
    }

    #[test]
    fn a_program_or_an_inline_token_is_written_when_asked_for() {
        let (_folder, config) = config(CONFIG);
        let program = Credential::Program(vec!["kubelogin".to_owned(), "get-token".to_owned()]);
        let parsed: Value = serde_saphyr::from_str(&write(&config, wanted(Some("a"), Some(program))).unwrap()).unwrap();
        let exec = &parsed["users"][0]["user"]["exec"];
        assert_eq!((&exec["command"], &exec["args"]), (&json!("kubelogin"), &json!(["get-token"])));
        let inline = Credential::Inline(Secret::new("secret"));
        let parsed: Value = serde_saphyr::from_str(&write(&config, wanted(Some("a"), Some(inline))).unwrap()).unwrap();
        assert_eq!(parsed["users"][0]["user"], json!({ "token": "secret" }));
    }

    #[test]
    fn what_cannot_be_pointed_at_is_said() {
        let (_folder, config) = config(CONFIG);
        let credential = || Some(Credential::File("/t".into()));
        let error = |wanted| write(&config, wanted).unwrap_err().to_string();
        assert!(error(wanted(None, credential())).ends_with("name one of: a, b"));
        assert!(error(wanted(Some("c"), credential())).contains("no kubernetes face to `c`"));
        assert!(error(wanted(Some("a"), None)).contains("--token-file"));
        assert!(error(wanted(Some("b"), None)).contains("--server"));
        let named = Wanted { server: Some("https://127.0.0.1:7443"), ..wanted(Some("b"), None) };
        assert!(write(&config, named).unwrap().contains("server: \"https://127.0.0.1:7443\""));
    }
}
