//! Claims about the policy, by table and by property.

mod decisions;
mod denied;
mod kubernetes;
mod loading;
mod patterns;

use std::time::SystemTime;

use super::{Policy, PolicyFile, Setting, compile};

/// A policy from YAML, with the authenticators `entra`, which keeps the claim `team`, and `kube`.
fn policy(yaml: &str) -> Policy {
    try_policy(yaml).expect("the policy of a test is valid")
}

fn try_policy(yaml: &str) -> Result<Policy, String> {
    let file: PolicyFile = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    let authenticators = [("entra", vec!["team".to_owned()]), ("kube", Vec::new())];
    let setting = Setting {
        authenticators: authenticators.map(|(name, claims)| (name.to_owned(), claims)).into(),
        domain: "cluster.local".to_owned(),
    };
    compile(&file, &setting, SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())
}
