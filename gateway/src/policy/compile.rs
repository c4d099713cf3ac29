//! From what the owner wrote to what is enforced. Everything that could make a rule mean something else than it seems
//! to say is an error here, with the rule's name, so that a policy is either understood or not in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    deny::Deny,
    file::{HttpConfig, PartyConfig, PolicyFile, RuleConfig, TcpConfig, UnixConfig},
    host::{HostPattern, HostPatternError},
    kubernetes::{self, GrantError},
    path::{PathPattern, PathPatternError},
    rule::{BreakGlass, Grant, PartyMatch, Policy, Rule},
};

/// Longest life of a break-glass rule: a grant that is needed for longer is a rule like any other (SD-18).
pub const BREAK_GLASS_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Name of the authenticator that stands for client certificates.
pub const MTLS: &str = "mtls";

/// The cluster's DNS domain where the config names none.
pub const DOMAIN: &str = "cluster.local";

/// What of the gateway's config gives the names in a policy their meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Authenticators by name, each with the claims that it keeps. [`MTLS`] is always known and has none.
    pub authenticators: BTreeMap<String, Vec<String>>,
    /// The cluster's DNS domain, lower case: `a.b.svc` and `a.b.svc.<domain>` are one host.
    pub domain: String,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule \"{rule}\": {problem}")]
pub struct CompileError {
    /// Position in the file, from 0.
    pub index: usize,
    /// Name of the rule.
    pub rule: String,
    /// What is wrong.
    pub problem: Problem,
}

impl CompileError {
    /// Dotted key of the rule.
    pub fn key(&self) -> String {
        format!("rules[{}]", self.index)
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The name cannot stand in a log line.
    #[error("a name has 1 to 64 letters, digits, `.`, `_` or `-`")]
    Name,
    /// Two rules with one name.
    #[error("another rule has this name; names are unique, since logs speak of them")]
    Duplicate,
    /// No kind, or several.
    #[error("a rule grants exactly one kind: one of http, tcp, kubernetes, unix, describe")]
    Kinds,
    /// A kubernetes rule.
    #[error(transparent)]
    Kubernetes(#[from] GrantError),
    /// Nobody is named.
    #[error("`who` names nobody: give an authenticator with subjects or groups, or an actor")]
    Nobody,
    /// A principal without authenticator.
    #[error("`who` has subjects or groups but no authenticator: a subject means nothing without who vouches for it")]
    NoAuthenticator,
    /// Neither subjects nor groups.
    #[error("authenticator \"{0}\" without subjects or groups; write `subjects: [\"*\"]` if everyone is meant")]
    NoSubjects(String),
    /// `*` among others.
    #[error("`\"*\"` stands alone in `subjects`")]
    EveryoneAndSome,
    /// A name that the gateway's config does not have.
    #[error("there is no authenticator \"{0}\" in the gateway's config")]
    UnknownAuthenticator(String),
    /// A claim that the authenticator does not keep.
    #[error("authenticator \"{0}\" does not keep the claim \"{1}\": list it under `claims` in the gateway's config")]
    UnknownClaim(String, String),
    /// A claim without values.
    #[error("claim \"{0}\" has no values that would do")]
    NoValues(String),
    /// No hosts or ports.
    #[error("`hosts` and `ports` may not be empty")]
    NoTarget,
    /// Port 0.
    #[error("0 is not a port")]
    PortZero,
    /// A host pattern.
    #[error("host \"{0}\": {1}")]
    Host(String, HostPatternError),
    /// A path pattern.
    #[error("path \"{0}\": {1}")]
    Path(String, PathPatternError),
    /// A method.
    #[error("method \"{0}\": methods are upper-case tokens, and CONNECT is never forwarded")]
    Method(String),
    /// `external` on a describe rule.
    #[error("`external` speaks of targets, and a describe rule has none")]
    ExternalDescribe,
    /// `external` on a kubernetes rule.
    #[error("`external` speaks of addresses, and the API server's stands in the gateway's config")]
    ExternalKubernetes,
    /// `external` on a unix rule.
    #[error("`external` speaks of addresses, and a Unix socket has none")]
    ExternalUnix,
    /// A name of a Unix socket.
    #[error("`names` of a unix rule are 1 to 64 letters, digits, `.`, `_` or `-` each, and there is at least one")]
    UnixName,
    /// `until` without `reason` or the other way round.
    #[error("`until` and `reason` go together")]
    HalfBreakGlass,
    /// Not a time.
    #[error("`until: {0}` is not a time such as 2026-12-01T18:00:00Z")]
    Until(String),
    /// Too far away.
    #[error("`until` is more than 24 hours away")]
    TooLong,
    /// A tcp rule that voids an http rule.
    #[error(
        "grants tcp to a port whose HTTP requests rule \"{0}\" limits, which would void the limits; narrow one of the two, \
         or say `bypasses_http: true`"
    )]
    Bypass(String),
}

