//! What of a head passes, and what of it is changed, in both directions.
use serde_json::{Value, json};

use super::support::{Client, listener_on, relay, request, respond, serve_one};
use crate::support::Relay;

/// The request that a listener gets for these fields.
async fn forwarded(line: &str, fields: &[&str]) -> Value {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head(line, fields).await;
    let asked = request(&mut control.0).await;
    asked.message
}

/// The answer that a sender gets for this response.
async fn answered(relay: &Relay, line: &str, response: Value, body: Option<&[u8]>) -> super::support::Reply {
    let mut control = relay.listener().await;
    let mut client = Client::new(relay).await;
    client.head(line, &[]).await;
    let mut whole = response;
    whole["requestId"] = request(&mut control.0).await.id().into();
    whole["body"] = body.is_some().into();
    respond(&mut control.0, whole, body).await;
    client.reply_to(line.starts_with("HEAD ")).await
}

#[tokio::test]
async fn every_method_passes_but_connect() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "x-own!"] {
        client.head(&format!("{method} /e"), &[]).await;
        let asked = serve_one(&mut control.0, b"").await;
        assert_eq!(asked.message["method"], method);
        assert_eq!(client.reply_to(method == "HEAD").await.status, 200, "{method}");
    }
    let reply = client.ask("CONNECT e:443", &[]).await;
    assert_eq!((reply.status, reply.one("Via")), (400, None));
}

#[tokio::test]
async fn the_target_holds_the_entity_and_the_query_without_what_is_the_relays() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    // The table that Microsoft's tests assert against the live service.
    for (sent, seen) in [
        ("?a=1&a=2", "?a=1&a=2"),
        ("?a=1&a=2&", "?a=1&a=2&"),
        ("?&&&", "?&&&"),
        ("?&foo=bar", "?&foo=bar"),
        ("?&custom&value&", "?&custom&value&"),
        ("?sb-hc-id=1", ""),
        ("?sb-hc-id=1&custom=value", "?custom=value"),
        ("?custom=value&sb-hc-id=1", "?custom=value"),
        ("?sb-hc-undefined", "?sb-hc-undefined"),
        ("?sb-hc-undefined=true", ""),
        ("?sb-hc-whatever=", ""),
        ("?sb-hc-whatever=&foo=bar", "?foo=bar"),
        ("?+", "?+"),
        ("?%2B", "?%2B"),
        ("?%20", "?%20"),
        ("?%2f%3a%3d%26", "?%2f%3a%3d%26"),
        ("?key='value'", "?key='value'"),
        ("?name=%C3%b8", "?name=%C3%b8"),
        ("?sb-hc-action=listen&sb-hc-statusCode=403", ""),
    ] {
        client.head(&format!("GET /E/a%20b/{sent}"), &[]).await;
        let asked = serve_one(&mut control.0, b"").await;
        assert_eq!(asked.message["requestTarget"], format!("/E/a%20b/{seen}"), "{sent}");
        assert_eq!(client.reply().await.status, 200);
    }
}

