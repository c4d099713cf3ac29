//! Header fields on their way to a listener.
use http::{HeaderMap, HeaderName, header};
use proto::hybrid::{TOKEN_HEADER, address::Target, message::Headers};

use super::{authorize::carried, stay::Stay};

/// The sender's headers, of those that are `kept`, but what carried its token. `Authorization` is the application's,
/// unless it was that, when the sender came in.
pub(crate) fn forwarded(
    sender: &Stay,
    target: &Target,
    headers: &HeaderMap,
    is_kept: impl Fn(&HeaderName) -> bool,
) -> Headers {
    let spent =
        !sender.grant().is_anonymous() && carried(target, headers).is_some_and(|carried| carried.in_authorization);
    let mut fields = Headers::default();
    for (name, value) in headers {
        let was_token = name.as_str().eq_ignore_ascii_case(TOKEN_HEADER) || spent && name == header::AUTHORIZATION;
        if was_token || !is_kept(name) {
            continue;
        }
        // Bytes beyond ASCII are Latin-1, as HTTP has always read them.
        let value: String = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        fields.join(&canonical(name), &value);
    }
    fields
}

/// The usual spelling of a name: hyper gives lower case, and Java's SDK looks names up as they are written.
fn canonical(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| match word {
        "websocket" => "WebSocket".to_owned(),
        _ => word[..word.len().min(1)].to_ascii_uppercase() + word.get(1..).unwrap_or_default(),
    });
    words.collect::<Vec<_>>().join("-")
}
