//! A compiled policy. Only [`mod@super::compile`] builds one, so what is here has been checked.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    decide::{Ask, Party, Question},
    deny::Deny,
    file::Upgrade,
    host::{Host, HostPattern},
    kubernetes::{self, Identity, NameError},
    path::PathPattern,
};

/// A policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The policy itself says so.
    pub(super) suspended: bool,
    /// The switch beside it does.
    pub(super) switched_off: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) deny: Deny,
}

impl Policy {
    /// The same rules, with these exceptions for whoever must not come in any more.
    #[must_use]
    pub fn denying(mut self, deny: Deny) -> Self {
        self.deny = deny;
        self
    }

    /// Who is denied whatever the rules say.
    pub fn deny(&self) -> &Deny {
        &self.deny
    }

    /// The same rules, with the kill switch beside them thrown or not. It cannot lift what the rules themselves say.
    #[must_use]
    pub fn suspend(mut self, switched_off: bool) -> Self {
        self.switched_off = switched_off;
        self
    }

    /// Whether the policy itself suspends everything.
    pub fn suspends(&self) -> bool {
        self.suspended
    }

    /// Whether everything is suspended, by the rules or by the switch.
    pub fn is_suspended(&self) -> bool {
        self.suspended || self.switched_off
    }

    /// The rules, in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// When the next break-glass rule ends, seen from `now`.
    pub fn next_expiry(&self, now: SystemTime) -> Option<SystemTime> {
        self.rules
            .iter()
            .filter_map(|rule| rule.break_glass.as_ref())
            .map(|glass| glass.until)
            .filter(|at| *at > now)
            .min()
    }

    /// What `next` grants that this one does not (or not so), and the other way round.
    pub fn difference<'a>(&'a self, next: &'a Self) -> (Vec<&'a Rule>, Vec<&'a Rule>) {
        (missing(&next.rules, &self.rules), missing(&self.rules, &next.rules))
    }
}

/// Rules of `from` that `other` has not, or has otherwise.
fn missing<'a>(from: &'a [Rule], other: &[Rule]) -> Vec<&'a Rule> {
    let other: BTreeMap<&str, &Rule> = other.iter().map(|rule| (&*rule.name, rule)).collect();
    from.iter().filter(|rule| other.get(&*rule.name) != Some(rule)).collect()
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) name: Arc<str>,
    pub(super) subject: Option<PartyMatch>,
    pub(super) actor: Option<PartyMatch>,
    pub(super) grant: Grant,
    pub(super) external: bool,
    pub(super) break_glass: Option<BreakGlass>,
}

/// A time limit and why the grant exists at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    /// When it ends.
    pub until: SystemTime,
    /// Why it exists.
    pub reason: String,
}

impl BreakGlass {
    /// When it ends, as the owner writes it.
    pub fn time(&self) -> String {
        OffsetDateTime::from(self.until).format(&Rfc3339).unwrap_or_default()
    }
}

/// What a rule grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    Http {
        hosts: Vec<HostPattern>,
        ports: Vec<u16>,
        /// Empty: any.
        methods: Vec<String>,
        /// Empty: any.
        paths: Vec<PathPattern>,
        upgrade: Vec<Upgrade>,
    },
    Tcp {
        hosts: Vec<HostPattern>,
        ports: Vec<u16>,
        bypasses_http: bool,
    },
    Kubernetes(Box<kubernetes::Grant>),
    Unix {
        names: Vec<String>,
    },
    Describe,
}

/// Which principals a rule means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartyMatch {
    pub(super) authenticator: String,
    pub(super) everyone: bool,
    pub(super) subjects: Vec<String>,
    pub(super) groups: Vec<String>,
    /// Each claim with the values that will do.
    pub(super) claims: Vec<(String, Vec<String>)>,
}

/// How the path of a request fares under a rule that matches in everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathVerdict {
    Granted,
    NotGranted,
    Ambiguous,
}

impl Rule {
    /// Name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether the target may lie outside of the cluster's ranges.
    pub fn external(&self) -> bool {
        self.external
    }

    /// The time limit and its reason, for a break-glass rule.
    pub fn break_glass(&self) -> Option<&BreakGlass> {
        self.break_glass.as_ref()
    }

