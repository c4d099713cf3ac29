//! What a check found, and how it is told: a line for people, an object for programs.
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use serde_json::{Value, json};

use super::Code;

/// Width of the text before the time, in characters.
const TEXT_WIDTH: usize = 66;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// It does not work.
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was looked at, in the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The relay's name.
    Dns,
    /// The proxy on the way.
    Proxy,
    /// The connection.
    Tcp,
    /// Its encryption, and who vouches for it.
    Tls,
    /// Whether WebSockets pass.
    Upgrade,
    /// The difference of the clocks.
    Clock,
    /// What the credential may do.
    Token,
    /// Who listens.
    Listeners,
    /// There and back.
    RoundTrip,
}

impl Stage {
    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Proxy => "proxy",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Upgrade => "upgrade",
            Self::Clock => "clock",
            Self::Token => "token",
            Self::Listeners => "listeners",
            Self::RoundTrip => "round trip",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub status: Status,
    /// At what.
    pub stage: Stage,
    /// Which of the known findings it is; none where all is well.
    pub code: Option<Code>,
    /// What was seen.
    pub text: String,
    /// How long it took.
    pub took: Option<Duration>,
}

impl Finding {
    pub(super) fn ok(stage: Stage, text: impl Into<String>) -> Self {
        Self { status: Status::Ok, stage, code: None, text: text.into(), took: None }
    }

    pub(super) fn warn(stage: Stage, code: Code, text: impl Into<String>) -> Self {
        Self { status: Status::Warn, stage, code: Some(code), text: text.into(), took: None }
    }

    pub(super) fn fail(stage: Stage, code: Code, text: impl Into<String>) -> Self {
        Self { status: Status::Fail, stage, code: Some(code), text: text.into(), took: None }
    }

    pub(super) fn after(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut object = json!({ "status": self.status.name(), "stage": self.stage.name(), "text": self.text });
        if let Some(took) = self.took {
            object["ms"] = json!((took.as_secs_f64() * 10_000.0).round() / 10.0);
        }
        if let Some(code) = self.code {
            object["code"] = json!(code.id());
            object["name"] = json!(code.name());
            object["remedy"] = json!(code.remedy());
        }
        object
    }
}

/// For people: status, stage, what was seen, how long it took; beneath, what to do.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = format!("{:<5} {:<10} {}", self.status.name(), self.stage.name(), self.text);
        if let Some(took) = self.took {
            let width = (TEXT_WIDTH + "status stage......".len()).saturating_sub(line.chars().count());
            write!(line, " {:>width$} ms", took.as_millis(), width = width.max(1))?;
        }
        f.write_str(&line)?;
        match self.code {
            Some(code) => write!(f, "\n                 {code}: {}", code.remedy()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_status_stage_and_time_and_the_next_one_what_to_do() {
        let text = Finding::ok(Stage::Dns, "relay → 203.0.113.7").after(Duration::from_millis(4)).to_string();
        assert!(text.starts_with("ok    dns        relay → 203.0.113.7 ") && text.ends_with(" 4 ms"), "{text}");
        let text = Finding::warn(Stage::Tls, Code::Intercepted, "signed by \"X\"").to_string();
        assert!(text.starts_with("warn  tls        signed by \"X\"\n                 R104: "), "{text}");
    }

    #[test]
    fn programs_read_the_same() {
        let finding = Finding::fail(Stage::RoundTrip, Code::Silent, "nothing").after(Duration::from_micros(1250));
        let object = finding.json();
        assert_eq!(
            (&object["status"], &object["stage"], &object["code"], &object["name"], &object["ms"]),
            (&json!("fail"), &json!("round trip"), &json!("R121"), &json!("silent"), &json!(1.3))
        );
        assert_eq!(Finding::ok(Stage::Tcp, "x").json().get("code"), None);
    }
}
