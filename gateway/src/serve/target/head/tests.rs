//! What heads may hold, both ways.

use proptest::prelude::*;

use super::*;

fn field(name: &str, value: &str) -> Field {
    Field { name: name.to_owned(), value: value.as_bytes().to_vec().into() }
}

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> HttpRequest {
    HttpRequest {
        method: method.to_owned(),
        scheme: "http".to_owned(),
        host: "Scorer.models.svc".to_owned(),
        port: 8080,
        path: path.to_owned(),
        fields: fields.iter().map(|(name, value)| field(name, value)).collect(),
        ..HttpRequest::default()
    }
}

fn code(request: HttpRequest) -> Option<Code> {
    check(request).err().map(|failure| failure.code)
}

#[test]
fn what_breaks_http_grammar_is_refused() {
    use Code::{InvalidRequest, Unsupported};
    for (request, expected) in [
        (request("GET", "/v1/x?q=1", &[("accept", "*/*")]), None),
        (request("PROPFIND", "/", &[]), None),
        (request("CONNECT", "/", &[]), Some(InvalidRequest)),
        (request("GE T", "/", &[]), Some(InvalidRequest)),
        (request("", "/", &[]), Some(InvalidRequest)),
        (request(&"A".repeat(33), "/", &[]), Some(InvalidRequest)),
        (request("GET", "", &[]), Some(InvalidRequest)),
        (request("GET", "*", &[]), Some(InvalidRequest)),
        (request("GET", "http://other/", &[]), Some(InvalidRequest)),
        (request("GET", "/a b", &[]), Some(InvalidRequest)),
        (request("GET", "/a\r\nX: y", &[]), Some(InvalidRequest)),
        (request("GET", "/a#b", &[]), Some(InvalidRequest)),
        (request("GET", "/ä", &[]), Some(InvalidRequest)),
        (request("GET", "/", &[(":path", "/admin")]), Some(InvalidRequest)),
        (request("GET", "/", &[("a b", "c")]), Some(InvalidRequest)),
        (request("GET", "/", &[("a", "b\r\nc: d")]), Some(InvalidRequest)),
        (request("GET", "/", &[("a", "b\0")]), Some(InvalidRequest)),
        (request("GET", "/", &[("Transfer-Encoding", "chunked")]), Some(InvalidRequest)),
        (request("GET", "/", &[("connection", "close")]), Some(InvalidRequest)),
        (request("GET", "/", &[("te", "trailers")]), Some(InvalidRequest)),
        (request("POST", "/", &[("content-length", "1"), ("content-length", "1")]), Some(InvalidRequest)),
        (request("POST", "/", &[("content-length", "1, 1")]), Some(InvalidRequest)),
        (request("POST", "/", &[("content-length", "+1")]), Some(InvalidRequest)),
        (request("POST", "/", &[("content-length", "-1")]), Some(InvalidRequest)),
        (request("POST", "/", &[("content-length", "99999999999999999999")]), Some(InvalidRequest)),
        (HttpRequest { no_body: true, ..request("POST", "/", &[("content-length", "1")]) }, Some(InvalidRequest)),
        (request("POST", "/", &[("expect", "100-Continue")]), None),
        (request("POST", "/", &[("expect", "a miracle")]), Some(InvalidRequest)),
        (request("GET", "/", &[("upgrade", "websocket")]), Some(InvalidRequest)),
        (HttpRequest { scheme: "https".to_owned(), ..request("GET", "/", &[]) }, None),
        (HttpRequest { scheme: "ftp".to_owned(), ..request("GET", "/", &[]) }, Some(Unsupported)),
        (HttpRequest { protocol: "h2".to_owned(), ..request("GET", "/", &[]) }, None),
        (HttpRequest { protocol: "h3".to_owned(), ..request("GET", "/", &[]) }, Some(Unsupported)),
        (HttpRequest { host: "127.1".to_owned(), ..request("GET", "/", &[]) }, Some(InvalidRequest)),
        (HttpRequest { port: 0, ..request("GET", "/", &[]) }, Some(InvalidRequest)),
        (HttpRequest { port: 65536 + 80, ..request("GET", "/", &[]) }, Some(InvalidRequest)),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(code(request), expected, "{shown}");
    }
    let many: Vec<(&str, &str)> = vec![("a", "b"); 257];
    assert_eq!(code(request("GET", "/", &many)), Some(InvalidRequest));
}

#[test]
fn names_that_are_ours_or_speak_for_others_do_not_reach_the_target() {
    let dropped = [
        ("Causeway-Actor", "Bearer x"),
        ("causeway_authorization", "Bearer x"),
        ("Host", "other"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("Transfer_Encoding", "chunked"),
        ("Content_Length", "5"),
        ("Expect_", "100-continue"),
    ];
    let kept = [("authorization", "Bearer app"), ("cookie", "a=b"), ("x-custom", "1"), ("x-custom", "2")];
    let checked = check(request("GET", "/p?q", &[&dropped[..], &kept[..]].concat())).unwrap();
    let sent = checked.request((), "10.1.2.3".parse().unwrap(), None);
    let mut names: Vec<_> = sent.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            ("authorization", "Bearer app"),
            ("causeway-hops", "1"),
            ("cookie", "a=b"),
            ("expect_", "100-continue"),
            ("forwarded", "for=10.1.2.3;host=\"scorer.models.svc:8080\";proto=http"),
            ("host", "scorer.models.svc:8080"),
            ("x-custom", "1"),
            ("x-custom", "2"),
            ("x-forwarded-for", "10.1.2.3"),
            ("x-forwarded-host", "scorer.models.svc:8080"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "10.1.2.3"),
        ]
    );
    assert_eq!(sent.uri().to_string(), "/p?q");
}

