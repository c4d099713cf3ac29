//! What HTTP can do beyond questions and answers: versions, interim answers, bodies without end, early words.
use std::{process::Stdio, time::Duration};

use causeway_tests::{curl::Curl, driver::Driver, pattern::Pattern, site::CLUSTER, wait::within};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};

use super::{LIMIT, Mode, Plan, World, face, node_service, plain_service};

/// Bytes that show that a body moves.
const PLENTY: usize = 16 * 1024 * 1024;

async fn world(mode: Mode, kind: &str) -> (World, Driver) {
    let (service, address) = plain_service(&std::env::temp_dir(), kind).await;
    let faces = vec![face("http", "app.test", address)];
    // An HTTP/2 service in the clear must be known as one.
    let gateway = match kind {
        "h2c" => format!("targets: [{{ hosts: [app.test], ports: [{}], protocol: h2 }}]\n", address.port()),
        _ => String::new(),
    };
    let plan = Plan { targets: vec![("app.test", address)], faces, gateway, ..Plan::default() };
    (World::new(mode, plan).await, service)
}

/// curl and the service speak the version that each prefers; the tunnel does not care.
#[tokio::test(flavor = "multi_thread")]
async fn curl_and_services_speak_http1_and_http2_in_any_pairing() {
    within(LIMIT, async {
        for (kind, seen) in [("http", "1.1"), ("h2c", "2.0")] {
            let (world, mut service) = world(Mode::Direct, kind).await;
            for (option, spoken) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2"), ("--http2", "1.1")] {
                let upload = Pattern::new(300_000).bytes();
                let file = world.site.file("upload");
                std::fs::write(&file, &upload).unwrap();
                let answer = Curl::new(world.url(0, "/swallow")).args([option]).upload(&file);
                let answer = answer.args(["--write-out", "%{http_version}"]).run().await;
                assert_eq!((answer.status, answer.text()), (200, format!("300000\n{spoken}")), "{option}");
                assert_eq!(service.next("request").await.field("version").unwrap(), seen);
                let answer = Curl::new(world.url(0, "/a?b=c")).args([option]).run().await;
                assert_eq!((answer.status, answer.text().as_str()), (200, "GET /a?b=c\n"), "{option}");
                service.next("request").await;
            }
        }
    })
    .await;
}

/// By ALPN end to end, inside a TCP face; and by ALPN between gateway and service, with a CA of its own and another name.
#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_by_alpn_with_an_own_ca_and_another_name() {
    within(LIMIT, async {
        let folder = tempfile::tempdir().unwrap();
        let pki = causeway_tests::pki::Pki::new();
        pki.write_server_named(folder.path(), &["inner.test"]);
        causeway_tests::pki::write(&folder.path().join("ca.pem"), pki.certificate());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let options = json!({ "kind": "tls", "cert": path("tls.crt"), "key": path("tls.key") });
        let (mut service, address) = node_service(folder.path(), options).await;
        let tls = format!("{{ ca: {}, server_name: inner.test }}", path("ca.pem"));
        let gateway = format!("targets: [{{ hosts: [app.test], ports: [{}], tls: {tls} }}]\n", address.port());
        let faces = vec![face("http", "app.test", address), face("tcp", "raw.test", address)];
        let targets = vec![("app.test", address), ("raw.test", address)];
        let world = World::new(Mode::Relay, Plan { targets, faces, gateway, ..Plan::default() }).await;

        let answer = Curl::new(world.url(0, "/")).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "GET /\n"), "{}", answer.complaint);
        let seen = service.next("request").await;
        assert_eq!(seen.field("version").unwrap(), "2.0");
        assert_eq!(
            (seen.field("secure").unwrap().as_str(), seen.field("server").unwrap().as_str()),
            ("true", "inner.test")
        );

        let port = world.faces[1].port();
        for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
            let answer = Curl::new(format!("https://inner.test:{port}/"))
                .args([option, "--cacert", &path("ca.pem"), "--resolve", &format!("inner.test:{port}:127.0.0.1")])
                .args(["--write-out", "%{http_version}"])
                .run()
                .await;
            assert_eq!((answer.status, answer.text()), (200, format!("GET /\n{version}")), "{}", answer.complaint);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_and_trailers_arrive_in_either_version() {
    within(LIMIT, async {
        let (world, _service) = world(Mode::Relay, "http").await;
        for option in ["--http1.1", "--http2-prior-knowledge"] {
            // All heads, in their order.
            let output = Command::new("curl")
                .args(["--disable", "--silent", "--include", "--noproxy", "*", "--max-time", "60", option])
                .arg(world.url(0, "/hints"))
                .kill_on_drop(true)
                .output()
                .await
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let hints = text.find(" 103").unwrap_or_else(|| panic!("no hints: {text}"));
            assert!(text.contains("link: </a.css>; rel=preload"), "{text}");
            assert!(hints < text.find(" 200").unwrap() && text.ends_with("hinted\n"), "{text}");

            let asked = Curl::new(world.url(0, "/trailers")).args([option, "--raw"]).header("TE: trailers");
            let answer = asked.post("twelve bytes").run().await;
            assert_eq!(answer.status, 200, "{}", answer.complaint);
            if option == "--http1.1" {
                assert!(answer.text().contains("x-sum: 12"), "{}", answer.text());
            }
        }
    })
    .await;
}

