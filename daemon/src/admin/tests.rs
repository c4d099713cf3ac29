//! The admin port over real sockets.
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Served {
    address: SocketAddr,
    readiness: Readiness,
    events: Events,
    shutdown: Shutdown,
    task: JoinSet<()>,
}

async fn serve_on(address: &str) -> Served {
    let admin = Admin::bind(address.parse().unwrap()).await.unwrap();
    let (address, readiness, shutdown) = (admin.address(), Readiness::default(), Shutdown::new());
    let events = Events::new();
    let status: Status = Arc::new(|| json!({ "listeners": 2 }));
    let mut task = JoinSet::new();
    let metrics = Metrics::new("causeway_test");
    task.spawn(admin.serve(readiness.clone(), metrics, status, events.clone(), shutdown.clone()));
    Served { address, readiness, events, shutdown, task }
}

impl Served {
    async fn raw(&self, request: &str) -> String {
        let port = self.address.port();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, target: &str) -> String {
        self.raw(&format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)).await
    }
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn readyz_names_what_it_waits_for() {
    let served = serve_on("127.0.0.1:0").await;
    let (policy, ports) = (served.readiness.guard("policy"), served.readiness.guard("ports"));
    ports.ready();
    let answer = served.get("/readyz").await;
    assert_eq!(status_of(&answer), "503");
    assert!(body_of(&answer).contains("- policy: waiting"), "{answer}");
    assert!(!answer.contains("ports"), "{answer}");
    policy.ready();
    assert_eq!(status_of(&served.get("/readyz").await), "200");
    let verbose = served.get("/readyz?verbose").await;
    assert!(verbose.contains("+ policy: after") && verbose.contains("+ ports: after"), "{verbose}");
}

#[tokio::test]
async fn one_of_several_things_can_be_asked_for() {
    let served = serve_on("127.0.0.1:0").await;
    served.readiness.one_of("cluster", |name| match name {
        "factory-a" => Some(Ok(())),
        "factory-b" => Some(Err("no way in answers".to_owned())),
        _ => None,
    });
    assert_eq!(status_of(&served.get("/readyz?cluster=factory-a").await), "200");
    let answer = served.get("/readyz?cluster=factory-b").await;
    assert_eq!((status_of(&answer), body_of(&answer)), ("503", "not ready\n- no way in answers\n"));
    for unknown in ["/readyz?cluster=factory-c", "/readyz?tunnel=factory-a", "/readyz?nonsense"] {
        assert_eq!(status_of(&served.get(unknown).await), "404", "{unknown}");
    }
}

#[tokio::test]
async fn draining_makes_it_unready_but_leaves_it_alive_until_the_end() {
    let mut served = serve_on("127.0.0.1:0").await;
    served.shutdown.begin();
    let answer = served.get("/readyz").await;
    assert_eq!(status_of(&answer), "503");
    assert!(body_of(&answer).contains("draining"), "{answer}");
    assert_eq!(status_of(&served.get("/livez").await), "200");
    served.shutdown.force();
    served.task.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn loopback_serves_status_and_metrics_with_browser_proof_headers() {
    let served = serve_on("127.0.0.1:0").await;
    let status = served.get("/statusz").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(body_of(&status)).unwrap(), json!({ "listeners": 2 }));
    for header in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "no-store"] {
        assert!(status.contains(header), "{header} in {status}");
    }
    let metrics = served.get("/metrics").await;
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(!metrics.to_lowercase().contains("access-control"), "{metrics}");
}

#[tokio::test]
async fn other_addresses_serve_health_alone() {
    let served = serve_on("0.0.0.0:0").await;
    assert_eq!(status_of(&served.get("/livez").await), "200");
    assert_eq!(status_of(&served.get("/readyz").await), "200");
    assert_eq!(status_of(&served.get("/statusz").await), "403");
    assert_eq!(status_of(&served.get("/metrics").await), "403");
    assert_eq!(status_of(&served.get("/events").await), "403");
}

#[tokio::test]
async fn other_addresses_say_what_is_not_ready_and_not_what_a_check_says_about_it() {
    for (address, is_told) in [("127.0.0.1:0", true), ("0.0.0.0:0", false)] {
        let served = serve_on(address).await;
        let _guard = served.readiness.guard("policy");
        served.readiness.check("control channel", || Err("the relay says: <words of a peer>".to_owned()));
        served.readiness.one_of("cluster", |_| Some(Err("<words of a peer>".to_owned())));
        for target in ["/readyz", "/readyz?verbose", "/readyz?cluster=factory-a"] {
            let answer = served.get(target).await;
            assert_eq!(status_of(&answer), "503");
            assert_eq!(answer.contains("<words of a peer>"), is_told, "{target} on {address}: {answer}");
        }
        let answer = served.get("/readyz").await;
        assert!(answer.contains("- policy: waiting for 0 s\n- control channel: "), "{answer}");
    }
}

