//! `gateway call`: the answer's body goes to standard output, everything about it to standard error.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use daemon::{
    config::EXIT_BAD_CONFIG,
    process::{CommonArgs, Context},
};
use gateway::{
    call::{self, Answer, Call, CallError},
    connect::Config,
};
use http::{HeaderMap, Method, Uri};
use identity::secret::Secret;
use tokio::fs::File;

use super::{Failed, complain};

/// Time that the tunnel gets to close in good order after the answer.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);
/// Fields that hold secrets: on a command line every process of the machine could read them.
const SECRET_FIELDS: &[&str] =
    &["authorization", "causeway-authorization", "cookie", "proxy-authorization", "x-api-key"];

/// Told by `--help`.
const EXIT_CODES: &str = "The answer's body goes to standard output, everything about it to standard error.

Exit codes:
  0   the target answered, whatever its status
  1   the request failed on the way: refused, not reachable or cut short; standard error says who decided
  64  the command line or the configuration cannot be used";

/// Arguments of `gateway call`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// The connector's configuration file (YAML)
    #[arg(short, long, value_name = "FILE", env = "CAUSEWAY_CONFIG")]
    config: PathBuf,
    /// Override one value of it, as in `--set trust.system=false`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Cluster, a key of `clusters:` in the configuration.
    cluster: String,
    /// `http://host[:port]/path`, as the target is called inside the cluster.
    url: Uri,
    /// File with the bearer token of whose request it is, or `-` for standard input; without it the connector speaks for
    /// itself.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Method; default GET, or POST with a body.
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<Method>,
    /// `name: value`, or `@file` with one such line each. Fields that hold secrets are taken from a file only.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    fields: Vec<String>,
    /// Body: text, `@file`, or `@-` or `-` for standard input.
    #[arg(short = 'd', long = "data", value_name = "DATA")]
    data: Option<String>,
    /// Write the answer's head before its body.
    #[arg(short = 'i', long = "include")]
    include: bool,
    /// Write the body to a file instead of standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let common = CommonArgs { config: arguments.config.clone(), print_config: false, set: arguments.set.clone() };
    let config = common.load::<Config>()?;
    let runtime = super::runtime()?;
    let code = runtime.block_on(async {
        let call = match request(arguments).await {
            Ok(call) => call,
            Err(message) => {
                complain(&message);
                return ExitCode::from(EXIT_BAD_CONFIG);
            }
        };
        let context = Context::new("causeway_call");
        let code = perform(arguments, call, config, &context).await;
        context.shutdown.run(CLOSE_DEADLINE).await;
        code
    });
    // A read of standard input may hang in the kernel; it does not hold up the end.
    runtime.shutdown_timeout(CLOSE_DEADLINE);
    Ok(code)
}

async fn perform(
    arguments: &Arguments,
    call: Call,
    config: daemon::config::Loaded<Config>,
    context: &Context,
) -> ExitCode {
    let began = Instant::now();
    let sent = tokio::select! {
        sent = Box::pin(call::send(config, context, call)) => sent,
        () = daemon::process::terminated() => return ExitCode::FAILURE,
    };
    let mut answer = match sent {
        Ok(answer) => answer,
        Err(error) => return failed(&error),
    };
    let took = began.elapsed().as_millis();
    say(&format!("{}   stream {}  by {}  {took} ms", answer.status, answer.stream, answer.way));
    let written = tokio::select! {
        written = write(arguments, &mut answer) => written,
        () = daemon::process::terminated() => return ExitCode::FAILURE,
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unwritten::Cut(error)) => failed(&error),
        Err(Unwritten::Output(error)) => {
            complain(&format!("the answer cannot be written: {error}"));
            ExitCode::FAILURE
        }
    }
}

enum Unwritten {
    Cut(CallError),
    Output(std::io::Error),
}

