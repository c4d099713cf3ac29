//! What a request to the API server asks for. The API server decides about *attributes* (verb, resource, namespace) that it
//! reads out of method, path and query; if we read them differently, what we judge would not be what it does. So the
//! reading here is its own, step by step: the prefixes `/api` and `/apis`, the old prefixes `watch` and `proxy`, a namespace
//! as place and as resource, subresources, lists that are watches, deletions of whole collections.
//!
//! Two things are ours. What two servers could read differently is not read at all. And whatever opens a pipe is the verb
//! `connect`, whatever its method: `exec` by WebSocket is a GET.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::policy::path::{self, Ambiguity};

/// Subresources that reach into a pod, a service or a node.
const CONNECTS: &[&str] = &["attach", "exec", "portforward", "proxy"];

/// What follows a namespace's name and belongs to the namespace itself.
const NAMESPACE_SUBRESOURCES: &[&str] = &["finalize", "status"];

/// Roots of the documents that say what an API server knows. They hold nothing of what a cluster holds, and no client gets
/// along without them.
const DISCOVERY: &[&str] = &["api", "apis", "openapi", "version"];

/// Group of the cluster's own resource kinds.
const OUR_GROUP: &str = "causeway.dev";

/// A verb, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads one object, or a path.
    Get,
    /// Reads many objects.
    List,
    /// Follows changes.
    Watch,
    /// Makes an object.
    Create,
    /// Replaces an object.
    Update,
    /// Changes an object.
    Patch,
    /// Deletes an object.
    Delete,
    /// Deletes many objects.
    DeleteCollection,
    /// Reaches into a pod, a service or a node.
    Connect,
    /// HEAD of a path.
    Head,
    /// POST to a path.
    Post,
    /// PUT to a path.
    Put,
    /// OPTIONS of a path.
    Options,
    /// Any other method: no rule grants it.
    Other,
}

impl Verb {
    /// Those that a rule may name.
    pub const NAMED: &[Self] = &[
        Self::Get,
        Self::List,
        Self::Watch,
        Self::Create,
        Self::Update,
        Self::Patch,
        Self::Delete,
        Self::DeleteCollection,
        Self::Connect,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Options,
    ];

    /// As in a rule.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Connect => "connect",
            Self::Head => "head",
            Self::Post => "post",
            Self::Put => "put",
            Self::Options => "options",
            Self::Other => "(unknown verb)",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }

    /// Of a request for a resource.
    fn of_resource(method: &str) -> Self {
        match method {
            "POST" => Self::Create,
            "GET" | "HEAD" => Self::Get,
            "PUT" => Self::Update,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }

    /// Of a request for anything else.
    fn of_path(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

/// A request as the API server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub what: What,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Objects.
    Resource(Resource),
    /// A path that is no resource, percent escapes resolved.
    Path(String),
}

/// Objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name, as in `pods`.
    pub name: String,
    /// Part of the object, as in `log`.
    pub subresource: Option<String>,
    /// Where; absent for what lies in no namespace, and for what lies in any.
    pub namespace: Option<String>,
    /// Which one; absent for many, and for one that is to be made.
    pub object: Option<String>,
}

/// Why a request is not judged at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The path could be read in two ways.
    #[error("{0} in the path")]
    Path(#[from] Ambiguity),
    /// `/api/v1/watch` and nothing behind it.
    #[error("a path that ends where a kind of resource is due")]
    Kind,
    /// `;` separates for some servers, and a broken escape is skipped by some.
    #[error("a `;` or a broken percent escape in the query")]
    Query,
    /// `watch` more than once.
    #[error("several `watch` in the query")]
    Watch,
}

