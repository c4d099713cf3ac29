//! Every limit at its edge, and what whoever meets one is told.
use tokio::task::JoinSet;

use crate::support::{Answer, Control, LISTEN_KEY, Relay, config, dial, until_async};

/// What a refusal for want of room says: status, name of the limit, its value, what there is, and when to come again.
async fn refusal(answer: Answer) -> (u16, String, u64, u64, u64) {
    let status = answer.status;
    let header =
        answer.head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("retry-after: ")?.parse().ok());
    let body: serde_json::Value = serde_json::from_slice(&answer.rest().await).unwrap();
    let limit = &body["limit"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let again = number(&body["retry_after_s"]);
    assert_eq!(header, Some(again), "header and body say the same");
    assert!(again >= 1, "nobody is invited to spin");
    (status, limit["name"].as_str().unwrap().to_owned(), number(&limit["value"]), number(&limit["current"]), again)
}

async fn with_limits(of_all: &str, of_e: &str) -> Relay {
    let text = config("{ address: 127.0.0.1:0 }", of_all).replace("{ listeners: 3, senders: 100 }", of_e);
    Relay::with(&text).await
}

#[tokio::test]
async fn listeners_beyond_the_limit_are_refused_until_one_goes() {
    let relay = with_limits("", "{ listeners: 3 }").await;
    let token = relay.listen_token();
    let headers = [("ServiceBusAuthorization", token.as_str())];
    let mut kept: Vec<Control> = Vec::new();
    for _ in 0..3 {
        kept.push(relay.listener().await);
    }
    let answer = relay.raw("/$hc/e?sb-hc-action=listen", &headers).await;
    assert!(answer.reason.starts_with("MaximumListenersPerEndpoint"), "{}", answer.reason);
    assert_eq!(refusal(answer).await, (403, "limits.listeners".into(), 3, 3, 30));
    kept.pop();
    until_async("room for another listener", async || {
        relay.raw("/$hc/e?sb-hc-action=listen", &headers).await.status == 101
    })
    .await;
}

#[tokio::test]
async fn senders_beyond_the_limit_are_refused_with_a_hint() {
    let relay = with_limits("", "{ senders: 1 }").await;
    let (_sender, _listener, _control) = relay.pair().await;
    let answer = relay.raw_sender().await;
    assert!(answer.reason.starts_with("MaximumSendersPerEndpoint"), "{}", answer.reason);
    assert_eq!(refusal(answer).await, (503, "limits.senders".into(), 1, 1, 5));
}

#[tokio::test]
async fn requests_beyond_the_rate_are_refused_and_told_when_the_next_may_come() {
    let relay = with_limits("", "{ requests_per_second: 1 }").await;
    // One is due and one saved up, and nobody listens.
    assert_eq!((relay.raw_sender().await.status, relay.raw_sender().await.status), (404, 404));
    let answer = loop {
        let answer = relay.raw_sender().await;
        if answer.status != 404 {
            break answer;
        }
    };
    assert!(answer.reason.starts_with("MaximumRequestsPerSecond"), "{}", answer.reason);
    let (status, limit, value, _, again) = refusal(answer).await;
    assert_eq!((status, limit.as_str(), value, again), (429, "limits.requests_per_second", 1, 1));
    // Other hybrid connections have rates of their own.
    assert_eq!(relay.raw("/$hc/open", &[]).await.status, 404);
}

#[tokio::test]
async fn connections_of_one_address_beyond_the_limit_are_refused_by_name() {
    let relay = with_limits("connections_per_address: 3", "{}").await;
    let (sender, _listener, mut control) = relay.pair().await;
    // One listener, one sender, one rendezvous.
    let answer = relay.raw_sender().await;
    assert!(answer.reason.starts_with("MaximumConnectionsPerAddress"), "{}", answer.reason);
    assert_eq!(refusal(answer).await, (503, "limits.connections_per_address".into(), 3, 4, 30));
    let token = relay.listen_token();
    let listener = relay.raw("/$hc/e?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await;
    assert_eq!(refusal(listener).await.1, "limits.connections_per_address");
    drop((sender, _listener));
    // The rendezvous of a sender that was let in is never refused, so two more are.
    let both = async {
        loop {
            match relay.sender("").await {
                Ok(sender) => return sender,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let (_sender, accepted) =
        tokio::join!(both, async { crate::support::dial_address(&control.address().await, &[]).await });
    accepted.unwrap();
}

#[tokio::test]
async fn one_hybrid_connection_leaves_a_quarter_of_all_waiting_places_to_others() {
    let relay = with_limits("rendezvous: 8", "{}").await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    for _ in 0..6 {
        senders.spawn(relay.sender(""));
        control.accept().await;
    }
    let answer = relay.raw_sender().await;
    assert!(answer.reason.starts_with("Too many senders are waiting"), "{}", answer.reason);
    assert_eq!(refusal(answer).await, (503, "limits.rendezvous".into(), 2, 6, 5));
    let token = relay.token("listen", LISTEN_KEY, "open");
    let target = "/$hc/open?sb-hc-action=listen";
    let mut other = Control(relay.dial(target, &[("ServiceBusAuthorization", &token)]).await.unwrap());
    let address = relay.address;
    senders.spawn(async move { dial(address, "/$hc/open", &[]).await });
    other.accept().await;
}

#[tokio::test]
async fn a_site_that_comes_back_all_at_once_behind_one_address_is_served_whole() {
    // More than are served at a time, fewer than may wait.
    let relay = with_limits("handshakes_per_address: 2", "{ listeners: 100 }").await;
    let mut listeners = JoinSet::new();
    let (address, token) = (relay.address, relay.listen_token());
    for number in 0..60 {
        let token = token.clone();
        listeners.spawn(async move {
            let target = format!("/$hc/e?sb-hc-action=listen&sb-hc-id=l{number}");
            dial(address, &target, &[("ServiceBusAuthorization", &token)]).await
        });
    }
    while let Some(listener) = listeners.join_next().await {
        listener.unwrap().unwrap();
    }
}
