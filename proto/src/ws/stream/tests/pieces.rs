//! Whatever the sizes of writes, reads, frames and transport steps: every byte, once, in order.
use std::{future::poll_fn, io::IoSlice};

use proptest::prelude::*;
use tokio::io::join;

use super::*;
use crate::ws::frame::put_control;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_directions_arrive_whole_over_any_transport(
        len in 0usize..200_000,
        writes in proptest::collection::vec(1usize..100_000, 1..4),
        script in proptest::collection::vec(0usize..5000, 0..6).prop_map(|mut script| { script.push(1 + script.len() * 700); script }),
        read in 1usize..100_000,
        vectored: bool,
    ) {
        block_on(async {
            let (client, server) = duplex(16 * 1024);
            let mut client = WsStream::new(Choppy::new(client, &script, vectored), Role::Client, BytesMut::new());
            let mut server = WsStream::new(Choppy::new(server, &script, vectored), Role::Server, BytesMut::new());
            let data = sample(len);
            let (_, got) = tokio::join!(write_in_pieces(&mut client, &data, &writes), read_to_end(&mut server, read.max(len / 500)));
            assert!(got.unwrap() == data, "client to server");
            let (_, got) = tokio::join!(write_in_pieces(&mut server, &data, &writes), read_to_end(&mut client, read.max(len / 500)));
            assert!(got.unwrap() == data, "server to client");
        });
    }

    #[test]
    fn any_frames_with_text_and_pings_between_give_the_binary_bytes(
        frames in proptest::collection::vec((0u8..6, 0usize..20_000), 1..20),
        script in proptest::collection::vec(1usize..30_000, 1..5),
        read in 1usize..40_000,
        ahead in 0usize..300,
    ) {
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (kind, len) in frames {
            let payload = sample(len);
            match kind {
                0 => wire.extend(frame(Opcode::Text, true, &payload)),
                1 => put_control(&mut wire, Opcode::Ping, &payload[..len.min(125)], None),
                2 => {
                    wire.extend(frame(Opcode::Binary, false, &payload[..len / 2]));
                    put_control(&mut wire, Opcode::Pong, b"between", None);
                    wire.extend(frame(Opcode::Continuation, true, &payload[len / 2..]));
                    expected.extend(payload);
                }
                _ => {
                    wire.extend(frame(Opcode::Binary, true, &payload));
                    expected.extend(payload);
                }
            }
        }
        put_control(&mut wire, Opcode::Close, &[0x03, 0xe8], None);
        let (ahead, rest) = wire.split_at(ahead.min(wire.len()));
        let transport = Choppy::new(join(rest, tokio::io::sink()), &script, true);
        let mut stream = WsStream::new(transport, Role::Client, BytesMut::from(ahead));
        let got = block_on(read_to_end(&mut stream, read.max(expected.len() / 500))).unwrap();
        prop_assert!(got == expected);
    }
}

#[tokio::test]
async fn one_header_goes_around_many_slices() {
    let (client, server) = duplex(1 << 20);
    let mut server = WsStream::new(server, Role::Server, BytesMut::new());
    let slices = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two "), IoSlice::new(b"three")];
    let written = poll_fn(|cx| Pin::new(&mut server).poll_write_vectored(cx, &slices)).await.unwrap();
    assert_eq!(written, 13);
    drop(server);
    let wire = read_to_end(&mut { client }, 100).await.unwrap();
    assert_eq!(wire, b"\x82\x0done two three");
}

#[tokio::test]
async fn a_frame_with_its_header_fills_64_kib_and_no_more() {
    for role in [Role::Client, Role::Server] {
        let (ours, theirs) = duplex(1 << 20);
        let mut stream = WsStream::new(ours, role, BytesMut::new());
        let accepted = stream.write(&vec![7; 1 << 18]).await.unwrap();
        drop(stream);
        let wire = read_to_end(&mut { theirs }, 1 << 20).await.unwrap();
        assert_eq!(wire.len(), super::super::FRAME_MAX);
        assert_eq!(accepted, wire.len() - if role == Role::Client { 8 } else { 4 });
    }
}

#[tokio::test]
async fn a_write_cancelled_in_mid_frame_leaves_a_whole_frame() {
    for (script, vectored) in [(&[3, 0][..], true), (&[1, 0], true), (&[500, 0, 0], true), (&[3, 0], false)] {
        let (ours, theirs) = duplex(1 << 20);
        let mut stream = WsStream::new(Choppy::new(ours, script, vectored), Role::Server, BytesMut::new());
        let data = sample(1000);
        // One poll, then the write is forgotten, as `select!` would do.
        let accepted = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &data))).await;
        let Poll::Ready(Ok(accepted)) = accepted else { panic!("the transport took a part") };
        stream.shutdown().await.unwrap();
        drop(stream);
        let mut peer = WsStream::new(theirs, Role::Client, BytesMut::new());
        assert_eq!(read_to_end(&mut peer, 4096).await.unwrap(), data[..accepted]);
    }
}

#[tokio::test]
async fn a_blocked_transport_accepts_one_frame_at_most() {
    for vectored in [true, false] {
        let (ours, _theirs) = duplex(100);
        let mut stream = WsStream::new(Choppy::new(ours, &[usize::MAX], vectored), Role::Server, BytesMut::new());
        let data = vec![0; 1 << 20];
        let mut accepted = 0;
        while let Poll::Ready(more) = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &data))).await {
            accepted += more.unwrap();
        }
        assert!(accepted <= super::super::FRAME_MAX);
    }
}

#[tokio::test]
async fn buffers_go_when_traffic_has_gone() {
    let (mut client, mut server) = pair(1 << 20);
    let data = sample(60_000);
    client.write_all(&data).await.unwrap();
    client.flush().await.unwrap();
    let mut got = vec![0; data.len()];
    server.read_exact(&mut got).await.unwrap();
    assert!(format!("{client:?}").contains("room: 65536"));
    // A liveness ping of the protocol above is enough to let go.
    client.write_all(b"small").await.unwrap();
    client.flush().await.unwrap();
    assert!(format!("{client:?}").contains("room: 0"));
    assert!(size_of::<WsStream<()>>() <= 512);
}

#[test]
fn debug_output_shows_no_payload() {
    block_on(async {
        let (ours, _theirs) = duplex(4);
        let mut stream = WsStream::new(ours, Role::Server, BytesMut::from(&b"\x82"[..]));
        stream.write_all(b"secret-marker").await.unwrap();
        assert!(!format!("{:?}{:?}", stream.outbound, stream.inbound).contains("secret"));
    });
}
