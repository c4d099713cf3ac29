//! Claims about the policy, by table and by property.

mod decisions;
mod kubernetes;
mod loading;
mod patterns;

use std::{collections::BTreeSet, time::SystemTime};

use super::{Policy, PolicyFile, compile};

/// A policy from YAML, with the authenticators `entra` and `kube`.
fn policy(yaml: &str) -> Policy {
    try_policy(yaml).expect("the policy of a test is valid")
}

fn try_policy(yaml: &str) -> Result<Policy, String> {
    let file: PolicyFile = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    let authenticators = BTreeSet::from(["entra".to_owned(), "kube".to_owned()]);
    compile(&file, &authenticators, SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())
}
