//! Who is allowed no longer: by the deny file, by a certificate's revocation, by a renewed proof that says less, by time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use daemon::clock::Manual;
use identity::{ca::Authority, tls::cluster::ClientCertificate};
use proto::tunnel::{
    client::Client,
    failure::{Code, Failure},
    pb::ForwardResponse,
    receive::Receiver,
};
use serde_json::json;
use tokio::time::timeout;

use crate::support::{
    AUDIENCE, Beside, ISSUER, PATIENCE, Setup, World, actor, fetch, get, leaf, logs::Lines, open_http, post, receive,
    rules, subject, targets::Target,
};

const NOBODY: &str = "subjects: []";

/// A gateway with a deny file.
async fn world(target: &Target, rules: String) -> World {
    let setup = Setup { rules, targets: &[("scorer.models.svc", target.address)], more: "deny: deny.yaml" };
    World::start_beside(setup, Beside { files: &[("deny.yaml", NOBODY)], ..Beside::default() }).await
}

/// A stream that is in full swing.
struct Running {
    _sender: proto::tunnel::client::Sender,
    receiver: Receiver<ForwardResponse>,
}

impl Running {
    async fn start(tunnel: &Client, target: &Target, metadata: http::HeaderMap) -> Self {
        let (mut sender, mut receiver) =
            tunnel.forward(metadata, open_http(post(target.address, "/v1/echo"))).await.unwrap();
        sender.data(Bytes::from_static(b"a")).await.unwrap();
        // The answer's head: the target has the request.
        timeout(PATIENCE, receiver.next()).await.expect("an answer comes").unwrap().unwrap();
        Self { _sender: sender, receiver }
    }

    async fn ended(mut self) -> Failure {
        timeout(PATIENCE, receive(&mut self.receiver)).await.expect("the stream ends").unwrap_err()
    }
}

#[tokio::test]
async fn the_deny_file_ends_the_streams_of_whom_it_names_at_once_and_no_others() {
    let target = Target::http().await;
    let both = rules(target.address).replace("subjects: [alice]", "subjects: [alice, bob]");
    let world = world(&target, both).await;
    let tunnel = world.held().await;
    let with_id = |name: &str, id: &str| world.token_with(name, 600, json!({ "jti": id }));
    let (one, two) = (with_id("alice", "t-1"), with_id("alice", "t-2"));
    let first = Running::start(&tunnel, &target, subject(&one)).await;
    let second = Running::start(&tunnel, &target, subject(&two)).await;
    let bobs = Running::start(&tunnel, &target, subject(&with_id("bob", "t-3"))).await;

    world.write("deny.yaml", "jti: [t-1]");
    let failure = first.ended().await;
    assert_eq!(failure.code, Code::TokenRefused);
    assert!(failure.message.contains("a token that is on the cluster owner's deny list (jti)"), "{failure}");
    assert_eq!(fetch(&tunnel, &one, get(target.address, "/v1/x")).await.unwrap_err().code, Code::TokenRefused);
    fetch(&tunnel, &two, get(target.address, "/v1/x")).await.expect("another token of the same person is good");

    world.write("deny.yaml", "subjects: [corp/alice]");
    let failure = second.ended().await;
    assert_eq!(failure.code, Code::PolicyDenied, "{failure}");

    world.write("deny.yaml", "kid: [k1]");
    assert_eq!(bobs.ended().await.code, Code::TokenRefused);
}

#[tokio::test]
async fn a_tunnel_whose_actor_is_denied_is_ended() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = world(&target, rules(target.address)).await;
    let tunnel = world.held().await;
    let running = Running::start(&tunnel, &target, subject(&world.token("alice"))).await;
    world.write("deny.yaml", "subjects: [corp/connector]");
    let failure = running.ended().await;
    assert!(failure.message.contains("the actor is on the cluster owner's deny list"), "{failure}");
    timeout(PATIENCE, tunnel.closed()).await.expect("the tunnel ends");
    let ended = lines.access("tunnel")[0]["ended"].clone();
    assert_eq!(ended, "corp/connector is on the cluster owner's deny list");
    let again = world.tunnel().await;
    assert_eq!(again.describe(actor(&world.token("connector"))).await.unwrap_err().code, Code::PolicyDenied);
}

