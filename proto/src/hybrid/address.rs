//! Addresses: request targets under `/$hc/` and on the plain path, their `sb-hc-*` parameters, and the rendezvous
//! addresses made of them.
//!
//! Invariant: what belongs to the application (path suffix, own query) is passed on byte for byte, except that bytes
//! which RFC 2396 forbids are percent-encoded; what begins `sb-hc-` and has a value belongs to the relay and never
//! passes. A target that two parsers could read as two paths (dot segments) is refused.
use std::fmt;

use percent_encoding::percent_decode_str;

/// What every WebSocket endpoint of a relay begins with.
pub const PREFIX: &str = "/$hc/";

/// Same, percent-encoded by cautious clients.
const PREFIX_ENCODED: &str = "/%24hc/";

/// What a parameter of the relay begins with, compared without regard to case.
const OURS: &str = "sb-hc-";

/// Parameter that says what a WebSocket handshake wants.
const ACTION: &str = "sb-hc-action";

/// Parameter that carries the one-time secret of a rendezvous. It is apart from `sb-hc-id`, which the sender chooses.
const SECRET: &str = "sb-hc-rendezvous";

/// What a WebSocket handshake wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Hold a control channel.
    Listen,
    /// Be a sender. The meaning of an absent `sb-hc-action`, too.
    Connect,
    /// Answer an `accept` message.
    Accept,
    /// Answer a `request` message by rendezvous.
    Request,
}

impl Action {
    /// Value of `sb-hc-action`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Request => "request",
        }
    }
}

/// Why a request target is not an address of a hybrid connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It does not begin with `/$hc/`: the plain entity path, which HTTP senders use.
    #[error("the path is not below /$hc/")]
    PlainPath,
    /// Clients and relays would resolve `.` and `..` differently.
    #[error("the path has dot segments")]
    DotSegment,
    /// `sb-hc-action` is none of the four.
    #[error("unknown sb-hc-action")]
    UnknownAction,
}

/// A request target taken apart. `Debug` hides the parameters, since the token may be among them.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    path: String,
    query: Option<String>,
    parameters: Vec<(String, String)>,
    /// What a listener appended to a rendezvous address of ours: all before it may be the sender's.
    appended: Vec<(String, String)>,
    action: Action,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("path", &self.path).field("action", &self.action).finish_non_exhaustive()
    }
}

impl Target {
    /// Takes an origin-form request target under `/$hc/` apart.
    pub fn parse(target: &str) -> Result<Self, TargetError> {
        let (path, query) = split(target);
        let mut parsed = Self::below(below_prefix(path).ok_or(TargetError::PlainPath)?, query)?;
        if let Some(name) = find(&parsed.parameters, ACTION) {
            parsed.action = [Action::Listen, Action::Connect, Action::Accept, Action::Request]
                .into_iter()
                .find(|action| action.name().eq_ignore_ascii_case(name))
                .ok_or(TargetError::UnknownAction)?;
        }
        Ok(parsed)
    }

    /// Takes an origin-form request target apart that does not begin with `/$hc/`: that of an HTTP sender. Whatever
    /// action it names does not count.
    pub fn plain(target: &str) -> Result<Self, TargetError> {
        let (path, query) = split(target);
        Self::below(path.trim_start_matches('/'), query)
    }

    fn below(path: &str, query: Option<&str>) -> Result<Self, TargetError> {
        if path.split('/').any(is_dot_segment) {
            return Err(TargetError::DotSegment);
        }
        Ok(Self {
            path: path.to_owned(),
            query: query.and_then(own_query),
            parameters: parameters(query.unwrap_or_default()),
            appended: appended(query.unwrap_or_default()),
            action: Action::Connect,
        })
    }

    /// What is wanted.
    pub fn action(&self) -> Action {
        self.action
    }

    /// Path below `/$hc/` or the root: entity and suffix, as the client wrote it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The application's own query, without any parameter of the relay; `None` when nothing is left.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The client's tracing id.
    pub fn id(&self) -> Option<&str> {
        find(&self.parameters, "sb-hc-id").filter(|id| !id.is_empty())
    }

    /// The token, when it came in the query.
    pub fn token(&self) -> Option<&str> {
        find(&self.parameters, "sb-hc-token")
    }

    /// The one-time secret of a rendezvous.
    pub fn secret(&self) -> Option<&str> {
        find(&self.parameters, SECRET)
    }

    /// Status code and description by which a listener rejects. Some SDKs forget the prefix, so behind the address that
    /// we gave out the bare names count too; in front of its end they are the sender's.
    pub fn rejection(&self) -> Option<Rejection> {
        let parameter = |name: &str, bare: &str| find(&self.parameters, name).or_else(|| find(&self.appended, bare));
        let code = parameter("sb-hc-statusCode", "statusCode")?.to_owned();
        let description = parameter("sb-hc-statusDescription", "statusDescription").unwrap_or_default().to_owned();
        Some(Rejection { code, description })
    }

    /// The target as a listener reads it in a `request`: origin form, the entity's name included. One slash begins it,
    /// since readers that resolve it as a reference would take two for the beginning of a host.
    pub fn request_target(&self) -> String {
        let query = self.query.as_deref().map(|query| format!("?{}", Escaped(query))).unwrap_or_default();
        format!("/{}{query}", Escaped(self.path.trim_start_matches('/')))
    }
}

