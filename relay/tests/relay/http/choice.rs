//! Which listener gets a request, and which senders a hybrid connection takes.
use tokio::task::JoinSet;

use super::support::{Client, listener_on, relay, request, respond, serve_one};
use crate::support::{Control, Relay, dial_address, refused};

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-22222222222a";

#[tokio::test]
async fn senders_choose_among_listeners_by_id() {
    let relay = relay().await;
    let mut one = relay.listener_as(&format!("{ONE}_G1_G2")).await;
    let mut other = relay.listener_as(OTHER).await;
    let upper = OTHER.to_ascii_uppercase();
    for (field, first) in [
        (format!("Microsoft-Relay-AllowedListeners: {ONE}"), true),
        (format!("Microsoft-Relay-AllowedListeners: {ONE}_G9"), true),
        (format!("Microsoft-Relay-AllowedListeners: 33333333-3333-4333-8333-333333333333, {upper}"), false),
        (format!("Microsoft-Relay-DisallowedListeners: {ONE}"), false),
        (format!("Microsoft-Relay-DisallowedListeners: x,{upper}, y"), true),
    ] {
        let (name, value) = field.split_once(": ").unwrap();
        let wanted: &mut Control = if first { &mut one } else { &mut other };
        for _ in 0..8 {
            let mut client = Client::new(&relay).await;
            client.head("GET /e", &[&field]).await;
            serve_one(&mut wanted.0, b"").await;
            assert_eq!(client.reply().await.status, 200, "{field}");
            let token = relay.send_token();
            let headers = [("ServiceBusAuthorization", token.as_str()), (name, value)];
            let (sender, accepted) = tokio::join!(relay.dial("/$hc/e", &headers), async {
                let address = wanted.address().await;
                dial_address(&address, &[]).await
            });
            sender.unwrap();
            accepted.unwrap();
        }
    }
}

#[tokio::test]
async fn a_sender_that_wants_none_of_the_listeners_is_told_so() {
    let relay = relay().await;
    let _one = relay.listener_as(ONE).await;
    for (name, value) in [
        ("Microsoft-Relay-AllowedListeners", OTHER.to_owned()),
        ("Microsoft-Relay-AllowedListeners", String::new()),
        ("Microsoft-Relay-DisallowedListeners", ONE.to_owned()),
    ] {
        let mut client = Client::new(&relay).await;
        let reply = client.ask("GET /e", &[&format!("{name}: {value}")]).await;
        let text = "None of the connected listeners meet the AllowedListeners/DisallowedListeners criteria";
        assert_eq!((reply.status, reply.reason.starts_with(text)), (404, true), "{name}: {}", reply.reason);
        let token = relay.send_token();
        let answer = relay.raw("/$hc/e", &[("ServiceBusAuthorization", &token), (name, &value)]).await;
        assert_eq!((answer.status, answer.reason.starts_with(text)), (404, true), "{name}: {}", answer.reason);
    }
}

/// A listener whose handshake looks like that of hyco-ws.
async fn hyco_ws(relay: &Relay) -> Control {
    let token = relay.listen_token();
    let headers = [("ServiceBusAuthorization", token.as_str()), ("Sec-WebSocket-Key", "MTMtMTU3MTk5MDQwMDAwMA==")];
    let answer = relay.raw("/$hc/e?sb-hc-action=listen&sb-hc-id=hyco-ws", &headers).await;
    assert_eq!(answer.status, 101);
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    Control(tokio_tungstenite::WebSocketStream::from_raw_socket(answer.stream, role, None).await)
}