/// Trailers of a request, and of its answer, on a connection that a test speaks by hand: curl sends none.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_reach_the_service() {
    within(LIMIT, async {
        let (world, _service) = world(Mode::Direct, "http").await;
        let mut client = TcpStream::connect(world.faces[0]).await.unwrap();
        let head = format!("POST /trailers HTTP/1.1\r\nhost: {}\r\nte: trailers\r\nconnection: te\r\n", world.faces[0]);
        let body = "transfer-encoding: chunked\r\ntrailer: x-sent\r\n\r\n4\r\nbody\r\n0\r\nx-sent: yes\r\n\r\n";
        client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("x-sum: 4 yes\r\n\r\n") {
            assert!(client.read_buf(&mut seen).await.unwrap() > 0, "{}", String::from_utf8_lossy(&seen));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_the_services_word_or_is_never_sent() {
    within(LIMIT, async {
        let (world, mut service) = world(Mode::Relay, "http").await;
        let file = world.site.file("upload");
        std::fs::write(&file, Pattern::new(200_000).bytes()).unwrap();
        for option in ["--http1.1", "--http2-prior-knowledge"] {
            let upload = |path: &str| {
                let limit = ["--expect100-timeout", "60"];
                Curl::new(world.url(0, path)).args([option]).args(limit).header("Expect: 100-continue").upload(&file)
            };
            // Without the service's word curl would wait for a minute, and the test fail.
            let answer = upload("/continue").run().await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "200000\n"), "{}", answer.complaint);
            service.next("go on").await;
            let answer = upload("/no").args(["--write-out", "%{size_upload}"]).run().await;
            let sent = answer.text().strip_prefix("no\n").map(str::to_owned);
            assert_eq!(answer.status, 413, "{}", answer.complaint);
            // In HTTP/2 this curl waits for nobody's word.
            assert!(sent.as_deref() == Some("0") || option != "--http1.1", "{sent:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_arrives_while_the_upload_goes_on() {
    within(LIMIT, async {
        let (world, mut service) = world(Mode::Direct, "http").await;
        let mut client = TcpStream::connect(world.faces[0]).await.unwrap();
        let head = format!("POST /early HTTP/1.1\r\nhost: {}\r\ncontent-length: 200000\r\n\r\n", world.faces[0]);
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; 100_000]).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"large\n") {
            assert!(client.read_buf(&mut seen).await.unwrap() > 0, "{}", String::from_utf8_lossy(&seen));
        }
        assert!(seen.starts_with(b"HTTP/1.1 413"));
        service.next("request").await;
        // The service has answered long ago, and is still given the rest, or learns that there is none.
        drop(client.write_all(&vec![b'x'; 100_000]).await);
        service.next("early over").await;
    })
    .await;
}

/// More than 32 bits are declared, and a reader that leaves ends the service's work at once.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_huge_or_endless_and_end_when_the_client_leaves() {
    within(LIMIT, async {
        for kind in ["http", "h2c"] {
            let (world, mut service) = world(Mode::Relay, kind).await;
            for option in ["--http1.1", "--http2-prior-knowledge"] {
                let answer = Curl::new(world.url(0, "/huge")).args([option]).head().run().await;
                assert_eq!((answer.status, answer.fields["content-length"].as_str()), (200, "5368709120"));
                for path in ["/huge", "/endless"] {
                    let mut curl = Command::new("curl")
                        .args(["--disable", "--silent", "--noproxy", "*", option, &world.url(0, path)])
                        .stdout(Stdio::piped())
                        .kill_on_drop(true)
                        .spawn()
                        .unwrap();
                    let mut body = curl.stdout.take().unwrap().take(PLENTY as u64);
                    let read = tokio::io::copy(&mut body, &mut tokio::io::sink()).await.unwrap();
                    assert_eq!(read, PLENTY as u64);
                    curl.kill().await.unwrap();
                    let closed = service.next("closed").await;
                    assert_eq!(closed.field("finished").unwrap(), "false");
                }
            }
        }
    })
    .await;
}

/// An upload whose length is beyond 32 bits, and one without length: both move, and break off at the service with the client.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_may_be_huge_or_endless_and_break_off_with_the_client() {
    within(LIMIT, async {
        let (world, mut service) = world(Mode::Direct, "http").await;
        for framing in ["content-length: 5368709120\r\n", "transfer-encoding: chunked\r\n"] {
            let mut client = TcpStream::connect(world.faces[0]).await.unwrap();
            let head = format!("POST /swallow HTTP/1.1\r\nhost: {}\r\n{framing}\r\n", world.faces[0]);
            client.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..PLENTY / piece.len() {
                if framing.starts_with("transfer") {
                    client.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
                    client.write_all(&piece).await.unwrap();
                    client.write_all(b"\r\n").await.unwrap();
                } else {
                    client.write_all(&piece).await.unwrap();
                }
            }
            let length = if framing.starts_with("content") { "5368709120" } else { "" };
            assert_eq!(service.next("request").await.field("length").unwrap(), length);
            service.next("swallowing").await;
            drop(client);
            service.next("aborted").await;
        }
    })
    .await;
}

