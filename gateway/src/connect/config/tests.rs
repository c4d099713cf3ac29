//! The table of files that are refused, and why.
use std::path::Path;

use super::*;

/// A file that is accepted, with a cluster and a face to vary.
fn file(cluster: &str, faces: &str) -> String {
    format!(
        "clusters:\n  factory-a:\n    trust: {{ file: a.trust.yaml }}\n    token: {{ source: file, path: token }}\n{cluster}\n\
         faces:\n{faces}\n"
    )
}

const DIRECT: &str = "    ways: [{ direct: wss://gw.example.com }]";
const HTTP: &str = "  - { http: 127.0.0.1:8080, to: factory-a/scorer.models.svc:80 }";

fn parse(text: &str) -> Result<Config, String> {
    daemon::config::parse::<Config>(text, Path::new("connector.yaml")).map_err(|error| error.to_string())
}

#[test]
fn the_example_is_accepted_with_its_defaults() {
    let text = file(
        "    ways:\n      - direct: wss://gw.factory-a.example.com\n      - hybrid_connection: sb://relay.example.com/factory-a\n        \
         credential: { sas: { rule: factory-a-send, key: { file: fa-send } } }",
        "  - { http: 127.0.0.1:8080, to: factory-a/scorer.models.svc:80, as: caller }\n  - { tcp: 127.0.0.1:5432, to: factory-a/postgres.db.svc:5432, as: connector }",
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.clusters["factory-a"].tunnels, 2);
    assert!(config.trust.system);
}

#[test]
fn faces_speak_as_their_kind_does() {
    let config = parse(&file(
        DIRECT,
        "  - { http: 127.0.0.1:0, to: factory-a/a:80 }\n  - { tcp: 127.0.0.1:0, to: factory-a/b:80 }\n  - { http: 127.0.0.1:0, to: factory-a/c:80, as: connector }",
    ))
    .unwrap();
    let speaks: Vec<_> = config.faces.iter().map(FaceConfig::speaks).collect();
    assert_eq!(speaks, [Speaks::Caller, Speaks::Connector, Speaks::Connector]);
}

#[test]
fn less_than_two_streams_need_cannot_be_the_limit_of_what_is_held() {
    let with = |size: &str| parse(&format!("{}limits: {{ buffers: {size} }}\n", file(DIRECT, HTTP)));
    assert_eq!(with("8Mi").unwrap().limits.buffers.0, 8 << 20);
    let refused = with("8191Ki").unwrap_err();
    assert!(refused.contains("limits.buffers") && refused.contains("at least 8Mi"), "{refused}");
}

