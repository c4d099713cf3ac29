use proptest::prelude::*;

use super::*;

fn query_left(query: &str) -> Option<String> {
    Target::parse(&format!("/$hc/hyco?{query}")).unwrap().query().map(str::to_owned)
}

#[test]
fn own_query_is_kept_and_the_relays_parameters_are_removed() {
    // The table that Microsoft's tests assert against the live service.
    for (sent, left) in [
        ("a=1&a=2", Some("a=1&a=2")),
        ("a=1&a=2&", Some("a=1&a=2&")),
        ("&&&", Some("&&&")),
        ("&foo=bar", Some("&foo=bar")),
        ("&custom&value&", Some("&custom&value&")),
        ("sb-hc-id=1", None),
        ("sb-hc-id=1&custom=value", Some("custom=value")),
        ("custom=value&sb-hc-id=1", Some("custom=value")),
        ("sb-hc-undefined", Some("sb-hc-undefined")),
        ("sb-hc-undefined=true", None),
        ("sb-hc-whatever=", None),
        ("sb-hc-whatever=&foo=bar", Some("foo=bar")),
        ("+", Some("+")),
        ("%2B", Some("%2B")),
        ("%20", Some("%20")),
        ("%2f%3a%3d%26", Some("%2f%3a%3d%26")),
        ("key='value'", Some("key='value'")),
        ("name=%C3%b8", Some("name=%C3%b8")),
    ] {
        assert_eq!(query_left(sent).as_deref(), left, "?{sent}");
        let request_target = Target::plain(&format!("/hyco?{sent}")).unwrap().request_target();
        assert_eq!(request_target, format!("/hyco{}", left.map(|left| format!("?{left}")).unwrap_or_default()));
    }
}

#[test]
fn a_request_target_is_in_origin_form_and_a_valid_uri() {
    for (sent, target) in [
        ("/Hyco/a%2Fb/?key=\"value\"", "/Hyco/a%2Fb/?key=%22value%22"),
        ("//elsewhere.example/x?sb-hc-token=t", "/elsewhere.example/x"),
        ("/hyco?sb-hc-action=listen&sb-hc-id=7", "/hyco"),
        ("/hyco?sb-hc-action", "/hyco?sb-hc-action"),
        ("/", "/"),
    ] {
        assert_eq!(Target::plain(sent).unwrap().request_target(), target, "{sent}");
    }
    assert_eq!(Target::plain("/hyco/../x"), Err(TargetError::DotSegment));
}

#[test]
fn parameters_are_found_whatever_their_case() {
    let target = Target::parse("/$hc/a/b?x=1&SB-HC-ACTION=Listen&Sb-Hc-Id=7&sb-hc-Token=t%20k").unwrap();
    assert_eq!(target.action(), Action::Listen);
    assert_eq!((target.path(), target.query()), ("a/b", Some("x=1")));
    assert_eq!((target.id(), target.token()), (Some("7"), Some("t k")));
}

#[test]
fn a_token_in_the_query_is_form_decoded_once() {
    for space in ["+", "%20"] {
        let target =
            Target::parse(&format!("/$hc/a?sb-hc-token=SharedAccessSignature{space}sig%3Da%252B%253D")).unwrap();
        assert_eq!(target.token(), Some("SharedAccessSignature sig=a%2B%3D"));
    }
}

#[test]
fn a_missing_action_is_connect_and_an_unknown_one_an_error() {
    assert_eq!(Target::parse("/$hc/a").unwrap().action(), Action::Connect);
    assert_eq!(Target::parse("/$hc/a?sb-hc-action=dance"), Err(TargetError::UnknownAction));
}

#[test]
fn the_prefix_may_be_encoded_and_must_be_there() {
    assert_eq!(Target::parse("/%24hc/a/b").unwrap().path(), "a/b");
    assert_eq!(Target::parse("/%24HC/a").unwrap().path(), "a");
    for target in ["/a", "/", "", "/$hc", "*", "/$hcx/a"] {
        assert_eq!(Target::parse(target), Err(TargetError::PlainPath), "{target}");
    }
}

#[test]
fn dot_segments_are_refused_in_every_spelling() {
    for path in ["a/../b", "a/./b", "..", "a/%2e%2E/b", "a/.%2e", "a/%2e"] {
        assert_eq!(Target::parse(&format!("/$hc/{path}")), Err(TargetError::DotSegment), "{path}");
    }
    assert!(Target::parse("/$hc/a/..b/...").is_ok());
}

#[test]
fn segments_compare_without_case_and_keep_an_encoded_slash_inside() {
    assert_eq!(segments("Hyco/Sub/"), ["hyco", "sub"]);
    assert_eq!(segments("hyco%2Dx/a%2Fb"), ["hyco-x", "a/b"]);
}

fn accept<'a>(secret: &'a str) -> Rendezvous<'a> {
    Rendezvous { tls: true, authority: "ns.example.com", action: Action::Accept, id: "id1", secret }
}

#[test]
fn an_accept_address_keeps_suffix_and_query_and_drops_the_token() {
    let target = Target::parse("/%24hc/hyco/sub?a=b=c&sb-hc-action=connect&sb-hc-token=secret&x").unwrap();
    assert_eq!(
        accept("s3").address(&target),
        "wss://ns.example.com/$hc/hyco/sub?a=b=c&x&sb-hc-action=accept&sb-hc-id=id1&sb-hc-rendezvous=s3"
    );
}