    pub(super) fn expired(&self, at: SystemTime) -> bool {
        self.break_glass.as_ref().is_some_and(|glass| glass.until <= at)
    }

    /// Whether everything but the path matches.
    pub(super) fn matches_but_path(&self, question: &Question<'_>) -> bool {
        self.grant.covers(&question.ask)
            && self.subject.as_ref().is_none_or(|who| who.matches(&question.subject))
            && self.actor.as_ref().is_none_or(|who| who.matches(&question.actor))
            && (self.external || !question.external)
            && !self.expired(question.at)
            && self.keeps_identity(question)
    }

    /// As whom a subject speaks to the API server under this rule; nothing for rules of other kinds.
    ///
    /// # Errors
    /// When the subject's name cannot be a user's.
    pub fn identity(&self, subject: &Party<'_>) -> Option<Result<Identity, NameError>> {
        let Grant::Kubernetes(grant) = &self.grant else { return None };
        Some(grant.identity(subject, self.subject.as_ref()))
    }

    /// Whether a request that is under way may go on as whom it was begun.
    pub(super) fn keeps_identity(&self, question: &Question<'_>) -> bool {
        let Ask::Kubernetes { identity: Some(begun), .. } = &question.ask else { return true };
        matches!(self.identity(&question.subject), Some(Ok(now)) if now == **begun)
    }

    pub(super) fn judge_path(&self, ask: &Ask<'_>) -> PathVerdict {
        let (Grant::Http { paths, .. }, Ask::Http { path, .. }) = (&self.grant, ask) else {
            return PathVerdict::Granted;
        };
        if paths.is_empty() || paths.iter().any(PathPattern::is_unlimited) {
            return PathVerdict::Granted;
        }
        let path = path.split('?').next().unwrap_or_default();
        if super::path::check(path).is_err() {
            PathVerdict::Ambiguous
        } else if paths.iter().any(|pattern| pattern.matches(path)) {
            PathVerdict::Granted
        } else {
            PathVerdict::NotGranted
        }
    }
}

impl Grant {
    /// Whether kind, host, port, method and upgrade match.
    fn covers(&self, ask: &Ask<'_>) -> bool {
        match (self, ask) {
            (
                Self::Http { hosts, ports, methods, upgrade, .. },
                Ask::Http { host, port, method, upgrade: asked, .. },
            ) => {
                ports.contains(port)
                    && any_host(hosts, host)
                    && (methods.is_empty() || methods.iter().any(|granted| granted == method))
                    && asked.is_none_or(|asked| upgrade.contains(&asked))
            }
            (Self::Tcp { hosts, ports, .. }, Ask::Tcp { host, port }) => ports.contains(port) && any_host(hosts, host),
            (Self::Kubernetes(grant), Ask::Kubernetes { request, ours, .. }) => grant.covers(request, *ours),
            (Self::Unix { names }, Ask::Unix { name }) => names.iter().any(|granted| granted == name),
            (Self::Describe, Ask::Describe) => true,
            _ => false,
        }
    }

    pub(super) fn same_kind(&self, ask: &Ask<'_>) -> bool {
        matches!(
            (self, ask),
            (Self::Http { .. }, Ask::Http { .. })
                | (Self::Tcp { .. }, Ask::Tcp { .. })
                | (Self::Kubernetes(_), Ask::Kubernetes { .. })
                | (Self::Unix { .. }, Ask::Unix { .. })
                | (Self::Describe, Ask::Describe)
        )
    }
}

pub(super) fn any_host(hosts: &[HostPattern], host: &Host) -> bool {
    hosts.iter().any(|pattern| pattern.matches(host))
}

impl PartyMatch {
    pub(super) fn matches(&self, party: &Party<'_>) -> bool {
        let has = |claim: &str, values: &[String]| {
            party.claims.iter().any(|(name, value)| name == claim && values.contains(value))
        };
        self.authenticator == party.authenticator
            && (self.everyone
                || self.subjects.iter().any(|subject| subject == party.subject)
                || self.groups.iter().any(|group| party.groups.contains(group)))
            && self.claims.iter().all(|(claim, values)| has(claim, values))
    }
}
