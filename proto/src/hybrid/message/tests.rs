use proptest::prelude::*;

use super::*;

fn headers(fields: &[(&str, &str)]) -> Headers {
    Headers(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

#[test]
fn the_live_services_accept_is_read() {
    let text = r#"{"accept":{"address":"wss:\/\/g17-prod-x-010-sb.example.net\/$hc\/ent?sb-hc-action=accept&sb-hc-id=9a_G17_G30","id":"9a_G17_G30","connectHeaders":{"Sec-WebSocket-Key":"a2V5","Sec-WebSocket-Version":"13","Connection":"Upgrade","Upgrade":"websocket","Host":"ns.example.net:443"},"remoteEndpoint":{"address":"203.0.113.9","port":62917}}}"#;
    let Message::Accept(accept) = Message::read(text).unwrap() else { panic!("not an accept") };
    assert_eq!(accept.address, "wss://g17-prod-x-010-sb.example.net/$hc/ent?sb-hc-action=accept&sb-hc-id=9a_G17_G30");
    assert_eq!(accept.connect_headers.find("sec-websocket-key"), Some("a2V5"));
    let remote = Endpoint { address: "203.0.113.9".parse().unwrap(), port: 62917 };
    assert_eq!(accept.remote_endpoint, Some(remote));
}

#[test]
fn an_accept_is_written_with_exactly_these_bytes() {
    let accept = Accept {
        address: "wss://ns/$hc/e?sb-hc-action=accept&sb-hc-id=i".into(),
        id: "i".into(),
        connect_headers: headers(&[("Sec-WebSocket-Key", "k"), ("Host", "ns")]),
        remote_endpoint: Some(Endpoint { address: "::1".parse().unwrap(), port: 7 }),
    };
    assert_eq!(
        Message::Accept(accept).write().unwrap(),
        r#"{"accept":{"address":"wss://ns/$hc/e?sb-hc-action=accept&sb-hc-id=i","id":"i","connectHeaders":{"Sec-WebSocket-Key":"k","Host":"ns"},"remoteEndpoint":{"address":"::1","port":7}}}"#
    );
}

#[test]
fn both_shapes_of_request_are_told_apart() {
    let whole = r#"{"request":{"address":"wss://g12/$hc/ent?sb-hc-action=request&sb-hc-id=9a_G12","id":"9a_G12","requestTarget":"/ent","method":"POST","remoteEndpoint":{"address":"203.0.113.9","port":62915},"requestHeaders":{"Host":"ns","Via":"1.1 ns"},"body":true}}"#;
    let Message::Request(request) = Message::read(whole).unwrap() else { panic!("not a request") };
    assert!(!request.is_address_only());
    assert_eq!((request.method.as_deref(), request.body), (Some("POST"), Some(true)));
    assert_eq!(Message::Request(request).write().unwrap(), whole);

    let address_only = r#"{"request":{"address":"wss://g12/$hc/ent"}}"#;
    let Message::Request(request) = Message::read(address_only).unwrap() else { panic!("not a request") };
    assert!(request.is_address_only());
    assert_eq!(Message::Request(request).write().unwrap(), address_only);
}

#[test]
fn a_response_is_read_as_every_sdk_writes_it() {
    for (text, status, body, fields) in [
        (r#"{"response":{"requestId":"r","statusCode":"200","responseHeaders":{},"body":true}}"#, 200, true, vec![]),
        (r#"{"response":{"requestId":"r","statusCode":204}}"#, 204, false, vec![]),
        (r#"{"response":{"requestId":"r","statusCode":418,"responseHeaders":null,"x":1}}"#, 418, false, vec![]),
        (
            r#"{"response":{"requestId":"r","statusCode":200,"responseHeaders":{"a":1,"set-cookie":["x","y"]}}}"#,
            200,
            false,
            vec![("a", "1"), ("set-cookie", "x"), ("set-cookie", "y")],
        ),
    ] {
        let Message::Response(response) = Message::read(text).unwrap() else { panic!("not a response: {text}") };
        assert_eq!((response.status_code, response.body), (status, body), "{text}");
        assert_eq!(response.response_headers, headers(&fields), "{text}");
    }
}

#[test]
fn a_response_is_written_with_exactly_these_bytes() {
    let response = Response {
        request_id: "r".into(),
        status_code: 501,
        status_description: Some("no".into()),
        response_headers: Headers::default(),
        body: false,
    };
    assert_eq!(
        Message::Response(response).write().unwrap(),
        r#"{"response":{"requestId":"r","statusCode":501,"statusDescription":"no","responseHeaders":{},"body":false}}"#
    );
}

#[test]
fn a_renewal_is_read_and_its_token_is_not_printed() {
    let message = Message::read(r#"{"renewToken":{"token":"marker"}}"#).unwrap();
    assert!(!format!("{message:?}").contains("marker"));
    assert_eq!(message.clone().write().unwrap(), r#"{"renewToken":{"token":"marker"}}"#);
}

#[test]
fn unknown_commands_are_not_errors() {
    for text in ["{}", r#"{"injectFault":{"delay":1}}"#] {
        assert_eq!(Message::read(text).unwrap(), Message::Unknown, "{text}");
    }
}

#[test]
fn what_is_not_a_command_is_refused() {
    for text in ["", "hello", "[]", "7", r#"{"accept":{}}"#, r#"{"accept":7}"#, r#"{"renewToken":{}}"#] {
        assert!(matches!(Message::read(text), Err(ReadError::Malformed(_))), "{text}");
    }
    for code in ["\"abc\"", "70000", "-1", "null"] {
        let text = format!(r#"{{"response":{{"requestId":"r","statusCode":{code}}}}}"#);
        assert!(matches!(Message::read(&text), Err(ReadError::Malformed(_))), "{text}");
    }
    let two = r#"{"renewToken":{"token":"t"},"request":{}}"#;
    assert!(matches!(Message::read(two), Err(ReadError::Ambiguous)));
}

#[test]
fn size_is_bounded_both_ways() {
    let renew = |length: usize| Message::RenewToken(RenewToken { token: "t".repeat(length) });
    let frame = renew(0).write().unwrap().len();
    let largest = renew(TEXT_MAX - frame).write().unwrap();
    assert_eq!(largest.len(), TEXT_MAX);
    assert!(Message::read(&largest).is_ok());
    assert_eq!(renew(TEXT_MAX - frame + 1).write(), Err(TooLarge(TEXT_MAX + 1)));
    assert!(matches!(Message::read(&"x".repeat(TEXT_MAX + 1)), Err(ReadError::TooLarge(_))));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
    let text = format!(r#"{{"x":{}"#, "[".repeat(60_000));
    assert!(matches!(Message::read(&text), Err(ReadError::Malformed(_))));
}

#[test]
fn several_fields_of_one_name_are_written_as_an_array_at_the_first_ones_place() {
    let fields = headers(&[("Set-Cookie", "a=1"), ("B", "b"), ("set-cookie", "c=2, d")]);
    let text = serde_json::to_string(&fields).unwrap();
    assert_eq!(text, r#"{"Set-Cookie":["a=1","c=2, d"],"B":"b"}"#);
}

/// Each value of an array has the name of all: sixteen thousand times thirty thousand bytes would be half a gigabyte.
#[test]
fn an_array_does_not_make_a_small_message_a_large_one() {
    let read = |name: usize, values: usize| {
        let fields = format!("\"{}\":[{}]", "n".repeat(name), vec!["1"; values].join(","));
        Message::read(&format!(r#"{{"response":{{"requestId":"r","statusCode":200,"responseHeaders":{{{fields}}}}}}}"#))
    };
    assert!(matches!(read(32_000, 16_000), Err(ReadError::Malformed(_))));
    let values = headers::READ_MAX / 10;
    assert!(read(9, values).is_ok(), "as much as may be");
    assert!(matches!(read(9, values + 1), Err(ReadError::Malformed(_))));
}

#[test]
fn fields_of_one_name_are_joined() {
    let mut fields = Headers::default();
    for (name, value) in [("X-A", "1"), ("x-a", "2"), ("Cookie", "a=1"), ("Cookie", "b=2")] {
        fields.join(name, value);
    }
    assert_eq!(fields, headers(&[("X-A", "1, 2"), ("Cookie", "a=1; b=2")]));
    assert!(!format!("{fields:?}").contains("a=1"));
}

proptest! {
    #[test]
    fn an_accept_reads_back(
        address in ".{0,60}", id in ".{0,40}", fields in prop::collection::vec(("[A-Za-z0-9-]{1,12}", ".{0,30}"), 0..6),
        remote in prop::option::of((any::<std::net::IpAddr>(), any::<u16>())),
    ) {
        let mut connect_headers = Headers::default();
        for (name, value) in &fields {
            connect_headers.join(name, value);
        }
        let remote_endpoint = remote.map(|(address, port)| Endpoint { address, port });
        let message = Message::Accept(Accept { address, id, connect_headers, remote_endpoint });
        prop_assert_eq!(Message::read(&message.clone().write().unwrap()).unwrap(), message);
    }

    #[test]
    fn reading_never_panics(text in ".{0,300}") {
        let _ = Message::read(&text);
    }
}
