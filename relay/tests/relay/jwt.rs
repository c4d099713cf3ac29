//! Callers with a JWT: who vouches for them, what a grant gives, and what the others are told.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daemon::clock::Clock as _;
use identity::jwt::Signer;
use serde_json::{Value, json};

use crate::support::{Control, Relay, SEND_KEY, config, refused};

const LISTEN: &str = "/$hc/e?sb-hc-action=listen";
const CONNECT: &str = "/$hc/e?sb-hc-action=connect";
const ISSUER: &str = "https://login.example.com/tenant/v2.0";
const CLUSTER: &str = "https://kubernetes.default.svc";

/// A relay with two authenticators, and who may sign for them.
struct World {
    relay: Relay,
    entra: Signer,
    cluster: Signer,
}

impl World {
    /// With grants on the entity `e`, and for the namespace.
    async fn new(entity: &str, namespace: &str) -> Self {
        let (entra, cluster) = (Signer::generate("entra-1"), Signer::generate("cluster-1"));
        let folder = Relay::folder();
        std::fs::write(folder.path().join("entra.json"), entra.jwks()).unwrap();
        std::fs::write(folder.path().join("cluster.json"), cluster.jwks()).unwrap();
        let text = config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 200").replacen(
            "  e:\n",
            &format!("  e:\n    grants: [{entity}]\n"),
            1,
        );
        let text = format!(
            "authenticators:
  entra: {{ issuer: \"{ISSUER}\", audience: https://relay.azure.net, jwks: {{ file: entra.json }}, subject: oid }}
  cluster: {{ issuer: \"{CLUSTER}\", audience: relay.example.com, jwks: {{ file: cluster.json }} }}
grants: [{namespace}]
{text}"
        );
        Self { relay: Relay::again(folder, &text).await, entra, cluster }
    }

    /// As Entra writes it, with some claims changed.
    fn token(&self, claims: Value) -> String {
        let now = seconds(self.relay.clock.now());
        let mut all = json!({ "iss": ISSUER, "aud": "https://relay.azure.net/", "oid": "alice", "exp": now + 3600 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.entra.sign(&all).expose().to_owned()
    }

    fn service_account(&self, subject: &str) -> String {
        let now = seconds(self.relay.clock.now());
        let claims = json!({ "iss": CLUSTER, "aud": ["relay.example.com"], "sub": subject, "exp": now + 3600 });
        self.cluster.sign(&claims).expose().to_owned()
    }

    async fn answered(&self, target: &str, token: &str) -> (u16, String) {
        let answer = self.relay.raw(target, &[("ServiceBusAuthorization", token)]).await;
        (answer.status, answer.reason.split(". TrackingId").next().unwrap().to_owned())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

const ALICE_LISTENS: &str = "{ who: { authenticator: entra, subjects: [alice] }, rights: [listen] }";

#[tokio::test]
async fn a_raw_jwt_is_accepted_in_every_carrier_with_and_without_bearer() {
    let world = World::new(ALICE_LISTENS, "").await;
    for audience in ["https://relay.azure.net", "https://relay.azure.net/", "https://relay.azure.net//"] {
        let token = world.token(json!({ "aud": audience }));
        for token in [token.clone(), format!("Bearer {token}"), format!("bearer {token}")] {
            for header in ["ServiceBusAuthorization", "Authorization"] {
                let answer = world.relay.raw(LISTEN, &[(header, &token)]).await;
                assert_eq!(answer.status, 101, "{audience} in {header}: {}", answer.reason);
            }
            let encoded = token.replace(' ', "%20");
            let answer = world.relay.raw(&format!("{LISTEN}&sb-hc-token={encoded}"), &[]).await;
            assert_eq!(answer.status, 101, "{audience} in the query: {}", answer.reason);
        }
    }
}

#[tokio::test]
async fn a_jwt_renews_a_channel_and_one_without_the_right_closes_it_1008() {
    let world = World::new(ALICE_LISTENS, "").await;
    let token = world.token(json!({}));
    let mut control = Control(world.relay.dial(LISTEN, &[("ServiceBusAuthorization", &token)]).await.unwrap());
    control.renew(&format!("Bearer {}", world.token(json!({})))).await;
    control.renew(&world.relay.listen_token()).await;
    control.is_alive(&world.relay).await;
    control.renew(&world.token(json!({ "oid": "bob" }))).await;
    let close = control.close().await.unwrap();
    assert_eq!(u16::from(close.code), 1008);
    assert!(close.reason.starts_with("The token does not have the right"), "{close}");
}

#[tokio::test]
async fn a_grant_means_those_of_whom_everything_it_names_is_true() {
    for (grant, claims, listens) in [
        ("subjects: [alice, bob]", json!({}), true),
        ("subjects: [bob]", json!({}), false),
        ("subjects: [Alice]", json!({}), false),
        ("subjects: [\"*\"]", json!({ "oid": "anybody" }), true),
        ("roles: [Listener]", json!({ "roles": ["Reader", "Listener"] }), true),
        ("roles: [Listener]", json!({ "groups": ["Listener"] }), false),
        ("roles: [Listener]", json!({}), false),
        ("scopes: [Relay.Listen]", json!({ "scp": "other Relay.Listen" }), true),
        ("scopes: [Relay.Listen]", json!({ "scp": "Relay.Listener" }), false),
        ("subjects: [alice], roles: [Listener]", json!({ "roles": ["Listener"] }), true),
        ("subjects: [alice], roles: [Listener]", json!({}), false),
        ("subjects: [bob], roles: [Listener]", json!({ "roles": ["Listener"] }), false),
    ] {
        let grant = format!("{{ who: {{ authenticator: entra, {grant} }}, rights: [listen] }}");
        let world = World::new(&grant, "").await;
        let (status, reason) = world.answered(LISTEN, &world.token(claims.clone())).await;
        assert_eq!(status, if listens { 101 } else { 403 }, "{grant} and {claims}: {reason}");
    }
}

#[tokio::test]
async fn a_service_account_listens_where_its_cluster_is_trusted_and_nowhere_else() {
    let subject = "system:serviceaccount:models:scorer";
    let grant = format!("{{ who: {{ authenticator: cluster, subjects: [\"{subject}\"] }}, rights: [listen] }}");
    let world = World::new(&grant, "").await;
    assert_eq!(world.answered(LISTEN, &world.service_account(subject)).await.0, 101);
    assert_eq!(world.answered(LISTEN, &world.service_account("system:serviceaccount:models:other")).await.0, 403);
    assert_eq!(world.answered(CONNECT, &world.service_account(subject)).await.0, 403, "listen is not send");
    let other = "/$hc/other?sb-hc-action=listen";
    assert_eq!(world.answered(other, &world.service_account(subject)).await.0, 403, "another entity");
    // The same subject from another issuer is somebody else: the key decides.
    assert_eq!(world.answered(LISTEN, &world.token(json!({ "oid": subject }))).await.0, 403);
    let forged = world.entra.sign(&json!({ "iss": CLUSTER, "aud": "relay.example.com", "sub": subject, "exp": 9e9 }));
    assert_eq!(world.answered(LISTEN, forged.expose()).await.0, 401);
}

#[tokio::test]
async fn manage_holds_the_other_rights() {
    let grant = "{ who: { authenticator: entra, subjects: [alice] }, rights: [manage] }";
    let world = World::new(grant, "").await;
    assert_eq!(world.answered(CONNECT, &world.token(json!({}))).await.0, 404, "nobody listens yet");
    assert_eq!(world.answered(LISTEN, &world.token(json!({}))).await.0, 101);
}

#[tokio::test]
async fn without_a_grant_an_entity_that_exists_cannot_be_told_from_one_that_does_not() {
    let world = World::new(ALICE_LISTENS, "").await;
    for target in ["listen", "connect"] {
        let known = world.answered(&format!("/$hc/other?sb-hc-action={target}"), &world.token(json!({}))).await;
        let unknown = world.answered(&format!("/$hc/nobody?sb-hc-action={target}"), &world.token(json!({}))).await;
        assert_eq!(known, unknown);
        assert_eq!(known.0, 403);
    }
    let world = World::new("", ALICE_LISTENS).await;
    let granted = world.token(json!({}));
    assert_eq!(world.answered(LISTEN, &granted).await.0, 101, "a grant for the namespace counts everywhere");
    assert_eq!(world.answered("/$hc/nobody?sb-hc-action=listen", &granted).await.0, 404);
}

#[tokio::test]
async fn every_bad_jwt_is_refused_with_its_reason() {
    let world = World::new(ALICE_LISTENS, "").await;
    let now = seconds(world.relay.clock.now());
    let stranger = Signer::generate("entra-1");
    let claims = json!({ "iss": ISSUER, "aud": "https://relay.azure.net", "oid": "alice", "exp": now + 60 });
    for (what, token, text) in [
        ("another key", stranger.sign(&claims).expose().to_owned(), "InvalidSignature: "),
        ("expired", world.token(json!({ "exp": now - 61 })), "ExpiredToken: "),
        ("another audience", world.token(json!({ "aud": "https://other" })), "InvalidAudience: "),
        ("another issuer", world.token(json!({ "iss": "https://other" })), "the token is from another issuer"),
        ("no subject", world.token(json!({ "oid": 1 })), "the claim that names the subject"),
        ("too long a life", world.token(json!({ "exp": now + 25 * 3600 })), "InvalidLifetime: "),
        ("no JWT at all", "a.b.c".to_owned(), "MalformedToken: "),
        ("two parts", "a.b".to_owned(), "MalformedToken: "),
        ("a SAS in disguise", format!("Bearer {}", world.relay.send_token()), "MalformedToken: "),
        ("too large", format!("a.{}.c", "x".repeat(12_000)), "MalformedToken: "),
    ] {
        let (status, reason) = world.answered(LISTEN, &token).await;
        assert_eq!(status, 401, "{what}: {reason}");
        assert!(reason.starts_with(text), "{what}: {reason}");
    }
    assert_eq!(world.answered(LISTEN, &world.token(json!({ "exp": now + 24 * 3600 }))).await.0, 101);
}

#[tokio::test]
async fn a_channel_lasts_until_its_jwt_ends_and_the_grace_after_it() {
    let world = World::new(ALICE_LISTENS, "").await;
    let now = seconds(world.relay.clock.now());
    // Accepted within the authenticator's leeway of a minute; four minutes of the grace are left.
    let token = world.token(json!({ "exp": now - 30 }));
    let mut control = Control(world.relay.dial(LISTEN, &[("ServiceBusAuthorization", &token)]).await.unwrap());
    control.is_alive(&world.relay).await;
    world.relay.clock.advance(Duration::from_secs(268));
    // Any message makes the channel look at the clock; what is left is less than two seconds then.
    control.send_text("{}").await;
    let close = control.close().await.unwrap();
    assert_eq!(u16::from(close.code), 1008);
    assert!(close.reason.starts_with("ExpiredToken"), "{close}");
}

#[tokio::test]
async fn the_token_in_authorization_is_spent_and_any_other_passes_to_the_listener() {
    let grant = "{ who: { authenticator: entra, subjects: [alice] }, rights: [send] }";
    let world = World::new(grant, "").await;
    let mut control = world.relay.listener().await;
    let token = format!("Bearer {}", world.token(json!({})));
    for (headers, passed) in [
        (vec![("Authorization", token.as_str())], None),
        (
            vec![("Authorization", "Bearer of.the.application"), ("ServiceBusAuthorization", &token)],
            Some("Bearer of.the.application"),
        ),
    ] {
        let sender = world.relay.dial(CONNECT, &headers);
        let (sender, accept) = tokio::join!(sender, async {
            let accept = control.accept().await;
            let address = format!("{}&sb-hc-statusCode=404", accept["address"].as_str().unwrap());
            assert_eq!(refused(crate::support::dial_address(&address, &[]).await), 410);
            accept
        });
        assert_eq!(refused(sender), 404);
        assert_eq!(accept["connectHeaders"]["Authorization"].as_str(), passed);
        assert!(accept["connectHeaders"].get("ServiceBusAuthorization").is_none());
    }
}

#[tokio::test]
async fn a_relay_without_authenticators_takes_no_jwt() {
    let relay = Relay::new().await;
    let signer = Signer::generate("k");
    let token = signer.sign(&json!({ "iss": ISSUER, "aud": "https://relay.azure.net", "oid": "alice", "exp": 9e9 }));
    let answer = relay.raw(LISTEN, &[("ServiceBusAuthorization", token.expose())]).await;
    assert_eq!(answer.status, 401);
    assert!(answer.reason.starts_with("MalformedToken: "), "{}", answer.reason);
    let sas = relay.token("send", SEND_KEY, "e");
    assert_eq!(relay.raw(CONNECT, &[("ServiceBusAuthorization", &sas)]).await.status, 404);
}

#[test]
fn grants_that_cannot_be_meant_are_refused_with_their_key() {
    let file = |who: &str, rights: &str| {
        format!(
            "listen: [{{ address: 127.0.0.1:0 }}]
namespace: ns
authenticators: {{ a: {{ issuer: https://a, audience: x, jwks: {{ file: k }} }} }}
entities: {{ e: {{ grants: [{{ who: {{ {who} }}, rights: [{rights}] }}] }} }}
"
        )
    };
    let parse = |text: &str| daemon::config::parse::<relay::serve::Config>(text, std::path::Path::new("relay.yaml"));
    assert!(parse(&file("authenticator: a, subjects: [s]", "listen")).is_ok());
    for (who, rights, key) in [
        ("authenticator: b, subjects: [s]", "listen", "entities.e.grants[0].who.authenticator: names none"),
        ("authenticator: a", "listen", "entities.e.grants[0].who: means nobody"),
        ("authenticator: a, subjects: [s, \"*\"]", "listen", "entities.e.grants[0].who.subjects: has `*`"),
        ("authenticator: a, subjects: [s]", "", "entities.e.grants[0].rights: is empty"),
        ("authenticator: a, groups: [s]", "listen", "entities.e.grants[0].who.groups: unknown key"),
    ] {
        let error = parse(&file(who, rights)).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