#[tokio::test]
async fn a_broken_deny_file_leaves_the_old_list_in_force_and_names_line_and_key() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = world(&target, rules(target.address)).await;
    let tunnel = world.held().await;
    world.write("deny.yaml", "subjects: [corp/alice]");
    let token = world.token("alice");
    let ask = || fetch(&tunnel, &token, get(target.address, "/v1/x"));
    while ask().await.is_ok() {}
    world.write("deny.yaml", "jti: [a]\nsubjects:\n  - corp/bob\n  - alice\n");
    lines.wait_for("the changed deny file cannot be used").await;
    let text = lines.text();
    assert!(text.contains("deny.yaml:4:") && text.contains("subjects[1]"), "{text}");
    assert_eq!(ask().await.unwrap_err().code, Code::PolicyDenied);
    std::fs::remove_file(world.path("deny.yaml")).unwrap();
    lines.wait_for("the deny file is not there").await;
    assert_eq!(ask().await.unwrap_err().code, Code::PolicyDenied);
    // The policy is followed beside it.
    world.write_policy("rules: []");
    lines.wait_for("grant removed").await;
}

#[tokio::test]
async fn an_actor_renewed_with_fewer_groups_loses_its_streams() {
    let target = Target::http().await;
    let rules = format!(
        "{}  - name: by-group
    who: {{ actor: {{ authenticator: corp, groups: [operators] }} }}
    http: {{ hosts: [scorer.models.svc], ports: [{}] }}
",
        rules(target.address),
        target.address.port()
    );
    let world = world(&target, rules).await;
    let tunnel = world.tunnel().await;
    let token = |groups: &[&str]| world.token_with("connector", 600, json!({ "groups": groups }));
    tunnel.describe(actor(&token(&["operators", "others"]))).await.unwrap();
    let by_group = Running::start(&tunnel, &target, http::HeaderMap::new()).await;
    let bobs = Running::start(&tunnel, &target, subject(&world.token("bob"))).await;
    let alices = Running::start(&tunnel, &target, subject(&world.token("alice"))).await;
    tunnel.describe(actor(&token(&["others"]))).await.unwrap();
    for running in [by_group, bobs] {
        let failure = running.ended().await;
        assert_eq!(failure.code, Code::PolicyDenied);
        assert!(failure.message.starts_with("the tunnel's actor was renewed: no rule for"), "{failure}");
    }
    let Running { _sender: mut sender, mut receiver } = alices;
    sender.fin(proto::tunnel::pb::Fin::default()).await.unwrap();
    receive(&mut receiver).await.expect("a stream that rests on another rule goes on");
}

#[tokio::test]
async fn a_tunnel_whose_proofs_have_all_ended_is_ended() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let clock = Arc::new(Manual::new(SystemTime::now()));
    let setup = Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "limits: { max_after_expiry: 10m }",
    };
    let world = World::start_beside(setup, Beside { clock: Some(clock.clone()), ..Beside::default() }).await;
    let tunnel = world.held().await;
    // The token lives ten minutes, and streams may outlive it by ten more.
    clock.advance(Duration::from_secs(19 * 60));
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(tunnel.is_open(), "its streams may still be there");
    clock.advance(Duration::from_secs(2 * 60));
    tunnel.closed().await;
    assert_eq!(lines.access("tunnel")[0]["ended"], "the proofs of everybody who used it have ended");
}

#[tokio::test]
async fn one_cluster_s_token_is_no_other_s_though_both_name_one_issuer() {
    let target = Target::http().await;
    let theirs = identity::jwt::Signer::generate("k1");
    let authenticators =
        format!("  other: {{ issuer: \"{ISSUER}\", audience: \"{AUDIENCE}\", jwks: {{ file: other.json }} }}");
    let setup = Setup { rules: rules(target.address), targets: &[("scorer.models.svc", target.address)], more: "" };
    let jwks = theirs.jwks();
    let beside = Beside { files: &[("other.json", &jwks)], authenticators: &authenticators, ..Beside::default() };
    let world = World::start_beside(setup, beside).await;
    let tunnel = world.held().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 600 });
    // Same issuer, same audience, same subject, even the same name of the key: the key itself decides.
    let failure = fetch(&tunnel, &theirs.sign(&claims), get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied);
    assert!(failure.message.contains("no rule for other/alice (through corp/connector)"), "{failure}");
    fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
    assert_eq!(target.count(), 1);
}

#[tokio::test]
async fn keys_that_disappear_are_believed_for_a_day_and_no_longer() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let clock = Arc::new(Manual::new(SystemTime::now()));
    let setup = Setup { rules: rules(target.address), targets: &[("scorer.models.svc", target.address)], more: "" };
    let world = World::start_beside(setup, Beside { clock: Some(clock.clone()), ..Beside::default() }).await;
    std::fs::remove_file(world.path("jwks.json")).unwrap();
    lines.wait_for("key set not refreshed; the last good one stays for now").await;
    let tunnel = world.held().await;
    fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
    clock.advance(Duration::from_secs(25 * 3600));
    // The next look at the file that is not there.
    std::fs::write(world.path("jwks.json"), "{}").unwrap();
    lines.wait_for("keys dropped: not confirmed for a day").await;
    let fresh = world.token_for("alice", 30 * 3600);
    let failure = fetch(&world.tunnel().await, &fresh, get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!(failure.code, Code::TokenRefused);
    assert!(failure.message.contains("keys of the issuer"), "{failure}");
}