impl From<std::io::Error> for Unwritten {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

async fn write(arguments: &Arguments, answer: &mut Answer) -> Result<(), Unwritten> {
    // Blocking writes hold up nobody: the tunnel runs on other threads.
    let mut out: Box<dyn Write + Send> = match &arguments.output {
        Some(path) => Box::new(std::fs::File::create(path)?),
        None => Box::new(std::io::stdout()),
    };
    if arguments.include {
        let mut head = format!("HTTP/1.1 {}\r\n", answer.status).into_bytes();
        for (name, value) in &answer.fields {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        out.write_all(&head)?;
    }
    while let Some(piece) = answer.next().await {
        out.write_all(&piece.map_err(Unwritten::Cut)?)?;
        // Somebody may be watching.
        out.flush()?;
    }
    out.flush()?;
    Ok(())
}

fn failed(error: &CallError) -> ExitCode {
    say(&error.explained());
    if error.is_bad_config() { ExitCode::from(EXIT_BAD_CONFIG) } else { ExitCode::FAILURE }
}

/// A line about the answer, on standard error.
fn say(line: &str) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The request as the command line describes it.
async fn request(arguments: &Arguments) -> Result<Call, String> {
    let subject = match &arguments.token_file {
        None => None,
        Some(path) => Some(Secret::new(text_of(path).await?.trim())),
    };
    let mut fields = HeaderMap::new();
    for text in &arguments.fields {
        match text.strip_prefix('@') {
            Some(file) => {
                for line in text_of(Path::new(file)).await?.lines().filter(|line| !line.trim().is_empty()) {
                    let (name, mut value) = call::field(line).ok_or("-H: a line of the file is not `name: value`")?;
                    value.set_sensitive(true);
                    fields.append(name, value);
                }
            }
            None => {
                let (name, value) = call::field(text).ok_or_else(|| format!("-H: `{text}` is not `name: value`"))?;
                if SECRET_FIELDS.contains(&name.as_str()) {
                    return Err(format!(
                        "-H: `{name}` would be readable in the process list: use --token-file, or -H @file"
                    ));
                }
                fields.append(name, value);
            }
        }
    }
    let body = match arguments.data.as_deref() {
        None => None,
        Some("-" | "@-") => {
            Some(call::body_from(standard_input().map_err(|error| format!("-d: standard input: {error}"))?))
        }
        Some(data) => match data.strip_prefix('@') {
            None => Some(call::body_of(data.to_owned().into_bytes().into())),
            Some(file) => {
                let opened = File::open(file).await.map_err(|error| format!("-d: {file}: {error}"))?;
                Some(call::body_from(opened))
            }
        },
    };
    let default = if body.is_some() { Method::POST } else { Method::GET };
    Ok(Call {
        cluster: arguments.cluster.clone(),
        url: arguments.url.clone(),
        method: arguments.method.clone().unwrap_or(default),
        fields,
        subject,
        body,
    })
}

/// A small file's text, or standard input's.
async fn text_of(path: &Path) -> Result<String, String> {
    use tokio::io::AsyncReadExt;
    /// Tokens and header files are far smaller.
    const TEXT_MAX: u64 = 64 * 1024;
    let opened = if path == Path::new("-") { standard_input() } else { File::open(path).await };
    let mut text = String::new();
    let read = match opened {
        Ok(file) => file.take(TEXT_MAX).read_to_string(&mut text).await,
        Err(error) => Err(error),
    };
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text)
}

/// Standard input, to be read without blocking the tunnel.
fn standard_input() -> std::io::Result<File> {
    use std::os::fd::AsFd;
    let descriptor = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(File::from_std(descriptor.into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use http_body_util::BodyExt;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    async fn parse(more: &[&str]) -> Result<Call, String> {
        let line = ["call", "-c", "c.yaml", "factory-a", "http://scorer.models.svc/v1/x"];
        request(&Line::try_parse_from(line.iter().chain(more)).unwrap().arguments).await
    }

    #[tokio::test]
    async fn the_method_follows_the_body() {
        assert_eq!(parse(&[]).await.unwrap().method, Method::GET);
        let call = parse(&["-d", "text"]).await.unwrap();
        assert_eq!(call.method, Method::POST);
        assert_eq!(call.body.unwrap().collect().await.unwrap().to_bytes(), "text");
        assert_eq!(parse(&["-d", "text", "-X", "PUT"]).await.unwrap().method, Method::PUT);
    }

    #[tokio::test]
    async fn secrets_come_from_files_only() {
        for field in ["Authorization: Bearer x", "cookie: a=b", "Causeway-Authorization: Bearer x"] {
            let error = parse(&["-H", field]).await.unwrap_err();
            assert!(error.contains("--token-file") && !error.contains("Bearer x"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let (fields, token) = (folder.path().join("fields"), folder.path().join("token"));
        std::fs::write(&fields, "authorization: Basic eA==\n\nx-a: 1\n").unwrap();
        std::fs::write(&token, "ey.ey.x\n").unwrap();
        let fields = format!("@{}", fields.display());
        let call = parse(&["-H", &fields, "-H", "x-b: 2", "--token-file", token.to_str().unwrap()]).await.unwrap();
        assert_eq!(call.fields.len(), 3);
        assert!(call.fields["authorization"].is_sensitive());
        assert_eq!(call.subject.unwrap().expose(), "ey.ey.x");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        for (more, part) in [
            (&["-H", "no colon"][..], "no colon"),
            (&["-d", "@/absent"][..], "/absent"),
            (&["-H", "@/absent"][..], "/absent"),
            (&["--token-file", "/absent"][..], "/absent"),
        ] {
            let error = parse(more).await.unwrap_err();
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}
