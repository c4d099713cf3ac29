//! gRPC health and reflection, asked as any gRPC client would: with HTTP/2 and nothing of ours.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use prost::Message;
use tokio::{net::TcpStream, task::JoinSet};

use crate::support::{World, targets::Target};

/// A cleartext HTTP/2 connection from loopback.
async fn dial(world: &World) -> (SendRequest<Bytes>, JoinSet<()>) {
    let tcp = TcpStream::connect(world.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // How the connection ends is not what these tests are about.
        let _ = connection.await;
    });
    (sender, tasks)
}

/// One message there, one message back; or the status that came instead.
async fn call(
    sender: &SendRequest<Bytes>,
    path: &str,
    token: Option<&str>,
    message: &impl Message,
) -> Result<Bytes, String> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://gateway{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut framed).unwrap();
    stream.send_data(framed.freeze(), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        answer.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.unwrap();
    let status = |map: &HeaderMap| map.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    match status(&head.headers).or_else(|| trailers.as_ref().and_then(status)).as_deref() {
        Some("0") => Ok(answer.freeze().slice(5..)),
        Some(other) => Err(other.to_owned()),
        None => Err("no status".to_owned()),
    }
}

#[tokio::test]
async fn health_needs_a_principal_and_a_rule_and_says_when_it_drains() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let (sender, _tasks) = dial(&world).await;
    let (check, request) = ("/grpc.health.v1.Health/Check", tonic_health::pb::HealthCheckRequest::default());
    assert_eq!(call(&sender, check, None, &request).await, Err("16".to_owned()), "UNAUTHENTICATED");
    let alice = world.token("alice");
    assert_eq!(call(&sender, check, Some(alice.expose()), &request).await, Err("7".to_owned()), "PERMISSION_DENIED");
    let connector = world.token("connector");
    let answer = call(&sender, check, Some(connector.expose()), &request).await.unwrap();
    let answer = tonic_health::pb::HealthCheckResponse::decode(answer).unwrap();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    drop(sender);
    world.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn reflection_tells_the_contract() {
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse, server_reflection_request};
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let (sender, _tasks) = dial(&world).await;
    let connector = world.token("connector");
    let list = server_reflection_request::MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(call(&sender, path, None, &request).await, Err("16".to_owned()));
    let answer = call(&sender, path, Some(connector.expose()), &request).await.unwrap();
    let shown = format!("{:?}", ServerReflectionResponse::decode(answer).unwrap());
    assert!(shown.contains("causeway.tunnel.v1.Tunnel") && shown.contains("grpc.health.v1.Health"), "{shown}");
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_for_those_who_may_ask() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let (sender, _tasks) = dial(&world).await;
    let request = tonic_health::pb::HealthCheckRequest::default();
    let unknown = "/causeway.tunnel.v2.Tunnel/Forward";
    assert_eq!(call(&sender, unknown, None, &request).await, Err("16".to_owned()));
    let connector = world.token("connector");
    assert_eq!(call(&sender, unknown, Some(connector.expose()), &request).await, Err("12".to_owned()), "UNIMPLEMENTED");
}

#[tokio::test]
async fn messages_and_calls_beyond_what_anybody_needs_are_refused() {
    use tonic_health::pb::HealthCheckRequest;
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let (sender, _tasks) = dial(&world).await;
    let connector = world.token("connector");
    let check = "/grpc.health.v1.Health/Check";
    // Tag and length in front.
    for (length, status) in [(4096 - 3, "5"), (4096 - 2, "11")] {
        let request = HealthCheckRequest { service: "x".repeat(length) };
        let answer = call(&sender, check, Some(connector.expose()), &request).await;
        assert_eq!(answer, Err(status.to_owned()), "NOT_FOUND, or OUT_OF_RANGE if it is too long: {length}");
    }

    let mut watching = Vec::new();
    for _ in 0..16 {
        watching.push(watch(&sender, connector.expose()).await);
    }
    let request = HealthCheckRequest::default();
    let refused = call(&sender, check, Some(connector.expose()), &request).await;
    assert_eq!(refused, Err("8".to_owned()), "RESOURCE_EXHAUSTED");
    watching.pop();
    while call(&sender, check, Some(connector.expose()), &request).await.is_err() {}
}

/// A `Watch` that has begun.
async fn watch(sender: &SendRequest<Bytes>, token: &str) -> h2::RecvStream {
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://gateway/causeway.tunnel.v1.Tunnel/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"));
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    assert!(!head.headers.contains_key("grpc-status"), "{head:?}");
    body.data().await.unwrap().unwrap();
    body
}
