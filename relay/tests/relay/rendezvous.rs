//! How a sender and a listener find each other, and every way in which they do not.
use std::time::Duration;

use daemon::clock::Clock as _;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Answer, Relay, config, dial_address, refused, target, until};

#[tokio::test]
async fn the_listener_is_told_everything_about_the_sender_but_its_token() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let sender_target = "/$hc/e/sub%2Fway?a=1&a=2&sb-hc-action=connect&sb-hc-token=SECRET&sb-hc-id=x&b";
    let target = sender_target.replace("SECRET", &token.bytes().map(|b| format!("%{b:02x}")).collect::<String>());
    let headers = [
        ("ServiceBusAuthorization", "also-a-secret"),
        ("Authorization", "Bearer for-the-application"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("Sec-WebSocket-Protocol", "p1, p2"),
    ];
    let sender = relay.raw(&target, &headers);
    let (_, accept) =
        tokio::join!(async { tokio::time::timeout(Duration::from_millis(300), sender).await }, control.accept());
    let headers = &accept["connectHeaders"];
    for (name, value) in [
        ("Authorization", "Bearer for-the-application"),
        ("X-Twice", "1, 2"),
        ("Cookie", "a=1; b=2"),
        ("Sec-WebSocket-Protocol", "p1, p2"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("Sec-WebSocket-Version", "13"),
        ("Host", "127.0.0.1"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
    ] {
        assert_eq!(headers[name], value, "{name}: {headers}");
    }
    let text = accept.to_string();
    assert!(!text.contains("secret") && !text.contains("SharedAccess") && !text.contains("sb-hc-token"), "{text}");
    assert_eq!(accept["remoteEndpoint"]["address"], "127.0.0.1");
    assert!(accept["remoteEndpoint"]["port"].as_u64().unwrap() > 0);
    // Not a UUID, so a new id is made; the address carries the same.
    let id = accept["id"].as_str().unwrap();
    assert!(proto::hybrid::is_traceable(id), "{id}");
    let address = accept["address"].as_str().unwrap();
    let start =
        format!("ws://{}/$hc/e/sub%2Fway?a=1&a=2&b&sb-hc-action=accept&sb-hc-id={id}&sb-hc-rendezvous=", relay.address);
    assert!(address.starts_with(&start), "{address}");
}

#[tokio::test]
async fn an_authorization_header_that_carried_the_token_is_not_passed_on() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let mut senders = JoinSet::new();
    let address = relay.address;
    senders.spawn(async move { crate::support::dial(address, "/$hc/e", &[("Authorization", &token)]).await.map(drop) });
    let accept = control.accept().await;
    assert_eq!(accept["connectHeaders"]["Authorization"], serde_json::Value::Null);
}

#[tokio::test]
async fn an_id_that_begins_with_a_uuid_reaches_the_listener() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender("?sb-hc-id=0f0e0d0c-1111-2222-3333-444455556666_G1"));
    assert_eq!(control.accept().await["id"], "0f0e0d0c-1111-2222-3333-444455556666_G1");
}

#[tokio::test]
async fn an_address_counts_once() {
    let relay = Relay::new().await;
    let (mut sender, mut listener, mut control) = relay.pair().await;
    drop(relay.sender("")); // Not polled: nobody comes.
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let address = control.address().await;
    let accepted = dial_address(&address, &[]).await.unwrap();
    senders.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(refused(dial_address(&address, &[]).await), 403);
    drop(accepted);
    // Others are not disturbed.
    sender.send(Message::text("x")).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap(), Message::text("x"));
}

#[tokio::test]
async fn guessed_and_swapped_addresses_are_refused() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let address = control.address().await;
    let (front, _) = address.rsplit_once('=').unwrap();
    for guess in ["AAAAAAAAAAAAAAAAAAAAAA", "", "x"] {
        assert_eq!(refused(dial_address(&format!("{front}={guess}"), &[]).await), 403, "{guess:?}");
    }
    let without = address.split("&sb-hc-rendezvous").next().unwrap();
    assert_eq!(refused(dial_address(without, &[]).await), 403);
    let as_request = address.replace("sb-hc-action=accept", "sb-hc-action=request");
    // The right secret for the wrong thing is spent, and its sender is told at once.
    let other_entity = as_request.replace("/$hc/e?", "/$hc/other?");
    assert_eq!(refused(dial_address(&other_entity, &[]).await), 403);
    assert_eq!(refused(senders.join_next().await.unwrap().unwrap()), 502);
    assert_eq!(refused(dial_address(&address, &[]).await), 403);
}

#[tokio::test]
async fn a_rejection_reaches_the_sender_and_is_a_success_for_the_listener() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for (parameters, status, text) in [
        ("sb-hc-statusCode=418&sb-hc-statusDescription=not%20today", 418, "not today. TrackingId:"),
        ("sb-hc-statusCode=503&sb-hc-statusDescription=come+back%0d%0aX:%20y", 503, "come backX: y. TrackingId:"),
        ("statusCode=403&statusDescription=no", 403, "no. TrackingId:"),
        ("sb-hc-statusCode=404", 404, "Not Found. TrackingId:"),
        ("sb-hc-statusCode=200&sb-hc-statusDescription=fine", 400, "fine. TrackingId:"),
    ] {
        let token = relay.send_token();
        let headers = [("ServiceBusAuthorization", token.as_str())];
        let (sender, listener) = tokio::join!(relay.raw("/$hc/e", &headers), async {
            let address = control.address().await;
            relay.raw(&format!("{}&{parameters}", target(&address)), &[]).await
        });
        assert_eq!((sender.status, listener.status), (status, 410), "{parameters}");
        assert!(sender.reason.starts_with(text), "{parameters}: {}", sender.reason);
    }
}