impl Request {
    /// Reads method, path and query. `upgrade`: the caller asks for a pipe.
    ///
    /// # Errors
    /// When two servers could read it in different ways.
    pub fn read(method: &str, path_and_query: &str, upgrade: bool) -> Result<Self, Unreadable> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        path::check(path)?;
        let asks_to_watch = asks_to_watch(query)?;
        let decoded: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let mut parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        // One prefix and a version at least, one group more behind `/apis`, then a kind.
        let (group, rest) = match parts.as_slice() {
            ["api", rest @ ..] if rest.len() >= 2 => ("", rest),
            ["apis", group, rest @ ..] if rest.len() >= 2 => (*group, rest),
            _ => return Ok(Self::path(method, &decoded, upgrade)),
        };
        parts = rest[1..].to_vec();
        let mut verb = Verb::of_resource(method);
        if let ["watch" | "proxy", ..] = parts.as_slice() {
            verb = if parts[0] == "watch" { Verb::Watch } else { Verb::Connect };
            parts.remove(0);
            if parts.is_empty() {
                return Err(Unreadable::Kind);
            }
        }
        let mut namespace = None;
        if let ["namespaces", name, rest @ ..] = parts.as_slice() {
            namespace = Some((*name).to_owned());
            if rest.first().is_some_and(|next| !NAMESPACE_SUBRESOURCES.contains(next)) {
                parts = rest.to_vec();
            }
        }
        let owned = |part: Option<&&str>| part.map(|part| (*part).to_owned());
        let resource = Resource {
            group: group.to_owned(),
            name: parts[0].to_owned(),
            object: owned(parts.get(1)),
            // The old prefix `proxy` has a path behind its object; it is judged as the subresource that took its place.
            subresource: if verb == Verb::Connect { Some("proxy".to_owned()) } else { owned(parts.get(2)) },
            namespace,
        };
        if resource.object.is_none() {
            verb = match verb {
                Verb::Get if asks_to_watch => Verb::Watch,
                Verb::Get => Verb::List,
                Verb::Delete => Verb::DeleteCollection,
                verb => verb,
            };
        }
        Ok(Self { verb: resource.verb(verb, upgrade), what: What::Resource(resource) })
    }

    fn path(method: &str, decoded: &[String], upgrade: bool) -> Self {
        let verb = if upgrade { Verb::Connect } else { Verb::of_path(method) };
        Self { verb, what: What::Path(format!("/{}", decoded.join("/"))) }
    }

    /// Whether it reads what the API server says of itself, and no more.
    pub fn is_discovery(&self) -> bool {
        let What::Path(path) = &self.what else { return false };
        let root = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.verb == Verb::Get && DISCOVERY.contains(&root)
    }

    /// Whether its answer may be silent and may last for ever: nothing but its ends should end it.
    pub fn lasts(&self) -> bool {
        let log = matches!(&self.what, What::Resource(resource) if resource.subresource.as_deref() == Some("log"));
        log || matches!(self.verb, Verb::Watch | Verb::Connect)
    }

    /// Whether it would let a caller widen what the gateway grants, or read the keys that it stands on: writes and pipes
    /// into the gateway's own namespace, to our kinds and to the webhooks of admission; the Secrets of the namespace, and
    /// lists of Secrets that hold them (SD-4). What bears a name that only its body tells counts as ours.
    pub fn touches_ours(&self, own_namespace: &str) -> bool {
        let What::Resource(resource) = &self.what else { return false };
        let writes = !self.verb.reads();
        let secrets = resource.group.is_empty() && resource.name == "secrets";
        match resource.namespace.as_deref() {
            Some(namespace) if namespace == own_namespace => writes || secrets,
            Some(_) => false,
            None if secrets => true,
            None if !writes => false,
            None => match resource.group.as_str() {
                "admissionregistration.k8s.io" => true,
                "apiextensions.k8s.io" => {
                    resource.object.as_ref().is_none_or(|name| name.ends_with(&format!(".{OUR_GROUP}")))
                }
                group => group == OUR_GROUP || self.verb == Verb::DeleteCollection,
            },
        }
    }
}

impl Resource {
    /// What opens a pipe is `connect`. A watch and a log by WebSocket are still what they are: the caller can say nothing.
    fn verb(&self, verb: Verb, upgrade: bool) -> Verb {
        let subresource = self.subresource.as_deref();
        let connects = subresource.is_some_and(|name| CONNECTS.contains(&name));
        let listens = verb == Verb::Watch || (verb == Verb::Get && subresource == Some("log"));
        if connects || (upgrade && !listens) { Verb::Connect } else { verb }
    }

    /// Whether it is a node's `proxy`, by which everything on the node can be reached.
    pub fn is_nodes_proxy(&self) -> bool {
        self.group.is_empty() && self.name == "nodes" && self.subresource.as_deref() == Some("proxy")
    }
}

/// Whether a query asks for a watch: present, and neither `false` nor `0`.
fn asks_to_watch(query: &str) -> Result<bool, Unreadable> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(key)? == "watch" && found.replace(decode(value)?).is_some() {
            return Err(Unreadable::Watch);
        }
        decode(value)?;
    }
    Ok(found.is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0"))
}

fn decode(text: &str) -> Result<String, Unreadable> {
    let hexadecimal = |digits: Option<&[u8]>| digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let whole = text.bytes().enumerate().all(|(at, byte)| match byte {
        b';' => false,
        b'%' => hexadecimal(text.as_bytes().get(at + 1..at + 3)),
        _ => true,
    });
    if !whole {
        return Err(Unreadable::Query);
    }
    Ok(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned())
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(subresource) = &self.subresource {
            write!(f, "/{subresource}")?;
        }
        match (&self.namespace, &self.object) {
            (Some(namespace), Some(object)) => write!(f, " {namespace}/{object}"),
            (Some(namespace), None) => write!(f, " {namespace}/"),
            (None, Some(object)) => write!(f, " {object}"),
            (None, None) => f.write_str(" of the whole cluster"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.verb.name())?;
        match &self.what {
            What::Resource(resource) => resource.fmt(f),
            What::Path(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests;
