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

/// What a file has that says this of entity `e`, or of the whole relay.
fn parsed(of_e: &str, of_all: &str) -> Result<(), String> {
    let text =
        format!("listen: [{{ address: 127.0.0.1:0 }}]\nnamespace: ns\n{of_all}\nentities: {{ e: {{ {of_e} }} }}\n");
    let parsed = daemon::config::parse::<relay::serve::Config>(&text, std::path::Path::new("relay.yaml"));
    parsed.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_file_holds_as_many_rules_grants_authenticators_and_letters_as_it_may_and_no_more() {
    let list = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(", ");
    let rule = |number: usize| format!("r{number}: {{ rights: [send], keys: [{{ file: k }}] }}");
    let rules = |count| format!("rules: {{ {} }}", list(count, &rule));
    let authenticator = |number: usize| format!("a{number}: {{ issuer: https://a, audience: x, jwks: {{ file: k }} }}");
    let authenticators = |count| format!("authenticators: {{ {} }}", list(count, &authenticator));
    let grant = |_| "{ who: { authenticator: a0, subjects: [s] }, rights: [send] }".to_owned();
    let grants = |count| format!("grants: [{}]", list(count, &grant));
    let name = |length| format!("entities: {{ {}: {{}} }}", "n".repeat(length));
    let named = |text: &str| {
        let text = format!("listen: [{{ address: 127.0.0.1:0 }}]\nnamespace: ns\n{text}\n");
        let parsed = daemon::config::parse::<relay::serve::Config>(&text, std::path::Path::new("relay.yaml"));
        parsed.map(drop).map_err(|error| error.to_string())
    };
    for (largest, too_large, words) in [
        (parsed(&rules(12), ""), parsed(&rules(13), ""), "entities.e.rules: has 13 rules; 12 is the limit"),
        (parsed("", &rules(12)), parsed("", &rules(13)), "rules: has 13 rules; 12 is the limit"),
        (parsed("", &authenticators(16)), parsed("", &authenticators(17)), "authenticators; 16 is the limit"),
        (
            parsed(&grants(256), &authenticators(1)),
            parsed(&grants(257), &authenticators(1)),
            "entities.e.grants: has 257 grants; 256 is the limit",
        ),
        (named(&name(260)), named(&name(261)), "at most 260 characters"),
    ] {
        assert_eq!(largest, Ok(()));
        let error = too_large.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_relay_serves_ten_thousand_hybrid_connections_and_no_more() {
    let start = async |count: usize| {
        let folder = Relay::folder();
        let entities: String = (0..count).map(|number| format!("  e{number}: {{}}\n")).collect();
        let file = folder.path().join("relay.yaml");
        let text = format!("listen: [{{ address: 127.0.0.1:0 }}]\nnamespace: ns\nentities:\n{entities}");
        std::fs::write(&file, text).unwrap();
        let context = daemon::process::Context::new("causeway_relay");
        relay::serve::start(daemon::config::load(&file, &[]).unwrap(), context).await.map(drop)
    };
    start(10_000).await.unwrap();
    let error = start(10_001).await.unwrap_err();
    let text = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(text.contains("more than 10000"), "{error}: {text}");
}

#[test]
fn a_namespace_is_a_host_name_and_nothing_that_would_mean_more_where_it_is_repeated() {
    let parse = |namespace: &str| {
        let text = config("{ address: 127.0.0.1:0 }", "");
        let text = text.replace("namespace: 127.0.0.1", &format!("namespace: {namespace:?}"));
        daemon::config::parse::<relay::serve::Config>(&text, std::path::Path::new("relay.yaml"))
    };
    for good in ["relay.example.com", "my_relay-2", "203.0.113.9"] {
        assert!(parse(good).is_ok(), "{good}");
    }
    for bad in ["", "a:443", "https://a", "u@a", "a b", "a\r\nX: y", "<a>", "a&b", "ä"] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(error.contains("namespace: is a host name alone"), "{bad}: {error}");
    }
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
