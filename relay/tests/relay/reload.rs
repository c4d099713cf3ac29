//! Changes of relay.yaml, of the folder of entities and of keys, while everybody is connected.
use std::time::Duration;

use daemon::clock::Clock as _;
use futures_util::{SinkExt as _, StreamExt as _};
use identity::jwt::Signer;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::support::{
    Control, LISTEN_KEY, NAMESPACE_KEY, Relay, SECOND_KEY, SEND_KEY, Socket, closed, config, dial_address, refused,
    until,
};

const LISTEN: &str = "/$hc/e?sb-hc-action=listen";
const CONNECT: &str = "/$hc/e?sb-hc-action=connect";

fn text() -> String {
    config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 200")
}

/// relay.yaml without the entity `e`.
fn without_e() -> String {
    let text = text();
    let (before, rest) = text.split_once("  e:\n").unwrap();
    format!("{before}{}", &rest[rest.find("  other:\n").unwrap()..])
}

/// relay.yaml with something changed in `e`, which comes first.
fn with(old: &str, new: &str) -> String {
    assert!(text().contains(old), "{old}");
    text().replacen(old, new, 1)
}

/// relay.yaml with more keys of `e`.
fn with_e(keys: &str) -> String {
    with("  e:\n", &format!("  e:\n    {keys}\n"))
}

async fn change(relay: &Relay, text: &str) {
    relay.reload(|| relay.put("relay.yaml", text)).await;
}

fn assert_closed(frame: Option<CloseFrame>, code: u16, reason: &str) {
    let frame = frame.expect("a close with a code");
    assert_eq!(u16::from(frame.code), code, "{frame}");
    assert!(frame.reason.starts_with(reason), "{frame}");
}

async fn echo(sender: &mut Socket, listener: &mut Socket) {
    sender.send(Message::text("ping")).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap(), Message::text("ping"));
    listener.send(Message::text("pong")).await.unwrap();
    assert_eq!(sender.next().await.unwrap().unwrap(), Message::text("pong"));
}

/// A listener with another token than the usual one.
async fn listener(relay: &Relay, token: &str) -> Control {
    Control(relay.dial(LISTEN, &[("ServiceBusAuthorization", token)]).await.unwrap())
}

/// A sender with this token, joined with the one listener.
async fn joined(relay: &Relay, control: &mut Control, token: &str) -> (Socket, Socket) {
    let headers = [("ServiceBusAuthorization", token)];
    let (sender, accepted) = tokio::join!(relay.dial(CONNECT, &headers), async {
        let address = control.address().await;
        dial_address(&address, &[]).await
    });
    (sender.unwrap(), accepted.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_and_a_splice_under_load_survive_unrelated_reloads_byte_for_byte() {
    let relay = Relay::new().await;
    let (sender, accepted, mut control) = relay.pair().await;
    let (mut sink, mut back) = sender.split();
    let (mut answer, mut source) = accepted.split();
    let stop = tokio_util::sync::CancellationToken::new();
    let pump = async {
        let mut sent = 0_u32;
        while !stop.is_cancelled() {
            let bytes: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(31) ^ sent) as u8).collect();
            sink.send(Message::binary(bytes)).await.unwrap();
            sent += 1;
        }
        sink.send(Message::text("end")).await.unwrap();
        sent
    };
    let mirror = async {
        loop {
            let message = source.next().await.unwrap().unwrap();
            let is_end = message.is_text();
            answer.send(message).await.unwrap();
            if is_end {
                return;
            }
        }
    };
    let check = async {
        let mut received = 0_u32;
        loop {
            match back.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => {
                    let right = (0..4096_u32).map(|at| (at.wrapping_mul(31) ^ received) as u8);
                    assert!(bytes.iter().copied().eq(right), "message {received}");
                    received += 1;
                }
                _ => return received,
            }
        }
    };
    let reloads = async {
        for round in 0..5 {
            let limits = with("listeners: 3", &format!("listeners: {}", round + 1));
            change(&relay, &limits.replacen("entities:\n", &format!("entities:\n  new-{round}: {{}}\n"), 1)).await;
        }
        stop.cancel();
    };
    let (sent, (), received, ()) = tokio::join!(pump, mirror, check, reloads);
    assert_eq!(sent, received);
    assert!(sent > 0);
    control.is_alive(&relay).await;
}

