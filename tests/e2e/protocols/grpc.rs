//! gRPC of Google's own making on both ends, through an HTTP face.
use causeway_tests::{driver::Driver, python, site::CLUSTER, wait::within};
use serde_json::{Value, json};

use super::{LIMIT, Mode, Plan, World};

/// A client before a face, and the service behind it.
async fn setup(mode: Mode) -> (World, Driver, Driver) {
    let folder = std::env::temp_dir();
    let mut service = python::script("grpc service", "grpc_service.py", &folder, &json!({}));
    let address = service.process().address("grpc").await;
    let face = ("http", format!("to: {CLUSTER}/echo-grpc.test:{}", address.port()));
    let world =
        World::new(mode, Plan { targets: vec![("echo-grpc.test", address)], faces: vec![face], ..Plan::default() })
            .await;
    let options = json!({ "target": world.faces[0].to_string(), "token": world.site.issuer.valid() });
    let mut client = python::script("grpc client", "grpc_client.py", world.site.path(), &options);
    client.next("ready").await;
    (world, service, client)
}

/// Tells a client what to do, and gives what it says of it.
async fn ask(client: &mut Driver, command: Value, event: &str) -> causeway_tests::log::Entry {
    client.tell(&command).await;
    client.next(event).await
}

async fn four_shapes(mode: Mode) {
    let (world, mut service, mut client) = setup(mode).await;
    let told = ask(&mut client, json!({ "do": "unary", "method": "Unary", "length": 300_000 }), "unary").await;
    assert_eq!(told.value("same"), Some(&json!(true)), "{}", told.line);
    assert_eq!(told.field("code").unwrap(), "OK");
    assert_eq!(told.value("initial").unwrap()["x-initial"], "i", "{}", told.line);
    assert_eq!(told.value("trailers").unwrap()["x-trailing"], "t");
    assert_eq!(told.value("trailers").unwrap()["x-trailing-bin"], "b'\\x00\\xff'");
    let seen = service.next("unary").await;
    assert_eq!((seen.field("plain").unwrap().as_str(), seen.field("binary").unwrap().as_str()), ("p", "b'\\x01\\xfe'"));
    let seen = service.next("credentials").await;
    assert_eq!((seen.value("authorization"), seen.value("ours")), (Some(&Value::Null), Some(&json!(false))));

    let told = ask(&mut client, json!({ "do": "server_stream", "count": 500 }), "server_stream").await;
    assert_eq!((told.value("right"), told.field("code").unwrap().as_str()), (Some(&json!(true)), "OK"));
    let told =
        ask(&mut client, json!({ "do": "client_stream", "count": 300, "length": 10_000 }), "client_stream").await;
    assert_eq!((told.value("total"), told.field("code").unwrap().as_str()), (Some(&json!(3_000_000)), "OK"));
    // Each message waits for the one before, and the service's last word comes behind the client's half-close.
    let told = ask(&mut client, json!({ "do": "bidi", "count": 50 }), "bidi").await;
    assert_eq!((told.value("right"), told.value("over")), (Some(&json!(true)), Some(&json!(true))));
    assert_eq!((told.field("end").unwrap().as_str(), told.field("code").unwrap().as_str()), ("end", "OK"));

    // A status in trailers, and one that travels in the answer's head.
    let told = ask(&mut client, json!({ "do": "unary", "method": "Unary", "text": "fail" }), "unary").await;
    assert_eq!(told.field("code").unwrap(), "NOT_FOUND");
    assert_eq!(told.field("details").unwrap(), "no such thing: 100 %");
    assert_eq!(told.value("trailers").unwrap()["x-trailing"], "t", "{}", told.line);
    let told = ask(&mut client, json!({ "do": "unary", "method": "Refuse", "text": "" }), "unary").await;
    assert_eq!(told.field("code").unwrap(), "RESOURCE_EXHAUSTED");
    let told = ask(&mut client, json!({ "do": "unary", "method": "Missing", "text": "" }), "unary").await;
    assert_eq!(told.field("code").unwrap(), "UNIMPLEMENTED");
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_shapes_of_grpc_calls_cross_in_direct_mode() {
    within(LIMIT, four_shapes(Mode::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_shapes_of_grpc_calls_cross_through_a_relay() {
    within(LIMIT, four_shapes(Mode::Relay)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_reaches_the_service_and_its_passing_ends_the_call_there() {
    within(LIMIT, async {
        let (_world, mut service, mut client) = setup(Mode::Direct).await;
        let told = json!({ "do": "unary", "method": "Wait", "text": "", "timeout": 8 });
        let told = ask(&mut client, told, "unary").await;
        assert_eq!(told.field("code").unwrap(), "DEADLINE_EXCEEDED");
        let remaining: f64 = service.next("waiting").await.field("remaining").unwrap().parse().unwrap();
        assert!((0.0..8.0).contains(&remaining), "{remaining}");
        service.next_where("done", |entry| entry.field("method").as_deref() == Some("Wait")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_cancellation_reaches_the_service_at_once() {
    within(LIMIT, async {
        for mode in [Mode::Direct, Mode::Relay] {
            let (_world, mut service, mut client) = setup(mode).await;
            let told = ask(&mut client, json!({ "do": "cancel" }), "cancelled").await;
            assert_eq!(told.field("code").unwrap(), "CANCELLED");
            // It never ends by itself.
            service.next_where("done", |entry| entry.field("method").as_deref() == Some("Endless")).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_breaks_off_ends_the_call_with_a_status_that_is_no_success() {
    within(LIMIT, async {
        let (_world, mut service, mut client) = setup(Mode::Direct).await;
        ask(&mut client, json!({ "do": "hang" }), "hanging").await;
        service.kill().await;
        let told = client.next("broke").await;
        assert_eq!(told.field("code").unwrap(), "UNAVAILABLE", "{}", told.line);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_ours_is_a_grpc_status_that_says_why() {
    within(LIMIT, async {
        let (world, _service, _client) = setup(Mode::Direct).await;
        let target = world.faces[0].to_string();
        for (options, code, says) in [
            (json!({ "target": target }), "UNAUTHENTICATED", "token"),
            (json!({ "target": target, "token": "no.such.token" }), "UNAUTHENTICATED", "refused"),
        ] {
            let mut client = python::script("grpc client", "grpc_client.py", world.site.path(), &options);
            let told = ask(&mut client, json!({ "do": "unary", "method": "Unary", "text": "x" }), "unary").await;
            assert_eq!(told.field("code").unwrap(), code, "{}", told.line);
            assert!(told.field("details").unwrap().contains(says), "{}", told.line);
        }
    })
    .await;
}
