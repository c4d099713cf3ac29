//! HTTP/2 over the byte stream, both ways at once, through a pipe much smaller than a frame.
use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::*;

const TOTAL: usize = 32 << 20;

async fn send_all(mut stream: SendStream<Bytes>) {
    let block = Bytes::from(sample(251 * 256));
    let mut left = TOTAL;
    while left > 0 {
        let want = left.min(block.len());
        stream.reserve_capacity(want);
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap().min(want);
        let at = (TOTAL - left) % 251;
        let granted = granted.min(block.len() - at);
        stream.send_data(block.slice(at..at + granted), false).unwrap();
        left -= granted;
    }
    stream.send_data(Bytes::new(), true).unwrap();
}

async fn check_all(mut stream: RecvStream) {
    let expected = sample(251 * 300);
    let mut got = 0;
    while let Some(bytes) = stream.data().await {
        let bytes = bytes.unwrap();
        let at = got % 251;
        assert!(bytes[..] == expected[at..at + bytes.len()], "bytes differ behind {got}");
        got += bytes.len();
        stream.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(got, TOTAL);
}

#[tokio::test]
async fn thirty_two_mib_each_way_through_a_tiny_pipe() {
    let (client, server) = pair(3000);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connection = h2::server::Builder::new()
            .max_frame_size(64 * 1024 - 1)
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake::<_, Bytes>(server)
            .await
            .unwrap();
        let mut work = tokio::task::JoinSet::new();
        // The client leaves when it has everything; what the server then still writes, if anything, fails.
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let answer = respond.send_response(http::Response::new(()), false).unwrap();
            work.spawn(async move {
                tokio::join!(send_all(answer), check_all(request.into_body()));
            });
        }
        while let Some(done) = work.join_next().await {
            done.unwrap();
        }
    });
    tasks.spawn(async move {
        let (sender, connection) = h2::client::Builder::new()
            .max_frame_size(64 * 1024 - 1)
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake::<_, Bytes>(client)
            .await
            .unwrap();
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(async move { connection.await.unwrap() });
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::post("https://peer/").body(()).unwrap();
        let (response, body) = sender.send_request(request, false).unwrap();
        drop(sender);
        let (_, answer) = tokio::join!(send_all(body), async { check_all(response.await.unwrap().into_body()).await });
        let () = answer;
        while let Some(done) = driver.join_next().await {
            done.unwrap();
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