/// Compiles a file into a policy.
///
/// # Errors
/// The first problem found, with the rule's name.
pub fn compile(file: &PolicyFile, setting: &Setting, now: SystemTime) -> Result<Policy, CompileError> {
    let rules = compile_rules(file, Some(&setting.domain), now)?;
    for (index, rule) in rules.iter().enumerate() {
        for party in [&rule.subject, &rule.actor].into_iter().flatten() {
            check_known(party, setting).map_err(|problem| CompileError {
                index,
                rule: rule.name.to_string(),
                problem,
            })?;
        }
    }
    Ok(Policy { suspended: file.suspended, switched_off: false, rules, deny: Deny::default() })
}

fn check_known(party: &PartyMatch, setting: &Setting) -> Result<(), Problem> {
    let name = &party.authenticator;
    let kept: &[String] = match setting.authenticators.get(name) {
        Some(kept) => kept,
        None if name == MTLS => &[],
        None => return Err(Problem::UnknownAuthenticator(name.clone())),
    };
    match party.claims.iter().find(|(claim, _)| !kept.contains(claim)) {
        Some((claim, _)) => Err(Problem::UnknownClaim(name.clone(), claim.clone())),
        None => Ok(()),
    }
}

/// Everything that can be said without knowing the gateway's config and the time.
///
/// # Errors
/// The first problem found.
pub fn check_shape(file: &PolicyFile) -> Result<(), CompileError> {
    match compile_rules(file, None, SystemTime::now()) {
        // The end of a break-glass rule is judged when the policy comes into force, by the process's own clock.
        Err(CompileError { problem: Problem::TooLong, .. }) => Ok(()),
        other => other.map(|_| ()),
    }
}

fn compile_rules(file: &PolicyFile, domain: Option<&str>, now: SystemTime) -> Result<Vec<Rule>, CompileError> {
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(file.rules.len());
    for (index, config) in file.rules.iter().enumerate() {
        let fail = |problem| CompileError { index, rule: config.name.clone(), problem };
        if !names.insert(config.name.as_str()) {
            return Err(fail(Problem::Duplicate));
        }
        rules.push(compile_rule(config, now).map_err(fail)?);
    }
    check_bypasses(&rules, domain)?;
    Ok(rules)
}

/// Whether a name can stand in a log line.
pub fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}

fn compile_rule(config: &RuleConfig, now: SystemTime) -> Result<Rule, Problem> {
    if !is_plain_name(&config.name) {
        return Err(Problem::Name);
    }
    let grant = match (&config.http, &config.tcp, &config.kubernetes, &config.unix, &config.describe) {
        (Some(http), None, None, None, None) => compile_http(http)?,
        (None, Some(tcp), None, None, None) => compile_tcp(tcp)?,
        (None, None, Some(_), None, None) if config.external => return Err(Problem::ExternalKubernetes),
        (None, None, Some(kubernetes), None, None) => {
            Grant::Kubernetes(Box::new(kubernetes::Grant::compile(kubernetes)?))
        }
        (None, None, None, Some(_), None) if config.external => return Err(Problem::ExternalUnix),
        (None, None, None, Some(unix), None) => compile_unix(unix)?,
        (None, None, None, None, Some(_)) if config.external => return Err(Problem::ExternalDescribe),
        (None, None, None, None, Some(_)) => Grant::Describe,
        _ => return Err(Problem::Kinds),
    };
    let (subject, actor) = compile_who(config)?;
    Ok(Rule {
        name: Arc::from(config.name.as_str()),
        subject,
        actor,
        grant,
        external: config.external,
        break_glass: compile_break_glass(config, now)?,
    })
}

fn compile_who(config: &RuleConfig) -> Result<(Option<PartyMatch>, Option<PartyMatch>), Problem> {
    let who = &config.who;
    let subject = match &who.authenticator {
        Some(authenticator) => Some(compile_party(authenticator, &who.subjects, &who.groups, &who.claims)?),
        None if !who.subjects.is_empty() || !who.groups.is_empty() || !who.claims.is_empty() => {
            return Err(Problem::NoAuthenticator);
        }
        None => None,
    };
    let actor = match &who.actor {
        Some(PartyConfig { authenticator, subjects, groups, claims }) => {
            Some(compile_party(authenticator, subjects, groups, claims)?)
        }
        None => None,
    };
    if subject.is_none() && actor.is_none() { Err(Problem::Nobody) } else { Ok((subject, actor)) }
}

