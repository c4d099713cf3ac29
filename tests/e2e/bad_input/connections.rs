//! Peers that do not speak as they should, or not at all.
use std::net::SocketAddr;

use causeway_tests::{
    pki,
    process::Process,
    site::Face,
    topology::Topology,
    wait::{named, until, within},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::LIMIT;

/// Bytes that begin no protocol of ours.
const GARBAGE: &[u8] = b"\x00\xff\x00\xff garbage that begins nothing \r\n\r\n";

/// Reads until the peer closes, in whatever way, and gives what came before.
async fn closed(what: &str, stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut came = Vec::new();
    // An abrupt end is an end.
    let _ = named(format!("{what} to be closed"), stream.read_to_end(&mut came)).await;
    came
}

/// Sends this and waits for the end. The peer may close while it is still being sent.
async fn closes_after(what: &str, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    closed(what, stream).await
}

fn upgrade(address: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: causeway.v1\r\n\r\n"
    )
}

/// Lines about one peer, by its address.
async fn logged_once(process: &Process, what: &str, peer: SocketAddr) {
    let text = peer.to_string();
    process.log().entry(format!("a line about {what}"), 0, |entry| entry.contains(&text)).await;
    let lines: Vec<_> = process.log().entries().into_iter().filter(|entry| entry.contains(&text)).collect();
    assert_eq!(lines.len(), 1, "{what}: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_before_any_handshake_closes_the_connection() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let relay = topology.relay.as_ref().map(|(relay, _)| relay).unwrap();
        for (name, address, process) in
            [("gateway", topology.gateway_address, &topology.gateway), ("relay", topology.relay_address(), relay)]
        {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let peer = stream.local_addr().unwrap();
            let came = closes_after(&format!("garbage to the {name}"), &mut stream, GARBAGE).await;
            // At most a TLS alert: no banner, nothing of ours.
            assert!(came.len() <= 7, "{name} answered {came:?}");
            logged_once(process, &format!("garbage to the {name}"), peer).await;
        }
        assert!(still_works(&topology).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_is_closed_within_the_deadline() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let relay = topology.relay.as_ref().map(|(relay, _)| relay).unwrap();
        // All at once, so that the test takes one deadline.
        let mut gateway_silent = TcpStream::connect(topology.gateway_address).await.unwrap();
        let mut relay_silent = TcpStream::connect(topology.relay_address()).await.unwrap();
        let mut half = gateway_tls(&topology, b"http/1.1").await;
        half.write_all(b"GET /causeway").await.unwrap();
        half.flush().await.unwrap();
        let peers = [gateway_silent.local_addr().unwrap(), relay_silent.local_addr().unwrap()];
        let half_peer = half.get_ref().0.local_addr().unwrap();
        let (first, second, third) = tokio::join!(
            closed("a silent client of the gateway", &mut gateway_silent),
            closed("a silent client of the relay", &mut relay_silent),
            closed("a client that stops in the middle of its head", &mut half),
        );
        assert!(first.is_empty() && second.is_empty() && third.is_empty(), "nothing is said to them");
        logged_once(&topology.gateway, "the silent client", peers[0]).await;
        logged_once(relay, "the silent client", peers[1]).await;
        logged_once(&topology.gateway, "the half head", half_peer).await;
        assert!(still_works(&topology).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_head_is_not_gathered() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let mut stream = gateway_tls(&topology, b"http/1.1").await;
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
        closes_after("a head of a mebibyte", &mut stream, head.as_bytes()).await;
        assert!(still_works(&topology).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_from_a_stranger_closes_the_connection() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        header.extend([203, 0, 113, 7, 127, 0, 0, 1, 0x30, 0x39, 0x20, 0xfb]);
        let mut stream = TcpStream::connect(topology.gateway_address).await.unwrap();
        let peer = stream.local_addr().unwrap();
        let came = closes_after("a PROXY header", &mut stream, &header).await;
        assert!(came.is_empty(), "{came:?}");
        logged_once(&topology.gateway, "the PROXY header", peer).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_get_an_empty_404_without_a_banner() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        for request in [
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
            upgrade(topology.gateway_address, "/elsewhere"),
            upgrade(topology.gateway_address, "/causeway/v1/tunnel")
                .replace("Host:", "Origin: https://page.test\r\nHost:"),
        ] {
            let mut stream = gateway_tls(&topology, b"http/1.1").await;
            let came = closes_after("a wrong request", &mut stream, request.as_bytes()).await;
            let text = String::from_utf8_lossy(&came).to_ascii_lowercase();
            assert!(text.starts_with("http/1.1 4"), "{text}");
            assert!(!text.contains("server:") && !text.contains("causeway"), "{text}");
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, "");
        }
    })
    .await;
}

/// WebSocket frames that a client must not send, on the gateway's own upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn frames_against_the_protocol_close_the_connection() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let masked = |first: u8, length: &[u8]| {
            let mut frame = vec![first];
            frame.extend(length);
            frame.extend([0; 4]);
            frame
        };
        for (what, frame) in [
            ("an unmasked frame", b"\x82\x03abc".to_vec()),
            ("a control frame of 126 bytes", [masked(0x89, &[0xfe, 0, 126]), vec![0; 126]].concat()),
            ("a fragmented control frame", masked(0x09, &[0x80])),
            ("a reserved bit", masked(0xc2, &[0x80])),
            ("an unknown opcode", masked(0x83, &[0x80])),
            ("a length with its top bit set", masked(0x82, &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0])),
            ("a continuation of nothing", masked(0x80, &[0x80])),
        ] {
            let mut stream = gateway_tls(&topology, b"http/1.1").await;
            let request = upgrade(topology.gateway_address, "/causeway/v1/tunnel");
            let came = closes_after(what, &mut stream, &[request.as_bytes(), &frame].concat()).await;
            let text = String::from_utf8_lossy(&came);
            assert!(text.starts_with("HTTP/1.1 101"), "{what}: {text}");
        }
        assert!(still_works(&topology).await);
    })
    .await;
}

