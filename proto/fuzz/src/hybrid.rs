//! Hybrid Connections: whatever the text, nothing panics; a message that was read and written again reads as the same; an
//! address made from any sender's target is a valid URI that the relay reads back as its own; a reason is one line.
use std::time::SystemTime;

use proto::hybrid::{
    address::{Action, Rendezvous, Target, segments},
    is_traceable,
    message::{Message, TEXT_MAX},
    status::{CLOSE_REASON_MAX, REASON_MAX, Tracking, close_reason, reason},
};

/// The first byte chooses what the rest, as text, is.
pub fn run(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match choice % 3 {
        0 => address(&text),
        1 => message(&text),
        _ => status(&text),
    }
}

/// Inputs that reach deep: each kind of address and message.
pub fn seeds() -> Vec<Vec<u8>> {
    let addresses = [
        "/$hc/hyco/sub%2Fway?a=1&a=2&&sb-hc-action=connect&sb-hc-token=x%20y&sb-hc-id=1&b",
        "/%24hc/e?sb-hc-action=accept&sb-hc-rendezvous=s&sb-hc-statusCode=404&sb-hc-statusDescription=a+b%20c",
        "/$hc/e?statusCode=1&statusDescription=%zz\"<>{}|^`[]#",
        "/$hc/a/../b",
        "/plain?x=y",
    ];
    let messages = [
        r#"{"accept":{"address":"wss:\/\/ns\/$hc\/e?x=1","id":"i","connectHeaders":{"A":"b"},"remoteEndpoint":{"address":"::1","port":7}}}"#,
        r#"{"request":{"address":"wss://ns/$hc/e","id":"i","requestTarget":"/e","method":"GET","requestHeaders":{},"body":false}}"#,
        r#"{"request":{"address":"wss://ns/$hc/e"}}"#,
        r#"{"response":{"requestId":"i","statusCode":"200","statusDescription":"ok","responseHeaders":{"a":["b",1,null]},"body":true}}"#,
        r#"{"renewToken":{"token":"t"},"x":[[]]}"#,
    ];
    let statuses = ["Endpoint does not exist.", "line\r\nbreak\u{0}\u{85}\u{e9}"];
    let of_kind = |kind: u8, texts: &[&str]| -> Vec<Vec<u8>> {
        texts.iter().map(|text| [&[kind], text.as_bytes()].concat()).collect()
    };
    [of_kind(0, &addresses), of_kind(1, &messages), of_kind(2, &statuses)].concat()
}

fn address(text: &str) {
    // Also what decides whether an id is passed on must take anything.
    let _ = is_traceable(text);
    let Ok(target) = Target::parse(text) else { return };
    let _ = (target.rejection(), target.token(), target.id());
    let rendezvous = Rendezvous { tls: true, authority: "ns", action: Action::Accept, id: "id-1", secret: "c2VjcmV0" };
    let address = rendezvous.address(&target);
    let forbidden = b"\"<>\\^`{|}[]#";
    assert!(address.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !forbidden.contains(&byte)), "{address}");
    let back = Target::parse(address.strip_prefix("wss://ns").expect("it begins so")).expect("our own address");
    assert_eq!(back.action(), Action::Accept);
    assert_eq!((back.id(), back.secret()), (Some("id-1"), Some("c2VjcmV0")));
    assert_eq!(back.token(), None);
    assert_eq!(segments(back.path()), segments(target.path()));
    let again = rendezvous.address(&back);
    assert_eq!(again, address, "an address is its own canonical form");
}

fn message(text: &str) {
    let Ok(message) = Message::read(text) else { return };
    let Ok(written) = message.clone().write() else { return };
    assert!(written.len() <= TEXT_MAX);
    assert_eq!(Message::read(&written).expect("our own message"), message);
}

fn status(text: &str) {
    let tracking = Tracking { id: text, namespace: text, path: text, at: SystemTime::UNIX_EPOCH };
    let reason = reason(text, &tracking);
    assert!(reason.len() <= REASON_MAX && reason.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{reason}");
    assert!(close_reason(text, text).len() <= CLOSE_REASON_MAX);
}
