//! Messages of a control channel and of an HTTP rendezvous: text messages, each a JSON object with one known key.
//!
//! Reading is tolerant where the SDKs differ (numbers or texts, absent fields, unknown keys) and strict about size.
//! Writing gives exactly what the strictest reader takes: no message reaches [`TEXT_MAX`] + 1 bytes, every header
//! value is a text, and unknown commands are never sent.
mod headers;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize};

pub use headers::Headers;

/// Largest text message in bytes: .NET reads into a fixed buffer of 64 KiB, Java refuses more.
pub const TEXT_MAX: usize = 65_535;

/// Largest HTTP body on a control channel in bytes, inclusive; a larger one goes by rendezvous.
pub const BODY_MAX: usize = 65_536;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Relay to listener: a WebSocket sender is waiting.
    Accept(Accept),
    /// Relay to listener: an HTTP request, or the address where it can be had.
    Request(Request),
    /// Listener to relay: the answer to a request.
    Response(Response),
    /// Listener to relay: a fresh token.
    RenewToken(RenewToken),
    /// Listener to a relay that names [`super::feature::DRAIN`]: nothing new on this channel, please. Said back, it is
    /// granted.
    Drain(Drain),
    /// A command that we do not know; SDKs ignore those, and so do we.
    Unknown,
}

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More than [`TEXT_MAX`] bytes.
    #[error("message of {0} bytes is larger than {TEXT_MAX}")]
    TooLarge(usize),
    /// Not JSON, or a known command with a field missing or of the wrong type. The text itself is not repeated.
    #[error("message is not a command of a control channel")]
    Malformed(#[source] serde_json::Error),
    /// Two known commands in one message.
    #[error("message holds more than one command")]
    Ambiguous,
}

/// The message would be larger than [`TEXT_MAX`], because of what the sender sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of {0} bytes is larger than {TEXT_MAX}")]
pub struct TooLarge(pub usize);

/// `accept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accept {
    /// Where to dial, with the one-time secret in it. Never logged.
    pub address: String,
    /// The sender's tracing id.
    pub id: String,
    /// The sender's whole head, without what carried its token.
    #[serde(default)]
    pub connect_headers: Headers,
    /// Where the sender came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_endpoint: Option<Endpoint>,
}

/// An address and a port, as the relay saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IP literal.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

/// `request`, in either of its two shapes: whole, or the address alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// Where a rendezvous for it can be dialled. Never logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What the response must echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Origin-form target, entity name included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_target: Option<String>,
    /// Method; absent in the address-only shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Where the sender came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_endpoint: Option<Endpoint>,
    /// Header fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<Headers>,
    /// Whether one binary message follows; absent in the address-only shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<bool>,
}

impl Request {
    /// Whether this only says where the request can be had.
    pub fn is_address_only(&self) -> bool {
        self.method.is_none() || self.body.is_none()
    }
}

/// `response`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// Id of the request.
    pub request_id: String,
    /// Status, written as a number, read as a number or a numeric text.
    #[serde(deserialize_with = "number_or_text")]
    pub status_code: u16,
    /// Reason phrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_description: Option<String>,
    /// Header fields.
    #[serde(default)]
    pub response_headers: Headers,
    /// Whether one binary message follows.
    #[serde(default)]
    pub body: bool,
}

/// `renewToken`. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewToken {
    /// The fresh token.
    pub token: String,
}

impl fmt::Debug for RenewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RenewToken { token: … }")
    }
}

/// `drain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drain {
    /// After this many milliseconds the channel is closed, whatever is pending.
    pub within_ms: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Envelope {
    #[serde(skip_serializing_if = "Option::is_none")]
    accept: Option<Accept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Request>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renew_token: Option<RenewToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<Drain>,
}

impl Message {
    /// Reads one text message.
    pub fn read(text: &str) -> Result<Self, ReadError> {
        if text.len() > TEXT_MAX {
            return Err(ReadError::TooLarge(text.len()));
        }
        // A derived structure would take an array of its fields, too.
        if !text.trim_start().starts_with('{') {
            return Err(ReadError::Malformed(serde::de::Error::custom("not an object")));
        }
        let Envelope { accept, request, response, renew_token, drain } =
            serde_json::from_str(text).map_err(ReadError::Malformed)?;
        let mut commands = [
            accept.map(Self::Accept),
            request.map(Self::Request),
            response.map(Self::Response),
            renew_token.map(Self::RenewToken),
            drain.map(Self::Drain),
        ]
        .into_iter()
        .flatten();
        match (commands.next(), commands.next()) {
            (None, _) => Ok(Self::Unknown),
            (Some(command), None) => Ok(command),
            (Some(_), Some(_)) => Err(ReadError::Ambiguous),
        }
    }

    /// Writes one text message; an unknown command has no text but `{}`.
    pub fn write(self) -> Result<String, TooLarge> {
        let mut envelope = Envelope::default();
        match self {
            Self::Accept(accept) => envelope.accept = Some(accept),
            Self::Request(request) => envelope.request = Some(request),
            Self::Response(response) => envelope.response = Some(response),
            Self::RenewToken(renew) => envelope.renew_token = Some(renew),
            Self::Drain(drain) => envelope.drain = Some(drain),
            Self::Unknown => {}
        }
        let text = serde_json::to_string(&envelope).expect("texts, numbers and maps with text keys always serialise");
        if text.len() > TEXT_MAX { Err(TooLarge(text.len())) } else { Ok(text) }
    }
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u16),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.trim().parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests;