#[test]
fn host_is_the_targets_name_and_needs_no_port_at_80() {
    let with = |host: &str, port| {
        let checked = check(HttpRequest { host: host.to_owned(), port, ..request("GET", "/", &[]) }).unwrap();
        let sent = checked.request((), "::1".parse().unwrap(), None);
        sent.headers()["host"].to_str().unwrap().to_owned()
    };
    assert_eq!(with("scorer.models.svc", 80), "scorer.models.svc");
    assert_eq!(with("fd00::1", 8080), "[fd00::1]:8080");
}

#[test]
fn an_upgrade_is_one_lower_case_protocol_and_never_http() {
    let asking =
        |protocol: &str| HttpRequest { upgrade: protocol.to_owned(), no_body: true, ..request("GET", "/", &[]) };
    let kind = |protocol| check(asking(protocol)).map(|checked| checked.upgrade.map(|wanted| wanted.kind)).ok();
    assert_eq!(kind(""), Some(None));
    assert_eq!(kind("websocket"), Some(Some(Upgrade::Websocket)));
    assert_eq!(kind("spdy/3.1"), Some(Some(Upgrade::Spdy)));
    assert_eq!(kind("raw"), Some(Some(Upgrade::Other)));
    let long = "x".repeat(33);
    for refused in ["WebSocket", "h2c", "h2", "http/1.1", "tls/1.0", "a, b", "a b", "a\r\nb: c", "\u{e4}", &long] {
        assert_eq!(kind(refused), None, "{refused}");
    }
    assert_eq!(code(HttpRequest { no_body: false, ..asking("websocket") }), Some(Code::InvalidRequest));
    assert_eq!(code(HttpRequest { protocol: "h2".to_owned(), ..asking("websocket") }), Some(Code::InvalidRequest));
}

#[test]
fn an_expectation_reaches_the_target_only_with_a_body_to_wait_for() {
    let expects = |request| {
        let checked = check(request).unwrap();
        assert_eq!(checked.fields.contains_key("expect"), checked.expects);
        checked.expects
    };
    assert!(expects(request("PUT", "/", &[("expect", "100-Continue")])));
    assert!(!expects(HttpRequest { no_body: true, ..request("PUT", "/", &[("expect", "100-continue")]) }));
    assert!(!expects(request("PUT", "/", &[("expect", "100-continue"), ("content-length", "0")])));
}

#[test]
fn lengths_are_kept_and_absent_bodies_are_said() {
    let checked = check(request("POST", "/", &[("content-length", "42")])).unwrap();
    assert_eq!(checked.length, Some(42));
    let empty = check(HttpRequest { no_body: true, ..request("POST", "/", &[]) }).unwrap();
    assert_eq!(empty.request((), "::1".parse().unwrap(), None).headers()["content-length"], "0");
    assert!(check(HttpRequest { no_body: true, ..request("GET", "/", &[]) }).unwrap().may_repeat());
    assert!(!empty.may_repeat());
    assert!(!check(request("GET", "/", &[])).unwrap().may_repeat());
}

#[test]
fn answers_lose_what_concerns_one_hop_and_what_is_ours() {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "timeout=5"),
        ("causeway-actor", "forged"),
        ("causeway_error", "forged"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("content-type", "text/plain"),
    ] {
        fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let head = answer(http::StatusCode::OK, &fields).unwrap();
    let names: Vec<_> = head.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["set-cookie", "set-cookie", "content-type"]);
    fields.insert("x-large", HeaderValue::try_from("x".repeat(ANSWER_HEAD_MAX)).unwrap());
    assert_eq!(answer(http::StatusCode::OK, &fields).unwrap_err().code, Code::TargetBroken);
}

#[test]
fn trailers_cannot_carry_what_belongs_in_a_head() {
    let mut fields = HeaderMap::new();
    for name in ["grpc-status", "content-length", "set-cookie", "causeway-actor", "transfer-encoding"] {
        fields.append(HeaderName::from_static(name), HeaderValue::from_static("0"));
    }
    assert_eq!(trailers(&fields).iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["grpc-status"]);
    assert!(request_trailers(vec![field("x-checksum", "abc")], &Naming::default()).is_ok());
    for bad in ["content-length", "host", "a b", "causeway-x", "authorization"] {
        assert!(request_trailers(vec![field(bad, "1")], &Naming::default()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn what_passes_is_sent_byte_for_byte(method in "[A-Z]{1,8}", path in "/[!-~]{0,40}", value in "[ -~]{0,20}") {
        prop_assume!(method != "CONNECT");
        if let Ok(checked) = check(request(&method, &path, &[("x-value", &value)])) {
            let sent = checked.request((), "10.0.0.1".parse().unwrap(), None);
            prop_assert_eq!(sent.method().as_str(), &method);
            prop_assert_eq!(sent.uri().path_and_query().unwrap().as_str(), &path);
            prop_assert_eq!(sent.headers()["x-value"].as_bytes(), value.as_bytes());
        }
    }

    #[test]
    fn nothing_makes_the_check_panic(method in ".{0,40}", path in ".{0,40}", name in ".{0,20}", value in ".{0,20}") {
        let _ = check(request(&method, &path, &[(&name, &value)]));
    }
}

#[test]
fn a_length_beside_a_transfer_coding_is_not_passed_on() {
    let mut fields = HeaderMap::new();
    fields.insert("content-length", "3".parse().unwrap());
    assert_eq!(answer(http::StatusCode::OK, &fields).unwrap().fields.len(), 1);
    fields.insert("transfer-encoding", "chunked".parse().unwrap());
    assert!(answer(http::StatusCode::OK, &fields).unwrap().fields.is_empty());
}
