//! A client in another language, driven through a small script of ours (`tests/node`, `tests/python`): it takes commands
//! as JSON lines on its input and tells what happens as JSON lines on its output. One role, one process.
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::ChildStdin};

use crate::{
    log::Entry,
    pattern::hex,
    process::{Process, Spec},
    wait::named,
};

/// A running script.
#[derive(Debug)]
pub struct Driver {
    name: String,
    process: Process,
    // Its end is the script's end.
    commands: ChildStdin,
    seen: usize,
}

impl Driver {
    /// Starts it.
    pub fn start(spec: Spec) -> Self {
        let name = spec.name.clone();
        let (process, commands) = Process::start_with_input(spec);
        Self { name, process, commands, seen: 0 }
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Gives it a command.
    ///
    /// # Panics
    /// When the script has ended.
    pub async fn tell(&mut self, command: &Value) {
        let line = format!("{command}\n");
        let written = self.commands.write_all(line.as_bytes()).await;
        written.unwrap_or_else(|error| panic!("{} takes no command any more: {error}", self.name));
    }

    /// Its next event called `what`; events before it are passed over.
    pub async fn next(&mut self, what: &str) -> Entry {
        self.next_where(what, |_| true).await
    }

    /// Its next event called `what` for which `matches` holds; events before it are passed over.
    pub async fn next_where(&mut self, what: &str, matches: impl Fn(&Entry) -> bool) -> Entry {
        let seen = self.seen;
        let find = |entries: &[Entry]| {
            let after = entries.iter().enumerate().skip(seen);
            let mut found = after.filter(|(_, entry)| entry.message() == what && matches(entry));
            found.next().map(|(index, entry)| (index, entry.clone()))
        };
        let what = format!("{} to say {what:?}", self.name);
        let (index, entry) = named(what, self.process.log().wait(find)).await;
        self.seen = index + 1;
        entry
    }

    /// How often it has said `what` so far.
    pub fn count(&self, what: &str) -> usize {
        self.process.log().entries().iter().filter(|entry| entry.message() == what).count()
    }

    /// SIGKILL, as when its machine goes.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }
}

/// `{do: send}` of a text.
pub fn text(text: &str) -> Value {
    json!({ "do": "send", "text": text })
}

/// `{do: send}` of bytes.
pub fn binary(bytes: &[u8]) -> Value {
    json!({ "do": "send", "bytes": BASE64.encode(bytes) })
}

/// `{do: fragments}`: one binary message in these pieces.
pub fn fragments<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Value {
    let pieces: Vec<_> = pieces.into_iter().map(|piece| BASE64.encode(piece)).collect();
    json!({ "do": "fragments", "pieces": pieces })
}

/// `{do: close}`.
pub fn close(code: u16, reason: &str) -> Value {
    json!({ "do": "close", "code": code, "reason": reason })
}

/// Whether an event tells of this payload: type, length and SHA-256.
pub fn is_payload(event: &Entry, kind: &str, bytes: &[u8]) -> bool {
    event.field("type").as_deref() == Some(kind) && is_body(event, bytes)
}

/// Whether an event tells of this body: length and SHA-256.
pub fn is_body(event: &Entry, bytes: &[u8]) -> bool {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    event.field("length") == Some(bytes.len().to_string()) && event.field("sha256") == Some(hex(digest.as_ref()))
}
