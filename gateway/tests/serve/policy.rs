//! The policy, asked through a tunnel.

use proto::tunnel::{
    failure::{Code, Reached},
    pb::HttpRequest,
};

use crate::support::{World, fetch, get, rules, targets::Target};

#[tokio::test]
async fn what_no_rule_grants_is_denied_with_the_nearest_rule_before_anything_is_contacted() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let port = target.address.port();
    let deny = |subject: &'static str, request: HttpRequest| {
        let (tunnel, token) = (tunnel.clone(), world.token(subject));
        async move { fetch(&tunnel, &token, request).await.unwrap_err() }
    };
    let failure = deny("bob", get(target.address, "/v1/x")).await;
    assert_eq!((failure.code, failure.reached), (Code::PolicyDenied, Reached::No));
    assert_eq!(
        failure.message,
        format!(
            "no rule for corp/bob (through corp/connector) GET scorer.models.svc:{port} /v1/x; \
             nearest: rule \"scoring\" lacks this subject"
        )
    );
    assert!(deny("alice", get(target.address, "/v2/x")).await.message.contains("lacks this path"));
    let delete = HttpRequest { method: "DELETE".to_owned(), ..get(target.address, "/v1/x") };
    assert!(deny("alice", delete).await.message.contains("lacks this method"));
    let failure = deny("alice", get(target.address, "/v1/../admin")).await;
    assert_eq!((failure.code, failure.reached), (Code::AmbiguousPath, Reached::No));
    assert_eq!(target.count(), 0);
}

#[tokio::test]
async fn a_target_outside_of_the_cluster_needs_an_external_rule() {
    let target = Target::http().await;
    // An address of the documentation range, outside of every cluster.
    let networks = "hosts: { outside.models.svc: 203.0.113.7 }, pods: 10.42.0.0/16";
    let world = World::start_with_networks(rules(target.address), networks).await;
    let request = HttpRequest { host: "outside.models.svc".to_owned(), ..get(target.address, "/v1/x") };
    let failure = fetch(&world.held().await, &world.token("alice"), request).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::PolicyDenied, Reached::No));
    assert!(failure.message.contains("lacks `external: true`"), "{failure}");
}
