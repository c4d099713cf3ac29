//! Generated gRPC code on the other side, over plain h2 with none of our framing.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tonic::{Status, body::Body};
use tower_service::Service;

use super::*;
use crate::tunnel::{
    failure::{Code, Reached},
    pb::{forward_request, forward_response, tunnel_client::TunnelClient, tunnel_server},
};

/// A body read from a plain h2 stream.
struct Incoming(h2::RecvStream);

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(data) = ready!(self.0.poll_data(cx)) {
            let data = data?;
            self.0.flow_control().release_capacity(data.len())?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(ready!(self.0.poll_trailers(cx))?.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

async fn pump(mut body: Body, mut stream: h2::SendStream<Bytes>) {
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => stream.send_data(data, false).unwrap(),
            Err(frame) => return stream.send_trailers(frame.into_trailers().unwrap()).unwrap(),
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

/// What a generated client needs: a plain h2 client as a service.
#[derive(Clone)]
struct Channel(h2::client::SendRequest<Bytes>, Arc<std::sync::Mutex<JoinSet<()>>>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, h2::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let (response, stream) = self.0.send_request(Request::from_parts(head, ()), false).unwrap();
        self.1.lock().unwrap().spawn(pump(body, stream));
        Box::pin(async { Ok(response.await?.map(|stream| Body::new(IncomingBody(Incoming(stream))))) })
    }
}

/// With an error that tonic knows.
struct IncomingBody(Incoming);

impl http_body::Body for IncomingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(|error| Status::from_error(error.into()))
    }
}

/// A gateway of generated code: echoes, and answers what it is asked.
struct Gateway;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl tunnel_server::Tunnel for Gateway {
    type ForwardStream = Answers<pb::ForwardResponse>;
    type WatchStream = Answers<pb::WatchEvent>;

    async fn forward(
        &self,
        request: tonic::Request<tonic::Streaming<pb::ForwardRequest>>,
    ) -> Result<tonic::Response<Self::ForwardStream>, Status> {
        let answers = request.into_inner().map(|message| {
            Ok(pb::ForwardResponse {
                part: Some(match message?.part.unwrap() {
                    forward_request::Part::Open(_) => return Ok(connected()),
                    forward_request::Part::Data(data) => forward_response::Part::Data(data),
                    forward_request::Part::Fin(fin) => forward_response::Part::Fin(fin),
                }),
            })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }

    async fn describe(
        &self,
        request: tonic::Request<pb::DescribeRequest>,
    ) -> Result<tonic::Response<pb::DescribeResponse>, Status> {
        match request.metadata().get("authorization") {
            Some(_) => {
                let cluster = "c".repeat(40_000);
                Ok(tonic::Response::new(pb::DescribeResponse { cluster, ..Default::default() }))
            }
            None => Err(Failure::before_target(Code::Unauthenticated, "kein Ausweis").into()),
        }
    }

    async fn watch(
        &self,
        _request: tonic::Request<pb::WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let drain = pb::WatchEvent { event: Some(pb::watch_event::Event::Drain(pb::Drain { within_ms: 7 })) };
        let lost = Err(Failure::after_target(Code::Draining, "bye").into());
        Ok(tonic::Response::new(Box::pin(stream::iter([Ok(drain), lost]))))
    }
}

/// A generated server on plain h2.
async fn generated_server(io: DuplexStream) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    let mut calls = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        calls.spawn(async move {
            let request = request.map(|stream| Body::new(IncomingBody(Incoming(stream))));
            let response = tunnel_server::TunnelServer::new(Gateway).call(request).await.unwrap();
            let (head, body) = response.into_parts();
            let stream = respond.send_response(Response::from_parts(head, ()), body.is_end_stream()).unwrap();
            if !body.is_end_stream() {
                pump(body, stream).await;
            }
        });
    }
}

async fn generated_client(io: DuplexStream) -> (TunnelClient<Channel>, JoinSet<()>) {
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async { drop(connection.await) });
    let channel = Channel(send, Arc::default());
    (TunnelClient::with_origin(channel, http::Uri::from_static("https://gateway")), tasks)
}

#[tokio::test]
async fn our_client_calls_a_generated_server() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = JoinSet::new();
    tasks.spawn(generated_server(far));
    let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
    tasks.spawn(async { drop(driver.await) });

    let description = client.describe(bearer("Bearer x")).await.unwrap();
    assert_eq!(description.cluster.len(), 40_000);
    let refused = client.describe(HeaderMap::new()).await.unwrap_err();
    assert_eq!(refused, Failure::before_target(Code::Unauthenticated, "kein Ausweis"));

    let mut watch = client.watch(HeaderMap::new()).await.unwrap();
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!(event.event, Some(pb::watch_event::Event::Drain(pb::Drain { within_ms: 7 })));
    assert_eq!(watch.next().await.unwrap().unwrap_err(), Failure::after_target(Code::Draining, "bye"));
    assert!(watch.next().await.is_none());

    let (mut up, mut down) = client.forward(HeaderMap::new(), open()).await.unwrap();
    assert_eq!(message(&mut down).await, connected());
    let len = 3 << 20;
    let (_, echoed) = tokio::join!(async { up.data(bytes(len)).await.unwrap() }, data(&mut down, len));
    assert!(echoed == bytes(len));
    up.fin(pb::Fin::default()).await.unwrap();
    message(&mut down).await;
    assert!(down.next().await.is_none());
}