#[tokio::test]
async fn an_entity_that_is_removed_closes_everything_in_it_with_1001_and_nothing_else() {
    let relay = Relay::new().await;
    let token = relay.token("listen", SECOND_KEY, "other");
    let other = relay.dial("/$hc/other?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await.unwrap();
    let mut other = Control(other);
    let (mut sender, mut accepted, mut control) = relay.pair().await;
    let waiting = relay.sender("");
    let (waiting, ()) = tokio::join!(waiting, async {
        control.accept().await;
        change(&relay, &without_e()).await;
    });
    assert_eq!(refused(waiting), 404, "who waits is told like anybody who asks now");
    for socket in [&mut sender, &mut accepted, &mut control.0] {
        assert_closed(closed(socket).await, 1001, "EntityRemoved: the endpoint was removed or disabled. TrackingId:");
    }
    assert_eq!(relay.raw(LISTEN, &[("ServiceBusAuthorization", &relay.listen_token())]).await.status, 401);
    let namespace = relay.token("all", NAMESPACE_KEY, "");
    assert_eq!(relay.raw(LISTEN, &[("ServiceBusAuthorization", &namespace)]).await.status, 404);
    other.0.send(Message::Ping(b"p".to_vec().into())).await.unwrap();
    assert_eq!(other.0.next().await.unwrap().unwrap(), Message::Pong(b"p".to_vec().into()), "another one goes on");
    // It may come back, as if it had never been there.
    change(&relay, &text()).await;
    relay.listener().await.is_alive(&relay).await;
}

#[tokio::test]
async fn an_entity_that_is_disabled_closes_everything_and_is_403_until_it_is_enabled() {
    let relay = Relay::new().await;
    let (mut sender, mut accepted, mut control) = relay.pair().await;
    change(&relay, &with_e("enabled: false")).await;
    for socket in [&mut sender, &mut accepted, &mut control.0] {
        assert_closed(closed(socket).await, 1001, "EntityRemoved");
    }
    for (target, token) in [(LISTEN, relay.listen_token()), (CONNECT, relay.send_token())] {
        let answer = relay.raw(target, &[("ServiceBusAuthorization", &token)]).await;
        assert_eq!(answer.status, 403, "never 404, which would stop a listener for good");
        assert!(answer.reason.starts_with("EntityDisabled: "), "{}", answer.reason);
        assert_eq!(relay.raw(target, &[("ServiceBusAuthorization", "bad")]).await.status, 401, "only its own learn it");
    }
    change(&relay, &text()).await;
    relay.listener().await.is_alive(&relay).await;
}

#[tokio::test]
async fn whoever_is_not_entitled_any_more_is_dropped_with_1008_and_the_others_stay() {
    let rule = "listen: { rights: [listen], keys: [{ file: listen.key }] }";
    for (what, changed, reason) in [
        ("rule removed", with(rule, ""), "InvalidSignature"),
        ("rule renamed", with(rule, &rule.replacen("listen:", "renamed:", 1)), "InvalidSignature"),
        ("key exchanged", with(rule, &rule.replace("listen.key", "second.key")), "InvalidSignature"),
        ("right taken", with(rule, &rule.replace("[listen]", "[send]")), "The token does not have the right"),
        ("address pinned", with_e("listeners_from: 192.0.2.0/24"), "AddressNotAllowed"),
    ] {
        let relay = Relay::new().await;
        let mut control = relay.listener().await;
        change(&relay, &changed).await;
        assert_closed(control.close().await, 1008, reason);
        let answer = relay.raw(LISTEN, &[("ServiceBusAuthorization", &relay.listen_token())]).await;
        assert!(answer.reason.starts_with(reason), "{what}: a new one is told the same: {}", answer.reason);
        if what != "address pinned" {
            let token = relay.token("all", NAMESPACE_KEY, "");
            let mut other = listener(&relay, &token).await;
            change(&relay, &text()).await;
            other.is_alive(&relay).await;
        }
    }
}

#[tokio::test]
async fn a_key_that_becomes_the_secondary_drops_nobody_and_one_that_goes_drops_its_holders_alone() {
    let relay = Relay::new().await;
    let rule = "listen: { rights: [listen], keys: [{ file: listen.key }] }";
    let keys = |keys: &str| with(rule, &format!("listen: {{ rights: [listen], keys: [{keys}] }}"));
    let mut old = relay.listener().await;
    relay.put("third.key", "dGhpcmQta2V5LW9mLWF0LWxlYXN0LTEyOC1iaXRzLS0=");
    change(&relay, &keys("{ file: third.key }, { file: listen.key }")).await;
    old.is_alive(&relay).await;
    let mut new = listener(&relay, &relay.token("listen", "dGhpcmQta2V5LW9mLWF0LWxlYXN0LTEyOC1iaXRzLS0=", "e")).await;
    // The same name, another key in the file: what counts is the key.
    relay.reload(|| relay.put("listen.key", SECOND_KEY)).await;
    assert_closed(old.close().await, 1008, "InvalidSignature");
    new.is_alive(&relay).await;
}

#[tokio::test]
async fn a_sender_whose_rule_is_gone_loses_its_splice_and_its_place_in_the_queue() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let namespace = relay.token("all", NAMESPACE_KEY, "");
    let (mut kept, mut kept_accepted) = joined(&relay, &mut control, &namespace).await;
    let (mut lost, mut lost_accepted) = joined(&relay, &mut control, &relay.send_token()).await;
    let gone = with("send: { rights: [send], keys: [{ file: send.key }, { file: second.key }] }", "");
    let (waiting, ()) = tokio::join!(relay.sender(""), async {
        control.accept().await;
        change(&relay, &gone).await;
    });
    assert_eq!(refused(waiting), 401);
    for socket in [&mut lost, &mut lost_accepted] {
        assert_closed(closed(socket).await, 1008, "InvalidSignature");
    }
    echo(&mut kept, &mut kept_accepted).await;
}