#[tokio::test]
async fn a_rejection_with_something_that_is_no_status_is_refused() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for code in ["abc", "99", "1000", ""] {
        let (sender, listener) = tokio::join!(relay.sender(""), async {
            let address = control.address().await;
            relay.raw(&format!("{}&sb-hc-statusCode={code}", target(&address)), &[]).await
        });
        assert_eq!((refused(sender), listener.status), (502, 400), "{code:?}");
    }
}

#[tokio::test]
async fn the_listeners_choice_of_subprotocol_is_everybodys() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let said = |answer: &Answer| {
        let line = answer.head.lines().find(|line| line.to_ascii_lowercase().starts_with("sec-websocket-protocol:"));
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
    };
    for (offered, chosen, expected) in
        [(Some("p1, p2"), Some("p2"), Some("p2")), (Some("p1, p2"), None, None), (None, None, None)]
    {
        let mut headers = vec![("ServiceBusAuthorization", token.as_str())];
        headers.extend(offered.map(|offered| ("Sec-WebSocket-Protocol", offered)));
        let (sender, listener) = tokio::join!(relay.raw("/$hc/e", &headers), async {
            let address = control.address().await;
            // `0` is what hyco-ws really sends.
            let mut headers = vec![("0", "Sec-WebSocket-Extensions: permessage-deflate")];
            headers.extend(chosen.map(|chosen| ("Sec-WebSocket-Protocol", chosen)));
            relay.raw(target(&address), &headers).await
        });
        assert_eq!((sender.status, listener.status), (101, 101));
        assert_eq!((said(&sender).as_deref(), said(&listener).as_deref()), (expected, expected), "{offered:?}");
    }
    for chosen in ["p3", "p1, p2"] {
        let headers = [("ServiceBusAuthorization", token.as_str()), ("Sec-WebSocket-Protocol", "p1, p2")];
        let (sender, listener) = tokio::join!(relay.raw("/$hc/e", &headers), async {
            let address = control.address().await;
            relay.raw(target(&address), &[("Sec-WebSocket-Protocol", chosen)]).await
        });
        assert_eq!((sender.status, listener.status), (502, 400), "{chosen}");
    }
}

#[tokio::test]
async fn no_extension_is_ever_agreed() {
    let relay = Relay::new().await;
    let token = relay.listen_token();
    let headers = [
        ("ServiceBusAuthorization", token.as_str()),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
    ];
    let answer = relay.raw("/$hc/e?sb-hc-action=listen", &headers).await;
    assert_eq!(answer.status, 101);
    assert!(!answer.head.to_ascii_lowercase().contains("extensions"), "{}", answer.head);
}

#[tokio::test]
async fn a_listener_that_does_not_accept_in_time_frees_its_sender() {
    let limits = "handshakes_per_address: 200, accept_timeout: 300ms";
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", limits)).await;
    let mut control = relay.listener().await;
    let (sender, address) = tokio::join!(relay.raw_sender(), control.address());
    assert_eq!(sender.status, 504);
    assert!(sender.reason.starts_with("None of the connected listeners accepted"), "{}", sender.reason);
    assert_eq!(refused(dial_address(&address, &[]).await), 403);
}

#[tokio::test]
async fn a_listener_that_goes_is_replaced_by_the_next_and_the_last_ones_going_is_told() {
    let relay = Relay::new().await;
    let mut first = relay.listener().await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    first.accept().await;
    let mut second = relay.listener().await;
    drop(first);
    let address = second.address().await;
    let accepted = dial_address(&address, &[]).await.unwrap();
    senders.join_next().await.unwrap().unwrap().unwrap();
    drop(accepted);

    senders.spawn(relay.sender(""));
    second.accept().await;
    drop(second);
    assert_eq!(refused(senders.join_next().await.unwrap().unwrap()), 502);
}

#[tokio::test]
async fn a_sender_that_goes_takes_its_offer_with_it() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let address = control.address().await;
    senders.shutdown().await;
    let waiting = || relay.context.status.status()()["relay"]["waiting_senders"] == 0;
    until("the offer is withdrawn", waiting).await;
    assert_eq!(refused(dial_address(&address, &[]).await), 403);
}

#[tokio::test]
async fn senders_spread_over_listeners() {
    let relay = Relay::new().await;
    let mut controls = [relay.listener().await, relay.listener().await];
    let mut counts = [0; 2];
    let mut kept = Vec::new();
    for _ in 0..60 {
        let [one, other] = &mut controls;
        let (sender, accepted) = tokio::join!(relay.sender(""), async {
            let (which, address) = tokio::select! {
                address = one.address() => (0, address),
                address = other.address() => (1, address),
            };
            counts[which] += 1;
            dial_address(&address, &[]).await.unwrap()
        });
        kept.push((sender.unwrap(), accepted));
    }
    // One listener gets all sixty once in 2^59 runs.
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test]
async fn a_renewed_clock_does_not_matter_to_who_is_joined() {
    let relay = Relay::new().await;
    let (mut sender, mut listener, _control) = relay.pair().await;
    relay.clock.advance(Duration::from_secs(48 * 3600));
    assert!(relay.clock.now() > std::time::SystemTime::now());
    sender.send(Message::text("x")).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap(), Message::text("x"));
}
