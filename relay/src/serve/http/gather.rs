//! A sender's body, before anybody knows which way it goes.
//!
//! What fits into one message on the control channel is gathered, in memory that is leased. Everything else, and what does
//! not say how long it is and does not end soon, goes by rendezvous as it comes. A body for which no memory is left goes
//! that way, too; one that is empty never does, because Java's SDK cannot read it there.
use std::{pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use proto::hybrid::message::BODY_MAX;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::refusal::Refusal;
use crate::splice::{Buffers, Lease};

/// How long a body that does not say its length may come in before it goes by rendezvous: what a client has ready is here
/// within a round trip, and what it still has to make should not wait.
const MOMENT: Duration = Duration::from_millis(200);

/// A sender's body.
#[derive(Debug)]
pub(super) enum Gathered {
    /// There is none, or all of it.
    Whole(Option<Bytes>),
    /// The beginning, at least one byte unless the length is known, and the rest.
    Large(Upload),
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) begun: Bytes,
    pub(super) rest: Incoming,
}

/// Bytes that count against a budget for as long as they are kept.
struct Leased {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that are in memory already, counted.
pub(crate) fn counted(bytes: Bytes, buffers: &Buffers) -> Bytes {
    let lease = buffers.lease_between(bytes.len(), bytes.len());
    Bytes::from_owner(Leased { bytes, _lease: lease })
}

/// Takes as much of a body as decides on its way. `patience` bounds each pause, and all of it for a body of known length.
pub(super) async fn gather(body: Incoming, buffers: &Buffers, patience: Duration) -> Result<Gathered, Refusal> {
    if body.is_end_stream() {
        return Ok(Gathered::Whole(None));
    }
    let known = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let most = known.unwrap_or(BODY_MAX);
    let lease = if most <= BODY_MAX { buffers.lease(most) } else { None };
    let Some(lease) = lease else {
        return match known {
            Some(_) => Ok(Gathered::Large(Upload { begun: Bytes::new(), rest: body })),
            None => begun(body, patience).await,
        };
    };
    let mut gathering = Gathering { body, bytes: BytesMut::new() };
    let is_whole = match known {
        Some(_) => timeout(patience, gathering.until_end()).await.map_err(|_| Refusal::BodyTooSlow)??,
        None => gathering.for_a_moment(patience).await?,
    };
    let bytes = gathering.bytes.freeze();
    Ok(if is_whole {
        Gathered::Whole(Some(Bytes::from_owner(Leased { bytes, _lease: lease })))
    } else {
        Gathered::Large(Upload { begun: bytes, rest: gathering.body })
    })
}

/// Waits for a first byte, since without any there is no body.
async fn begun(mut body: Incoming, patience: Duration) -> Result<Gathered, Refusal> {
    let first = timeout(patience, next(&mut body)).await.map_err(|_| Refusal::BodyTooSlow)??;
    Ok(match first {
        Some(begun) => Gathered::Large(Upload { begun, rest: body }),
        None => Gathered::Whole(Some(Bytes::new())),
    })
}

struct Gathering {
    body: Incoming,
    bytes: BytesMut,
}

impl Gathering {
    /// Until the end, or until there is more than one message holds; true at the end.
    async fn until_end(&mut self) -> Result<bool, Refusal> {
        while let Some(bytes) = next(&mut self.body).await? {
            self.bytes.extend_from_slice(&bytes);
            if self.bytes.len() > BODY_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn for_a_moment(&mut self, patience: Duration) -> Result<bool, Refusal> {
        let Some(first) = timeout(patience, next(&mut self.body)).await.map_err(|_| Refusal::BodyTooSlow)?? else {
            return Ok(true);
        };
        self.bytes.extend_from_slice(&first);
        let until = Instant::now() + MOMENT;
        tokio::select! {
            biased;
            is_whole = self.until_end() => is_whole,
            () = sleep_until(until) => Ok(false),
        }
    }
}

/// The next bytes, at least one; trailers are not passed on.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = Pin::new(&mut *body).frame().await {
        match frame.map_err(|_| Refusal::BodyBroken)?.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => return Ok(Some(bytes)),
            Err(_trailers) => {}
        }
    }
    Ok(None)
}