#[tokio::test]
async fn what_a_listener_accepted_ends_with_its_right_to_listen_though_its_channel_is_gone() {
    let relay = Relay::new().await;
    let (mut sender, mut accepted, mut control) = relay.pair().await;
    control.0.close(None).await.unwrap();
    control.close().await;
    echo(&mut sender, &mut accepted).await;
    let gone = with("listen: { rights: [listen], keys: [{ file: listen.key }] }", "");
    change(&relay, &gone).await;
    for socket in [&mut sender, &mut accepted] {
        assert_closed(closed(socket).await, 1008, "InvalidSignature");
    }
}

#[tokio::test]
async fn senders_without_a_token_are_dropped_when_one_is_asked_for() {
    let relay = Relay::with(&with_e("anonymous_senders: true")).await;
    let mut control = relay.listener().await;
    let (mut bare, mut bare_accepted) = joined(&relay, &mut control, "garbage, and not looked at").await;
    change(&relay, &text()).await;
    for socket in [&mut bare, &mut bare_accepted] {
        assert_closed(closed(socket).await, 1008, "MissingToken");
    }
    control.is_alive(&relay).await;
}

#[tokio::test]
async fn a_token_stays_the_relays_although_none_is_asked_for_any_more() {
    let relay = Relay::with(&text()).await;
    let mut controls = [relay.listener().await, relay.listener().await];
    let token = relay.send_token();
    let fields = [("Authorization", token.as_str())];
    let sender = relay.dial(CONNECT, &fields);
    let asked = async {
        let [one, other] = &mut controls;
        let (accept, first) = tokio::select! {
            accept = one.accept() => (accept, 0),
            accept = other.accept() => (accept, 1),
        };
        assert!(accept["connectHeaders"].get("Authorization").is_none(), "{accept}");
        change(&relay, &with_e("anonymous_senders: true")).await;
        // It leaves, so the other one is asked.
        controls[first].0.close(None).await.unwrap();
        let accept = controls[1 - first].accept().await;
        assert!(accept["connectHeaders"].get("Authorization").is_none(), "{accept}");
        dial_address(accept["address"].as_str().unwrap(), &[]).await.unwrap()
    };
    let (sender, _accepted) = tokio::join!(sender, asked);
    sender.unwrap();
}