#[test]
fn what_cannot_work_is_refused_by_key() {
    let table: &[(&str, &str, &str)] = &[
        ("    ways: []", HTTP, "clusters.factory-a.ways"),
        ("    ways: [{ direct: \"https://gw\" }]", HTTP, "clusters.factory-a.ways[0].direct"),
        ("    ways: [{ direct: \"ws://gw.example.com\" }]", HTTP, "clusters.factory-a.ways[0].direct"),
        ("    ways: [{}]", HTTP, "clusters.factory-a.ways[0]"),
        ("    ways: [{ direct: \"wss://a\", hybrid_connection: \"sb://b/c\" }]", HTTP, "clusters.factory-a.ways[0]"),
        ("    ways: [{ hybrid_connection: \"sb://relay/a\" }]", HTTP, "clusters.factory-a.ways[0].credential"),
        ("    ways: [{ direct: \"wss://a\", join: { file: j } }]", HTTP, "exactly one of"),
        ("    ways: [{ hybrid_connection: \"sb://b/c\", join: { file: j } }]", HTTP, "clusters.factory-a.ways[0].join"),
        ("    ways: [{ credential: { sas: { rule: r, key: { file: k } } } }]", HTTP, "ways[0].hybrid_connection"),
        (
            "    ways: [{ direct: \"wss://a\", credential: { sas: { rule: r, key: { file: k } } } }]",
            HTTP,
            "takes no credential",
        ),
        (
            "    ways: [{ hybrid_connection: \"http://relay/a\", credential: { sas: { rule: r, key: { file: k } } } }]",
            HTTP,
            "clusters.factory-a.ways[0].hybrid_connection",
        ),
        ("    ways: [{ direct: wss://a }]\n    tunnels: 0", HTTP, "clusters.factory-a.tunnels"),
        ("    ways: [{ direct: wss://a }]\n    tunnels: 9", HTTP, "from 1 to 8"),
        (DIRECT, "  - { http: 127.0.0.1:8080, to: factory-b/x:80 }", "no cluster `factory-b`"),
        (DIRECT, "  - { to: factory-a/x:80 }", "exactly one of `http: <place>`"),
        (DIRECT, "  - { http: 127.0.0.1:1, tcp: 127.0.0.1:2, to: factory-a/x:80 }", "faces[0]"),
        (DIRECT, "  - { tcp: 127.0.0.1:1, to: factory-a/x:80, as: caller }", "faces[0].as"),
        (DIRECT, "  - { http: 127.0.0.1:1, to: factory-a/x:80, hosts: [ok, \"http://x\"] }", "faces[0].hosts[1]"),
        (DIRECT, "  - { http: 127.0.0.1:1, to: factory-a/x:80, origins: [self, \"*\"] }", "faces[0].origins[1]"),
        (DIRECT, "  - { tcp: 127.0.0.1:1, to: factory-a/x:80, origins: [self] }", "faces[0].origins"),
        (DIRECT, "  - { http: 0.0.0.0:1, to: factory-a/x:80 }", "open_to_network"),
        (DIRECT, "  - { tcp: \"[::]:1\", to: factory-a/x:80 }", "open_to_network"),
        (
            DIRECT,
            "  - { http: 127.0.0.1:1, to: factory-a/x:80 }\n  - { tcp: 127.0.0.1:1, to: factory-a/y:80 }",
            "faces[1].tcp",
        ),
        (DIRECT, "  - { http: 127.0.0.1:1, to: \"scorer:80\" }", "<cluster>/<host>:<port>"),
        (DIRECT, "  - { http: 127.0.0.1:1, to: factory-a }", "faces[0].to"),
        (DIRECT, "  - { tcp: 127.0.0.1:1, to: factory-a }", "leads to one target"),
        (DIRECT, "  - { tcp: 127.0.0.1:1 }", "leads to one target"),
        (DIRECT, "  - { http: 8080, to: factory-a/x:80 }", "unix:<path>"),
        (
            DIRECT,
            "  - { http: \"unix:/a\", to: factory-a/x:80 }\n  - { tcp: \"unix:/a\", to: factory-a/y:80 }",
            "faces[1].tcp",
        ),
        (DIRECT, "  - { socks5: 127.0.0.1:1, to: factory-a/x:80 }", "write a cluster alone"),
        (DIRECT, "  - { socks5: 127.0.0.1:1, to: factory-b }", "no cluster `factory-b`"),
        (DIRECT, "  - { socks5: 127.0.0.1:1, as: caller }", "faces[0].as"),
        (DIRECT, "  - { socks5: 127.0.0.1:1, hosts: [a] }", "faces[0].hosts"),
        (DIRECT, "  - { socks5: 127.0.0.1:1, login: { user: \"a:b\", password: { file: p } } }", "faces[0].login.user"),
        (DIRECT, "  - { socks5: 0.0.0.0:1 }", "add `login:`"),
        (DIRECT, "  - { connect: 0.0.0.0:1 }", "open_to_network"),
        (
            DIRECT,
            "  - { connect: 127.0.0.1:1, as: caller, login: { user: a, password: { file: p } } }",
            "faces[0].login",
        ),
        (DIRECT, "  - { connect: 127.0.0.1:1, allow_http: true }", "faces[0].allow_http"),
        (DIRECT, "  - { grpc: 127.0.0.1:1 }", "faces[0].to"),
        (DIRECT, "  - { grpc: 127.0.0.1:1, to: factory-a/x:80 }", "write `to: <cluster>`"),
        (DIRECT, "  - { grpc: 0.0.0.0:1, to: factory-a }", "open_to_network"),
        (
            DIRECT,
            "  - { http: 127.0.0.1:1, to: factory-a/x:80, login: { user: a, password: { file: p } } }",
            "faces[0].login",
        ),
        (DIRECT, "  - { tcp: 127.0.0.1:1, routes: [{ to: factory-a/x:80 }] }", "faces[0].routes"),
        (DIRECT, "  - { http: 127.0.0.1:1, to: factory-a/x:80, routes: [{ to: factory-a/x:80 }] }", "faces[0].routes"),
        (DIRECT, "  - { http: 127.0.0.1:1, routes: [{ to: factory-b/x:80 }] }", "faces[0].routes[0].to"),
        (DIRECT, "  - { http: 127.0.0.1:1, routes: [{ host: \"a:80\", to: factory-a/x:80 }] }", "routes[0].host"),
        (DIRECT, "  - { http: 127.0.0.1:1, routes: [{ path: v1, to: factory-a/x:80 }] }", "routes[0].path"),
        (DIRECT, "  - { http: 127.0.0.1:1, routes: [{ path: \"/v1?x\", to: factory-a/x:80 }] }", "routes[0].path"),
        (
            DIRECT,
            "  - { http: 127.0.0.1:1, routes: [{ host: A, path: /v1, to: factory-a/x:80 }, { host: a., path: /v1/x, to: factory-a/y:80 }] }",
            "routes[1]: is never reached: routes[0]",
        ),
    ];
    for (cluster, faces, expected) in table {
        let error = parse(&file(cluster, faces)).expect_err(expected);
        assert!(error.contains(expected), "expected `{expected}` in: {error}");
    }
}

