//! Every text that crosses from one side to the other, or to whoever reads logs, filled with what would break out of its
//! place: lines of a head, JSON, terminals.
use serde_json::Value;

use crate::support::{Answer, Relay, target};

/// Percent-encoded for a query: what a peer can send in it is any byte.
fn encoded(text: &[u8]) -> String {
    text.iter().map(|byte| format!("%{byte:02x}")).collect()
}

const BREAKING: &[&[u8]] = &[
    b"\r\nX-Injected: yes\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"\nX-Injected: yes\n\n",
    b"\rX-Injected: yes\r",
    b"\0\x1b[31mred\x07\x7f",
    b"\",\"injected\":true,\"x\":\"",
    b"\\\",\\\"injected\\\":true",
    "\u{85}\u{2028}\u{2029}X-Injected: yes\u{202e}é漢😀".as_bytes(),
    b"\xff\xfe\xc3\x28",
    b"<script>alert(1)</script>' or 1=1 -- ${jndi:ldap://x} %n%s %0d%0aX-Injected:%20yes",
];

/// The names of the fields in an answer's head, which must be those that the relay has.
fn check_head(answer: &Answer, what: &str) {
    let mut lines = answer.head.trim_end().split("\r\n").skip(1);
    let known = ["date", "connection", "content-type", "content-length", "www-authenticate", "retry-after", "upgrade"];
    let is_ours = |line: &str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        known.contains(&name.as_str()) || name.starts_with("sec-websocket-") || name == "causeway-listener"
    };
    assert!(lines.all(is_ours), "{what}: {}", answer.head);
    assert!(answer.head.bytes().all(|byte| (0x20..0x7f).contains(&byte) || b"\r\n".contains(&byte)), "{what}");
    assert!(!answer.head.contains('\u{1b}') && answer.reason.len() <= 512, "{what}: {}", answer.reason);
}

/// What JSON holds that must be free of control characters, tabs apart: they are legal in a field value.
fn check_texts(value: &Value, what: &str) {
    match value {
        Value::String(text) => assert!(!text.chars().any(|c| c.is_control() && c != '\t'), "{what}: {text:?}"),
        Value::Array(values) => values.iter().for_each(|value| check_texts(value, what)),
        Value::Object(fields) => fields.values().for_each(|value| check_texts(value, what)),
        _ => {}
    }
}

#[tokio::test]
async fn what_a_listener_says_when_it_rejects_adds_nothing_to_the_senders_head() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for breaking in BREAKING.iter().copied().chain([&[b'x'; 4000][..]]) {
        let what: String = String::from_utf8_lossy(breaking).chars().take(100).collect();
        let (sender, listener) = tokio::join!(relay.raw_sender(), async {
            let address = control.address().await;
            let reject = format!("&sb-hc-statusCode=418&sb-hc-statusDescription={}", encoded(breaking));
            relay.raw(&format!("{}{reject}", target(&address)), &[]).await
        });
        assert_eq!((sender.status, listener.status), (418, 410), "{what}");
        check_head(&sender, &what);
        check_head(&listener, &what);
        assert_eq!(sender.rest().await, b"", "{what}");
    }
}

