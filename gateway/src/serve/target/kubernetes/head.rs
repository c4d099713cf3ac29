//! The head that the API server sees. It is built from nothing, in this order: the fields of one connection and those that
//! `Connection` names are left out; then everything by which a caller could say who it is; and ours are added last, so
//! that nothing which comes before can take them away or stand beside them (SD-4).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::KubernetesRequest,
};

use super::{Api, credential::Credential};
use crate::{
    policy::kubernetes::Identity,
    serve::target::head::{self, Checked},
};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
/// `causeway.dev/stream` and so on, as the API server's audit log shows them.
const STREAM: HeaderName = HeaderName::from_static("impersonate-extra-causeway.dev%2fstream");
const ACTOR: HeaderName = HeaderName::from_static("impersonate-extra-causeway.dev%2factor");
const SUBJECT: HeaderName = HeaderName::from_static("impersonate-extra-causeway.dev%2fsubject");

/// Beginning of a WebSocket subprotocol that is a bearer token for API servers.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Whose request it is, as the API server is told.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    /// The user and groups that the policy made of the subject.
    pub identity: &'a Identity,
    /// Name of the stream.
    pub stream: &'a str,
    /// Who holds the tunnel.
    pub actor: &'a str,
    /// Whose request it is, as the gateway knows it.
    pub subject: &'a str,
}

/// Checks a request's head and leaves out what may not go to the API server.
///
/// # Errors
/// `InvalidRequest`.
pub fn check(request: KubernetesRequest, api: &Api) -> Result<Checked, Failure> {
    let method = head::check_method(&request.method)?;
    let path = head::check_path(&request.path)?;
    let upgrade = head::check_upgrade(&request.upgrade, request.no_body)?;
    let all = parse(request)?;
    let named = head::named(&all.fields);
    let (mut fields, mut length, mut expects) = (HeaderMap::with_capacity(all.fields.len() + 12), None, false);
    for (name, value) in &all.fields {
        match name.as_str() {
            text if head::HOP_BY_HOP.contains(&text) || named.iter().any(|named| named == text) => {}
            text if head::says_who(text) || head::is_dropped(text) => {}
            "content-length" if length.is_some() => return Err(head::invalid("several Content-Length fields")),
            "content-length" => length = Some(head::check_length(value)?),
            "expect" => expects = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            "sec-websocket-protocol" => {
                if let Some(value) = without_bearer(value) {
                    fields.append(name, value);
                }
            }
            _ => {
                fields.append(name, value.clone());
            }
        }
    }
    if all.no_body && length.is_some_and(|length| length > 0) {
        return Err(head::invalid("a Content-Length, but no body"));
    }
    if all.no_body {
        length = Some(0);
    }
    expects = expects && length != Some(0);
    if expects {
        fields.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    let (host, port) = (api.host.clone(), api.port);
    Ok(Checked { secure: true, host, port, method, path, fields, length, hops: 1, upgrade, h2: false, expects })
}

struct Parsed {
    fields: HeaderMap,
    no_body: bool,
}

fn parse(request: KubernetesRequest) -> Result<Parsed, Failure> {
    if request.fields.len() > head::FIELDS_MAX {
        return Err(head::invalid(format!("more than {} header fields", head::FIELDS_MAX)));
    }
    let mut fields = HeaderMap::with_capacity(request.fields.len());
    for field in request.fields {
        let (name, value) = head::parse_field(field)?;
        fields.append(name, value);
    }
    Ok(Parsed { fields, no_body: request.no_body })
}

/// The subprotocols that are none of a bearer token: the API server would take it for the caller's, should ours ever not do.
fn without_bearer(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = value.to_str() else { return None };
    let is_bearer = |protocol: &&str| {
        protocol.get(..BEARER_PROTOCOL.len()).is_some_and(|start| start.eq_ignore_ascii_case(BEARER_PROTOCOL))
    };
    let kept: Vec<&str> = text.split(',').map(str::trim).filter(|protocol| !is_bearer(protocol)).collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join(", ")).ok() }
}

/// Adds the gateway's own fields, last.
///
/// # Errors
/// `PolicyDenied` when somebody's name cannot be a field's value: a request without a user is never sent.
pub fn sign(checked: &mut Checked, credential: &Credential, speaker: Speaker<'_>) -> Result<(), Failure> {
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| {
            Failure::before_target(Code::PolicyDenied, "a name has characters that the API server cannot be told")
        })
    };
    let fields = &mut checked.fields;
    fields.insert(header::AUTHORIZATION, credential.bearer.clone());
    fields.insert(USER, value(&speaker.identity.user)?);
    for group in &speaker.identity.groups {
        fields.append(GROUP, value(group)?);
    }
    for (name, text) in [(STREAM, speaker.stream), (ACTOR, speaker.actor), (SUBJECT, speaker.subject)] {
        fields.insert(name, value(text)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