/// How a listener rejected: both fields as the listener wrote them, decoded, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Should be a number from 100 to 999.
    pub code: String,
    /// Free text.
    pub description: String,
}

/// Lower-cased, percent-decoded segments of a path, for comparing entities. An encoded slash does not separate.
pub fn segments(path: &str) -> Vec<String> {
    path.trim_end_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().to_ascii_lowercase())
        .collect()
}

/// Path and query of a listen handshake. `path` is the entity, `id` a tracing id.
pub fn listen_target(path: &str, id: &str) -> String {
    endpoint_target(path, Action::Listen, id)
}

/// Path and query of a connect handshake.
pub fn connect_target(path: &str, id: &str) -> String {
    endpoint_target(path, Action::Connect, id)
}

fn endpoint_target(path: &str, action: Action, id: &str) -> String {
    format!("{PREFIX}{}?sb-hc-action={}&sb-hc-id={id}", Escaped(path), action.name())
}

/// What a rendezvous address is built from.
#[derive(Debug, Clone, Copy)]
pub struct Rendezvous<'a> {
    /// Whether the listener came by TLS.
    pub tls: bool,
    /// Host, and port where it is not the default, as the listener named it.
    pub authority: &'a str,
    /// `Accept` or `Request`.
    pub action: Action,
    /// Id of the sender.
    pub id: &'a str,
    /// One-time secret; `[A-Za-z0-9_-]` only, since Java's SDK cannot read a value with an `=` in it.
    pub secret: &'a str,
}

impl Rendezvous<'_> {
    /// The absolute address for a sender's target: its path and own query, then our parameters.
    pub fn address(&self, target: &Target) -> String {
        let own = target.query.as_deref().map(|query| format!("{}&", Escaped(query))).unwrap_or_default();
        self.composed(&target.path, &own)
    }

    /// The absolute address for an HTTP request: entity and parameters alone. What the sender asked for stands in the
    /// message, and Java's SDK cannot read a query in which a value holds an `=`.
    pub fn entity_address(&self, entity: &str) -> String {
        self.composed(entity, "")
    }

    fn composed(&self, path: &str, own: &str) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!(
            "{scheme}://{}{PREFIX}{}?{own}{ACTION}={}&sb-hc-id={}&{SECRET}={}",
            self.authority,
            Escaped(path),
            self.action.name(),
            self.id,
            self.secret
        )
    }
}

/// A rendezvous address with the parameters that reject it.
pub fn reject(address: &str, code: u16, description: &str) -> String {
    let description = percent_encoding::utf8_percent_encode(description, percent_encoding::NON_ALPHANUMERIC);
    let joint = if address.contains('?') { '&' } else { '?' };
    format!("{address}{joint}sb-hc-statusCode={code}&sb-hc-statusDescription={description}")
}

fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

fn below_prefix(path: &str) -> Option<&str> {
    [PREFIX, PREFIX_ENCODED]
        .iter()
        .find_map(|prefix| path.get(..prefix.len()).filter(|head| head.eq_ignore_ascii_case(prefix)))
        .map(|prefix| &path[prefix.len()..])
}

/// `.` and `..`, plain or percent-encoded; URL libraries resolve all of these.
fn is_dot_segment(segment: &str) -> bool {
    segment.len() <= "%2e%2e".len() && matches!(&*percent_decode_str(segment).decode_utf8_lossy(), "." | "..")
}

/// A pair is the relay's when its key begins `sb-hc-` and it has an `=`.
fn as_parameter(pair: &str) -> Option<(&str, &str)> {
    let (key, value) = pair.split_once('=')?;
    key.get(..OURS.len()).is_some_and(|head| head.eq_ignore_ascii_case(OURS)).then_some((key, value))
}

fn parameters(query: &str) -> Vec<(String, String)> {
    query.split('&').filter_map(as_parameter).map(|(key, value)| (key.to_owned(), decode_form(value))).collect()
}

/// The pairs behind the last parameter of a rendezvous address of ours.
fn appended(query: &str) -> Vec<(String, String)> {
    let is_last = |pair: &&str| as_parameter(pair).is_some_and(|(key, _)| key.eq_ignore_ascii_case(SECRET));
    let behind = query.split('&').skip_while(|pair| !is_last(pair)).skip(1);
    behind.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), decode_form(value))).collect()
}

/// What is left of a query without the relay's parameters; `None` when there was nothing else.
fn own_query(query: &str) -> Option<String> {
    let own: Vec<&str> = query.split('&').filter(|pair| as_parameter(pair).is_none()).collect();
    (!own.is_empty()).then(|| own.join("&"))
}

/// The first value wins.
fn find<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Percent-decoding with `+` for a space, as .NET, Java and Python's `urlencode` write it. No well-formed token has a
/// plus of its own: the base64 in a signature is percent-encoded once more.
fn decode_form(value: &str) -> String {
    percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Writes a text with the bytes that RFC 2396 forbids in a URI percent-encoded, and every other byte as it is.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            let whole_escape = || bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            match byte {
                b'%' if whole_escape() => f.write_str("%")?,
                b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'[' | b']' | b'#' | b'%' => {
                    write!(f, "%{byte:02X}")?;
                }
                0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