#[tokio::test]
async fn a_channel_may_be_renewed_by_any_other_holder_of_the_right() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    control.renew(&relay.token("all", NAMESPACE_KEY, "e")).await;
    // From now on it stands by the other rule.
    control.is_alive(&relay).await;
    change(&relay, &with("listen: { rights: [listen], keys: [{ file: listen.key }] }", "")).await;
    control.is_alive(&relay).await;
    control.renew(&relay.token("all", SEND_KEY, "e")).await;
    assert_closed(control.close().await, 1008, "InvalidSignature");
}

#[tokio::test]
async fn a_splice_outlives_the_tokens_of_both_its_ends() {
    let relay = Relay::new().await;
    let soon = relay.clock.now() - Duration::from_secs(298);
    let mut control = listener(&relay, &relay.token_until("listen", LISTEN_KEY, "e", soon)).await;
    let (mut sender, mut accepted) =
        joined(&relay, &mut control, &relay.token_until("send", SEND_KEY, "e", soon)).await;
    assert_closed(control.close().await, 1008, "ExpiredToken");
    relay.clock.advance(Duration::from_secs(3600));
    echo(&mut sender, &mut accepted).await;
    // A reload asks for rule, key and right, and not for the time.
    change(&relay, &with("entities:\n", "entities:\n  more: {}\n")).await;
    echo(&mut sender, &mut accepted).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_used_changes_nothing_and_is_told_once() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let broken = with_e("enbaled: false");
    let problem = relay.refuse(|| relay.put("relay.yaml", &broken)).await;
    let line = broken.lines().position(|line| line.contains("enbaled")).unwrap() + 1;
    assert!(
        problem.contains(&format!("relay.yaml:{line}:5: entities.e.enbaled: unknown key; did you mean `enabled`?")),
        "{problem}"
    );
    for (what, change, says) in [
        ("no key", with("listen.key", "missing.key"), "entities.e.rules.listen.keys[0]: secret { file: missing.key }"),
        ("weak key", with("listen.key", "weak.key"), "entities.e.rules.listen.keys: key 1 holds fewer than 128 bits"),
        ("no YAML", "{".to_owned(), "relay.yaml:1:"),
        ("nothing", String::new(), "listen: this key is missing"),
    ] {
        relay.put("weak.key", "short");
        let problem = relay.refuse(|| relay.put("relay.yaml", &change)).await;
        assert!(problem.contains(says), "{what}: {problem}");
    }
    control.is_alive(&relay).await;
    relay.put("relay.yaml", &text());
    until("the old file is as good as before", || relay.configuration()["refused"].is_null()).await;
    assert_eq!(relay.configuration()["generation"], 1);
    control.is_alive(&relay).await;
    let events: Vec<_> = relay.context.events.recent();
    let refusals = events.iter().filter(|event| event.kind == "config_refused").count();
    assert_eq!(refusals, 5, "each once: {events:?}");
}

#[tokio::test]
async fn a_key_that_was_missing_is_taken_over_when_it_comes() {
    let relay = Relay::new().await;
    relay.refuse(|| relay.put("relay.yaml", &with("{ file: listen.key }", "{ file: late.key }"))).await;
    relay.reload(|| relay.put("late.key", SECOND_KEY)).await;
    listener(&relay, &relay.token("listen", SECOND_KEY, "e")).await.is_alive(&relay).await;
}

fn entity_file(name: &str) -> String {
    format!(
        "{name}rules:
  listen: {{ rights: [listen], keys: [{{ file: ../listen.key }}] }}
  send: {{ rights: [send], keys: [{{ file: ../send.key }}] }}
"
    )
}

async fn listens(relay: &Relay, path: &str) -> u16 {
    let token = relay.token("listen", LISTEN_KEY, path);
    relay.raw(&format!("/$hc/{path}?sb-hc-action=listen"), &[("ServiceBusAuthorization", &token)]).await.status
}

