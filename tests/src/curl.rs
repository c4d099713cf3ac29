//! curl, as a person would run it.
use std::{collections::BTreeMap, ffi::OsString, path::Path, time::Duration};

use tokio::process::Command;

/// One curl command.
#[derive(Debug, Clone)]
pub struct Curl {
    args: Vec<OsString>,
    head: bool,
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct Answer {
    /// curl's exit code; 0 when an answer came, whatever its status.
    pub exit: i32,
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// Fields of the last head, names in lower case.
    pub fields: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
    /// What curl complained about.
    pub complaint: String,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Curl {
    /// A request to `url`.
    pub fn new(url: impl AsRef<str>) -> Self {
        let mut curl = Self { args: Vec::new(), head: false };
        // No file of the developer's, no proxy, head in front of the body, and a limit below the tests' own.
        for argument in
            ["--disable", "--silent", "--show-error", "--noproxy", "*", "--dump-header", "-", "--max-time", "60"]
        {
            curl.args.push(argument.into());
        }
        curl.args.push(url.as_ref().into());
        curl
    }

    /// Any options.
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One more field.
    pub fn header(self, field: impl AsRef<str>) -> Self {
        self.args(["--header", field.as_ref()])
    }

    /// `Authorization: Bearer …`.
    pub fn bearer(self, token: &str) -> Self {
        self.header(format!("Authorization: Bearer {token}"))
    }

    /// A HEAD request; the answer has no body.
    pub fn head(mut self) -> Self {
        self.head = true;
        self.args(["--head"])
    }

    /// A POST of this text.
    pub fn post(self, body: &str) -> Self {
        self.args(["--data-binary", body])
    }

    /// A PUT of this file.
    pub fn upload(self, file: &Path) -> Self {
        self.args([OsString::from("--upload-file"), file.into()])
    }

    /// The body into a file.
    pub fn output(self, file: &Path) -> Self {
        self.args([OsString::from("--output"), file.into()])
    }

    /// Gives up after this long.
    pub fn limit(self, limit: Duration) -> Self {
        self.args(["--max-time".to_owned(), limit.as_secs_f32().to_string()])
    }

    /// Runs it.
    ///
    /// # Panics
    /// When curl is not installed.
    pub async fn run(self) -> Answer {
        let output = Command::new("curl")
            .args(self.args)
            .kill_on_drop(true)
            .output()
            .await
            .expect("curl is installed; `tests/run setup` does it");
        let mut rest = output.stdout.as_slice();
        let (mut status, mut fields) = (0, BTreeMap::new());
        // Heads of 1xx answers come first.
        while rest.starts_with(b"HTTP/") {
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else { break };
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            let mut lines = head.lines();
            status =
                lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok()).unwrap_or(0);
            fields = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            rest = &rest[end + 4..];
            if status >= 200 {
                break;
            }
        }
        Answer {
            exit: output.status.code().unwrap_or(-1),
            status,
            fields,
            // Asked for heads, curl prints them a second time as its output.
            body: if self.head { Vec::new() } else { rest.to_vec() },
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
