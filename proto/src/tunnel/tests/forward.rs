use super::*;
use crate::tunnel::failure::{Code, Reached};

fn fin_of(value: &'static [u8]) -> pb::Fin {
    pb::Fin { trailers: vec![pb::Field { name: "x-sum".to_owned(), value: Bytes::from_static(value) }] }
}

#[tokio::test]
async fn caller_may_finish_first_and_still_receive() {
    let mut pair = Pair::new().await;
    let (mut up, mut down, mut served) = pair.forward().await;
    up.data(Bytes::from_static(b"question")).await.unwrap();
    up.fin(fin_of(b"1")).await.unwrap();

    assert_eq!(data(&mut served.receiver, 8).await, b"question");
    let fin = message(&mut served.receiver).await;
    assert_eq!(fin.part, Some(pb::forward_request::Part::Fin(fin_of(b"1"))));
    assert!(served.receiver.next().await.is_none());

    served.sender.message(connected()).await.unwrap();
    served.sender.data(Bytes::from_static(b"answer")).await.unwrap();
    served.sender.fin(fin_of(b"2")).await.unwrap();
    served.sender.finish();

    assert_eq!(message(&mut down).await, connected());
    assert_eq!(data(&mut down, 6).await, b"answer");
    let fin = message(&mut down).await;
    assert_eq!(fin.part, Some(pb::forward_response::Part::Fin(fin_of(b"2"))));
    assert!(down.next().await.is_none());
    drop((up, down, served.receiver));
    let ends = pair.end().await;
    assert!(ends.iter().all(Result::is_ok), "{ends:?}");
}

#[tokio::test]
async fn gateway_may_finish_first_and_still_receive() {
    let mut pair = Pair::new().await;
    let (mut up, mut down, mut served) = pair.forward().await;
    served.sender.message(connected()).await.unwrap();
    served.sender.fin(pb::Fin::default()).await.unwrap();
    assert_eq!(message(&mut down).await, connected());
    message(&mut down).await;

    up.data(Bytes::from_static(b"later")).await.unwrap();
    up.fin(pb::Fin::default()).await.unwrap();
    assert_eq!(data(&mut served.receiver, 5).await, b"later");
    message(&mut served.receiver).await;
    assert!(served.receiver.next().await.is_none());
    served.sender.finish();
    assert!(down.next().await.is_none());
}

#[tokio::test]
async fn megabytes_cross_unharmed_in_both_directions_at_once() {
    const LEN: usize = 5 * 1024 * 1024 + 17;
    let mut pair = Pair::new().await;
    let (mut up, mut down, mut served) = pair.forward().await;
    let (_, _, sent, received) = tokio::join!(
        async { up.data(bytes(LEN)).await.unwrap() },
        async { served.sender.data(bytes(LEN)).await.unwrap() },
        data(&mut served.receiver, LEN),
        data(&mut down, LEN),
    );
    assert!(sent == bytes(LEN) && received == bytes(LEN));
}

#[tokio::test]
async fn metadata_crosses_and_credentials_stay_sensitive() {
    let mut pair = Pair::new().await;
    let mut metadata = bearer("Bearer secret");
    metadata.insert("causeway-actor", "Bearer other".parse().unwrap());
    metadata.insert("causeway-stream-id", "s-1".parse().unwrap());
    let _call = pair.client.forward(metadata, open()).await.unwrap();
    let served = pair.accept().await;
    assert_eq!(served.metadata["authorization"], "Bearer secret");
    assert_eq!(served.metadata["causeway-actor"], "Bearer other");
    assert_eq!(served.metadata["causeway-stream-id"], "s-1");
    let printed = format!("{:?}", served.metadata);
    assert!(!printed.contains("secret") && !printed.contains("other"), "{printed}");
}

#[tokio::test]
async fn failure_arrives_with_code_text_and_reach_before_and_after_a_head() {
    for head in [false, true] {
        for &code in Code::ALL {
            let mut pair = Pair::new().await;
            let (_up, mut down, mut served) = pair.forward().await;
            if head {
                served.sender.message(connected()).await.unwrap();
                served.sender.data(Bytes::from_static(b"half")).await.unwrap();
                message(&mut down).await;
                data(&mut down, 4).await;
            }
            let sent = Failure { code, message: "weil's so ist: 100 %".to_owned(), reached: Reached::Yes };
            served.sender.fail(&sent);
            assert_eq!(failure(&mut down).await, sent);
            assert!(down.next().await.is_none());
        }
    }
}

#[tokio::test]
async fn direction_that_ends_without_fin_is_not_a_good_end() {
    let mut pair = Pair::new().await;
    let (_up, mut down, mut served) = pair.forward().await;
    served.sender.message(connected()).await.unwrap();
    served.sender.finish();
    message(&mut down).await;
    assert_eq!(failure(&mut down).await.code, Code::ProtocolError);
}

#[tokio::test]
async fn oversized_open_is_refused_before_it_is_sent() {
    let pair = Pair::new().await;
    let target = pb::TcpTarget { host: "x".repeat(70_000), port: 1 };
    let open = pb::Open { target: Some(pb::open::Target::Tcp(target)), hops: 0 };
    let failure = pair.client.forward(HeaderMap::new(), open).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::InvalidRequest, Reached::No));
    assert_eq!(pair.client.in_flight(), 0);
}

#[tokio::test]
async fn streams_in_flight_are_counted_until_both_halves_are_gone() {
    let mut pair = Pair::new().await;
    assert_eq!(pair.client.in_flight(), 0);
    let (up, down, _served) = pair.forward().await;
    assert_eq!(pair.client.in_flight(), 1);
    drop(up);
    assert_eq!(pair.client.in_flight(), 1);
    drop(down);
    assert_eq!(pair.client.in_flight(), 0);
}

#[tokio::test]
async fn stream_beyond_the_peers_limit_is_refused_by_name_and_describe_still_finds_room() {
    let mut pair = Pair::with(Settings::default(), Settings { max_streams: 20, ..Settings::default() }).await;
    let mut held = vec![pair.forward().await];
    while let Ok(call) = pair.client.forward(HeaderMap::new(), open()).await {
        let served = pair.accept().await;
        held.push((call.0, call.1, served));
    }
    let failure = pair.client.forward(HeaderMap::new(), open()).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::LimitReached, Reached::No));
    assert_eq!(held.len(), 16);

    let client = pair.client.clone();
    let (answer, ()) = tokio::join!(client.describe(HeaderMap::new()), async {
        let Some(Call::Other(call)) = pair.calls.recv().await else { panic!("no Describe") };
        call.fail(&Failure::before_target(Code::PolicyDenied, "no"));
    });
    assert_eq!(answer.unwrap_err(), Failure::before_target(Code::PolicyDenied, "no"));
    held.pop();
    pair.client.forward(HeaderMap::new(), open()).await.unwrap();
}
