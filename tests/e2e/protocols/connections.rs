//! Connections that are no HTTP: each direction ends by itself, whichever side ends first, in either mode.
use causeway_tests::{
    pattern::Pattern,
    targets::{Greeting, Target},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{LIMIT, Mode, Plan, World, face};

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_of_a_tcp_stream_ends_by_itself_in_either_mode() {
    within(LIMIT, async {
        for mode in [Mode::Direct, Mode::Relay] {
            let echo = Target::echo().await;
            let mut greeting = Greeting::start(b"hello, and goodbye").await;
            let targets = vec![("back.test", echo.address), ("greeting.test", greeting.address)];
            let faces = vec![face("tcp", "back.test", echo.address), face("tcp", "greeting.test", greeting.address)];
            let world = World::new(mode, Plan { targets, faces, ..Plan::default() }).await;

            // The client ends first: all that it has sent comes back, and then the end.
            let mut client = TcpStream::connect(world.faces[0]).await.unwrap();
            let payload = Pattern::new(1_000_000).bytes();
            let (mut read, mut write) = client.split();
            let sending = async {
                write.write_all(&payload).await?;
                write.shutdown().await
            };
            let mut back = Vec::new();
            let (sent, received) = tokio::join!(sending, read.read_to_end(&mut back));
            sent.unwrap();
            received.unwrap();
            assert!(back == payload, "{} of {} bytes came back", back.len(), payload.len());

            // The service ends first: what the client says afterwards still arrives.
            let mut client = TcpStream::connect(world.faces[1]).await.unwrap();
            let mut seen = Vec::new();
            client.read_to_end(&mut seen).await.unwrap();
            assert_eq!(seen, b"hello, and goodbye");
            client.write_all(&payload).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(greeting.heard().await, payload.len());
        }
    })
    .await;
}
