//! Somebody who holds a Listen key that is not theirs.
use crate::{
    events::{listen_from, listener_from},
    support::{Relay, refused, until},
};

#[tokio::test]
async fn whoever_fills_all_places_with_a_stolen_key_does_not_lock_the_real_listener_out() {
    let relay = Relay::new().await;
    let mut thieves = Vec::new();
    for _ in 0..3 {
        thieves.push(listener_from(&relay, "127.66.6.6").await);
    }
    let mut real = listener_from(&relay, "127.0.0.1").await;
    let close = thieves.pop().unwrap().close().await.unwrap();
    assert_eq!(u16::from(close.code), 1008);
    assert!(close.reason.starts_with("MaximumListenersPerEndpoint"), "{}", close.reason);
    until("it is told", || relay.events("listener_disconnected").len() == 1).await;
    let displaced = relay.events("listener_displaced").pop().unwrap();
    for (field, value) in [("entity", "e"), ("address", "127.66.6.6"), ("by", "127.0.0.1")] {
        assert_eq!(displaced[field], value, "{displaced:?}");
    }
    let gone = relay.events("listener_disconnected").pop().unwrap();
    assert_eq!((&gone["reason"], &gone["fault"]), (&"displaced".into(), &"none".into()));
    // The thief does not get it back, and the real one works.
    assert_eq!(refused(listen_from(&relay, "127.66.6.6").await), 403);
    drop(thieves);
    until("the thief has left", || relay.events("listener_disconnected").len() == 3).await;
    real.is_alive(&relay).await;
}
