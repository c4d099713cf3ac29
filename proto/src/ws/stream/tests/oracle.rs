//! tungstenite as the other end: an independent reading of RFC 6455.
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol},
};

use super::*;

async fn exchange(ours: Role, theirs: protocol::Role) {
    let (a, b) = duplex(1 << 20);
    let mut stream = WsStream::new(a, ours, BytesMut::new());
    let mut oracle = WebSocketStream::from_raw_socket(b, theirs, None).await;
    let data = sample(300_000);
    let talk = async {
        stream.write_all(&data).await.unwrap();
        stream.flush().await.unwrap();
        let mut back = vec![0; data.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == data);
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
        // Both have said Close; now the transport goes, which is what a client waits for.
        drop(stream);
    };
    let echo = async {
        let (mut got, mut pongs) = (0, 0);
        oracle.send(Message::Ping("before".into())).await.unwrap();
        while let Some(message) = oracle.next().await {
            match message.unwrap() {
                Message::Binary(bytes) => {
                    assert!(bytes[..] == data[got..got + bytes.len()]);
                    got += bytes.len();
                    oracle.send(Message::text("skipped")).await.unwrap();
                    oracle.send(Message::Binary(bytes)).await.unwrap();
                }
                Message::Pong(payload) => {
                    assert_eq!(&payload[..], b"before");
                    pongs += 1;
                }
                Message::Close(frame) => assert_eq!(u16::from(frame.unwrap().code), 1000),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!((got, pongs), (data.len(), 1));
    };
    tokio::join!(talk, echo);
}

#[tokio::test]
async fn our_client_talks_to_its_server() {
    exchange(Role::Client, protocol::Role::Server).await;
}

#[tokio::test]
async fn our_server_talks_to_its_client() {
    exchange(Role::Server, protocol::Role::Client).await;
}

#[tokio::test]
async fn its_close_is_our_end_and_our_echo_its_end() {
    let (a, b) = duplex(10_000);
    let mut stream = WsStream::new(a, Role::Server, BytesMut::new());
    let mut oracle = WebSocketStream::from_raw_socket(b, protocol::Role::Client, None).await;
    let ours = async {
        assert_eq!(read_to_end(&mut stream, 100).await.unwrap(), b"last words");
        stream.shutdown().await.unwrap();
    };
    let theirs = async {
        oracle.send(Message::binary(&b"last words"[..])).await.unwrap();
        oracle.close(None).await.unwrap();
        while let Some(message) = oracle.next().await {
            message.unwrap();
        }
    };
    tokio::join!(ours, theirs);
}
