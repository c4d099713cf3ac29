//! Rendezvous addresses in the wrong hands: guessed, replayed, too late.
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Relay, config, dial_address, refused};

#[tokio::test]
async fn a_thousand_guesses_find_nothing_and_spend_nothing() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let address = control.address().await;
    let (front, secret) = address.rsplit_once('=').unwrap();
    assert_eq!(secret.len(), 22, "128 bits");
    let mut guesses = JoinSet::new();
    for number in 0..1000_u32 {
        // Near misses among them: only the last two characters differ.
        let guess = format!("{front}={}{:02x}", &secret[..20], number % 256);
        if guess != address {
            guesses.spawn(async move { refused(dial_address(&guess, &[]).await) });
        }
        if guesses.len() >= 50 {
            assert_eq!(guesses.join_next().await.unwrap().unwrap(), 403);
        }
    }
    while let Some(status) = guesses.join_next().await {
        assert_eq!(status.unwrap(), 403);
    }
    let mut accepted = dial_address(&address, &[]).await.unwrap();
    let mut sender = senders.join_next().await.unwrap().unwrap().unwrap();
    sender.send(Message::text("still mine")).await.unwrap();
    assert_eq!(accepted.next().await.unwrap().unwrap(), Message::text("still mine"));
}

#[tokio::test]
async fn an_address_is_worth_nothing_once_its_sender_waits_no_more() {
    let limits = "handshakes_per_address: 200, accept_timeout: 200ms";
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", limits)).await;
    let mut control = relay.listener().await;
    let (sender, address) = tokio::join!(relay.sender(""), control.address());
    assert_eq!(refused(sender), 504);
    assert_eq!(refused(dial_address(&address, &[]).await), 403);
    // Rejecting by it, or asking for a request by it, is no different.
    for more in ["&sb-hc-statusCode=200", "&sb-hc-action=request"] {
        assert_eq!(refused(dial_address(&format!("{address}{more}"), &[]).await), 403, "{more}");
    }
}

#[tokio::test]
async fn a_replayed_address_reaches_nobody_while_its_pair_goes_on() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let (sender, (address, accepted)) = tokio::join!(relay.sender(""), async {
        let address = control.address().await;
        let accepted = dial_address(&address, &[]).await.unwrap();
        (address, accepted)
    });
    let (mut sender, mut accepted) = (sender.unwrap(), accepted);
    let mut replays = JoinSet::new();
    for _ in 0..20 {
        let address = address.clone();
        replays.spawn(async move { refused(dial_address(&address, &[]).await) });
    }
    while let Some(status) = replays.join_next().await {
        assert_eq!(status.unwrap(), 403);
    }
    sender.send(Message::text("undisturbed")).await.unwrap();
    assert_eq!(accepted.next().await.unwrap().unwrap(), Message::text("undisturbed"));
}

#[tokio::test]
async fn of_two_dials_at_once_one_is_taken() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    for _ in 0..10 {
        let (sender, outcomes) = tokio::join!(relay.sender(""), async {
            let address = control.address().await;
            tokio::join!(dial_address(&address, &[]), dial_address(&address, &[]))
        });
        sender.unwrap();
        let taken = [outcomes.0.is_ok(), outcomes.1.is_ok()];
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");
    }
}
