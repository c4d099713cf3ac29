//! SIGTERM: finish what is there, take nothing new, exit 0.
use std::time::Duration;

use causeway_tests::{
    nginx,
    pattern::{self, Pattern, hex},
    site::Face,
    topology::Topology,
    wait::within,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn every_process_drains_and_exits_zero() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        // From the outside in, so that each still has its peers when it says goodbye.
        assert_eq!(topology.connector.process.stop().await, Some(0), "connector");
        let (relay, listener) = topology.relay.as_mut().unwrap();
        assert_eq!(listener.stop().await, Some(0), "listener");
        assert_eq!(relay.stop().await, Some(0), "relay");
        assert_eq!(topology.gateway.stop().await, Some(0), "gateway");
    })
    .await;
}

/// A download is half way through when the gateway is told to go: it arrives whole, and the gateway exits 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_in_flight_survives_the_gateways_drain() {
    within(LIMIT, async {
        let mut topology = Topology::direct().await;
        let face = topology.connector.address(Face::Web);
        let mut stream = BufReader::new(TcpStream::connect(face).await.unwrap());
        let request = format!("GET /large.bin HTTP/1.1\r\nHost: {face}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the head ended early");
        }
        // The head is here and more payload than any buffer on the way holds is not.
        let first = stream.read_u8().await.unwrap();
        topology.gateway.terminate().await;
        topology.gateway.log().entry("the gateway to drain", 0, |entry| entry.contains("drain")).await;
        let rest = pattern::receive(&mut stream, nginx::LARGE - 1).await.unwrap();
        let expected = Pattern::new(nginx::LARGE).bytes();
        assert_eq!(first, expected[0]);
        let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &expected[1..]);
        assert_eq!(hex(rest.as_ref()), hex(expected.as_ref()));
        assert_eq!(topology.gateway.ended().await.code(), Some(0));
    })
    .await;
}
