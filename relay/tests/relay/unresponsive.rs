//! Listeners that are there and do not answer.
use tokio::task::JoinSet;

use crate::support::{Control, Relay, config, dial_address, refused, until};

/// A listener has a sixth of the accept window for itself.
async fn relay(window: &str) -> Relay {
    let limits = format!("handshakes_per_address: 200, accept_timeout: {window}");
    Relay::with(&config("{ address: 127.0.0.1:0 }", &limits)).await
}

/// A sender that `answering` takes; others may be asked, too.
async fn taken(relay: &Relay, answering: &mut Control) {
    let (sender, accepted) = tokio::join!(relay.sender(""), async {
        let address = answering.address().await;
        dial_address(&address, &[]).await
    });
    sender.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn a_listener_that_never_answers_fails_no_sender_while_another_is_there() {
    let relay = relay("6s").await;
    let _silent = relay.listener_as("silent").await;
    let mut answering = relay.listener_as("answering").await;
    // One in two asks the silent one first; after three of those it is passed over.
    while relay.shown_listener("silent")["failed"] != 3 {
        taken(&relay, &mut answering).await;
    }
    assert_eq!(relay.shown_listener("silent")["answers"], false);
    let event = relay.events("listener_unresponsive").pop().unwrap();
    assert_eq!((&event["entity"], &event["listener"]), (&"e".into(), &"silent".into()));
    for _ in 0..10 {
        taken(&relay, &mut answering).await;
    }
    let shown = relay.shown_listener("silent");
    assert_eq!((&shown["given"], &shown["failed"]), (&3.into(), &3.into()));
    assert_eq!(relay.shown_listener("answering")["failed"], 0);
    let metrics = relay.context.metrics.encode();
    assert!(metrics.contains("causeway_relay_unanswered_total{entity=\"e\"} 3\n"), "{metrics}");
}

#[tokio::test]
async fn a_listener_that_never_answers_costs_a_sender_no_more_than_the_window() {
    let relay = relay("1500ms").await;
    let mut silent = relay.listener_as("silent").await;
    for _ in 0..4 {
        let (sender, _) = tokio::join!(relay.sender(""), silent.accept());
        // Unresponsive or not: with nobody else there, it is asked.
        assert_eq!(refused(sender), 504);
    }
    assert_eq!(relay.events("listener_unresponsive").len(), 1);
    taken(&relay, &mut silent).await;
    assert_eq!(relay.events("listener_responsive").len(), 1);
    assert_eq!(relay.shown_listener("silent")["answers"], true);
}

#[tokio::test]
async fn the_first_that_dials_back_wins_and_the_other_finds_its_address_spent() {
    let relay = relay("6s").await;
    let (mut one, mut other) = (relay.listener_as("one").await, relay.listener_as("other").await);
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let (first, second) = tokio::join!(one.address(), other.address());
    let accepted = dial_address(&first, &[]).await.unwrap();
    senders.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(refused(dial_address(&second, &[]).await), 403);
    drop(accepted);
}

#[tokio::test]
async fn a_listener_that_spends_its_address_on_something_else_fails_no_sender_while_another_is_there() {
    let relay = relay("6s").await;
    let (mut thief, mut honest) = (relay.listener_as("thief").await, relay.listener_as("honest").await);
    while relay.shown_listener("thief")["failed"] == 0 {
        let (sender, ()) = tokio::join!(relay.sender(""), async {
            tokio::select! {
                address = thief.address() => {
                    let wrong = address.replace("/$hc/e?", "/$hc/other?");
                    assert_eq!(refused(dial_address(&wrong, &[]).await), 403);
                    dial_address(&honest.address().await, &[]).await.unwrap();
                }
                address = honest.address() => drop(dial_address(&address, &[]).await.unwrap()),
            }
        });
        sender.unwrap();
    }
}

#[tokio::test]
async fn a_sender_that_leaves_early_says_nothing_against_its_listener() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for _ in 0..5 {
        let mut senders = JoinSet::new();
        senders.spawn(relay.sender(""));
        control.accept().await;
        senders.shutdown().await;
    }
    let waiting = || relay.context.status.status()()["relay"]["waiting_senders"] == 0;
    until("the senders are gone", waiting).await;
    let shown = relay.shown_listener("listener-1");
    assert_eq!((&shown["given"], &shown["failed"], &shown["answers"]), (&5.into(), &0.into(), &true.into()));
}
