//! What a rule of the kind `kubernetes` grants: verbs on resources in namespaces, and paths that are no resources. Beyond
//! that it grants the documents of discovery, without which no client finds anything.

use std::fmt;

use crate::policy::{
    decide::{Lack, Party},
    file::KubernetesConfig,
    path::{PathPattern, PathPatternError},
    rule::PartyMatch,
};

use super::{
    identity::{self, Identity, NameError},
    request::{Request, Resource, Verb, What},
};

/// Groups that one rule gives: each is a field of every request.
const GROUPS_MAX: usize = 64;

/// A compiled grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Empty: any.
    verbs: Vec<Verb>,
    /// Empty: any, if `resources_too`.
    resources: Vec<Pattern>,
    /// Whether resources are granted at all.
    resources_too: bool,
    /// Empty: any, and what lies in none.
    namespaces: Vec<String>,
    paths: Vec<PathPattern>,
    as_user: Option<String>,
    as_groups: Option<Vec<String>>,
    self_manage: bool,
    /// All of it in one line.
    shown: String,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// As the owner has written it.
fn shown(config: &KubernetesConfig) -> String {
    let mut text = format!("kubernetes {}", config.verbs.join(","));
    let as_user: Vec<String> = config.as_user.iter().cloned().collect();
    let as_groups = config.as_groups.clone().unwrap_or_default();
    for (word, names) in [
        ("of", &config.resources),
        ("in", &config.namespaces),
        ("at", &config.paths),
        ("as", &as_user),
        ("in groups", &as_groups),
    ] {
        if !names.is_empty() {
            text = format!("{text} {word} {}", names.join(","));
        }
    }
    if config.self_manage { format!("{text}, what decides about callers too") } else { text }
}

/// Which resources.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// `None`: any group.
    group: Option<String>,
    /// `None`: any.
    name: Option<String>,
    /// Which part.
    part: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// The object itself.
    Whole,
    /// A subresource.
    Named(String),
    /// The object and its subresources.
    Any,
}

/// What is wrong with a rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No verbs.
    #[error("`verbs` may not be empty; `[\"*\"]` is every verb")]
    NoVerbs,
    /// A verb that no request has.
    #[error("verb \"{0}\": verbs are {known}, or `*` alone", known = known_verbs())]
    Verb(String),
    /// Nothing that is granted.
    #[error("names neither resources, namespaces nor paths; write `resources: [\"*\"]` if the whole cluster is meant")]
    Nothing,
    /// A resource.
    #[error("resource \"{0}\": write `pods`, `pods/log`, `deployments.apps`, `pods/*`, `*.apps` or `*`")]
    Resource(String),
    /// A namespace.
    #[error("namespace \"{0}\" is no name of one: up to 63 of a-z, 0-9 and `-`")]
    Namespace(String),
    /// A path.
    #[error("path \"{0}\": {1}")]
    Path(String, PathPatternError),
    /// A name.
    #[error("\"{0}\": {1}")]
    Name(String, NameError),
    /// Too many groups.
    #[error("`as_groups` has more than {GROUPS_MAX} names")]
    Groups,
}

fn known_verbs() -> String {
    let names: Vec<&str> = Verb::NAMED.iter().map(|verb| verb.name()).collect();
    names.join(", ")
}

