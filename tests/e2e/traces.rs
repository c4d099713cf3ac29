//! What happens to a request can be followed from outside: in a trace that the caller began, in numbers, and in lines that
//! both sides write under the same name.
use std::net::SocketAddr;

use causeway_tests::{
    curl::Curl,
    driver::Driver,
    log::Entry,
    python,
    site::CLUSTER,
    wait::{until, within},
};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::protocols::{LIMIT, Mode, Plan, World, face, plain_service};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

struct Setup {
    world: World,
    service: Driver,
    collector: Driver,
    port: u16,
}

async fn setup(mode: Mode) -> Setup {
    let folder = std::env::temp_dir();
    let mut collector = python::script("collector", "collector.py", &folder, &json!({}));
    let address = collector.process().address("collector").await;
    let (service, target) = plain_service(&folder, "http").await;
    let as_caller = ("http", format!("to: {CLUSTER}/app.test:{}", target.port()));
    let traces = format!("traces: {{ otlp: \"http://{address}\" }}\n");
    let plan = Plan {
        targets: vec![("app.test", target)],
        faces: vec![as_caller, face("tcp", "app.test", target)],
        gateway: traces.clone(),
        connector: traces,
        ..Plan::default()
    };
    Setup { world: World::new(mode, plan).await, service, collector, port: target.port() }
}

/// The next span of a service in a trace.
async fn span(collector: &mut Driver, service: &str, trace: &str) -> Entry {
    let is = |entry: &Entry, name: &str, value: &str| entry.field(name).as_deref() == Some(value);
    // Either side may be first: each is looked for among all.
    let find = |entries: &[Entry]| {
        let mut found = entries.iter().filter(|entry| entry.message() == "span");
        found.find(|entry| is(entry, "service", service) && is(entry, "trace", trace)).cloned()
    };
    collector.process().log().wait(find).await
}

async fn metrics(admin: SocketAddr) -> String {
    Curl::new(format!("http://{admin}/metrics")).run().await.text()
}

