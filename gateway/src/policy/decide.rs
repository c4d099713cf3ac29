//! One question, one answer: may this principal do this? Pure: no I/O, no clock, no allocation when the answer is yes.

use std::{fmt, sync::Arc, time::SystemTime};

use identity::principal::Principal;

use super::{
    deny::Denied,
    file::Upgrade,
    host::Host,
    kubernetes,
    rule::{Grant, PathVerdict, Policy, Rule, any_host},
};

/// A principal as the policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// Name of the authenticator that vouched.
    pub authenticator: &'a str,
    /// The subject.
    pub subject: &'a str,
    /// Groups and roles.
    pub groups: &'a [String],
    /// Claims that rules may ask for, a pair for each value.
    pub claims: &'a [(String, String)],
    /// `jti` of the token.
    pub token_id: Option<&'a str>,
    /// `kid` of the key that signed the token.
    pub key_id: Option<&'a str>,
    /// Serial number of the certificate.
    pub serial: Option<&'a str>,
}

impl<'a> Party<'a> {
    /// Somebody of whom nothing is known but the name and the groups.
    pub fn named(authenticator: &'a str, subject: &'a str, groups: &'a [String]) -> Self {
        Self { authenticator, subject, groups, claims: &[], token_id: None, key_id: None, serial: None }
    }
}

impl<'a> From<&'a Principal> for Party<'a> {
    fn from(principal: &'a Principal) -> Self {
        let proof = principal.proof();
        Self {
            claims: principal.claims(),
            token_id: proof.token_id.as_deref(),
            key_id: proof.key_id.as_deref(),
            serial: proof.serial.as_deref(),
            ..Self::named(principal.authenticator(), principal.subject(), principal.groups())
        }
    }
}

impl fmt::Display for Party<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.authenticator, self.subject)
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    /// One HTTP request.
    Http {
        /// Target host.
        host: &'a Host,
        /// Target port.
        port: u16,
        /// Method.
        method: &'a str,
        /// Path as it goes to the target; a query is ignored.
        path: &'a str,
        /// Protocol it asks to upgrade to.
        upgrade: Option<Upgrade>,
    },
    /// One TCP connection.
    Tcp {
        /// Target host.
        host: &'a Host,
        /// Target port.
        port: u16,
    },
    /// One request to the API server.
    Kubernetes {
        /// What it asks for.
        request: &'a kubernetes::Request,
        /// It touches what the gateway itself stands on.
        ours: bool,
        /// As whom it was begun; absent before it begins.
        identity: Option<&'a kubernetes::Identity>,
    },
    /// One connection to a Unix socket of the gateway's machine.
    Unix {
        /// Its name in the gateway's config.
        name: &'a str,
    },
    /// `Describe`, `Watch`, health or reflection.
    Describe,
}

impl fmt::Display for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { host, port, method, path, upgrade } => {
                let path = path.split('?').next().unwrap_or_default();
                write!(f, "{method} {host}:{port} {path}")?;
                upgrade.map_or(Ok(()), |upgrade| write!(f, " (upgrade to {})", upgrade.name()))
            }
            Self::Tcp { host, port } => write!(f, "tcp {host}:{port}"),
            Self::Kubernetes { request, .. } => write!(f, "kubernetes {request}"),
            Self::Unix { name } => write!(f, "unix {name}"),
            Self::Describe => f.write_str("describe"),
        }
    }
}

/// A question to the policy.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose request it is.
    pub subject: Party<'a>,
    /// Who holds the tunnel.
    pub actor: Party<'a>,
    /// What is asked for.
    pub ask: Ask<'a>,
    /// The target is known to lie outside of the cluster's ranges. `false` before it was resolved.
    pub external: bool,
    /// Wall clock.
    pub at: SystemTime,
}

/// A refusal, with what an owner needs to know to change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub why: Why,
    /// Who asked for what, in one line.
    pub asked: String,
    /// The rule that came nearest.
    pub nearest: Option<Nearest>,
}

/// Why a question was answered with no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The kill switch is on.
    Suspended,
    /// The subject is on the deny list.
    SubjectDenied(Denied),
    /// The actor is.
    ActorDenied(Denied),
    /// Nothing grants it.
    NoRule,
    /// A rule would judge the path, and two servers could read it differently.
    AmbiguousPath,
}

/// The rule that came nearest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// Its name.
    pub rule: Arc<str>,
    /// What it lacks.
    pub lacks: Vec<Lack>,
}

/// What a rule lacks to grant something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The subject is somebody else.
    Subject,
    /// The actor is somebody else.
    Actor,
    /// The host.
    Host,
    /// The port.
    Port,
    /// The method.
    Method,
    /// The path.
    Path,
    /// The upgrade.
    Upgrade,
    /// The verb.
    Verb,
    /// The resource.
    Resource,
    /// The namespace.
    Namespace,
    /// `nodes/proxy` by its name.
    NodesProxy,
    /// `self_manage: true`.
    SelfManage,
    /// The user and groups as which the request was begun.
    Identity,
    /// The Unix socket.
    Socket,
    /// `external: true`.
    External,
    /// Time: its `until` is past.
    Time,
}

