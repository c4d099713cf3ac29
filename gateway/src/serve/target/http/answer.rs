//! The target's answer on its way to the caller, while the rest of the request may still be on its way to the target.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use futures_util::FutureExt;
use http::{HeaderMap, response};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::Fin,
    server::Sender,
};
use tokio::time::timeout;

use super::{Call, Exchange, Piece, Progress, send_head};
use crate::serve::{limits::paced, target::head};

/// How long a request's body may go on after its answer is complete. Some targets answer early and still want the rest;
/// others neither read it nor close.
const LINGER: Duration = Duration::from_secs(10);

/// Passes the answer on, then waits for the end of the request, then keeps the connection for the next one.
///
/// # Errors
/// The failure of whichever side broke first.
pub(super) async fn pass_on(
    mut call: Call,
    parts: response::Parts,
    sender: &mut Sender,
    progress: &Progress,
    exchange: &Exchange<'_>,
) -> Result<(), Failure> {
    exchange.traffic.status(parts.status);
    call.alongside(&exchange.hold, send_head(parts.status, &parts.headers, sender)).await?;
    let mut trailers = HeaderMap::new();
    while let Some(piece) = next(&mut call, sender).await? {
        let frame = match piece {
            Ok(frame) => frame,
            // If the request broke off, that is why the answer did.
            Err(what) => return Err(progress.failure().unwrap_or_else(|| broke_off(&what))),
        };
        match frame.into_data() {
            Ok(data) => {
                let length = data.len();
                exchange.traffic.received(length);
                let sending = exchange.traffic.blocked_to_caller.on(sender.data(data));
                call.alongside(&exchange.hold, paced(&exchange.traffic, sending)).await?;
                call.taken(length);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    call.alongside(&exchange.hold, sender.fin(Fin { trailers: head::trailers(&trailers) })).await?;
    // A caller that was never told to go on keeps its body.
    if !progress.is_ended() && (!exchange.checked.expects || progress.goes_on()) {
        // Whatever becomes of the rest, the caller has its answer.
        let _ = timeout(LINGER, call.alongside(&exchange.hold, progress.ended().map(Ok))).await;
    }
    if progress.is_ended()
        && let Call::One(call) = call
    {
        exchange.pool.give(call.into_link());
    }
    Ok(())
}

/// The next piece of the answer's body.
async fn next(call: &mut Call, sender: &mut Sender) -> Result<Option<Piece>, Failure> {
    let mut cancelled = pin!(sender.cancelled());
    poll_fn(|cx| {
        if let Poll::Ready(piece) = call.poll_body(cx) {
            return Poll::Ready(Ok(piece));
        }
        cancelled
            .as_mut()
            .poll(cx)
            .map(|()| Err(Failure::after_target(Code::Cancelled, "the caller gave the request up")))
    })
    .await
}

fn broke_off(what: &str) -> Failure {
    Failure::after_target(Code::TargetBroken, format!("the target's answer broke off: {what}"))
}
