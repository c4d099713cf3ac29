//! Connections: accepted up to a bound, spoken to in HTTP/1.1, ended by a drain. Head and body of an answer leave in one
//! write, without Nagle's delay: apart they cost every caller 40 ms.
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use daemon::shutdown::Shutdown;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::app_service::AppService;

/// Connections at a time: a pod's containers need a handful each. Beyond, new ones wait in the kernel.
const MAX_CONNECTIONS: usize = 256;

/// A request head must be complete this long after its connection opened or its predecessor was answered.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Pause after a failed accept, which mostly means that the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the drain begins.
pub(super) async fn accept(listener: TcpListener, face: Arc<AppService>, shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = shutdown.draining() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                shutdown.spawn(converse(stream, peer, face.clone(), shutdown.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    face: Arc<AppService>,
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "answers may be delayed");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let face = face.clone();
        async move {
            let (head, _body) = request.into_parts();
            Ok::<_, Infallible>(face.answer(&head, peer).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        () = shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                () = shutdown.forced() => return,
                ended = connection => ended,
            }
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
