use bytes::Bytes;
use proto::tunnel::{
    failure::{Code, Failure},
    pb,
    receive::Part,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::connect::fake::{body, connected, fail, opening, until};

/// Not one message's worth, and no multiple of a read.
const BULK: usize = 3 * 1024 * 1024 + 17;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    let open = opening(&mut call).await;
    let target = pb::TcpTarget { host: "scorer.models.svc".to_owned(), port: 80 };
    assert_eq!(open.target, Some(pb::open::Target::Tcp(target)));
    call.sender.message(connected()).await.unwrap();

    let sent = pattern(BULK);
    let (reading, mut writing) = client.split();
    let (_, (received, _)) = tokio::join!(
        async {
            writing.write_all(&sent).await.unwrap();
            writing.shutdown().await.unwrap();
        },
        body(&mut call)
    );
    assert!(received == sent);

    // The client has ended; the target goes on.
    let answer = Bytes::from(pattern(BULK));
    let mut reading = reading;
    let mut got = Vec::new();
    let (_, ()) = tokio::join!(async { reading.read_to_end(&mut got).await.unwrap() }, async {
        call.sender.data(answer.clone()).await.unwrap();
        call.sender.fin(pb::Fin::default()).await.unwrap();
        call.sender.finish();
    });
    assert!(got == answer);
}

#[tokio::test]
async fn a_target_may_end_first() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    call.sender.fin(pb::Fin::default()).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(body(&mut call).await.0, b"more");
    call.sender.finish();
}

#[tokio::test]
async fn a_refused_target_resets_the_connection() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    fail(call, &Failure::before_target(Code::TargetRefused, "nobody listens"));
    let error = soon("the connection ends", client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_stream_is_no_end() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    call.sender.data(Bytes::from_static(b"half")).await.unwrap();
    let mut half = [0; 4];
    client.read_exact(&mut half).await.unwrap();
    fail(call, &Failure::after_target(Code::TargetBroken, "gone"));
    let error = soon("the connection ends", client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn first_bytes_are_sent_again_when_a_tunnel_drains_under_them() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    client.write_all(b"hello").await.unwrap();
    let mut first = setup.call().await;
    opening(&mut first).await;
    let Some(Ok(proto::tunnel::receive::Part::Data(early))) = soon("bytes go ahead", first.receiver.next()).await
    else {
        panic!("no data");
    };
    assert_eq!(early, "hello");
    fail(first, &Failure::before_target(Code::Draining, "going away"));
    let mut second = setup.call().await;
    opening(&mut second).await;
    second.sender.message(connected()).await.unwrap();
    client.write_all(b" again").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(body(&mut second).await.0, b"hello again");
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_stream() {
    let mut setup = Setup::new("tcp", "").await;
    let client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    soon("the stream is cancelled", call.sender.cancelled()).await;
}

#[tokio::test]
async fn draining_lets_connections_finish_and_takes_no_new_ones() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    setup.bench.context.shutdown.begin();
    let address = setup.address;
    soon("the port closes", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.write_all(b"still").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(body(&mut call).await.0, b"still");
}

#[tokio::test]
async fn a_slow_client_holds_its_own_stream_back() {
    let mut setup = Setup::new("tcp", "").await;
    let client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    // Far more than windows and socket buffers hold: the sender must come to a stop.
    let piece = Bytes::from(vec![7; 1 << 20]);
    let stalled = soon("the sender stops", async {
        loop {
            let sent = tokio::time::timeout(std::time::Duration::from_millis(300), call.sender.data(piece.clone()));
            if sent.await.is_err() {
                return true;
            }
        }
    });
    assert!(stalled.await);
    // Another stream of the same tunnel is not held up.
    let mut other = setup.client().await;
    let mut second = setup.call().await;
    opening(&mut second).await;
    second.sender.message(connected()).await.unwrap();
    second.sender.data(Bytes::from_static(b"quick")).await.unwrap();
    let mut quick = [0; 5];
    soon("the other stream flows", other.read_exact(&mut quick)).await.unwrap();
    drop(client);
    until("both ends let go", || true).await;
}

const POST: &[u8] =
    b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 14\r\norigin: https://evil.example\r\n\r\nDROP TABLE t;\n";

/// Takes the connection, and gives what reaches the target before the client's end.
async fn reached(setup: &mut Setup) -> Vec<u8> {
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    body(&mut call).await.0
}

#[tokio::test]
async fn not_a_byte_of_a_web_page_reaches_the_target() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    // The target is there already, and the request comes in two pieces.
    call.sender.message(connected()).await.unwrap();
    client.write_all(&POST[..40]).await.unwrap();
    client.write_all(&POST[40..]).await.unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("allow_http"), "{answer}");
    let cut = soon("the stream ends", call.receiver.next()).await;
    assert!(!matches!(cut, Some(Ok(Part::Data(_)))), "{cut:?}");
}

#[tokio::test]
async fn programs_may_speak_http_over_a_tcp_face() {
    let mut setup = Setup::new("tcp", "").await;
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nuser-agent: curl/8\r\n\r\n", setup.address);
    let mut client = setup.client().await;
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(reached(&mut setup).await, request.as_bytes());
}

#[tokio::test]
async fn a_face_that_is_meant_for_browsers_lets_them_in() {
    let mut setup = Setup::new("tcp", ", allow_http: true").await;
    let mut client = setup.client().await;
    client.write_all(POST).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(reached(&mut setup).await, POST);
}

#[tokio::test]
async fn a_first_word_that_waits_for_an_answer_is_not_withheld_for_long() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    client.write_all(b"HELLO").await.unwrap();
    match soon("the word arrives", call.receiver.next()).await {
        Some(Ok(Part::Data(bytes))) => assert_eq!(bytes, "HELLO"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_target_that_speaks_first_is_heard_before_the_client_says_anything() {
    let mut setup = Setup::new("tcp", "").await;
    let mut client = setup.client().await;
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    call.sender.data(Bytes::from_static(b"220 ready\r\n")).await.unwrap();
    let mut greeting = [0; 11];
    soon("the greeting", client.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}