#[tokio::test]
async fn ids_of_any_bytes_stay_in_their_place_in_answers_and_closes() {
    let relay = Relay::new().await;
    for breaking in BREAKING {
        let what = String::from_utf8_lossy(breaking);
        let id = encoded(breaking);
        let answer = relay.raw(&format!("/$hc/e?sb-hc-id={id}"), &[]).await;
        assert_eq!(answer.status, 401, "{what}");
        check_head(&answer, &what);
        let body: Value = serde_json::from_slice(&answer.rest().await).unwrap();
        assert_eq!((&body["code"], &body["injected"]), (&"token_missing".into(), &Value::Null), "{what}");
        check_texts(&body, &what);

        let mut control = relay.listener_as(&id).await;
        control.send_text(r#"{"renewToken":{"token":"bad"}}"#).await;
        let close = control.close().await.unwrap();
        assert!(close.reason.len() <= 123 && !close.reason.contains(char::is_control), "{what}: {close}");
    }
    let status = relay.context.status.status()();
    check_texts(&status, "status");
    for event in relay.context.events.recent() {
        check_texts(&Value::from(event.fields.clone()), "events");
    }
}

#[tokio::test]
async fn what_a_sender_says_reaches_the_listener_as_values_and_nothing_else() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    for breaking in BREAKING {
        let what = String::from_utf8_lossy(breaking);
        let sender_target = format!("/$hc/e/{0}?a={0}&sb-hc-id={0}&{0}=b", encoded(breaking));
        let headers = [("ServiceBusAuthorization", token.as_str())];
        let (sender, accept) = tokio::join!(relay.raw(&sender_target, &headers), async {
            let accept = control.accept().await;
            let address = accept["address"].as_str().unwrap();
            let reject = format!("{}&sb-hc-statusCode=400", target(address));
            relay.raw(&reject, &[]).await;
            accept
        });
        check_head(&sender, &what);
        check_texts(&accept, &what);
        assert_eq!(accept.as_object().unwrap().len(), 4, "{what}: {accept}");
        let address = accept["address"].as_str().unwrap();
        assert!(
            address.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !b"\"<>\\^`{|}".contains(&byte)),
            "{address}"
        );
        assert_eq!(address.matches("sb-hc-rendezvous=").count(), 1, "{address}");
    }
}

#[tokio::test]
async fn parameters_of_the_relay_in_a_senders_path_or_query_are_not_taken_for_the_relays_own() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    for part in [
        "?sb-hc-rendezvous=AAAAAAAAAAAAAAAAAAAAAA",
        "?SB-HC-Rendezvous=AAAAAAAAAAAAAAAAAAAAAA&sb%2dhc-action=accept",
        "/x%3Fsb-hc-action=accept&sb-hc-rendezvous=A",
        "?x=1&sb-hc-statusCode=200&statusCode=200",
    ] {
        let headers = [("ServiceBusAuthorization", token.as_str())];
        let sender_target = format!("/$hc/e{part}");
        let (sender, accepted) = tokio::join!(relay.raw(&sender_target, &headers), async {
            let address = control.address().await;
            relay.raw(target(&address), &[]).await
        });
        assert_eq!((sender.status, accepted.status), (101, 101), "{part}");
    }
}

#[tokio::test]
async fn field_values_of_any_legal_bytes_arrive_as_they_are_and_illegal_ones_are_refused() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let request = |value: &[u8]| {
        let front = format!(
            "GET /$hc/e HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             ServiceBusAuthorization: {token}\r\nX-Odd: "
        );
        [front.as_bytes(), value, b"\r\n\r\n"].concat()
    };
    let legal = b"\"quoted\"\t\\ \x80\xff {\"accept\":{}}";
    let (_, accept) = tokio::join!(
        async { tokio::time::timeout(std::time::Duration::from_millis(300), relay.send_raw(&request(legal))).await },
        control.accept()
    );
    let odd: String = legal.iter().map(|byte| char::from(*byte)).collect();
    assert_eq!(accept["connectHeaders"]["X-Odd"], odd);
    for illegal in [&b"a\0b"[..], b"a\rb", b"a\x1bb", b"a\x7fb"] {
        assert_eq!(relay.send_raw(&request(illegal)).await.status, 400, "{illegal:?}");
    }
}

#[tokio::test]
async fn a_subprotocol_is_echoed_only_as_it_was_offered() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let odd = "<b>;\"x\"=1";
    for (offered, chosen, status) in
        [("p1", "P1", 400), ("p1", "p1 ", 101), (odd, odd, 101), ("p1", "p1\tp2", 400), ("a b", "a", 400)]
    {
        let headers = [("ServiceBusAuthorization", token.as_str()), ("Sec-WebSocket-Protocol", offered)];
        let (sender, listener) = tokio::join!(relay.raw("/$hc/e", &headers), async {
            let address = control.address().await;
            relay.raw(target(&address), &[("Sec-WebSocket-Protocol", chosen)]).await
        });
        assert_eq!(listener.status, status, "{offered:?} {chosen:?}");
        check_head(&sender, offered);
        check_head(&listener, chosen);
    }
}