#[tokio::test]
async fn a_web_page_of_another_site_is_answered_nothing() {
    let served = serve_on("127.0.0.1:0").await;
    for target in ["/events", "/statusz", "/metrics", "/readyz", "/livez"] {
        for field in [
            "Origin: https://evil.example",
            "Origin: null",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site",
            "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site",
        ] {
            let answer = served.raw(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n")).await;
            assert_eq!(status_of(&answer), "403", "{target} {field}");
        }
    }
    for field in ["Sec-Fetch-Site: none", "Sec-Fetch-Site: same-origin"] {
        let answer = served.raw(&format!("GET /statusz HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n")).await;
        assert_eq!(status_of(&answer), "200", "{field}");
    }
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let served = serve_on("127.0.0.1:0").await;
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "a@localhost@b", ""] {
        let answer = served.raw(&format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_ne!(status_of(&answer), "200", "{host}");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "10.1.2.3:9000"] {
        let answer = served.raw(&format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(status_of(&answer), "200", "{host}");
    }
}

#[tokio::test]
async fn absent_doubled_or_contradicting_hosts_are_refused() {
    let served = serve_on("127.0.0.1:0").await;
    for head in [
        "GET /livez HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        assert_eq!(status_of(&served.raw(head).await), "421", "{head}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let served = serve_on("127.0.0.1:0").await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let answer = served.raw(&format!("{method} /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(status_of(&answer), "405", "{method}");
        assert!(answer.contains("allow: GET, HEAD"), "{answer}");
    }
    let head = served.raw("HEAD /statusz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((status_of(&head), body_of(&head)), ("200", ""));
    let head = served.raw("HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((status_of(&head), body_of(&head)), ("200", ""));
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let served = serve_on("127.0.0.1:0").await;
    let answer =
        served.raw(&format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n", "a".repeat(9000))).await;
    assert_eq!(status_of(&answer), "431");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_cut_off() {
    let served = serve_on("127.0.0.1:0").await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    // How it is told matters less than that it ends.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(began.elapsed() <= CONNECTION_DEADLINE + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn silent_peers_up_to_the_limit_do_not_stop_it_from_ending() {
    let mut served = serve_on("127.0.0.1:0").await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 4 {
        held.push(TcpStream::connect(served.address).await.unwrap());
    }
    served.shutdown.force();
    served.task.join_next().await.unwrap().unwrap();
}

impl Served {
    /// Asks for events and does not wait for an end.
    async fn follow(&self, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// Reads until this was said.
async fn read_to(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut said, mut some) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&said).contains(wanted) {
        let read = stream.read(&mut some).await.unwrap();
        assert!(read > 0, "{wanted} in {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&some[..read]);
    }
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn events_are_followed_as_they_come() {
    let served = serve_on("127.0.0.1:0").await;
    served.events.emit("first", [("entity", "e".into())]);
    let mut stream = served.follow("").await;
    let said = read_to(&mut stream, "\n\n\r\n").await;
    assert_eq!(status_of(&said), "200");
    assert!(said.contains("content-type: text/event-stream\r\n") && said.contains("no-store"), "{said}");
    assert!(said.contains("\"entity\":\"e\""), "{said}");
    served.events.emit("second", []);
    read_to(&mut stream, "event: second\ndata: ").await;
    let first = served.events.recent()[0].id;
    let resumed = read_to(&mut served.follow(&format!("Last-Event-ID: {first}\r\n")).await, "\n\n\r\n").await;
    assert!(resumed.contains("event: second") && !resumed.contains("event: first"), "{resumed}");
}

#[tokio::test]
async fn a_foreign_host_follows_no_events() {
    let served = serve_on("127.0.0.1:0").await;
    let answer = served.raw("GET /events HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert_eq!(status_of(&answer), "421");
}

#[tokio::test]
async fn followers_beyond_the_limit_are_told_and_probes_still_answered() {
    let served = serve_on("127.0.0.1:0").await;
    let mut held = Vec::new();
    for _ in 0..events::FOLLOWERS_MAX {
        let mut stream = served.follow("").await;
        read_to(&mut stream, "\r\n\r\n").await;
        held.push(stream);
    }
    assert_eq!(status_of(&served.get("/events").await), "503");
    assert_eq!(status_of(&served.get("/livez").await), "200");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_reads_outlives_the_deadline_of_other_connections() {
    let served = serve_on("127.0.0.1:0").await;
    let mut stream = served.follow("").await;
    let began = tokio::time::Instant::now();
    read_to(&mut stream, ":\n\n").await;
    assert!(began.elapsed() > CONNECTION_DEADLINE, "{:?}", began.elapsed());
    served.events.emit("later", []);
    read_to(&mut stream, "event: later").await;
}