#[test]
fn a_join_string_takes_the_place_of_address_and_credential() {
    parse(&file("    ways: [{ join: { file: factory-a.join } }]", HTTP)).unwrap();
}

#[test]
fn a_way_without_trust_is_refused() {
    let text = "clusters: { factory-a: { ways: [{ direct: wss://gw }], token: { source: file, path: t } } }";
    let error = parse(text).unwrap_err();
    assert!(error.contains("trust"), "{error}");
}

#[test]
fn an_open_face_is_accepted_when_it_says_so() {
    parse(&file(DIRECT, "  - { tcp: 0.0.0.0:1, to: factory-a/x:80, open_to_network: true }")).unwrap();
}

#[test]
fn a_face_may_be_a_proxy_a_socket_or_have_routes() {
    let config = parse(&file(
        DIRECT,
        "  - { socks5: 127.0.0.1:1080 }\n  - { connect: 0.0.0.0:3128, to: factory-a, login: { user: a, password: { file: p } } }\n  \
         - { http: \"unix:api.sock\", routes: [{ path: /v1, to: factory-a/x:80 }, { host: b, to: factory-a/y:80 }, { to: factory-a/z:80 }] }\n  \
         - { connect: 127.0.0.1:0, as: caller }\n  - { tcp: 127.0.0.1:0, to: factory-a/x:80, allow_http: true }\n  - { grpc: 127.0.0.1:0, to: factory-a }",
    ))
    .unwrap();
    let speaks: Vec<_> = config.faces.iter().map(|face| face.speaks().name()).collect();
    assert_eq!(speaks, ["connector", "connector", "caller", "caller", "connector", "caller"]);
}

#[test]
fn an_unknown_key_is_refused() {
    let error = parse(&file(DIRECT, "  - { http: 127.0.0.1:1, to: factory-a/x:80, host: [a] }")).unwrap_err();
    assert!(error.contains("hosts"), "{error}");
}