#[tokio::test]
async fn a_folder_of_entities_is_served_and_followed() {
    let folder = Relay::folder();
    let entities = folder.path().join("entities.d");
    std::fs::create_dir(&entities).unwrap();
    std::fs::write(entities.join("first.yaml"), entity_file("")).unwrap();
    std::fs::write(entities.join("arc.yml"), entity_file("name: microsoft.hybridcompute/machines/1\n")).unwrap();
    for passed_over in [".hidden.yaml", "README.md", "old.yaml~"] {
        std::fs::write(entities.join(passed_over), "no entity: [").unwrap();
    }
    let relay = Relay::again(folder, &format!("entities_from: entities.d\n{}", text())).await;
    assert_eq!(listens(&relay, "first").await, 101);
    assert_eq!(listens(&relay, "microsoft.hybridcompute/machines/1").await, 101);
    assert_eq!(listens(&relay, "e").await, 101, "those of relay.yaml, too");
    assert_eq!(listens(&relay, "second").await, 401);

    relay.reload(|| relay.put("entities.d/second.yaml", &entity_file(""))).await;
    assert_eq!(listens(&relay, "second").await, 101);
    relay.reload(|| relay.put("entities.d/second.yaml", &entity_file("enabled: false\n"))).await;
    assert_eq!(listens(&relay, "second").await, 403);
    relay.reload(|| std::fs::remove_file(entities.join("second.yaml")).unwrap()).await;
    assert_eq!(listens(&relay, "second").await, 401);
    let told: Vec<_> = relay
        .context
        .events
        .recent()
        .iter()
        .map(|event| (event.kind, event.fields["entity"].clone()))
        .filter(|(kind, _)| kind.starts_with("entity_"))
        .collect();
    assert_eq!(
        told,
        [("entity_added", json!("second")), ("entity_changed", json!("second")), ("entity_removed", json!("second"))]
    );
}

#[tokio::test]
async fn what_is_wrong_in_the_folder_is_refused_with_the_file() {
    let folder = Relay::folder();
    let entities = folder.path().join("entities.d");
    std::fs::create_dir(&entities).unwrap();
    std::fs::write(entities.join("a.yaml"), entity_file("")).unwrap();
    let relay = Relay::again(folder, &format!("entities_from: entities.d\n{}", text())).await;
    for (file, content, says) in [
        ("b.yaml", entity_file("name: A\n"), vec!["b.yaml: name: `A` is there twice", "here, and in ", "a.yaml"]),
        ("E.yaml", entity_file(""), vec!["E.yaml: name: `E` is there twice", "relay.yaml: entities.e"]),
        ("c.yaml", entity_file("name: c/../d\n"), vec!["c.yaml:1:", "name: is no name"]),
        ("c d.yaml", entity_file(""), vec!["c d.yaml: name: is missing, and `c d`, as the file is called, is no name"]),
        ("c.yaml", entity_file("kind: websockets\n"), vec!["c.yaml:1:7: kind: `websockets` is not known here"]),
        (
            "c.yaml",
            entity_file("").replace("../send.key", "send.key"),
            vec!["c.yaml: rules.send.keys[0]: secret", "entities.d/send.key"],
        ),
        (
            "c.yaml",
            entity_file("grants: [{ who: { authenticator: x, roles: [r] }, rights: [send] }]\n"),
            vec!["c.yaml: grants[0].who.authenticator: names none"],
        ),
        ("c.yaml", String::new(), vec!["c.yaml: : the file is empty"]),
    ] {
        let problem = relay.refuse(|| relay.put(&format!("entities.d/{file}"), &content)).await;
        for part in says {
            assert!(problem.contains(part), "`{part}` is not in: {problem}");
        }
        assert_eq!(listens(&relay, "a").await, 101);
        std::fs::remove_file(entities.join(file)).unwrap();
        until("it is good again", || relay.configuration()["refused"].is_null()).await;
    }
    std::fs::rename(&entities, relay.folder.path().join("elsewhere")).unwrap();
    until("the folder is missed", || !relay.configuration()["refused"].is_null()).await;
    let problem = relay.configuration()["refused"].as_str().unwrap().to_owned();
    assert!(
        problem.contains("relay.yaml: entities_from: the folder") && problem.contains("entities.d cannot be read"),
        "{problem}"
    );
}