#[tokio::test]
async fn a_listener_that_a_request_would_end_is_never_given_one() {
    let relay = relay().await;
    let mut hyco_ws = hyco_ws(&relay).await;
    let mut client = Client::new(&relay).await;
    assert_eq!(client.ask("GET /e", &[]).await.status, 502);
    let mut other = relay.listener().await;
    for _ in 0..20 {
        client.head("GET /e", &[]).await;
        serve_one(&mut other.0, b"").await;
        assert_eq!(client.reply().await.status, 200);
    }
    // It still gets WebSockets.
    drop(other);
    crate::support::until("only one listens", || relay.shown_listener("listener-1").is_null()).await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let address = hyco_ws.address().await;
    assert_eq!(relay.raw(&address[address.find("/$hc/").unwrap()..], &[]).await.status, 101);
    senders.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_hybrid_connection_takes_the_senders_of_its_kind() {
    let relay = relay().await;
    let mut client = Client::new(&relay).await;
    let text = "The endpoint does not take senders of this kind";
    // For WebSockets alone, which is the default.
    let token = relay.token("send", crate::support::SECOND_KEY, "other");
    let head = format!("GET /other HTTP/1.1\r\nHost: h\r\nServiceBusAuthorization: {token}\r\n\r\n");
    client.raw(head.as_bytes()).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.reason.starts_with(text)), (501, true), "{}", reply.reason);
    // For HTTP alone.
    let mut control = listener_on(&relay, "open").await;
    let answer = relay.raw("/$hc/open", &[]).await;
    assert_eq!((answer.status, answer.reason.starts_with(text)), (501, true), "{}", answer.reason);
    let mut client = Client::new(&relay).await;
    client.raw(b"GET /open HTTP/1.1\r\nHost: h\r\n\r\n").await;
    serve_one(&mut control.0, b"").await;
    assert_eq!(client.reply().await.status, 200);
    // Who has no token does not learn which kind it is.
    assert_eq!(relay.send_raw(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n").await.status, 401);
}

#[tokio::test]
async fn unknown_entities_and_suffixes_are_told_apart_by_whole_segments() {
    let relay = relay().await;
    let token = relay.token("all", crate::support::NAMESPACE_KEY, "");
    let mut control = relay.listener().await;
    for (path, is_known) in [("/E/any/suffix", true), ("/e", true), ("/e2", false), ("/unknown", false), ("/", false)] {
        let mut client = Client::new(&relay).await;
        let head = format!("GET {path}?sb-hc-id=0f0e0d0c-1111-2222-3333-444455556666 HTTP/1.1\r\nHost: h\r\n");
        client.raw(format!("{head}ServiceBusAuthorization: {token}\r\n\r\n").as_bytes()).await;
        if is_known {
            let asked = request(&mut control.0).await;
            assert!(asked.id().starts_with("0f0e0d0c-1111-2222-3333-444455556666_"), "{}", asked.id());
            let response = serde_json::json!({ "requestId": asked.id(), "statusCode": 200 });
            respond(&mut control.0, response, None).await;
            assert_eq!(client.reply().await.status, 200);
        } else {
            let reply = client.reply().await;
            assert_eq!((reply.status, reply.one("Via")), (404, None), "{path}");
            let text = "Endpoint does not exist. TrackingId:0f0e0d0c-1111-2222-3333-444455556666_G0, SystemTracker:";
            assert!(reply.reason.starts_with(text), "{}", reply.reason);
        }
    }
}

#[tokio::test]
async fn a_sender_of_our_subprotocol_learns_which_listener_it_got() {
    let relay = relay().await;
    let mut control = relay.listener_as(ONE).await;
    for (protocol, told) in [("causeway.v1", Some(ONE)), ("other", None)] {
        let token = relay.send_token();
        let headers = [("ServiceBusAuthorization", token.as_str()), ("Sec-WebSocket-Protocol", protocol)];
        let (sender, accepted) = tokio::join!(relay.raw("/$hc/e", &headers), async {
            let address = control.address().await;
            dial_address(&address, &[("Sec-WebSocket-Protocol", protocol)]).await
        });
        accepted.unwrap();
        assert_eq!(sender.status, 101);
        let line = sender.head.lines().find_map(|line| line.strip_prefix("Causeway-Listener: "));
        assert_eq!(line, told, "{}", sender.head);
    }
    assert_eq!(refused(relay.dial("/$hc/e", &[]).await), 401);
}
