//! Texts on a control channel that no honest listener sends.
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    frames::{PING, TEXT, control, frame, told},
    support::{Relay, dial_address},
};

#[tokio::test]
async fn deep_huge_ambiguous_and_doubled_json_ends_the_channel_by_name() {
    let relay = Relay::new().await;
    let deep = |depth: usize| format!("{}{}", r#"{"x":"#.to_owned() + &"[".repeat(depth), "]".repeat(depth) + "}");
    let renew = r#""renewToken":{"token":"a"}"#;
    for (what, text) in [
        (
            "deep fields",
            format!(r#"{{"response":{{"requestId":"r","statusCode":200,"responseHeaders":{}}}}}"#, deep(20_000)),
        ),
        ("deep and unfinished", r#"{"a":"#.repeat(10_000)),
        ("unfinished", r#"{"renewToken":{"token":"#.to_owned()),
        ("a key twice", format!("{{{renew},{renew}}}")),
        ("a field twice", r#"{"renewToken":{"token":"a","token":"b"}}"#.to_owned()),
        ("two commands", format!(r#"{{{renew},"response":{{"requestId":"r","statusCode":200}}}}"#)),
        ("an array", "[]".to_owned()),
        ("two objects", "{}{}".to_owned()),
        ("a number", "1e999999".to_owned()),
        ("a huge number in a field", r#"{"response":{"requestId":"r","statusCode":1e400}}"#.to_owned()),
        ("a status that is negative", r#"{"response":{"requestId":"r","statusCode":-1}}"#.to_owned()),
        ("a lone surrogate", r#"{"renewToken":{"token":"\ud800"}}"#.to_owned()),
        ("a text of 65536 bytes", format!("{{{}}}", " ".repeat(65_534))),
        ("a NUL", "{\u{0}}".to_owned()),
    ] {
        let (code, reason) = told(control(&relay).await, &frame(TEXT, text.as_bytes())).await;
        assert_eq!(code, 1002, "{what}: {reason}");
        assert!(!reason.contains("renewToken"), "what it said is not repeated: {reason}");
    }
}

#[tokio::test]
async fn what_is_deep_where_nobody_looks_is_passed_over() {
    let relay = Relay::new().await;
    let mut stream = control(&relay).await;
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    stream.write_all(&[frame(TEXT, deep.as_bytes()), frame(PING, b"still here")].concat()).await.unwrap();
    let mut pong = [0; 12];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong[2..], b"still here");
}

#[tokio::test]
async fn a_listener_that_keeps_talking_about_nothing_is_ended() {
    let relay = Relay::new().await;
    let good = relay.listen_token();
    for text in [r#"{"x":1}"#.to_owned(), serde_json::json!({ "renewToken": { "token": good } }).to_string()] {
        let (code, reason) = told(control(&relay).await, &frame(TEXT, text.as_bytes()).repeat(200)).await;
        assert_eq!(code, 1008, "{text}: {reason}");
    }
}

#[tokio::test]
async fn commands_that_are_the_relays_alone_move_nothing() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for text in [
        r#"{"accept":{"address":"wss://evil.example/$hc/e","id":"x","connectHeaders":{}}}"#,
        r#"{"request":{"address":"wss://evil.example/$hc/e","id":"x","method":"GET","requestTarget":"/e","requestHeaders":{},"body":false}}"#,
    ] {
        control.send_text(text).await;
    }
    let (sender, accepted) =
        tokio::join!(relay.sender(""), async { dial_address(&control.address().await, &[]).await });
    let (mut sender, mut accepted) = (sender.unwrap(), accepted.unwrap());
    sender.get_mut().write_all(&frame(TEXT, b"x")).await.unwrap();
    assert_eq!(accepted.next().await.unwrap().unwrap().into_text().unwrap(), "x");
}
