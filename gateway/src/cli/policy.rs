//! `gateway policy`. `test`: what the policy says to a question, without asking it through a tunnel; exit code 0 if it is
//! allowed, 1 if it is denied. [`diff`]: what another policy would change. [`explain`]: what was decided about a stream.

mod diff;
mod explain;

use std::{net::SocketAddr, process::ExitCode, time::SystemTime};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use daemon::process::CommonArgs;
use gateway::{
    policy::{Ask, Host, Party, Question, file::Upgrade, kubernetes::Request},
    serve::{
        Config,
        config::Networks,
        enforced::Loader,
        target::address::{Verdict, judge},
    },
};

use super::Failed;

/// Arguments of `gateway policy`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether something is allowed, by which rule, or what the nearest rule lacks.
    ///
    /// Exit codes: 0 allowed, 1 denied, 64 the command line, the configuration or the policy cannot be used.
    Test(Test),
    /// Say which grants another policy file would add, and which it would take away.
    ///
    /// Exit codes: 0 none, 1 some, 64 the command line, the configuration or one of the policies cannot be used.
    Diff(diff::Diff),
    /// Say what was decided about a stream, and by which rule, from the audit file or a log.
    ///
    /// Exit codes: 0 found, 1 not found or not readable, 64 the command line or the configuration cannot be used.
    Explain(explain::Explain),
}

#[derive(Debug, Args)]
struct Test {
    #[command(flatten)]
    common: CommonArgs,
    /// Whose request it is: `authenticator/subject`.
    #[arg(long = "as", value_name = "PRINCIPAL")]
    subject: String,
    /// A group of the subject; may be repeated.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A claim of the subject, `name=value`; may be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// Who holds the tunnel: `authenticator/subject`; without it the subject does.
    #[arg(long, value_name = "PRINCIPAL")]
    actor: Option<String>,
    /// A group of the actor; may be repeated.
    #[arg(long = "actor-group", value_name = "GROUP")]
    actor_groups: Vec<String>,
    /// Ask as if the target resolved to an address outside of the cluster's ranges.
    #[arg(long)]
    external: bool,
    /// Ask for an upgrade of the HTTP connection.
    #[arg(long, value_enum)]
    upgrade: Option<Protocol>,
    /// `GET http://host[:port]/path`, `tcp://host:port`, `GET kubernetes:/path`, `unix:name`, or `describe`.
    #[arg(required = true, num_args = 1..=2, value_name = "QUESTION")]
    question: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Websocket,
    Spdy,
    Other,
}

