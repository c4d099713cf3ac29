//! A client's head on its way to the gateway. What is told is whom the *caller* says to be by its token; whom the API
//! server is told is the policy's to decide, so a client that asks to be somebody else (`kubectl --as`) is refused rather
//! than served as itself.

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use proto::tunnel::pb;

use super::answer::asks_to_be;
use crate::connect::{
    config::Speaks,
    face::{
        head::{self, STREAM_ID},
        refusal::Refusal,
    },
    stream_id::StreamId,
};

/// A head that passed.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    parts: &'a Parts,
    path: &'a str,
    no_body: bool,
    subject: Option<HeaderValue>,
    /// Names that `Connection` lists.
    nominated: Vec<String>,
    /// What the client asks to change to, in its own spelling.
    upgrade: Option<HeaderValue>,
}

impl<'a> Outgoing<'a> {
    /// Reads a head as it came to the face.
    pub(super) fn read(parts: &'a Parts, speaks: Speaks, no_body: bool) -> Result<Self, Refusal> {
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        if !path.starts_with('/') {
            return Err(Refusal::invalid("the request target must be a path that begins with `/`"));
        }
        if let Some(name) = parts.headers.keys().find(|name| asks_to_be(name)) {
            let message = format!(
                "`{name}` is not carried: as whom a request is made is what the cluster's policy makes of the caller's token; \
                 remove `--as`, `--as-group` or what sets the field"
            );
            return Err(Refusal::invalid(message));
        }
        let nominated = head::nominated(&parts.headers);
        let upgrade = if nominated.iter().any(|name| name == "upgrade") { wanted(&parts.headers)? } else { None };
        if upgrade.is_some() && !no_body {
            return Err(Refusal::invalid("a request that asks for another protocol has no body"));
        }
        let subject = match speaks {
            Speaks::Connector => None,
            Speaks::Caller => Some(head::token(&parts.headers)?.0),
        };
        Ok(Self { parts, path, no_body, subject, nominated, upgrade })
    }

    /// What the client asks to change to, in its own spelling.
    pub(super) fn upgrade(&self) -> Option<&HeaderValue> {
        self.upgrade.as_ref()
    }

    /// Metadata and first message of the stream.
    pub(super) fn open(&self, stream: StreamId) -> (HeaderMap, pb::Open) {
        let mut metadata = HeaderMap::with_capacity(8);
        if let Ok(id) = HeaderValue::from_str(stream.as_str()) {
            metadata.insert(STREAM_ID, id);
        }
        if let Some(subject) = &self.subject {
            metadata.insert(header::AUTHORIZATION, subject.clone());
        }
        for name in ["traceparent", "tracestate"] {
            if let Some(value) = self.parts.headers.get(name) {
                metadata.insert(name, value.clone());
            }
        }
        let upgrade = self.upgrade.as_ref().and_then(|value| value.to_str().ok());
        let request = pb::KubernetesRequest {
            method: self.parts.method.as_str().to_owned(),
            path: self.path.to_owned(),
            fields: head::fields(&self.parts.headers, |name| self.passes(name)),
            no_body: self.no_body,
            upgrade: upgrade.unwrap_or_default().to_ascii_lowercase(),
        };
        (metadata, pb::Open { target: Some(pb::open::Target::Kubernetes(request)), hops: 0 })
    }

    fn passes(&self, name: &HeaderName) -> bool {
        // Whoever's token it is, the API server is shown the gateway's.
        name != header::AUTHORIZATION && head::passes(name, &self.nominated)
    }
}

/// The one protocol that is asked for.
fn wanted(fields: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let mut values = fields.get_all(header::UPGRADE).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if !value.as_bytes().contains(&b',') => Ok(Some(value.clone())),
        _ => Err(Refusal::invalid("a request asks for one other protocol at a time")),
    }
}