#[test]
fn a_request_address_holds_the_entity_and_nothing_of_the_sender() {
    assert_eq!(
        Rendezvous { action: Action::Request, ..accept("s3") }.entity_address("a/b"),
        "wss://ns.example.com/$hc/a/b?sb-hc-action=request&sb-hc-id=id1&sb-hc-rendezvous=s3"
    );
}

#[test]
fn an_accept_address_is_a_valid_rfc_2396_uri() {
    let target = Target::parse("/$hc/h{y}?key=\"v\"<w>|^`\\[]&bad=%zz&\u{f8}").unwrap();
    assert_eq!(
        accept("s").address(&target),
        "wss://ns.example.com/$hc/h%7By%7D?key=%22v%22%3Cw%3E%7C%5E%60%5C%5B%5D&bad=%25zz&%C3%B8\
         &sb-hc-action=accept&sb-hc-id=id1&sb-hc-rendezvous=s"
    );
}

#[test]
fn a_sender_cannot_set_the_relays_parameters_of_an_accept_address() {
    let target = Target::parse("/$hc/h?sb-hc-rendezvous=mine&SB-HC-ID=mine&sb-hc-statusCode=200").unwrap();
    assert_eq!(
        accept("s").address(&target),
        "wss://ns.example.com/$hc/h?sb-hc-action=accept&sb-hc-id=id1&sb-hc-rendezvous=s"
    );
}

#[test]
fn rejections_decode_alike_with_plus_and_with_percent() {
    for text in ["not+today", "not%20today"] {
        for (code, description) in
            [("sb-hc-statusCode", "sb-hc-statusDescription"), ("statusCode", "statusDescription")]
        {
            let address = accept("s").address(&Target::parse("/$hc/h").unwrap());
            let target = address.strip_prefix("wss://ns.example.com").unwrap();
            let target = Target::parse(&format!("{target}&{code}=403&{description}={text}")).unwrap();
            let expected = Rejection { code: "403".into(), description: "not today".into() };
            assert_eq!(target.rejection(), Some(expected));
        }
    }
    assert_eq!(Target::parse("/$hc/h?sb-hc-action=accept").unwrap().rejection(), None);
}

#[test]
fn a_senders_own_status_parameters_reject_nobody() {
    let sender = Target::parse("/$hc/h?statusCode=403&statusDescription=mine").unwrap();
    let address = accept("s").address(&sender);
    let accepted = Target::parse(address.strip_prefix("wss://ns.example.com").unwrap()).unwrap();
    assert_eq!(accepted.rejection(), None);
    assert_eq!(sender.rejection(), None);
    // A listener that rejects without the prefix still does, with its own words.
    let rejected = format!("{address}&statusCode=404&statusDescription=not+here");
    let rejected = Target::parse(rejected.strip_prefix("wss://ns.example.com").unwrap()).unwrap();
    let expected = Rejection { code: "404".into(), description: "not here".into() };
    assert_eq!(rejected.rejection(), Some(expected));
}

#[test]
fn what_we_reject_with_is_what_the_relay_reads() {
    let address = reject("wss://ns/$hc/h?sb-hc-action=accept", 502, "target & co = down + out");
    let target = Target::parse(address.strip_prefix("wss://ns").unwrap()).unwrap();
    let expected = Rejection { code: "502".into(), description: "target & co = down + out".into() };
    assert_eq!(target.rejection(), Some(expected));
}

#[test]
fn listen_and_connect_targets_read_back() {
    let target = Target::parse(&listen_target("a/b", "id9")).unwrap();
    assert_eq!((target.action(), target.path(), target.id()), (Action::Listen, "a/b", Some("id9")));
    assert_eq!(connect_target("a", "i"), "/$hc/a?sb-hc-action=connect&sb-hc-id=i");
}

#[test]
fn debug_shows_no_token() {
    let target = Target::parse("/$hc/a?sb-hc-token=marker&sb-hc-rendezvous=marker&x=marker").unwrap();
    assert!(!format!("{target:?}").contains("marker"));
}

proptest! {
    #[test]
    fn an_accept_address_reads_back_as_an_accept_of_the_same_path(path in "[a-z0-9/%{}.-]{0,40}", query in ".{0,80}") {
        if let Ok(target) = Target::parse(&format!("/$hc/{path}?{query}")) {
            let address = accept("c2VjcmV0").address(&target);
            let forbidden = b"\"<>\\^`{|}[]#";
            let is_valid = address.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !forbidden.contains(&byte));
            prop_assert!(is_valid);
            let back = Target::parse(address.strip_prefix("wss://ns.example.com").unwrap()).unwrap();
            prop_assert_eq!(back.action(), Action::Accept);
            prop_assert_eq!(back.secret(), Some("c2VjcmV0"));
            prop_assert_eq!(back.id(), Some("id1"));
            prop_assert_eq!(segments(back.path()), segments(target.path()));
        }
    }

    #[test]
    fn parsing_never_panics(target in ".{0,200}") {
        if let Ok(target) = Target::parse(&target) {
            let _ = target.rejection();
        }
    }
}