/// A question that owns its parts.
enum Asked {
    Http { method: String, host: Host, port: u16, path: String },
    Tcp { host: Host, port: u16 },
    Kubernetes { method: String, path: String },
    Unix { name: String },
    Describe,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let test = match &arguments.command {
        Command::Test(test) => test,
        Command::Diff(diff) => return diff::run(diff),
        Command::Explain(asked) => return explain::run(asked),
    };
    let config = test.common.load::<Config>()?;
    let values = &config.values;
    let loader = Loader::new(values, &config.base, &config.path);
    let now = SystemTime::now();
    let policy = match loader.load(&loader.read(), now) {
        Ok(policy) => policy,
        Err(error) => {
            super::complain(&daemon::process::explain(&error));
            return Ok(ExitCode::from(daemon::config::EXIT_BAD_CONFIG));
        }
    };
    let asked = parse(&test.question)?;
    let request;
    let ask = match &asked {
        Asked::Kubernetes { method, path } => {
            let Some(kubernetes) = &values.kubernetes else {
                super::answer("denied: the API server is no target of this gateway: its config has no `kubernetes`\n")?;
                return Ok(ExitCode::FAILURE);
            };
            let own_namespace = kubernetes.own_namespace().map_err(anyhow::Error::from)?;
            request = match Request::read(method, path, test.upgrade.is_some()) {
                Ok(request) => request,
                Err(unreadable) => {
                    super::answer(&format!("denied: ambiguous request: {unreadable}\n"))?;
                    return Ok(ExitCode::FAILURE);
                }
            };
            Ask::Kubernetes { request: &request, ours: request.touches_ours(&own_namespace), identity: None }
        }
        Asked::Http { method, host, port, path } => {
            let upgrade = test.upgrade.map(|protocol| match protocol {
                Protocol::Websocket => Upgrade::Websocket,
                Protocol::Spdy => Upgrade::Spdy,
                Protocol::Other => Upgrade::Other,
            });
            Ask::Http { host, port: *port, method, path, upgrade }
        }
        Asked::Tcp { host, port } => Ask::Tcp { host, port: *port },
        Asked::Unix { name } => Ask::Unix { name },
        Asked::Describe => Ask::Describe,
    };
    let judged = judged(&asked, &values.networks);
    if let Some((address, Verdict::Refused(class))) = judged {
        super::answer(&format!("denied: {} is a {} address, which is never called\n", address.ip(), class.name()))?;
        return Ok(ExitCode::FAILURE);
    }
    let claims = test.claims.iter().map(|claim| claim_of(claim)).collect::<anyhow::Result<Vec<_>>>()?;
    let subject = Party { claims: &claims, ..party(&test.subject, &test.groups)? };
    let actor = match &test.actor {
        Some(actor) => party(actor, &test.actor_groups)?,
        None => subject,
    };
    let external = test.external || matches!(judged, Some((_, Verdict::External)));
    match policy.decide(&Question { subject, actor, ask, external, at: now }) {
        Ok(rule) => {
            let becomes = match rule.identity(&subject) {
                None => String::new(),
                Some(Ok(identity)) => format!(" as {identity}"),
                Some(Err(error)) => {
                    let message = format!("denied: rule \"{}\" makes no user of {subject}: {error}\n", rule.name());
                    super::answer(&message)?;
                    return Ok(ExitCode::FAILURE);
                }
            };
            super::answer(&format!("allowed by rule \"{}\": {subject} {ask}{becomes}\n", rule.name()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(denial) => {
            super::answer(&format!("denied: {denial}\n"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn party<'a>(text: &'a str, groups: &'a [String]) -> anyhow::Result<Party<'a>> {
    let (authenticator, subject) =
        text.split_once('/').with_context(|| format!("\"{text}\" is not authenticator/subject"))?;
    Ok(Party::named(authenticator, subject, groups))
}

fn claim_of(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once('=').with_context(|| format!("\"{text}\" is not name=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse(question: &[String]) -> anyhow::Result<Asked> {
    let (method, url) = match question {
        [what] if what == "describe" => return Ok(Asked::Describe),
        [url] => ("GET", url),
        [method, url] => (method.as_str(), url),
        _ => bail!(
            "a question is `GET http://host/path`, `tcp://host:port`, `GET kubernetes:/path`, `unix:name` or `describe`"
        ),
    };
    if let Some(name) = url.strip_prefix("unix:") {
        return Ok(Asked::Unix { name: name.to_owned() });
    }
    if let Some(path) = url.strip_prefix("kubernetes:").filter(|path| path.starts_with('/')) {
        return Ok(Asked::Kubernetes { method: method.to_owned(), path: path.to_owned() });
    }
    let (scheme, rest) = url
        .split_once("://")
        .with_context(|| format!("\"{url}\" has no scheme http://, https://, tcp://, kubernetes:/ or unix:"))?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    match scheme {
        "http" | "https" => {
            let (host, port) = host_and_port(authority, Some(if scheme == "http" { 80 } else { 443 }))?;
            Ok(Asked::Http { method: method.to_owned(), host, port, path: path.to_owned() })
        }
        "tcp" => {
            let (host, port) = host_and_port(authority, None)?;
            Ok(Asked::Tcp { host, port })
        }
        other => bail!("targets are called by http, https, tcp or unix, not by {other}"),
    }
}

fn host_and_port(authority: &str, default: Option<u16>) -> anyhow::Result<(Host, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().context("the port is not a number")?)),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.parse().with_context(|| format!("host \"{host}\""))?, port.context("a port is needed")?))
}

/// What an address literal or a configured name is judged to be; other names are not resolved here.
fn judged(asked: &Asked, networks: &Networks) -> Option<(SocketAddr, Verdict)> {
    let (Asked::Http { host, port, .. } | Asked::Tcp { host, port }) = asked else { return None };
    let address = match host {
        Host::Address(address) => *address,
        Host::Name(name) => *networks.hosts.get(name)?,
    };
    let address = SocketAddr::new(address, *port);
    Some((address, judge(address, networks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(question: &[&str]) -> Result<String, String> {
        let question: Vec<String> = question.iter().map(ToString::to_string).collect();
        match parse(&question).map_err(|error| format!("{error:#}"))? {
            Asked::Http { method, host, port, path } => Ok(format!("{method} {host} {port} {path}")),
            Asked::Tcp { host, port } => Ok(format!("tcp {host} {port}")),
            Asked::Kubernetes { method, path } => Ok(format!("{method} kubernetes {path}")),
            Asked::Unix { name } => Ok(format!("unix {name}")),
            Asked::Describe => Ok("describe".to_owned()),
        }
    }

    #[test]
    fn questions_are_read_as_they_are_typed() {
        assert_eq!(shown(&["GET", "http://a.svc/v1/x?y=1"]).unwrap(), "GET a.svc 80 /v1/x?y=1");
        assert_eq!(shown(&["http://a.svc:8080"]).unwrap(), "GET a.svc 8080 /");
        assert_eq!(shown(&["POST", "http://[fd00::1]:81/"]).unwrap(), "POST [fd00::1] 81 /");
        assert_eq!(shown(&["http://[fd00::1]/"]).unwrap(), "GET [fd00::1] 80 /");
        assert_eq!(shown(&["tcp://db.svc:5432"]).unwrap(), "tcp db.svc 5432");
        assert_eq!(shown(&["https://a.svc/"]).unwrap(), "GET a.svc 443 /");
        assert_eq!(shown(&["unix:docker"]).unwrap(), "unix docker");
        assert_eq!(shown(&["kubernetes:/api/v1/pods?watch=1"]).unwrap(), "GET kubernetes /api/v1/pods?watch=1");
        assert_eq!(shown(&["POST", "kubernetes:/api"]).unwrap(), "POST kubernetes /api");
        assert_eq!(shown(&["describe"]).unwrap(), "describe");
        for bad in ["a.svc/x", "ftp://a.svc/", "tcp://db.svc", "http://a b/", "kubernetes:api"] {
            assert!(shown(&[bad]).is_err(), "{bad}");
        }
    }
}
