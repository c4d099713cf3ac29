//! The ways in.

use super::bench::{Bench, PREFACE, send, websocket};
use crate::serve::entry::{Way, proxy};

#[tokio::test]
async fn the_inner_session_of_a_relays_byte_stream_comes_in() {
    let bench = Bench::new("").await;
    let admitted = bench.preface(|tcp| async { send(bench.inner(tcp).await, PREFACE).await }).await;
    assert_eq!(admitted.way, Way::Inner);
}

#[tokio::test]
async fn a_plain_grpc_client_with_alpn_h2_comes_in() {
    let bench = Bench::new("").await;
    let admitted = bench.preface(|tcp| async { send(bench.tls(tcp, &[b"h2"]).await, PREFACE).await }).await;
    assert_eq!(admitted.way, Way::Http2);
}

#[tokio::test]
async fn a_websocket_in_our_own_tls_needs_no_inner_session() {
    let bench = Bench::new("").await;
    for alpn in [&[b"http/1.1".as_slice()][..], &[]] {
        let client = |tcp| async { send(websocket(bench.tls(tcp, alpn).await).await, PREFACE).await };
        assert_eq!(bench.preface(client).await.way, Way::WebSocket);
    }
}

#[tokio::test]
async fn a_websocket_in_our_own_tls_may_have_an_inner_session() {
    let bench = Bench::new("").await;
    let client = |tcp| async {
        let socket = websocket(bench.tls(tcp, &[b"http/1.1"]).await).await;
        send(bench.inner(socket).await, PREFACE).await
    };
    assert_eq!(bench.preface(client).await.way, Way::WebSocketInner);
}

#[tokio::test]
async fn loopback_may_speak_cleartext() {
    let bench = Bench::new("").await;
    let admitted = bench.preface(|tcp| async { send(tcp, PREFACE).await }).await;
    assert_eq!(admitted.way, Way::Loopback);
    let admitted = bench.preface(|tcp| async { send(websocket(tcp).await, PREFACE).await }).await;
    assert_eq!(admitted.way, Way::Loopback);
    let client = |tcp| async { send(bench.inner(websocket(tcp).await).await, PREFACE).await };
    assert_eq!(bench.preface(client).await.way, Way::WebSocketInner);
}

#[tokio::test]
async fn a_listed_peer_may_say_for_whom_it_forwards() {
    let bench = Bench::new("proxy_protocol_from: 127.0.0.0/8").await;
    let client = |tcp| async { send(bench.inner(send(tcp, &header([203, 0, 113, 9])).await).await, PREFACE).await };
    let admitted = bench.preface(client).await;
    assert_eq!(admitted.peer, "203.0.113.9:49153".parse().unwrap());
    assert_eq!(admitted.id.as_deref(), Some("ab-1"));
    let local = |tcp| async { send(send(tcp, &local_header()).await, PREFACE).await };
    assert_eq!(bench.preface(local).await.way, Way::Loopback);
}

#[tokio::test]
async fn a_client_certificate_names_the_actor() {
    let bench = Bench::new("").await;
    let config = bench.trust().inner_client(Some(&bench.client_certificate("spiffe://corp/connector"))).unwrap();
    let client = |tcp| async {
        let name = identity::tls::cluster::inner_name();
        send(tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap(), PREFACE).await
    };
    let admitted = bench.preface(client).await;
    assert_eq!(admitted.certificate.unwrap().principal.to_string(), "mtls/spiffe://corp/connector");
}

/// A PROXY header with an id.
pub(super) fn header(source: [u8; 4]) -> Vec<u8> {
    let mut bytes = proxy::SIGNATURE.to_vec();
    bytes.extend([0x21, 0x11, 0, 19]);
    bytes.extend(source);
    bytes.extend([10, 42, 0, 5, 0xc0, 0x01, 0x20, 0xfb]);
    bytes.extend([5, 0, 4, b'a', b'b', b'-', b'1']);
    bytes
}

fn local_header() -> Vec<u8> {
    [proxy::SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat()
}