/// Each event is there before the next one is made.
#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_are_flushed_one_by_one() {
    within(LIMIT, async {
        for (mode, option) in [(Mode::Direct, "--http1.1"), (Mode::Relay, "--http2-prior-knowledge")] {
            let (world, mut service) = world(mode, "http").await;
            let mut curl = Command::new("curl")
                .args(["--disable", "--silent", "--no-buffer", "--noproxy", "*", option, &world.url(0, "/events")])
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
            service.next("request").await;
            for number in 0..5 {
                service.tell(&json!({ "do": "event", "data": number })).await;
                assert_eq!(lines.next_line().await.unwrap().unwrap(), format!("data: {number}"));
                assert_eq!(lines.next_line().await.unwrap().unwrap(), "");
            }
            service.tell(&json!({ "do": "end" })).await;
            assert_eq!(lines.next_line().await.unwrap(), None);
        }
    })
    .await;
}

/// A client that gives up before there is an answer ends the service's wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_is_given_up_at_the_service() {
    within(LIMIT, async {
        for option in ["--http1.1", "--http2-prior-knowledge"] {
            let (world, mut service) = world(Mode::Relay, "http").await;
            let mut curl = Command::new("curl")
                .args(["--disable", "--silent", "--noproxy", "*", option, &world.url(0, "/wait")])
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            service.next("waiting").await;
            curl.kill().await.unwrap();
            service.next("given up").await;
        }
    })
    .await;
}

/// An HTTP face on a Unix socket speaks both versions, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_face_on_a_unix_socket_speaks_both_versions() {
    within(LIMIT, async {
        let (_service, address) = plain_service(&std::env::temp_dir(), "http").await;
        let plan = Plan {
            targets: vec![("app.test", address)],
            faces: vec![face("http", "app.test", address)],
            ..Plan::default()
        };
        let mut world = World::new(Mode::Direct, plan).await;
        let more =
            format!("  - {{ http: \"unix:app.sock\", to: {CLUSTER}/app.test:{}, as: connector }}\n", address.port());
        world.site.append("protocols.yaml", &more);
        assert_eq!(world.connector.stop().await, Some(0));
        world.connector.start_again();
        let open = |entry: &causeway_tests::log::Entry| entry.contains("app.sock") && entry.message() == "listening";
        world.connector.log().entry("the socket is open", 0, open).await;
        let socket = world.site.file("app.sock");
        for option in ["--http1.1", "--http2-prior-knowledge"] {
            let answer = Curl::new("http://localhost/x")
                .args([option.into(), std::ffi::OsString::from("--unix-socket"), socket.clone().into()])
                .limit(Duration::from_secs(20))
                .run()
                .await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "GET /x\n"), "{option} {}", answer.complaint);
        }
    })
    .await;
}
