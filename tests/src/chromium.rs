//! Chromium without a window, on a page that a test serves or keeps.
use std::path::Path;

use crate::process::{Process, Spec};

/// Opens a page. The browser keeps what it writes below `folder` and stays until the process is dropped.
pub fn open(folder: &Path, address: &str, more: &[String]) -> Process {
    let fixed = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // It stays until the test ends it.
        "--remote-debugging-port=0",
    ];
    let own = format!("--user-data-dir={}", folder.join("chromium").display());
    let args = fixed.into_iter().map(str::to_owned).chain([own]).chain(more.iter().cloned());
    Process::start(Spec {
        name: "chromium".to_owned(),
        program: "chromium".into(),
        args: args.chain([address.to_owned()]).map(Into::into).collect(),
        env: Vec::new(),
        directory: folder.to_owned(),
    })
}