impl Lack {
    /// How far a rule is that lacks this: one for another host is hardly meant, one for another method probably is.
    fn distance(self) -> u32 {
        match self {
            Self::Host | Self::Socket => 8,
            Self::Subject | Self::Actor => 4,
            Self::Port | Self::Namespace => 3,
            Self::Resource => 2,
            Self::Method | Self::Path | Self::Upgrade | Self::External | Self::Time => 1,
            Self::Verb | Self::NodesProxy | Self::SelfManage | Self::Identity => 1,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Subject => "this subject",
            Self::Actor => "this actor",
            Self::Host => "this host",
            Self::Port => "this port",
            Self::Method => "this method",
            Self::Path => "this path",
            Self::Upgrade => "this upgrade",
            Self::Verb => "this verb",
            Self::Resource => "this resource",
            Self::Namespace => "this namespace",
            Self::NodesProxy => "`nodes/proxy` by its full name",
            Self::SelfManage => "`self_manage: true` (it touches what the gateway itself stands on)",
            Self::Identity => "the user and groups as which it was begun",
            Self::Socket => "this socket",
            Self::External => "`external: true` (the target lies outside of the cluster's ranges)",
            Self::Time => "time (its `until` is past)",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::Suspended => return write!(f, "the cluster owner has suspended everything; asked: {}", self.asked),
            Why::SubjectDenied(denied) => return write!(f, "the subject {}; asked: {}", denied.text(), self.asked),
            Why::ActorDenied(denied) => return write!(f, "the actor {}; asked: {}", denied.text(), self.asked),
            Why::AmbiguousPath => write!(f, "ambiguous path in {}", self.asked)?,
            Why::NoRule => write!(f, "no rule for {}", self.asked)?,
        }
        match (&self.nearest, self.why) {
            (Some(nearest), Why::AmbiguousPath) => write!(f, "; rule \"{}\" limits paths", nearest.rule),
            (Some(nearest), _) => {
                let lacks: Vec<&str> = nearest.lacks.iter().map(|lack| lack.text()).collect();
                write!(f, "; nearest: rule \"{}\" lacks {}", nearest.rule, lacks.join(", "))
            }
            (None, _) => f.write_str("; no rule grants this kind at all"),
        }
    }
}

impl Policy {
    /// Answers one question.
    ///
    /// # Errors
    /// The refusal, when no rule grants it, somebody is on the deny list, or everything is suspended.
    pub fn decide(&self, question: &Question<'_>) -> Result<&Rule, Denial> {
        if self.is_suspended() {
            return Err(self.denial(question, Why::Suspended, None));
        }
        if !self.deny.is_empty() {
            let subject = self.deny.find(&question.subject).map(Why::SubjectDenied);
            if let Some(why) = subject.or_else(|| self.deny.find(&question.actor).map(Why::ActorDenied)) {
                return Err(self.denial(question, why, None));
            }
        }
        let mut ambiguous = None;
        for rule in self.rules.iter().filter(|rule| rule.matches_but_path(question)) {
            match rule.judge_path(&question.ask) {
                PathVerdict::Granted => return Ok(rule),
                PathVerdict::Ambiguous => ambiguous = ambiguous.or(Some(rule)),
                PathVerdict::NotGranted => {}
            }
        }
        match ambiguous {
            Some(rule) => {
                let nearest = Nearest { rule: Arc::clone(&rule.name), lacks: vec![Lack::Path] };
                Err(self.denial(question, Why::AmbiguousPath, Some(nearest)))
            }
            None => Err(self.denial(question, Why::NoRule, self.nearest(question))),
        }
    }

    fn denial(&self, question: &Question<'_>, why: Why, nearest: Option<Nearest>) -> Denial {
        let (subject, actor) = (question.subject.to_string(), question.actor.to_string());
        let asked = if subject == actor {
            format!("{subject} {}", question.ask)
        } else {
            format!("{subject} (through {actor}) {}", question.ask)
        };
        Denial { why, asked, nearest }
    }

    /// The rule of the same kind that lacks least; the first one of several.
    fn nearest(&self, question: &Question<'_>) -> Option<Nearest> {
        self.rules
            .iter()
            .filter(|rule| rule.grant.same_kind(&question.ask))
            .map(|rule| Nearest { rule: Arc::clone(&rule.name), lacks: lacks(rule, question) })
            .min_by_key(|nearest| nearest.lacks.iter().map(|lack| lack.distance()).sum::<u32>())
    }
}

fn lacks(rule: &Rule, question: &Question<'_>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut note = |present: bool, lack: Lack| {
        if !present {
            lacks.push(lack);
        }
    };
    note(rule.subject.as_ref().is_none_or(|who| who.matches(&question.subject)), Lack::Subject);
    note(rule.actor.as_ref().is_none_or(|who| who.matches(&question.actor)), Lack::Actor);
    match (&rule.grant, &question.ask) {
        (Grant::Http { hosts, ports, methods, upgrade, .. }, Ask::Http { host, port, method, upgrade: asked, .. }) => {
            note(any_host(hosts, host), Lack::Host);
            note(ports.contains(port), Lack::Port);
            note(methods.is_empty() || methods.iter().any(|granted| granted == method), Lack::Method);
            note(rule.judge_path(&question.ask) == PathVerdict::Granted, Lack::Path);
            note(asked.is_none_or(|asked| upgrade.contains(&asked)), Lack::Upgrade);
        }
        (Grant::Tcp { hosts, ports, .. }, Ask::Tcp { host, port }) => {
            note(any_host(hosts, host), Lack::Host);
            note(ports.contains(port), Lack::Port);
        }
        (Grant::Kubernetes(grant), Ask::Kubernetes { request, ours, .. }) => {
            // What every rule of the kind grants is lacking in none.
            grant.lacks(request, *ours).filter(|_| !request.is_discovery()).for_each(|lack| note(false, lack));
        }
        (Grant::Unix { names }, Ask::Unix { name }) => {
            note(names.iter().any(|granted| granted == name), Lack::Socket);
        }
        _ => {}
    }
    note(rule.external || !question.external, Lack::External);
    note(!rule.expired(question.at), Lack::Time);
    note(rule.keeps_identity(question), Lack::Identity);
    lacks
}
