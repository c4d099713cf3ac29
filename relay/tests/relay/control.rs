//! Control channels: what listeners may say, how long they may stay, and how they end.
use std::time::Duration;

use daemon::clock::Clock as _;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::support::{Control, LISTEN_KEY, Relay, until};

#[tokio::test]
async fn a_good_renewal_is_silent_and_a_bad_one_closes_1008() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.token_until("listen", LISTEN_KEY, "e", relay.clock.now() + Duration::from_secs(7200));
    control.renew(&token).await;
    control.is_alive(&relay).await;
    for bad in [relay.send_token(), relay.token("listen", LISTEN_KEY, "other"), "garbage".to_owned()] {
        let mut control = relay.listener().await;
        control.renew(&bad).await;
        let close = control.close().await.unwrap();
        assert_eq!(close.code, CloseCode::Policy, "{close}");
        assert!(close.reason.contains("TrackingId:listener-1"), "{close}");
    }
    control.is_alive(&relay).await;
}

#[tokio::test]
async fn a_token_that_runs_out_closes_1008_after_the_grace_and_a_renewed_one_does_not() {
    let relay = Relay::new().await;
    // `se` counts whole seconds; one second of grace is left on one channel, and the other renews.
    let nearly_over = relay.clock.now() - Duration::from_secs(298);
    let token = relay.token_until("listen", LISTEN_KEY, "e", nearly_over);
    let mut dying =
        Control(relay.dial("/$hc/e?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await.unwrap());
    let mut renewing =
        Control(relay.dial("/$hc/e?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await.unwrap());
    let fresh = relay.listen_token();
    renewing.renew(&fresh).await;
    let close = dying.close().await.unwrap();
    assert_eq!(close.code, CloseCode::Policy);
    assert!(close.reason.starts_with("ExpiredToken"), "{close}");
    renewing.is_alive(&relay).await;
}

#[tokio::test]
async fn what_sdks_say_beside_the_protocol_is_taken() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for text in
        [r#"{"injectFault":{"delay":1}}"#, "{}", r#"{"response":{"requestId":"late","statusCode":"200","body":true}}"#]
    {
        control.send_text(text).await;
    }
    for message in
        [Message::binary(b"the late body".to_vec()), Message::binary(Vec::new()), Message::Pong(Vec::new().into())]
    {
        control.0.send(message).await.unwrap();
    }
    control.0.send(Message::Ping(b"p".to_vec().into())).await.unwrap();
    assert_eq!(control.0.next().await.unwrap().unwrap(), Message::Pong(b"p".to_vec().into()));
    control.is_alive(&relay).await;
}

#[tokio::test]
async fn a_quiet_listener_is_pinged_and_given_up_when_it_does_not_answer() {
    let relay = Relay::new().await;
    let mut answering = relay.listener_as("answering").await;
    let _silent = relay.listener_as("silent").await;
    until("both are registered", || relay.events("listener_connected").len() == 2).await;
    // From here on time passes when nobody has anything to do.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    // Reading is what answers a Ping here; the other one reads nothing.
    for _ in 0..4 {
        let said = answering.0.next().await.unwrap().unwrap();
        assert!(matches!(said, Message::Ping(_)), "{said:?}");
    }
    let passed = began.elapsed();
    assert!((Duration::from_secs(100)..Duration::from_secs(105)).contains(&passed), "one every 25 s: {passed:?}");
    let gone = relay.events("listener_disconnected");
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!((&gone[0]["listener"], &gone[0]["reason"]), (&"silent".into(), &"silent".into()));
    tokio::time::resume();
    answering.is_alive(&relay).await;
}

#[tokio::test]
async fn what_is_against_the_protocol_is_named_and_ends_the_channel() {
    let relay = Relay::new().await;
    for (what, message, code) in [
        ("not JSON", Message::text("hello"), CloseCode::Protocol),
        ("unannounced body", Message::binary(b"x".to_vec()), CloseCode::Protocol),
        ("too large", Message::binary(vec![0; 65_537]), CloseCode::Size),
    ] {
        let mut control = relay.listener().await;
        control.0.send(message).await.unwrap();
        assert_eq!(control.close().await.unwrap().code, code, "{what}");
    }
}

#[tokio::test]
async fn a_listeners_close_is_answered() {
    let relay = Relay::new().await;
    for frame in [Some(CloseFrame { code: CloseCode::Normal, reason: "bye".into() }), None] {
        let mut control = relay.listener().await;
        control.0.close(frame.clone()).await.unwrap();
        let answer = control.close().await;
        assert_eq!(answer.map(|frame| frame.code), frame.map(|frame| frame.code));
        assert!(control.0.next().await.is_none());
    }
}

#[tokio::test]
async fn a_draining_relay_closes_1001_and_takes_nobody() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let pending = relay.sender("");
    let (sender, _) = tokio::join!(pending, async {
        control.accept().await;
        relay.context.shutdown.begin();
    });
    assert_eq!(crate::support::refused(sender), 503);
    let close = control.close().await.unwrap();
    assert_eq!(close.code, CloseCode::Away, "{close}");
    drop(control);
    let outcome = relay.context.shutdown.run(Duration::from_secs(10)).await;
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}

#[tokio::test]
async fn metrics_count_by_configured_names() {
    let relay = Relay::new().await;
    let (mut sender, mut listener, _control) = relay.pair().await;
    sender.send(Message::binary(vec![0; 1000])).await.unwrap();
    listener.next().await.unwrap().unwrap();
    relay.raw("/$hc/made-up-by-a-peer", &[]).await;
    let text = relay.context.metrics.encode();
    for line in [
        "causeway_relay_active_listeners{entity=\"e\"} 1",
        "causeway_relay_active_senders{entity=\"e\"} 1",
        "causeway_relay_payload_bytes_total{entity=\"e\",direction=\"to_listener\"} 1000",
        "causeway_relay_refusals_total{entity=\"\",code=\"token_missing\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("made-up"));
}