#[tokio::test]
async fn generated_client_calls_our_server() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (mut calls, _drain) = serve(&mut tasks, far, Settings::default());
    let mut handlers = JoinSet::new();
    handlers.spawn(async move {
        let mut handlers = JoinSet::new();
        while let Some(call) = calls.recv().await {
            match call {
                Call::Forward(forward) => drop(handlers.spawn(echo(forward))),
                Call::Other(other) => drop(handlers.spawn(other.serve(tunnel_server::TunnelServer::new(Gateway)))),
            }
        }
    });
    let (mut client, _connection) = generated_client(near).await;

    let mut request = tonic::Request::new(pb::DescribeRequest {});
    request.metadata_mut().insert("authorization", "Bearer x".parse().unwrap());
    assert_eq!(client.describe(request).await.unwrap().into_inner().cluster.len(), 40_000);
    let refused = client.describe(pb::DescribeRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unauthenticated, "kein Ausweis"));

    let mut watch = client.watch(pb::WatchRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    assert_eq!(watch.message().await.unwrap_err().code(), tonic::Code::Unavailable);

    let part = |part| pb::ForwardRequest { part: Some(part) };
    let mut up = vec![part(forward_request::Part::Open(open()))];
    up.extend((0..10).map(|_| part(forward_request::Part::Data(bytes(150_000)))));
    up.push(part(forward_request::Part::Fin(pb::Fin::default())));
    let mut down = client.forward(stream::iter(up)).await.unwrap().into_inner();
    assert_eq!(down.message().await.unwrap(), Some(connected()));
    let mut echoed = 0;
    while let Some(pb::ForwardResponse { part: Some(forward_response::Part::Data(data)) }) =
        down.message().await.unwrap()
    {
        echoed += data.len();
    }
    assert_eq!(echoed, 1_500_000);
    assert_eq!(down.message().await.unwrap(), None);
}

type Ends = JoinSet<(&'static str, Result<(), ConnectionError>)>;

async fn echo(mut forward: Forward) {
    message(&mut forward.receiver).await;
    forward.sender.message(connected()).await.unwrap();
    loop {
        match forward.receiver.next().await {
            Some(Ok(Part::Data(data))) => {
                let len = data.len();
                forward.sender.data(data).await.unwrap();
                forward.receiver.taken(len);
            }
            Some(Ok(Part::Message(_))) => forward.sender.fin(pb::Fin::default()).await.unwrap(),
            Some(Err(failure)) => panic!("{failure}"),
            None => return forward.sender.finish(),
        }
    }
}

#[tokio::test]
async fn unknown_method_is_unimplemented() {
    let mut pair = Pair::new().await;
    let (answer, ()) = tokio::join!(pair.client.describe(HeaderMap::new()), async {
        let Some(Call::Other(mut other)) = pair.calls.recv().await else { panic!("no call") };
        other.head.uri = http::Uri::from_static("https://x/causeway.tunnel.v9.Tunnel/Describe");
        other.serve(tunnel_server::TunnelServer::new(Gateway)).await;
    });
    let failure = answer.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::Unsupported, Reached::Maybe));
}

/// A service whose answer never comes, and one whose body never ends.
#[tokio::test]
async fn service_ends_when_its_caller_goes_away() {
    struct Endless(bool);

    impl Service<Request<Body>> for Endless {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let answers = self.0;
            Box::pin(async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
                let frames = stream::once(async { Ok::<_, Status>(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]))) });
                let body = http_body_util::StreamBody::new(frames.chain(stream::pending()));
                Ok(Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap())
            })
        }
    }

    for answers in [false, true] {
        let mut pair = Pair::new().await;
        let mut watch = pair.client.watch(HeaderMap::new()).await.unwrap();
        let Some(Call::Other(other)) = pair.calls.recv().await else { panic!("no call") };
        let mut services = JoinSet::new();
        services.spawn(other.serve(Endless(answers)));
        if answers {
            assert!(watch.next().await.unwrap().is_ok());
        }
        drop(watch);
        services.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn unary_answer_waits_for_the_callers_credit() {
    // A plain client that reads nothing: the service is held back at its window of 64 KiB.
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut tasks = Ends::new();
    let (mut calls, _drain) = serve(&mut tasks, far, Settings::default());
    let (mut send, connection) = h2::client::handshake(near).await.unwrap();
    tasks.spawn(async { ("client", connection.await.map_err(Into::into)) });
    let request = Request::post("https://x/any").header("content-type", "application/grpc").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let Some(Call::Other(other)) = calls.recv().await else { panic!("no call") };

    let produced = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = produced.clone();
    struct Endless(Arc<std::sync::atomic::AtomicUsize>);
    impl Service<Request<Body>> for Endless {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let count = self.0.clone();
            let frames = stream::repeat_with(move || {
                count.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, Status>(Frame::data(bytes(1000)))
            });
            std::future::ready(Ok(Response::new(Body::new(http_body_util::StreamBody::new(frames)))))
        }
    }
    let mut services = JoinSet::new();
    services.spawn(other.serve(Endless(count)));
    let mut body = response.await.unwrap().into_body();
    let first = poll_fn(|cx| body.poll_data(cx)).await.unwrap().unwrap();
    assert!(!first.is_empty());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(produced.load(std::sync::atomic::Ordering::Relaxed) < 100_000);
}