#[tokio::test]
async fn a_target_never_names_another_host() {
    let message = forwarded("GET //e//x?y", &[]).await;
    assert_eq!(message["requestTarget"], "/e//x?y");
    let message = forwarded("GET http://elsewhere.example:81/e/x?y", &[]).await;
    assert_eq!(
        (&message["requestTarget"], &message["requestHeaders"]["Host"]),
        (&"/e/x?y".into(), &"elsewhere.example:81".into())
    );
    let relay = relay().await;
    let mut client = Client::new(&relay).await;
    for target in ["/e/../other", "/e/%2e%2E/x", "/e/./x"] {
        let mut client = Client::new(&relay).await;
        let reply = client.ask(&format!("GET {target}"), &[]).await;
        assert_eq!(reply.status, 400, "{target}");
    }
    client.raw(b"GET /e HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 401, "the token comes first");
}

#[tokio::test]
async fn fields_of_the_connection_and_of_the_framing_do_not_pass_to_the_listener() {
    let message = forwarded(
        "POST /e",
        &[
            "Connection: X-Mine, close , keep-alive",
            "X-Mine: gone",
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Trailer: X-T",
            "Close: x",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic eA==",
            "Content-Length: 0",
            "Expect: 100-continue",
            "Upgrade: h2c",
            "X-Kept: yes",
        ],
    )
    .await;
    let expected = json!({ "Host": "relay.test", "X-Kept": "yes", "Via": "1.1 127.0.0.1" });
    assert_eq!(message["requestHeaders"], expected);
}

#[tokio::test]
async fn fields_of_one_name_are_joined_and_all_values_are_texts() {
    let message = forwarded(
        "GET /e",
        &["X-A: v1", "X-A: v2", "Cookie: a=1", "Cookie: b=2", "Via: 1.0 before", "x-number: 7", "X-Latin: gr\u{fc}n"],
    )
    .await;
    let headers = &message["requestHeaders"];
    for (name, value) in [
        ("X-A", "v1, v2"),
        ("Cookie", "a=1; b=2"),
        ("Via", "1.0 before, 1.1 127.0.0.1"),
        ("X-Number", "7"),
        // UTF-8 on the wire is read byte by byte, as Node does.
        ("X-Latin", "gr\u{c3}\u{bc}n"),
    ] {
        assert_eq!(headers[name], value, "{headers}");
    }
}

#[tokio::test]
async fn a_host_is_required_but_from_http_1_0() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a b\r\n", "Host: user@a\r\n"] {
        let mut client = Client::new(&relay).await;
        client.raw(format!("GET /e HTTP/1.1\r\n{hosts}ServiceBusAuthorization: {token}\r\n\r\n").as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 400, "{hosts:?}");
        assert!(reply.reason.starts_with("The Host header is missing or malformed"), "{}", reply.reason);
    }
    let mut client = Client::new(&relay).await;
    client.raw(format!("GET /e HTTP/1.0\r\nServiceBusAuthorization: {token}\r\n\r\n").as_bytes()).await;
    let asked = serve_one(&mut control.0, b"old").await;
    assert_eq!((asked.field("Host"), asked.field("Via")), (&"127.0.0.1".into(), &"1.0 127.0.0.1".into()));
    let reply = client.reply().await;
    assert_eq!((reply.version.as_str(), reply.status, &reply.body[..]), ("HTTP/1.0", 200, &b"old"[..]));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_token_never_reaches_the_listener_and_authorization_only_when_it_was_none() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let encoded: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let own = "Authorization: Bearer of-the-application\r\n";
    let target = format!("/e?sb-hc-token={encoded}");
    for (target, fields, passed) in [
        (target.as_str(), own.to_owned(), Some("Bearer of-the-application")),
        (target.as_str(), format!("ServiceBusAuthorization: x\r\n{own}"), Some("Bearer of-the-application")),
        ("/e", format!("ServiceBusAuthorization: {token}\r\n{own}"), Some("Bearer of-the-application")),
        ("/e", format!("Authorization: {token}\r\n"), None),
    ] {
        let mut client = Client::new(&relay).await;
        client.raw(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()).await;
        let asked = serve_one(&mut control.0, b"").await;
        assert_eq!(client.reply().await.status, 200);
        assert_eq!(asked.field("Authorization").as_str(), passed);
        let text = asked.message.to_string().to_ascii_lowercase();
        assert!(!text.contains("sharedaccess") && !text.contains("servicebus") && !text.contains("token"), "{text}");
    }
}

#[tokio::test]
async fn an_anonymous_entity_takes_no_token_and_a_garbage_one_and_leaves_authorization_alone() {
    let relay = relay().await;
    let mut control = listener_on(&relay, "open").await;
    for (query, fields) in [("", ""), ("?sb-hc-token=garbage", ""), ("", "ServiceBusAuthorization: garbage\r\n")] {
        let mut client = Client::new(&relay).await;
        let own = "Authorization: SharedAccessSignature sr=x&sig=y&se=1&skn=z\r\n";
        client.raw(format!("GET /open{query} HTTP/1.1\r\nHost: h\r\n{fields}{own}\r\n").as_bytes()).await;
        let asked = serve_one(&mut control.0, b"").await;
        assert_eq!(client.reply().await.status, 200);
        assert_eq!(asked.field("Authorization"), "SharedAccessSignature sr=x&sig=y&se=1&skn=z");
        assert!(!asked.message.to_string().contains("garbage"));
    }
}

#[tokio::test]
async fn fields_of_32_kib_pass_and_more_are_refused() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    // What is counted: Host, Via and ours, names and values.
    let rest = "Hostrelay.testVia1.1 127.0.0.1X-Long".len();
    let field = |length: usize| format!("X-Long: {}", "x".repeat(length));
    client.head("GET /e", &[&field(32 * 1024 - rest)]).await;
    serve_one(&mut control.0, b"").await;
    assert_eq!(client.reply().await.status, 200);
    let reply = client.ask("GET /e", &[&field(32 * 1024 - rest + 1)]).await;
    assert_eq!((reply.status, reply.one("Via")), (431, None));
    // JSON writes each of these as two characters, and no message may reach 64 KiB.
    let reply = client.ask("GET /e", &[&format!("X-Long: {}", "\"".repeat(32 * 1024 - rest))]).await;
    assert_eq!(reply.status, 431);
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"").await;
    assert_eq!(client.reply().await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn every_status_that_ends_a_request_passes_and_others_are_the_listeners_fault() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for status in [
        200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 305, 306, 307, 400, 401, 402, 403, 404, 405, 406,
        407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 426, 450, 500, 501, 502, 503, 504, 505, 599, 999,
    ] {
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        let response = json!({ "requestId": asked.id(), "statusCode": status, "statusDescription": "As I say" });
        respond(&mut control.0, response, None).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.reason.as_str()), (status, "As I say"));
        assert_eq!(reply.one("Via"), Some("1.1 127.0.0.1"), "{status}");
    }
    for status in [0, 99, 100, 101, 103, 199, 1000, 65535] {
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": status }), None).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.one("Via")), (502, None), "{status}");
        assert!(reply.reason.starts_with("The listener did not answer with an HTTP response"), "{}", reply.reason);
    }
}

