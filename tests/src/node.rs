//! Node's own modules as a service: scripts of `tests/node` that need no package.
use std::path::Path;

use serde_json::Value;

use crate::{driver::Driver, process::Spec, programs::repository};

/// Runs one of the scripts in `tests/node`.
pub fn script(name: &str, script: &str, folder: &Path, options: &Value) -> Driver {
    Driver::start(Spec {
        name: name.to_owned(),
        program: "node".into(),
        args: vec![repository().join("tests/node").join(script).into_os_string(), options.to_string().into()],
        env: Vec::new(),
        directory: folder.to_owned(),
    })
}