async fn one_trace(mode: Mode) {
    let Setup { world, mut service, mut collector, port } = setup(mode).await;
    let token = world.site.issuer.valid();
    let request = |path: &str, flags: &str| {
        Curl::new(world.url(0, path))
            .bearer(&token)
            .header(format!("traceparent: 00-{TRACE}-{CALLER}-{flags}"))
            .header("tracestate: vendor=a, other=b")
    };
    // Its caller does not want this one recorded. It is passed on all the same.
    assert_eq!(request("/unrecorded", "00").run().await.status, 200);
    let seen = service.next("request").await.field("traceparent").unwrap();
    assert!(seen.starts_with(&format!("00-{TRACE}-")) && seen.ends_with("-00"), "{seen}");

    assert_eq!(request("/recorded?secret=hunter2", "01").run().await.status, 200);
    let seen = service.next("request").await;
    let connector = span(&mut collector, "causeway-connector", TRACE).await;
    let gateway = span(&mut collector, "causeway-gateway", TRACE).await;
    assert_eq!(connector.field("parent").unwrap(), CALLER);
    assert_eq!(gateway.field("parent"), connector.field("id"));
    let onward = format!("00-{TRACE}-{}-01", gateway.field("id").unwrap());
    assert_eq!(seen.field("traceparent").unwrap(), onward);
    assert_eq!(seen.field("tracestate").unwrap(), "vendor=a, other=b");
    for entry in [&connector, &gateway] {
        assert_eq!((entry.field("name").unwrap().as_str(), entry.field("failed").unwrap().as_str()), ("GET", "false"));
        let attributes = entry.value("attributes").unwrap();
        assert_eq!(
            (&attributes["url.path"], &attributes["http.response.status_code"]),
            (&json!("/recorded"), &json!(200))
        );
        assert_eq!(attributes["server.address"], format!("app.test:{port}"));
        assert_eq!(entry.field("state").unwrap(), "vendor=a, other=b");
        assert!(!entry.contains("hunter2") && !entry.contains(&token), "{}", entry.line);
    }
    assert_eq!(gateway.value("attributes").unwrap()["causeway.subject"], "tests/tester");
    assert_eq!(gateway.value("attributes").unwrap()["causeway.actor"], "tests/connector");
    // The lines of both sides belong to it by the same stream.
    let stream = connector.value("attributes").unwrap()["causeway.stream"].as_str().unwrap().to_owned();
    assert_eq!(gateway.value("attributes").unwrap()["causeway.stream"], stream);
    let line = world.gateway.log().access(&stream).await;
    assert!(line.field("trace").unwrap().contains(TRACE), "{}", line.line);
    assert_eq!(world.connector.log().access(&stream).await.field("fault").unwrap(), "nobody");
    let unrecorded = |entry: &&Entry| entry.message() == "span" && entry.contains("/unrecorded");
    assert_eq!(collector.process().log().entries().iter().filter(unrecorded).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connector_and_gateway_are_spans_of_the_callers_trace_in_direct_mode() {
    within(LIMIT, one_trace(Mode::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connector_and_gateway_are_spans_of_the_callers_trace_through_a_relay() {
    within(LIMIT, one_trace(Mode::Relay)).await;
}

/// A failure is marked in its span with its code, and a collector that takes nothing holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_marked_and_a_broken_collector_holds_nobody_up() {
    within(LIMIT, async {
        let Setup { world, service: _service, mut collector, .. } = setup(Mode::Direct).await;
        let bad = format!("traceparent: 00-{TRACE}-{CALLER}-01");
        assert_eq!(Curl::new(world.url(0, "/")).bearer("no.such.token").header(bad).run().await.status, 401);
        for service in ["causeway-connector", "causeway-gateway"] {
            let span = span(&mut collector, service, TRACE).await;
            assert_eq!(
                (span.field("failed").unwrap().as_str(), span.field("why").unwrap().as_str()),
                ("true", "token_refused")
            );
            assert_eq!(span.value("attributes").unwrap()["causeway.fault"], "caller");
        }
        collector.tell(&json!({ "status": 400 })).await;
        collector.next("changed").await;
        let token = world.site.issuer.valid();
        for _ in 0..10 {
            assert_eq!(Curl::new(world.url(0, "/")).bearer(&token).run().await.status, 200);
        }
        until("the drop is counted", async || {
            let dropped = "causeway_connector_spans_dropped_total{reason=\"collector\"} ";
            let text = metrics(world.admin).await;
            let count: u64 = text.split_once(dropped)?.1.lines().next()?.parse().ok()?;
            (count > 0).then_some(())
        })
        .await;
        world.connector.log().entry("a warning", 0, |entry| entry.contains("the collector does not take spans")).await;
    })
    .await;
}

/// Streams, bytes, times, failures and what is left of credentials, on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_count_what_moves_waits_and_fails() {
    within(LIMIT, async {
        let Setup { mut world, service: _service, collector: _collector, .. } = setup(Mode::Direct).await;
        let token = world.site.issuer.valid();
        let gateway = world.gateway.address("admin").await;
        assert_eq!(Curl::new(world.url(0, "/swallow")).bearer(&token).post("twelve bytes").run().await.status, 200);
        assert_eq!(Curl::new(world.url(0, "/")).bearer("no.such.token").run().await.status, 401);
        let value = |text: &str, series: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
        };
        let labels = format!("cluster=\"{CLUSTER}\",face=\"http\"");
        until("the streams are counted", async || {
            let text = metrics(world.admin).await;
            (value(&text, &format!("causeway_connector_streams_closed_total{{{labels}}}")) == 2.0).then_some(())
        })
        .await;
        let text = metrics(world.admin).await;
        assert_eq!(value(&text, &format!("causeway_connector_sent_bytes_total{{{labels}}}")), 12.0);
        assert_eq!(
            value(&text, &format!("causeway_connector_stream_failures_total{{{labels},fault=\"caller\"}}")),
            1.0
        );
        assert_eq!(
            value(&text, &format!("causeway_connector_stream_failures_total{{{labels},fault=\"target\"}}")),
            0.0
        );
        assert!(value(&text, &format!("causeway_connector_first_byte_seconds_count{{{labels}}}")) >= 1.0);
        assert!(
            value(&text, &format!("causeway_connector_blocked_seconds_total{{{labels},direction=\"to_target\"}}"))
                >= 0.0
        );
        let left = value(&text, &format!("causeway_connector_credential_seconds_left{{cluster=\"{CLUSTER}\"}}"));
        assert!(left > 0.0 && left < 366.0 * 86400.0, "{left}");
        let text = metrics(gateway).await;
        assert_eq!(value(&text, "causeway_gateway_bytes_total{direction=\"to_target\"}"), 12.0);
        assert_eq!(value(&text, "causeway_gateway_stream_failures_total{fault=\"caller\"}"), 1.0);
        assert!(value(&text, "causeway_gateway_first_byte_seconds_count") >= 1.0);
        assert!(value(&text, "causeway_gateway_blocked_seconds_total{direction=\"to_caller\"}") >= 0.0);
        // The leaf lives for 30 days.
        let left = value(&text, "causeway_gateway_credential_seconds_left");
        assert!((29.0 * 86400.0..=30.0 * 86400.0 + 60.0).contains(&left), "{left}");
    })
    .await;
}

/// A client that does not read makes its stream wait, and that shows, on either side in the direction where it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_shows_as_time_blocked_towards_it() {
    within(LIMIT, async {
        let Setup { world, mut service, collector: _collector, .. } = setup(Mode::Direct).await;
        let mut client = TcpStream::connect(world.faces[1]).await.unwrap();
        let request = format!("GET /endless HTTP/1.1\r\nhost: {}\r\n\r\n", world.faces[1]);
        client.write_all(request.as_bytes()).await.unwrap();
        // Everything on the way is full.
        service.next("stalled").await;
        drop(client);
        for (log, field) in
            [(world.connector.log(), "blocked_to_client_ms"), (world.gateway.log(), "blocked_to_caller_ms")]
        {
            let line = log.entry("the stream's line", 0, |entry| entry.stream("tcp").is_some()).await;
            let waited: f64 = line.field(field).unwrap().parse().unwrap();
            assert!(waited > 0.0, "{}", line.line);
        }
    })
    .await;
}