#[tokio::test]
async fn a_status_without_description_has_the_standard_phrase_or_none() {
    let relay = relay().await;
    for (status, phrase) in [(404, "Not Found"), (450, "")] {
        let reply = answered(&relay, "GET /e", json!({ "statusCode": status }), None).await;
        assert_eq!((reply.status, reply.reason.as_str()), (status, phrase));
    }
}

#[tokio::test]
async fn nothing_a_listener_says_begins_a_line_of_its_own() {
    let relay = relay().await;
    let response = json!({
        "statusCode": 200,
        "statusDescription": "fine\r\nX-Injected: 1\r\n\r\n<html>\u{0}\u{7f}",
        "responseHeaders": {
            "X-Value": "a\r\nX-Injected: 2\r\n\r\nbody\u{0}b\tc",
            "X-Fold": "a\r\n b",
            "X-Name\r\nX-Injected": "3",
            "X Space": "4",
            "X-Colon:": "5",
            "": "6",
            "X-Nul\u{0}": "7",
            "X-\u{e9}": "8",
            "X-Umlaut": "gr\u{fc}n",
            "X-Utf8": "\u{4f60}",
        },
    });
    let reply = answered(&relay, "GET /e", response, None).await;
    assert_eq!(reply.reason, "fineX-Injected: 1<html>");
    assert!(reply.all("X-Injected").is_empty(), "{:?}", reply.fields);
    assert_eq!(reply.one("X-Value"), Some("aX-Injected: 2bodyb\tc"));
    assert_eq!(reply.one("X-Fold"), Some("a b"));
    let names: Vec<&str> = reply.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 7, "four of the listener's, Via, Content-Length and Date: {names:?}");
    // One byte each is Latin-1, and what does not fit into that is UTF-8; lossy here, since the client reads UTF-8.
    assert_eq!((reply.one("X-Umlaut"), reply.one("X-Utf8")), (Some("gr\u{fffd}n"), Some("\u{4f60}")));
}

#[tokio::test]
async fn framing_and_connection_fields_of_a_listener_do_not_pass() {
    let relay = relay().await;
    let response = json!({
        "statusCode": 200,
        "responseHeaders": {
            "Content-Length": "999", "transfer-encoding": "chunked", "Connection": "close, X-Hop", "X-Hop": "gone",
            "Keep-Alive": "x", "TE": "x", "Trailer": "x", "Upgrade": "websocket", "Proxy-Authenticate": "Basic",
            "Close": "x", "X-Kept": "yes",
        },
    });
    let reply = answered(&relay, "GET /e", response, Some(b"four")).await;
    assert_eq!(
        (&reply.body[..], reply.one("Content-Length"), reply.one("X-Kept")),
        (&b"four"[..], Some("4"), Some("yes"))
    );
    for name in [
        "Transfer-Encoding",
        "Connection",
        "X-Hop",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Proxy-Authenticate",
        "Close",
    ] {
        assert_eq!(reply.one(name), None, "{name}");
    }
}

#[tokio::test]
async fn several_values_of_one_name_are_kept_apart_and_none_is_split() {
    let relay = relay().await;
    let response = json!({
        "statusCode": 200,
        "responseHeaders": {
            "Set-Cookie": ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2"], "X-List": "1, 2", "X-Number": 3,
            "X-True": true, "X-Null": null, "Via": ["1.1 inner", "1.0 middle"],
        },
    });
    let reply = answered(&relay, "GET /e", response, None).await;
    assert_eq!(reply.all("Set-Cookie"), ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2"]);
    assert_eq!(
        (reply.one("X-List"), reply.one("X-Number"), reply.one("X-True")),
        (Some("1, 2"), Some("3"), Some("true"))
    );
    assert_eq!((reply.one("X-Null"), reply.one("Via")), (None, Some("1.1 inner, 1.0 middle, 1.1 127.0.0.1")));
}

#[tokio::test]
async fn head_204_and_304_have_no_body_whatever_the_listener_sends() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for (line, status) in [("HEAD /e", 200), ("GET /e", 204), ("GET /e", 304), ("HEAD /e", 404)] {
        client.head(line, &[]).await;
        let asked = request(&mut control.0).await;
        let response = json!({ "requestId": asked.id(), "statusCode": status, "body": true });
        respond(&mut control.0, response, Some(b"HTTP/1.1 200 OK\r\n\r\n")).await;
        // Anything more would be read as the beginning of the next answer.
        assert_eq!(client.reply_to(true).await.status, status);
    }
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"last").await;
    assert_eq!(client.reply().await.body, b"last");
}