/// A revocation list of `authority` with the certificates of these leaves.
fn revocations(authority: &Authority, leaves: &[&ClientCertificate]) -> String {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let now = time::OffsetDateTime::now_utc();
    let revoked = |leaf: &&ClientCertificate| {
        let der = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        rcgen::RevokedCertParams {
            serial_number: parsed.raw_serial().to_vec().into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }
    };
    let params = rcgen::CertificateRevocationListParams {
        this_update: now - time::Duration::days(1),
        next_update: now + time::Duration::days(1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: leaves.iter().map(revoked).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let key = rcgen::KeyPair::from_pem(authority.key.expose()).unwrap();
    params.signed_by(&rcgen::Issuer::from_ca_cert_pem(&authority.certificate, key).unwrap()).unwrap().pem().unwrap()
}

const MTLS: &str = "rules: [{ name: connectors, who: { authenticator: mtls, subjects: [\"*\"] }, describe: {} }]";

#[tokio::test]
async fn a_revoked_certificate_ends_its_tunnels_and_opens_no_new_one() {
    let (lines, _guard) = Lines::catch();
    let authority = Authority::generate("clients", Duration::from_secs(3600)).unwrap();
    let (one, two) = (leaf(&authority, "spiffe://corp/one"), leaf(&authority, "spiffe://corp/two"));
    let nobody = revocations(&authority, &[]);
    let beside = Beside {
        files: &[("clients.pem", &authority.certificate), ("revoked.pem", &nobody)],
        listen: ", client_ca: clients.pem, client_crl: revoked.pem",
        ..Beside::default()
    };
    let world = World::start_beside(Setup { rules: MTLS.to_owned(), targets: &[], more: "" }, beside).await;
    let (ones, twos) = (world.tunnel_showing(Some(&one)).await, world.tunnel_showing(Some(&two)).await);
    for (tunnel, name) in [(&ones, "mtls/spiffe://corp/one"), (&twos, "mtls/spiffe://corp/two")] {
        assert_eq!(tunnel.describe(http::HeaderMap::new()).await.unwrap().actor, name);
    }
    world.write("revoked.pem", "-----BEGIN X509 CRL-----\nnonsense");
    lines.wait_for("the revocation list of client certificates is not well-formed PEM").await;
    twos.describe(http::HeaderMap::new()).await.expect("a broken list changes nothing");

    world.write("revoked.pem", &revocations(&authority, &[&one]));
    timeout(PATIENCE, ones.closed()).await.expect("the tunnel of the revoked certificate ends");
    assert_eq!(lines.access("tunnel")[0]["ended"], "its client certificate is vouched for no longer");
    twos.describe(http::HeaderMap::new()).await.expect("the other one goes on");
    let again = world.try_tunnel_showing(Some(&one)).await;
    let refused = match again {
        Err(_) => true,
        // A client of TLS 1.3 may think that it is through before the gateway has looked at its certificate.
        Ok(tunnel) => tunnel.describe(http::HeaderMap::new()).await.is_err(),
    };
    assert!(refused);
    assert!(lines.text().contains("\"ended\":\"tls\""), "{}", lines.text());
}

#[tokio::test]
async fn the_deny_file_knows_certificates_by_their_serial_numbers() {
    let authority = Authority::generate("clients", Duration::from_secs(3600)).unwrap();
    let (one, two) = (leaf(&authority, "spiffe://corp/one"), leaf(&authority, "spiffe://corp/two"));
    let beside = Beside {
        files: &[("clients.pem", &authority.certificate), ("deny.yaml", NOBODY)],
        listen: ", client_ca: clients.pem",
        ..Beside::default()
    };
    let setup = Setup { rules: MTLS.to_owned(), targets: &[], more: "deny: deny.yaml" };
    let world = World::start_beside(setup, beside).await;
    let (ones, twos) = (world.tunnel_showing(Some(&one)).await, world.tunnel_showing(Some(&two)).await);
    ones.describe(http::HeaderMap::new()).await.unwrap();
    let serial = {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let der = CertificateDer::from_pem_slice(one.certificate.as_bytes()).unwrap();
        // As openssl shows it.
        x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial_as_string().to_uppercase()
    };
    world.write("deny.yaml", &format!("serials: [\"{serial}\"]"));
    timeout(PATIENCE, ones.closed()).await.expect("the tunnel ends");
    twos.describe(http::HeaderMap::new()).await.expect("the other one goes on");
}
