//! Much passes through unchanged, and none of it stays.
use std::time::Duration;

use causeway_tests::{
    pattern::{self, Pattern, hex},
    site::Face,
    topology::Topology,
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const GIBIBYTE: u64 = 1 << 30;

/// A process that passes this much on may hold windows and buffers, not payload: far below what went through, above what
/// windows that have grown take.
const RESIDENT_MAX: u64 = 160 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_passes_the_relay_unchanged_both_ways() {
    within(Duration::from_secs(280), async {
        let topology = Topology::relay().await;
        let face = topology.connector.address(Face::Checksum);
        let expected = hex(Pattern::new(GIBIBYTE).digest().as_ref());

        let mut stream = TcpStream::connect(face).await.unwrap();
        stream.write_all(&request(b'D', GIBIBYTE)).await.unwrap();
        let down = pattern::receive(&mut stream, GIBIBYTE).await.unwrap();
        assert_eq!(hex(down.as_ref()), expected, "towards the client");

        // The same connection, the other way.
        stream.write_all(&request(b'U', GIBIBYTE)).await.unwrap();
        Pattern::new(GIBIBYTE).send(&mut stream).await.unwrap();
        let mut up = [0; 32];
        stream.read_exact(&mut up).await.unwrap();
        assert_eq!(hex(&up), expected, "towards the service");

        let (relay, listener) = topology.relay.as_ref().unwrap();
        for (name, process) in [
            ("relay", relay),
            ("listener", listener),
            ("gateway", &topology.gateway),
            ("connector", &topology.connector.process),
        ] {
            let resident = process.resident();
            assert!(resident < RESIDENT_MAX, "{name} holds {} MiB", resident >> 20);
        }
    })
    .await;
}

fn request(direction: u8, length: u64) -> Vec<u8> {
    let mut request = vec![direction];
    request.extend(length.to_be_bytes());
    request
}