#[tokio::test]
async fn what_needs_a_restart_says_so_and_the_rest_is_taken_over() {
    let relay = Relay::new().await;
    let text = text().replace("127.0.0.1:0", "127.0.0.1:9").replace("handshakes_per_address: 200", "rendezvous: 7");
    change(&relay, &format!("tokens: {{ max_life: 1h }}\n{text}")).await;
    assert_eq!(relay.configuration()["needs_restart"], json!(["listen", "limits"]));
    let token = relay.token_until("listen", LISTEN_KEY, "e", relay.clock.now() + Duration::from_secs(7200));
    let answer = relay.raw(LISTEN, &[("ServiceBusAuthorization", &token)]).await;
    assert!(answer.reason.starts_with("InvalidLifetime: "), "{}", answer.reason);
    change(&relay, &self::text()).await;
    assert_eq!(relay.configuration()["needs_restart"], json!([]));
}

#[tokio::test]
async fn changed_limits_count_at_once_and_drop_nobody() {
    let relay = Relay::new().await;
    let mut first = relay.listener().await;
    let mut second = relay.listener().await;
    change(&relay, &with("{ listeners: 3, senders: 100 }", "{ listeners: 1, senders: 100 }")).await;
    let answer = relay.raw(LISTEN, &[("ServiceBusAuthorization", &relay.listen_token())]).await;
    assert_eq!(answer.status, 403, "{}", answer.reason);
    for control in [&mut first, &mut second] {
        control.0.send(Message::Ping(b"p".to_vec().into())).await.unwrap();
        assert_eq!(control.0.next().await.unwrap().unwrap(), Message::Pong(b"p".to_vec().into()));
    }
    change(&relay, &text()).await;
    assert_eq!(relay.raw(LISTEN, &[("ServiceBusAuthorization", &relay.listen_token())]).await.status, 101);
}

#[tokio::test]
async fn a_holder_of_a_jwt_is_dropped_with_its_grant_or_authenticator_and_not_with_a_key_of_its_issuer() {
    let signer = Signer::generate("k1");
    let folder = Relay::folder();
    std::fs::write(folder.path().join("keys.json"), signer.jwks()).unwrap();
    let text = |audience: &str, subjects: &str| {
        let entity = with_e(&format!(
            "grants: [{{ who: {{ authenticator: corp, subjects: [{subjects}] }}, rights: [listen] }}]"
        ));
        format!(
            "authenticators: {{ corp: {{ issuer: https://i, audience: {audience}, jwks: {{ file: keys.json }} }} }}\n{entity}"
        )
    };
    let relay = Relay::again(folder, &text("relay", "alice, bob")).await;
    let token = |subject: &str, audience: &str| {
        signer.sign(&json!({ "iss": "https://i", "aud": audience, "sub": subject, "exp": relay_time(&relay) + 3600 }))
    };
    let mut alice = listener(&relay, token("alice", "relay").expose()).await;
    let mut bob = listener(&relay, token("bob", "relay").expose()).await;
    // Another key set: who was verified stays, and new tokens of the old key are refused.
    relay.put("keys.json", &Signer::generate("k2").jwks());
    crate::support::until_async("the old key counts no more", async || {
        let token = token("alice", "relay");
        relay.raw(LISTEN, &[("ServiceBusAuthorization", token.expose())]).await.status == 401
    })
    .await;
    alice.0.send(Message::Ping(b"p".to_vec().into())).await.unwrap();
    assert_eq!(alice.0.next().await.unwrap().unwrap(), Message::Pong(b"p".to_vec().into()));
    relay.put("keys.json", &signer.jwks());
    change(&relay, &text("relay", "bob")).await;
    assert_closed(alice.close().await, 1008, "The token does not have the right");
    bob.is_alive(&relay).await;
    change(&relay, &text("another", "bob")).await;
    assert_closed(bob.close().await, 1008, "InvalidSignature");
    listener(&relay, token("bob", "another").expose()).await.is_alive(&relay).await;
}

fn relay_time(relay: &Relay) -> u64 {
    relay.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
