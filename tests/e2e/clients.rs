//! Unmodified clients get from a service in the cluster what they would get from it directly.
use std::time::Duration;

use causeway_tests::{
    curl::Curl,
    nginx::{self, Nginx},
    pattern::Pattern,
    site::Face,
    tokens::Algorithm,
    topology::Topology,
    wait::within,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::service::{HeadLength, curl_sees_the_service, fetch_sees_the_service};

const LIMIT: Duration = Duration::from_secs(90);

/// The yardstick itself: what is expected below is what the service really says.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_expected_holds_without_anything_between() {
    within(LIMIT, async {
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(folder.path());
        let base = format!("http://{}", nginx.address);
        curl_sees_the_service(|path| Curl::new(format!("{base}{path}")), HeadLength::Said, &nginx.web(), folder.path())
            .await;
        fetch_sees_the_service(&base, HeadLength::Said, &json!({}), None).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_the_service_in_direct_mode() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        curl_through(&topology).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_the_service_through_a_relay() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        curl_through(&topology).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_sees_the_service_in_direct_mode() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        fetch_through(&topology).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_sees_the_service_through_a_relay() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        fetch_through(&topology).await;
    })
    .await;
}

/// A page with a script of its own that fetches: navigation, subresource and fetch, as a browser sends them.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_loads_a_page_through_a_relay() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let web = topology.site.nginx.web();
        std::fs::write(web.join("page.html"), "<!doctype html><p id=p>unscripted</p><script src=page.js></script>").unwrap();
        std::fs::write(
            web.join("page.js"),
            "fetch('data.json').then(a => a.json()).then(d => { document.getElementById('p').textContent = 'loaded ' + d.n })",
        )
        .unwrap();
        std::fs::write(web.join("data.json"), "{ \"n\": 42 }").unwrap();
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"])
            // It is to talk to us and to nobody else.
            .args(["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg(format!("--user-data-dir={}", topology.site.file("chromium").display()))
            .arg("--virtual-time-budget=10000")
            .arg(format!("{}/page.html", topology.connector.url(Face::Web)))
            .kill_on_drop(true)
            .output()
            .await
            .expect("chromium is installed; `tests/run setup` does it");
        let page = String::from_utf8_lossy(&output.stdout);
        assert!(page.contains("loaded 42"), "{page}");
    })
    .await;
}

/// Both signature algorithms, and each request leaves one access line at the gateway that names subject and actor.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_logged_once_with_both_principals() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let issuer = &topology.site.issuer;
        for (path, token) in [
            ("/echo?by=es256", issuer.sign(Algorithm::Es256, &issuer.claims())),
            ("/echo?by=rs256", issuer.sign(Algorithm::Rs256, &issuer.claims())),
        ] {
            let mark = topology.gateway.log().mark();
            let url = format!("{}{path}", topology.connector.url(Face::Caller));
            let answer = Curl::new(url).bearer(&token).run().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let log = topology.gateway.log();
            let stream = log.entry("the request's access line", mark, |entry| entry.stream("http").is_some()).await;
            let line = log.access(&stream.stream("http").unwrap()).await;
            assert!(line.contains("tests/tester") && line.contains("tests/connector"), "{}", line.line);
            assert!(line.contains("/echo") && !line.contains("by="), "path without query: {}", line.line);
            assert!(!line.contains(&token), "{}", line.line);
        }
    })
    .await;
}

/// What is ours is removed, what is the application's arrives.
#[tokio::test(flavor = "multi_thread")]
async fn the_target_sees_the_applications_fields_and_none_of_ours() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let token = topology.site.issuer.valid();
        let answer = Curl::new(format!("{}/fields", topology.connector.url(Face::Caller)))
            .header(format!("Causeway-Authorization: Bearer {token}"))
            .header("Causeway-Anything: forged")
            .header("Authorization: Basic application")
            .header("X-Application: kept")
            .header("X-Forwarded-For: 203.0.113.7")
            .run()
            .await;
        let seen = answer.text();
        assert_eq!(answer.status, 200, "{seen}");
        assert!(seen.contains(&format!("host: {}\n", topology.site.target(Face::Caller))), "{seen}");
        assert!(seen.contains("authorization: Basic application\n"), "{seen}");
        assert!(seen.contains("x-application: kept\n"), "{seen}");
        assert!(seen.contains("causeway-authorization: \n") && seen.contains("causeway-anything: \n"), "{seen}");
        assert!(!seen.contains("203.0.113.7") && !seen.contains(&token), "{seen}");
    })
    .await;
}

/// Half-close is kept: the service sees the end of what was sent, and its answer still arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_stream_ends_each_direction_for_itself() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let mut stream = TcpStream::connect(topology.connector.address(Face::Echo)).await.unwrap();
        let payload = Pattern::new(300_000).bytes();
        let (mut read, mut write) = stream.split();
        let mut back = Vec::new();
        let (sent, received) = tokio::join!(
            async {
                write.write_all(&payload).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut back)
        );
        sent.unwrap();
        received.unwrap();
        assert!(back == payload, "{} of {} bytes came back", back.len(), payload.len());
    })
    .await;
}

async fn fetch_through(topology: &Topology) {
    let fields = json!({ "authorization": format!("Bearer {}", topology.site.issuer.valid()) });
    fetch_sees_the_service(&topology.connector.url(Face::Caller), HeadLength::Said, &fields, None).await;
}

async fn curl_through(topology: &Topology) {
    let token = topology.site.issuer.valid();
    let site = &topology.site;
    let base = topology.connector.url(Face::Caller);
    let request = |path: &str| Curl::new(format!("{base}{path}")).bearer(&token);
    curl_sees_the_service(request, HeadLength::Said, &site.nginx.web(), site.path()).await;
    // The face that speaks as the connector needs no token.
    let answer = Curl::new(topology.connector.url(Face::Web)).run().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, nginx::HELLO));
}