/// A frame that ends before its length says, and then the connection does.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_frame_ends_the_tunnel_alone() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let mut stream = gateway_tls(&topology, b"http/1.1").await;
        let request = upgrade(topology.gateway_address, "/causeway/v1/tunnel");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(b"\x82\xfe\x10\x00\0\0\0\0PRI * HT").await.unwrap();
        stream.shutdown().await.unwrap();
        closed("a truncated frame", &mut stream).await;
        assert!(still_works(&topology).await);
    })
    .await;
}

/// Many bad clients leave nothing behind: what the first round cost (pools, caches) is all that the next two cost.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_back_where_it_was_after_a_thousand_bad_clients() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let relay_address = topology.relay_address();
        let round = async || {
            for _ in 0..16 {
                let mut clients = Vec::new();
                for _ in 0..16 {
                    let mut plain = TcpStream::connect(topology.gateway_address).await.unwrap();
                    let _ = plain.write_all(GARBAGE).await;
                    clients.push(plain);
                    let mut plain = TcpStream::connect(relay_address).await.unwrap();
                    let _ = plain.write_all(GARBAGE).await;
                    clients.push(plain);
                }
                for client in &mut clients {
                    closed("a bad client", client).await;
                }
                let mut secure = gateway_tls(&topology, b"http/1.1").await;
                closes_after("garbage inside TLS", &mut secure, GARBAGE).await;
            }
        };
        let relay = topology.relay.as_ref().map(|(relay, _)| relay).unwrap();
        round().await;
        let before = [topology.gateway.resident(), relay.resident()];
        round().await;
        round().await;
        // Not a moment's reading: buffers of connections that have just ended may be on their way back.
        until("memory to be back", async || {
            let now = [topology.gateway.resident(), relay.resident()];
            now.iter().zip(before).all(|(now, before)| *now < before + (4 << 20)).then_some(())
        })
        .await;
        assert!(still_works(&topology).await);
    })
    .await;
}

async fn gateway_tls(topology: &Topology, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(topology.gateway_address).await.unwrap();
    let connector = pki::connector(&topology.site.cluster_ca(), &[alpn]);
    connector.connect(topology.gateway_address.ip().into(), stream).await.unwrap()
}

async fn still_works(topology: &Topology) -> bool {
    causeway_tests::curl::Curl::new(topology.connector.url(Face::Web)).run().await.status == 200
}