fn compile_party(
    authenticator: &str,
    subjects: &[String],
    groups: &[String],
    claims: &BTreeMap<String, Vec<String>>,
) -> Result<PartyMatch, Problem> {
    if subjects.is_empty() && groups.is_empty() {
        return Err(Problem::NoSubjects(authenticator.to_owned()));
    }
    let everyone = subjects.iter().any(|subject| subject == "*");
    if everyone && (subjects.len() > 1 || !groups.is_empty()) {
        return Err(Problem::EveryoneAndSome);
    }
    if let Some((claim, _)) = claims.iter().find(|(_, values)| values.is_empty()) {
        return Err(Problem::NoValues(claim.clone()));
    }
    Ok(PartyMatch {
        claims: claims.iter().map(|(claim, values)| (claim.clone(), values.clone())).collect(),
        authenticator: authenticator.to_owned(),
        everyone,
        subjects: if everyone { Vec::new() } else { subjects.to_vec() },
        groups: groups.to_vec(),
    })
}

fn compile_http(config: &HttpConfig) -> Result<Grant, Problem> {
    for method in &config.methods {
        let token = method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_');
        if method.is_empty() || !token || method == "CONNECT" {
            return Err(Problem::Method(method.clone()));
        }
    }
    let path = |text: &String| text.parse::<PathPattern>().map_err(|error| Problem::Path(text.clone(), error));
    Ok(Grant::Http {
        hosts: compile_hosts(&config.hosts)?,
        ports: compile_ports(&config.ports)?,
        methods: config.methods.clone(),
        paths: config.paths.iter().map(path).collect::<Result<_, _>>()?,
        upgrade: config.upgrade.clone(),
    })
}

fn compile_tcp(config: &TcpConfig) -> Result<Grant, Problem> {
    Ok(Grant::Tcp {
        hosts: compile_hosts(&config.hosts)?,
        ports: compile_ports(&config.ports)?,
        bypasses_http: config.bypasses_http,
    })
}

fn compile_unix(config: &UnixConfig) -> Result<Grant, Problem> {
    if config.names.is_empty() || !config.names.iter().all(|name| is_plain_name(name)) {
        return Err(Problem::UnixName);
    }
    Ok(Grant::Unix { names: config.names.clone() })
}

fn compile_hosts(hosts: &[String]) -> Result<Vec<HostPattern>, Problem> {
    if hosts.is_empty() {
        return Err(Problem::NoTarget);
    }
    hosts.iter().map(|text| text.parse().map_err(|error| Problem::Host(text.clone(), error))).collect()
}

fn compile_ports(ports: &[u16]) -> Result<Vec<u16>, Problem> {
    match ports {
        [] => Err(Problem::NoTarget),
        ports if ports.contains(&0) => Err(Problem::PortZero),
        ports => Ok(ports.to_vec()),
    }
}

fn compile_break_glass(config: &RuleConfig, now: SystemTime) -> Result<Option<BreakGlass>, Problem> {
    match (&config.until, &config.reason) {
        (None, None) => Ok(None),
        (Some(until), Some(reason)) if !reason.trim().is_empty() => {
            let at = OffsetDateTime::parse(until, &Rfc3339).map_err(|_| Problem::Until(until.clone()))?;
            let at = SystemTime::from(at);
            if at > now + BREAK_GLASS_MAX {
                return Err(Problem::TooLong);
            }
            Ok(Some(BreakGlass { until: at, reason: reason.clone() }))
        }
        _ => Err(Problem::HalfBreakGlass),
    }
}

/// A tcp grant to a port whose HTTP requests are limited would void the limits: the owner must say so (SD-5).
/// With a domain, `a.b.svc` and `a.b.svc.<domain>` are known to be one host.
fn check_bypasses(rules: &[Rule], domain: Option<&str>) -> Result<(), CompileError> {
    for (index, tcp) in rules.iter().enumerate() {
        let Grant::Tcp { hosts, ports, bypasses_http: false } = &tcp.grant else { continue };
        for http in rules {
            let Grant::Http { hosts: limited, ports: limited_ports, .. } = &http.grant else { continue };
            let share_port = ports.iter().any(|port| limited_ports.contains(port));
            let share_host = hosts.iter().any(|one| limited.iter().any(|two| one.overlaps_within(two, domain)));
            if share_port && share_host {
                let problem = Problem::Bypass(http.name.to_string());
                return Err(CompileError { index, rule: tcp.name.to_string(), problem });
            }
        }
    }
    Ok(())
}
