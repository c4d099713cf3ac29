use std::time::SystemTime;

use http::Request;

use super::*;

fn parts(method: &str, uri: &str, pairs: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in pairs {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn target() -> Target {
    Target::within("a", "scorer.models.svc:80").unwrap()
}

fn open(parts: &Parts, speaks: Speaks) -> Result<(HeaderMap, pb::HttpRequest), u16> {
    let outgoing = Outgoing::read(parts, speaks, true).map_err(|refusal| refusal.status.as_u16())?;
    let (metadata, open) = outgoing.open(&target(), StreamId::new(SystemTime::UNIX_EPOCH));
    match open.target {
        Some(pb::open::Target::Http(request)) => Ok((metadata, request)),
        other => panic!("not http: {other:?}"),
    }
}

fn names(request: &pb::HttpRequest) -> Vec<&str> {
    request.fields.iter().map(|field| field.name.as_str()).collect()
}

#[test]
fn the_callers_token_becomes_metadata_and_leaves_the_request() {
    let parts = parts("GET", "/v1?x=1", &[("host", "h"), ("authorization", "Bearer abc"), ("accept", "*/*")]);
    let (metadata, request) = open(&parts, Speaks::Caller).unwrap();
    assert_eq!(metadata["authorization"], "Bearer abc");
    assert!(metadata["authorization"].is_sensitive());
    assert_eq!(names(&request), ["accept"]);
    assert_eq!((request.path.as_str(), request.host.as_str(), request.port), ("/v1?x=1", "scorer.models.svc", 80));
    assert!(request.no_body);
}

#[test]
fn causeway_authorization_wins_and_authorization_stays_the_applications() {
    let parts = parts("GET", "/", &[("authorization", "Basic eA=="), ("causeway-authorization", "bearer abc")]);
    let (metadata, request) = open(&parts, Speaks::Caller).unwrap();
    assert_eq!(metadata["authorization"], "Bearer abc");
    assert_eq!(names(&request), ["authorization"]);
}

#[test]
fn a_caller_without_a_usable_token_is_refused() {
    for pairs in [
        &[][..],
        &[("authorization", "Basic eA==")][..],
        &[("authorization", "Bearer")][..],
        &[("authorization", "Bearer ")][..],
        &[("authorization", "Bearer a b")][..],
        &[("causeway-authorization", "Basic eA=="), ("authorization", "Bearer abc")][..],
    ] {
        assert_eq!(open(&parts("GET", "/", pairs), Speaks::Caller).err(), Some(401), "{pairs:?}");
    }
    let two = parts("GET", "/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
    assert_eq!(open(&two, Speaks::Caller).err(), Some(400));
}

#[test]
fn as_connector_no_token_is_taken_from_the_request() {
    let parts = parts("GET", "/", &[("authorization", "Bearer abc"), ("causeway-authorization", "Bearer x")]);
    let (metadata, request) = open(&parts, Speaks::Connector).unwrap();
    assert!(!metadata.contains_key("authorization"));
    assert_eq!(names(&request), ["authorization"]);
}

#[test]
fn fields_of_the_connection_and_ours_stay_here() {
    let parts = parts(
        "POST",
        "/",
        &[
            ("host", "localhost:1"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic eA=="),
            ("expect", "100-continue"),
            ("causeway-actor", "Bearer forged"),
            ("causeway-stream-id", "forged"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("content-length", "3"),
            ("x-kept", "yes"),
        ],
    );
    let (metadata, request) = open(&parts, Speaks::Connector).unwrap();
    assert_eq!(names(&request), ["content-length", "x-kept"]);
    assert!(!metadata.contains_key("causeway-actor"));
    assert_ne!(metadata["causeway-stream-id"], "forged");
}

#[test]
fn trace_context_crosses_and_reaches_the_target() {
    let parts = parts("GET", "/", &[("traceparent", "00-1-2-01"), ("tracestate", "a=b")]);
    let (metadata, request) = open(&parts, Speaks::Connector).unwrap();
    assert_eq!(
        (metadata["traceparent"].as_bytes(), metadata["tracestate"].as_bytes()),
        (&b"00-1-2-01"[..], &b"a=b"[..])
    );
    assert_eq!(names(&request), ["traceparent", "tracestate"]);
}

#[test]
fn gateways_that_a_request_has_crossed_are_counted_on() {
    for (field, counted) in [(None, 0), (Some("3"), 3), (Some("4294967295"), u32::MAX), (Some("-1"), 0), (Some("x"), 0)]
    {
        let pairs: Vec<_> = field.map(|hops| ("causeway-hops", hops)).into_iter().collect();
        let parts = parts("GET", "/", &pairs);
        let outgoing = Outgoing::read(&parts, Speaks::Connector, true).unwrap();
        let (_, open) = outgoing.open(&target(), StreamId::new(SystemTime::UNIX_EPOCH));
        assert_eq!(open.hops, counted, "{field:?}");
    }
}

#[test]
fn a_change_of_protocol_is_asked_for_by_name() {
    for (pairs, expected) in [
        (&[("connection", "keep-alive, Upgrade"), ("upgrade", "h2c, WebSocket")][..], "websocket"),
        (&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")][..], ""),
        (&[("upgrade", "websocket")][..], ""),
    ] {
        let (_, request) = open(&parts("GET", "/", pairs), Speaks::Connector).unwrap();
        assert_eq!((request.upgrade.as_str(), names(&request)), (expected, vec![]), "{pairs:?}");
    }
    let pairs = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert!(Outgoing::read(&parts("POST", "/", &pairs), Speaks::Connector, false).is_err());
}

#[test]
fn only_a_body_that_is_held_is_expected() {
    let parts = parts("POST", "/", &[("expect", "100-Continue"), ("content-length", "3")]);
    for (no_body, expected) in [(true, false), (false, true)] {
        let outgoing = Outgoing::read(&parts, Speaks::Connector, no_body).unwrap();
        assert_eq!(outgoing.expects(), expected);
        let (_, open) = outgoing.open(&target(), StreamId::new(SystemTime::UNIX_EPOCH));
        let Some(pb::open::Target::Http(request)) = open.target else { panic!("not http") };
        assert_eq!(names(&request).contains(&"expect"), expected);
    }
}

#[test]
fn what_an_http_face_cannot_carry_is_refused() {
    assert_eq!(open(&parts("CONNECT", "example.com:443", &[]), Speaks::Connector).err(), Some(501));
    assert_eq!(open(&parts("OPTIONS", "*", &[]), Speaks::Connector).err(), Some(400));
}

fn head(status: u32, pairs: &[(&str, &str)]) -> pb::Head {
    let fields = pairs
        .iter()
        .map(|(name, value)| pb::Field { name: (*name).to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) })
        .collect();
    pb::Head { status, fields }
}

#[test]
fn an_answer_cannot_speak_for_us_or_for_our_port() {
    let head = head(
        200,
        &[
            ("content-type", "text/plain"),
            ("Causeway-Error", "policy_denied"),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ],
    );
    let (status, fields) = answer(&head).unwrap();
    assert_eq!(status, StatusCode::OK);
    let mut left: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(left, ["content-type=text/plain", "set-cookie=a=1", "set-cookie=b=2"]);
}

#[test]
fn broken_heads_are_refused() {
    for status in [0, 99, 600, 1000, 65536 + 200] {
        assert_eq!(answer(&head(status, &[])), Err(AnswerError::Status), "{status}");
    }
    assert_eq!(answer(&head(200, &[("a b", "x")])), Err(AnswerError::Field));
    assert_eq!(answer(&head(200, &[("a", "x\r\ny: z")])), Err(AnswerError::Field));
}

#[test]
fn trailers_carry_no_framing_and_nothing_of_ours() {
    let pairs =
        [("grpc-status", "0"), ("content-length", "3"), ("causeway-error", "x"), ("transfer-encoding", "chunked")];
    let fin = pb::Fin { trailers: head(200, &pairs).fields };
    let left: Vec<_> = answer_trailers(&fin).unwrap().keys().map(ToString::to_string).collect();
    assert_eq!(left, ["grpc-status"]);
}