impl Grant {
    /// Compiles what the owner wrote.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn compile(config: &KubernetesConfig) -> Result<Self, GrantError> {
        if config.resources.is_empty() && config.namespaces.is_empty() && config.paths.is_empty() {
            return Err(GrantError::Nothing);
        }
        let path = |text: &String| text.parse().map_err(|error| GrantError::Path(text.clone(), error));
        let names = config.as_user.iter().chain(config.as_groups.iter().flatten());
        for name in names {
            identity::check(name).map_err(|error| GrantError::Name(name.clone(), error))?;
        }
        if config.as_groups.as_ref().is_some_and(|groups| groups.len() > GROUPS_MAX) {
            return Err(GrantError::Groups);
        }
        if let Some(namespace) = config.namespaces.iter().find(|name| !is_namespace(name)) {
            return Err(GrantError::Namespace(namespace.clone()));
        }
        Ok(Self {
            verbs: compile_verbs(&config.verbs)?,
            resources: config.resources.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?,
            resources_too: !config.resources.is_empty() || !config.namespaces.is_empty(),
            namespaces: config.namespaces.clone(),
            paths: config.paths.iter().map(path).collect::<Result<_, _>>()?,
            as_user: config.as_user.clone(),
            as_groups: config.as_groups.clone(),
            self_manage: config.self_manage,
            shown: shown(config),
        })
    }

    /// Whether a request is granted. `ours`: it touches what the gateway itself stands on.
    pub(in crate::policy) fn covers(&self, request: &Request, ours: bool) -> bool {
        request.is_discovery() || self.lacks(request, ours).next().is_none()
    }

    /// What is missing for it.
    pub(in crate::policy) fn lacks(&self, request: &Request, ours: bool) -> impl Iterator<Item = Lack> {
        let verb = request.verb != Verb::Other && (self.verbs.is_empty() || self.verbs.contains(&request.verb));
        let [about, place, by_name] = match &request.what {
            What::Path(path) => [self.paths.iter().any(|pattern| pattern.matches(path)), true, true],
            What::Resource(resource) => {
                let named = !resource.is_nodes_proxy() || self.resources.iter().any(Pattern::is_nodes_proxy);
                [self.takes(resource), self.reaches(resource), named]
            }
        };
        let about_lack = if matches!(request.what, What::Path(_)) { Lack::Path } else { Lack::Resource };
        [
            (verb, Lack::Verb),
            (about, about_lack),
            (place, Lack::Namespace),
            (by_name, Lack::NodesProxy),
            (!ours || self.self_manage, Lack::SelfManage),
        ]
        .into_iter()
        .filter_map(|(present, lack)| (!present).then_some(lack))
    }

    fn takes(&self, resource: &Resource) -> bool {
        let any = self.resources_too && self.resources.is_empty();
        any || self.resources.iter().any(|pattern| pattern.matches(resource))
    }

    fn reaches(&self, resource: &Resource) -> bool {
        let within = |namespace: &String| self.namespaces.contains(namespace);
        self.namespaces.is_empty() || resource.namespace.as_ref().is_some_and(within)
    }

    /// As whom a caller speaks under this rule: the user and groups that it names, else the caller's own name and those of
    /// its groups that the rule asked for.
    ///
    /// # Errors
    /// When the caller's name cannot be a user's.
    pub(in crate::policy) fn identity(
        &self,
        subject: &Party<'_>,
        who: Option<&PartyMatch>,
    ) -> Result<Identity, NameError> {
        let user = self.as_user.clone().unwrap_or_else(|| identity::prefixed(subject));
        let groups = self.as_groups.clone().unwrap_or_else(|| {
            let asked = who.map(|who| who.groups.as_slice()).unwrap_or_default();
            let shared = asked.iter().filter(|group| subject.groups.contains(group));
            shared.map(|group| identity::prefixed_group(subject, group)).collect()
        });
        for name in groups.iter().chain([&user]) {
            identity::check(name)?;
        }
        Ok(Identity { user, groups })
    }
}

fn compile_verbs(verbs: &[String]) -> Result<Vec<Verb>, GrantError> {
    match verbs {
        [] => Err(GrantError::NoVerbs),
        [all] if all == "*" => Ok(Vec::new()),
        verbs => verbs
            .iter()
            .map(|name| {
                let known = Verb::NAMED.iter().find(|verb| verb.name() == name);
                known.copied().ok_or_else(|| GrantError::Verb(name.clone()))
            })
            .collect(),
    }
}

/// Whether a text can be a namespace's name (RFC 1123 label).
pub fn is_namespace(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(plain) && !text.starts_with('-') && !text.ends_with('-')
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, GrantError> {
        let wrong = || GrantError::Resource(text.to_owned());
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
        };
        let (kind, part) = text.split_once('/').map_or((text, None), |(kind, part)| (kind, Some(part)));
        let (name, group) = kind.split_once('.').map_or((kind, None), |(name, group)| (name, Some(group)));
        if group.is_some_and(|group| !plain(group)) {
            return Err(wrong());
        }
        let pattern = match (name, group, part) {
            ("*", group, None) => Self { group: group.map(ToOwned::to_owned), name: None, part: Part::Any },
            (name, group, part) if plain(name) => Self {
                group: Some(group.unwrap_or_default().to_owned()),
                name: Some(name.to_owned()),
                part: match part {
                    None => Part::Whole,
                    Some("*") => Part::Any,
                    Some(part) if plain(part) => Part::Named(part.to_owned()),
                    Some(_) => return Err(wrong()),
                },
            },
            _ => return Err(wrong()),
        };
        Ok(pattern)
    }

    fn matches(&self, resource: &Resource) -> bool {
        let part = match &self.part {
            Part::Any => true,
            Part::Whole => resource.subresource.is_none(),
            Part::Named(part) => resource.subresource.as_ref() == Some(part),
        };
        part && self.group.as_ref().is_none_or(|group| *group == resource.group)
            && self.name.as_ref().is_none_or(|name| *name == resource.name)
    }

    /// Whether it is this and nothing else.
    fn is_nodes_proxy(&self) -> bool {
        self.name.as_deref() == Some("nodes")
            && self.group.as_deref() == Some("")
            && matches!(&self.part, Part::Named(part) if part == "proxy")
    }
}
