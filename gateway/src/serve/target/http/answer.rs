//! The target's answer on its way to the caller, while the rest of the request may still be on its way to the target.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use http::{HeaderMap, Response};
use http_body::Body;
use hyper::body::Incoming;
use proto::tunnel::{
    failure::{Code, Failure},
    pb::Fin,
    server::Sender,
};
use tokio::time::timeout;

use super::{Exchange, Progress, send_head};
use crate::serve::target::{head, pool::Link};

/// How long a request's body may go on after its answer is complete. Some targets answer early and still want the rest;
/// others neither read it nor close.
const LINGER: Duration = Duration::from_secs(10);

/// Drives the connection while something else is waited for: otherwise an answer that waits for the caller's credit
/// would hold up the request's body, and two sides that stream at once would wait for each other for ever.
async fn alongside<F: Future>(link: &mut Link, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        link.poll_drive(cx);
        work.as_mut().poll(cx)
    })
    .await
}

/// Passes the answer on, then waits for the end of the request, then keeps the connection for the next one.
///
/// # Errors
/// The failure of whichever side broke first.
pub(super) async fn pass_on(
    mut link: Link,
    response: Response<Incoming>,
    sender: &mut Sender,
    progress: &Progress,
    exchange: &Exchange<'_>,
) -> Result<(), Failure> {
    let (parts, mut body) = response.into_parts();
    exchange.traffic.status(parts.status);
    alongside(&mut link, send_head(parts.status, &parts.headers, sender)).await?;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = next(&mut link, &mut body, sender).await? {
        let frame = match frame {
            Ok(frame) => frame,
            // If the request broke off, that is why the answer did.
            Err(error) => return Err(progress.failure().unwrap_or_else(|| broke_off(&error))),
        };
        match frame.into_data() {
            Ok(data) => {
                exchange.traffic.received(data.len());
                alongside(&mut link, sender.data(data)).await?;
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    alongside(&mut link, sender.fin(Fin { trailers: head::trailers(&trailers) })).await?;
    if !progress.is_ended() {
        // Whatever becomes of the rest, the caller has its answer.
        let _ = timeout(LINGER, alongside(&mut link, progress.ended())).await;
    }
    if progress.is_ended() {
        exchange.pool.give(link);
    }
    Ok(())
}

type Frame = Result<hyper::body::Frame<bytes::Bytes>, hyper::Error>;

/// The next frame of the answer's body.
async fn next(link: &mut Link, body: &mut Incoming, sender: &mut Sender) -> Result<Option<Frame>, Failure> {
    let mut cancelled = pin!(sender.cancelled());
    poll_fn(|cx| {
        link.poll_drive(cx);
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            return Poll::Ready(Ok(frame));
        }
        cancelled
            .as_mut()
            .poll(cx)
            .map(|()| Err(Failure::after_target(Code::Cancelled, "the caller gave the request up")))
    })
    .await
}

fn broke_off(error: &hyper::Error) -> Failure {
    Failure::after_target(Code::TargetBroken, format!("the target's answer broke off: {error}"))
}
