//! Pages made from a small configuration.
use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::config::{SecretRef, Span};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read through its schema alone")]
struct Config {
    /// Cluster id.
    cluster: String,
    /// Faces,
    /// one per port.
    #[serde(default)]
    faces: Vec<Face>,
    /// By name.
    #[serde(default)]
    clusters: BTreeMap<String, Cluster>,
    /// Deadline of a call; default 10 s. Not of a stream.
    deadline: Option<Span>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "read through its schema alone")]
struct Face {
    /// Who | whom.
    speak_as: Speaker,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Speaker {
    /// A token comes along.
    Caller,
    /// Our own.
    Connector,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "read through its schema alone")]
struct Cluster {
    /// How to prove oneself.
    credential: Credential,
    /// CA.
    #[serde(default)]
    trust: PathBuf,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "read through its schema alone")]
enum Credential {
    /// Shared key.
    Sas {
        /// The key.
        key: SecretRef,
    },
}

#[test]
fn every_key_is_listed_with_type_default_and_meaning() {
    let page = config_page("connector", &crate::schema::of_program::<Config>());
    for line in [
        "## connector",
        "| `cluster` | text | required | Cluster id. |",
        "| `faces` | list of section |  | Faces, one per port. |",
        "| `faces[].speak_as` | `caller` or `connector` | required | Who \\| whom. `caller`: A token comes along. `connector`: Our own. |",
        "| `clusters` | map |  | By name. |",
        "| `clusters.<name>.credential.sas.key` | secret | required | The key. |",
        "| `clusters.<name>.trust` | text | empty | CA. |",
        "| `deadline` | time | 10 s | Deadline of a call; default 10 s. Not of a stream. |",
        "| `grace` | time | `30s` |",
        "| `log.level` | `error` or `warn` or `info` or `debug` or `trace` | `info` |",
        "| `admin.address` | text | 127.0.0.1 with a port per program |",
    ] {
        assert!(page.lines().any(|found| found.starts_with(line)), "{line} in\n{page}");
    }
}

#[test]
fn every_failure_is_listed_with_its_remedy() {
    let rows = [CatalogueRow {
        code: "policy_denied".to_owned(),
        meaning: "No rule | allows it.".to_owned(),
        remedy: "Ask the owner.".to_owned(),
    }];
    let page = catalogue_page("Tunnel", &rows);
    assert!(page.ends_with("| `policy_denied` | No rule \\| allows it. | Ask the owner. |\n"), "{page}");
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "read through its schema alone")]
struct Endless {
    inner: Option<Box<Self>>,
}

#[test]
fn a_type_that_holds_itself_ends() {
    assert!(config_page("endless", &schemars::schema_for!(Endless)).lines().count() < 30);
}
