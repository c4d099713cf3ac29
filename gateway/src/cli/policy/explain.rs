//! `gateway policy explain`: what was decided about one stream, found by its id in the audit file or a log.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Args;
use daemon::process::CommonArgs;
use gateway::{
    policy::Policy,
    serve::{Config, enforced::Loader},
};
use serde_json::Value;

use super::super::Failed;

/// Longest line that is looked at; ours are far shorter, and a log may hold other programs' lines.
const LINE_MAX: u64 = 256 * 1024;

#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    common: CommonArgs,
    /// Where to look: audit files or JSON logs of the gateway. Default: the audit file that the configuration names.
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Id of the stream, as it stands in errors, in the `causeway-stream-id` header and in both ends' logs.
    #[arg(value_name = "STREAM-ID")]
    stream: String,
}

pub(super) fn run(explain: &Explain) -> Result<ExitCode, Failed> {
    let config = explain.common.load::<Config>()?;
    let mut logs = explain.logs.clone();
    if let (true, Some(audit)) = (logs.is_empty(), &config.values.audit) {
        logs.push(config.resolve(&audit.file));
    }
    if logs.is_empty() {
        return Err(anyhow::anyhow!("the configuration names no audit file; say where to look with --log FILE").into());
    }
    let loader = Loader::new(&config.values, &config.base, &config.path);
    // What was decided stands in the log; a policy that cannot be read today only leaves out what became of the rule.
    let policy = loader.load(&loader.read(), SystemTime::now()).ok();
    let mut text = String::new();
    for log in &logs {
        search(log, &explain.stream, policy.as_ref(), &mut text)?;
    }
    if text.is_empty() {
        super::super::complain(&format!("nothing about stream {} was found", explain.stream));
        return Ok(ExitCode::FAILURE);
    }
    super::super::answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn search(log: &Path, stream: &str, policy: Option<&Policy>, text: &mut String) -> anyhow::Result<()> {
    let file = File::open(log).with_context(|| format!("{} cannot be opened", log.display()))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
        if read.with_context(|| format!("{} cannot be read", log.display()))? == 0 {
            return Ok(());
        }
        if line.len() as u64 == LINE_MAX && line.last() != Some(&b'\n') {
            bail!("{} has a line of more than {LINE_MAX} bytes; it is no log of a gateway", log.display());
        }
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { continue };
        // A log holds what a line is about in `fields`; the audit file is flat.
        let about = value.get("fields").unwrap_or(&value);
        if about["stream"] == stream {
            let time = value["time"].as_str().or_else(|| value["timestamp"].as_str());
            tell(time.unwrap_or("some time"), about, policy, text);
        }
    }
}

/// One line of the log in words.
fn tell(time: &str, line: &Value, policy: Option<&Policy>, text: &mut String) {
    let field = |name: &str| line[name].as_str().filter(|value| !value.is_empty());
    let kind = field("kind").unwrap_or_default();
    let asked = field("asked").unwrap_or(kind);
    let target = field("target").or_else(|| field("target_host")).unwrap_or_default();
    let who = match (field("subject"), field("actor")) {
        (Some(subject), Some(actor)) if subject != actor => format!("{subject} (through {actor})"),
        (Some(subject), _) => subject.to_owned(),
        _ => "somebody unproven".to_owned(),
    };
    let what = [field("method"), Some(target), field("path")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    // Writing to a String does not fail.
    let _ = write!(text, "{time}  {who}  {asked} {what}\n    ");
    let _ = match (field("reason"), field("rule")) {
        (Some(reason), _) => {
            writeln!(text, "{}: {reason}", field("code").or_else(|| field("ended")).unwrap_or("refused"))
        }
        (None, Some(rule)) => writeln!(text, "allowed by rule \"{rule}\"{}", standing(rule, policy)),
        (None, None) => writeln!(text, "no rule is named"),
    };
}

fn standing(rule: &str, policy: Option<&Policy>) -> &'static str {
    let there = |policy: &Policy| policy.rules().iter().any(|present| &**present.name() == rule);
    match policy.map(there) {
        Some(true) => ", which is still in the policy",
        Some(false) => ", which is in the policy no longer",
        None => "",
    }
}
