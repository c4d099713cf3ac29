//! Targets that cannot or must not be called.

use proto::tunnel::{
    failure::{Code, Reached},
    pb::HttpRequest,
};
use tokio::net::TcpListener;

use crate::support::{World, fetch, get, rules};

/// A gateway whose rule grants every name and address on one port, with these networks.
async fn failure(host: &str, networks: &str) -> (Code, Reached, String) {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rules = rules(closed).replace("hosts: [\"*.models.svc\"]", &format!("hosts: [\"**\", \"{host}\"]"));
    let networks = networks.replace("CLOSED", &closed.port().to_string());
    let world = World::start_with_networks(rules, &networks).await;
    let tunnel = world.held().await;
    let request = HttpRequest { host: host.to_owned(), ..get(closed, "/v1/x") };
    let failure = fetch(&tunnel, &world.token("alice"), request).await.unwrap_err();
    (failure.code, failure.reached, failure.message)
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named() {
    let (code, reached, message) = failure("nothing.invalid", "pods: 10.42.0.0/16").await;
    assert_eq!((code, reached), (Code::TargetUnresolved, Reached::No), "{message}");
    assert!(message.contains("nothing.invalid"), "{message}");
}

#[tokio::test]
async fn a_target_that_refuses_is_named() {
    let networks = "hosts: { a.models.svc: 127.0.0.1 }, exceptions: [\"127.0.0.1:CLOSED\"]";
    let (code, reached, message) = failure("a.models.svc", networks).await;
    assert_eq!((code, reached), (Code::TargetRefused, Reached::No), "{message}");
    assert!(message.contains("refused the connection"), "{message}");
}

#[tokio::test]
async fn addresses_that_are_never_called_are_refused_by_name_and_by_number() {
    for (host, networks, class) in [
        ("127.0.0.1", "pods: 127.0.0.0/8", "loopback"),
        ("::1", "pods: 10.42.0.0/16", "loopback"),
        ("::ffff:169.254.169.254", "pods: 0.0.0.0/0", "cloud metadata"),
        ("rebound.models.svc", "hosts: { rebound.models.svc: 169.254.169.254 }, pods: 0.0.0.0/0", "cloud metadata"),
        ("ours.models.svc", "hosts: { ours.models.svc: 10.42.0.9 }, pods: 10.42.0.0/16, own: [10.42.0.9]", "own"),
    ] {
        let (code, reached, message) = failure(host, networks).await;
        assert_eq!((code, reached), (Code::AddressRefused, Reached::No), "{host}: {message}");
        assert!(message.contains(class), "{host}: {message}");
    }
}

#[tokio::test]
async fn other_spellings_of_addresses_are_no_hosts() {
    for host in ["127.1", "2130706433", "0x7f000001", "017700000001"] {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let world = World::start_with_networks(rules(closed), "pods: 10.42.0.0/16").await;
        let tunnel = world.held().await;
        let request = HttpRequest { host: host.to_owned(), ..get(closed, "/v1/x") };
        let failure = fetch(&tunnel, &world.token("alice"), request).await.unwrap_err();
        assert_eq!(failure.code, Code::InvalidRequest, "{host}: {failure}");
    }
}
