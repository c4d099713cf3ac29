//! What a token says of itself. Nothing of it is believed: it goes into messages, finds our own name in our own token, and
//! says when a token is too old to be shown to anybody.
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

/// Longest claim repeated in a message.
const MAX_TOLD: usize = 200;

/// The claims that we look at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Claims {
    iss: String,
    /// Subject.
    pub(super) sub: String,
    aud: Value,
    /// What Kubernetes bound the token to.
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Bound,
}

/// What a Kubernetes token is bound to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bound {
    /// The pod, for projected tokens.
    pub(super) pod: Option<Pod>,
}

/// A pod.
#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    /// Its name.
    pub(super) name: String,
    /// Its uid.
    pub(super) uid: String,
}

impl Claims {
    /// The claims of a JWT, or nothing when it is none.
    pub(super) fn read(token: &str) -> Option<Self> {
        let payload = token.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// What a federated credential is compared with.
    pub(super) fn federation(&self) -> String {
        let audience = match &self.aud {
            Value::Array(list) => list.first().and_then(Value::as_str),
            one => one.as_str(),
        };
        let texts = [&*self.iss, &*self.sub, audience.unwrap_or_default()].map(shown);
        format!("issuer {}, subject {}, audience {}", texts[0], texts[1], texts[2])
    }
}

fn shown(text: &str) -> &str {
    let plain = !text.is_empty() && text.len() <= MAX_TOLD && text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { text } else { "(none)" }
}
