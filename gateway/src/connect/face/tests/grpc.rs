//! The gRPC face: what crosses it, what ends at it, and how calls end.
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use proto::tunnel::{
    client::{self, Client},
    failure::{Code, Failure, Reached},
    pb::{self, forward_response},
    receive::Part,
    settings::Settings,
};

use super::*;
use crate::connect::fake::{body, connected, fail, opening, tcp_open};

async fn client(setup: &Setup) -> Client {
    let (client, driver) = client::connect(setup.client().await, Settings::default()).await.unwrap();
    setup.bench.context.shutdown.spawn(async move { drop(driver.await) });
    client
}

fn token() -> HeaderMap {
    HeaderMap::from_iter([(::http::header::AUTHORIZATION, HeaderValue::from_static("Bearer caller-token"))])
}

fn open() -> pb::Open {
    tcp_open().1
}

async fn setup() -> Setup {
    Setup::new("grpc", ", to: factory-a").await
}

#[tokio::test]
async fn a_call_becomes_a_stream_with_a_name_of_ours() {
    let mut setup = setup().await;
    let client = client(&setup).await;
    let mut metadata = token();
    metadata.insert("causeway-stream-id", HeaderValue::from_static("forged"));
    let (mut up, mut down) = client.forward(metadata, open()).await.unwrap();
    up.data(Bytes::from_static(b"question")).await.unwrap();
    let mut call = setup.call().await;
    assert_eq!(call.metadata["authorization"], "Bearer caller-token");
    assert_eq!(call.metadata["causeway-stream-id"].len(), 26);
    assert_eq!(opening(&mut call).await, open());
    call.sender.message(connected()).await.unwrap();
    up.fin(pb::Fin::default()).await.unwrap();
    assert_eq!(body(&mut call).await.0, b"question");
    call.sender.data(Bytes::from_static(b"answer")).await.unwrap();
    call.sender.fin(pb::Fin::default()).await.unwrap();
    call.sender.finish();
    let mut data = Vec::new();
    let mut kinds = Vec::new();
    while let Some(part) = soon("the call goes on", down.next()).await {
        match part.unwrap() {
            Part::Data(bytes) => {
                down.taken(bytes.len());
                data.extend_from_slice(&bytes);
            }
            Part::Message(message) => kinds.push(match message.part.unwrap() {
                forward_response::Part::Connected(_) => "connected",
                forward_response::Part::Fin(_) => "fin",
                _ => "other",
            }),
        }
    }
    assert_eq!((data.as_slice(), kinds), (&b"answer"[..], vec!["connected", "fin"]));
}

#[tokio::test]
async fn a_call_that_went_nowhere_is_made_again_with_all_that_was_said() {
    let mut setup = setup().await;
    let client = client(&setup).await;
    let (mut up, mut down) = client.forward(token(), open()).await.unwrap();
    up.data(Bytes::from_static(b"question")).await.unwrap();
    up.fin(pb::Fin::default()).await.unwrap();
    let mut first = setup.call().await;
    opening(&mut first).await;
    assert_eq!(body(&mut first).await.0, b"question");
    fail(first, &Failure::before_target(Code::Draining, "going away"));
    let mut second = setup.call().await;
    opening(&mut second).await;
    assert_eq!(body(&mut second).await.0, b"question");
    second.sender.fin(pb::Fin::default()).await.unwrap();
    second.sender.finish();
    assert!(matches!(soon("the end", down.next()).await, Some(Ok(Part::Message(_)))));
    assert!(soon("the status", down.next()).await.is_none());
}

#[tokio::test]
async fn a_failure_of_the_gateway_arrives_as_it_was() {
    let mut setup = setup().await;
    let client = client(&setup).await;
    let (_up, mut down) = client.forward(token(), open()).await.unwrap();
    let failure = Failure::before_target(Code::PolicyDenied, "no rule for entra/7d5c");
    fail(setup.call().await, &failure);
    assert_eq!(soon("the failure", down.next()).await.unwrap().unwrap_err(), failure);
}

#[tokio::test]
async fn without_a_token_no_call_reaches_the_gateway() {
    let mut setup = setup().await;
    let client = client(&setup).await;
    let (_up, mut down) = client.forward(HeaderMap::new(), open()).await.unwrap();
    let failure = soon("the refusal", down.next()).await.unwrap().unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::Unauthenticated, Reached::No));
    assert_eq!(client.describe(HeaderMap::new()).await.unwrap_err().code, Code::Unauthenticated);
    assert!(setup.calls.try_recv().is_err());
}

#[tokio::test]
async fn cancellation_crosses_in_both_directions() {
    let mut setup = setup().await;
    let client = client(&setup).await;
    let (mut up, down) = client.forward(token(), open()).await.unwrap();
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    up.cancel();
    drop(down);
    soon("the gateway sees it", call.sender.cancelled()).await;
    // A gateway that gives the stream up ends the call with a failure.
    let (_up, mut down) = client.forward(token(), open()).await.unwrap();
    drop(setup.call().await);
    assert!(soon("the caller sees it", down.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn the_callers_deadline_goes_along_and_holds_here_too() {
    let mut setup = setup().await;
    let client = client(&setup).await;
    let mut metadata = token();
    metadata.insert("grpc-timeout", HeaderValue::from_static("300m"));
    let (_up, mut down) = client.forward(metadata, open()).await.unwrap();
    let mut call = setup.call().await;
    assert_eq!(call.metadata["grpc-timeout"], "300m");
    opening(&mut call).await;
    let began = std::time::Instant::now();
    let failure = soon("the deadline", down.next()).await.unwrap().unwrap_err();
    assert_eq!(failure.code, Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(15));
    soon("the gateway sees it", call.sender.cancelled()).await;
}
