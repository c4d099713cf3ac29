//! What stands in the cluster: an HTTP service for long downloads and uploads, an HTTP/2 service that echoes, and a
//! balancer as Kubernetes has one for each Service.
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::load::{LONG, PACE, PIECE};

/// An HTTP/1.1 and an HTTP/2 port.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) http: SocketAddr,
    pub(super) h2: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Service {
    pub(super) async fn start() -> Self {
        let (mut tasks, (one, http), (two, h2)) = (JoinSet::new(), bound().await, bound().await);
        tasks.spawn(each(one, |stream| async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            // A connection that the other side breaks is seen by the load.
            let _ = served.await;
        }));
        tasks.spawn(each(two, |stream| async move {
            let _ = echo(stream).await;
        }));
        Self { http, h2, _tasks: tasks }
    }
}

/// Takes connections to whichever of its places accepts them.
#[derive(Debug)]
pub(super) struct Balancer {
    pub(super) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Balancer {
    pub(super) async fn start(places: Vec<SocketAddr>) -> Self {
        let (mut tasks, (listener, address)) = (JoinSet::new(), bound().await);
        let (places, turn) = (Arc::new(places), Arc::new(AtomicUsize::new(0)));
        tasks.spawn(each(listener, move |mut stream: TcpStream| {
            let (places, first) = (Arc::clone(&places), turn.fetch_add(1, Ordering::Relaxed));
            async move {
                for index in 0..places.len() {
                    if let Ok(mut place) = TcpStream::connect(places[(first + index) % places.len()]).await {
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut place).await;
                        return;
                    }
                }
            }
        }));
        Self { address, _tasks: tasks }
    }
}

async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn each<F, Fut>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}

/// A download comes in pieces, with a pause between them; of an upload the length is told.
async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    if request.uri().path() == "/download" {
        let pieces = futures_util::stream::unfold(0, |count| async move {
            if count == LONG {
                return None;
            }
            tokio::time::sleep(PACE).await;
            let piece = Bytes::from(vec![u8::try_from(count % 251).unwrap_or_default(); PIECE]);
            Some((Ok(Frame::data(piece)), count + 1))
        });
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))));
    }
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(http_body_util::Full::from(body.len().to_string()).boxed()))
}

/// Sends back what comes on each stream, and its end.
async fn echo(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut streams = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        streams.spawn(async move {
            let mut body = request.into_body();
            let Ok(mut back) = respond.send_response(Response::new(()), false) else { return };
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                if back.send_data(data, false).is_err() {
                    return;
                }
            }
            let _ = back.send_data(Bytes::new(), true);
        });
    }
    Ok(())
}
