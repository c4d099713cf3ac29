//! One control channel, kept: dialled, renewed, answered, and dialled again when it breaks.
use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proto::{
    hybrid::{
        address::listen_target,
        message::{self, BODY_MAX, RenewToken, Response},
        new_id,
        status::clean,
    },
    retry::{LISTENER, Ladder},
    ws::{
        Role,
        message::{Message, Receiver, Sender, split},
    },
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Held, UNREACHABLE_IS_READY,
    rendezvous::{self, Place},
};
use crate::{
    farewell::Farewell,
    sender::{self, Address, DialError, Minted, Transport},
};

/// Within this a control channel must be up: dial, TLS, upgrade.
const SETUP: Duration = Duration::from_secs(15);

/// Silence after which the relay is pinged; twice that without a frame and the channel is dead.
const PING: Duration = Duration::from_secs(25);

/// Largest message from a relay: a request body.
const MESSAGE_MAX: usize = BODY_MAX;

/// Part of a token's life after which it is renewed: early enough for a few failures before its end.
const RENEW_AT: f64 = 0.7;

/// Pause after a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// Longest reason of a relay that a log line shows.
const REASON_SHOWN: usize = 123;

/// Status for HTTP senders that a relay routes to us: we take bytes, not requests.
const NO_HTTP: u16 = 501;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("relay did not answer within {SETUP:?}")]
    TooSlow,
}

impl OpenError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Dial(error) => error.retry_after(),
            Self::TooSlow => None,
        }
    }

    /// Nobody answered; a refusal is an answer.
    fn is_unreachable(&self) -> bool {
        match self {
            Self::TooSlow => true,
            Self::Dial(DialError::Reach(error)) => error.is_unreachable(),
            Self::Dial(_) => false,
        }
    }
}

/// An open channel.
struct Open {
    io: Transport,
    read_ahead: bytes::BytesMut,
    token: Minted,
    id: String,
    /// Where the relay is, for the class of rendezvous addresses; behind a proxy nobody here knows.
    relay: Option<IpAddr>,
}

/// Keeps one channel up until the drain begins.
pub(super) async fn keep(held: Arc<Held>) {
    let shutdown = held.context.shutdown.clone();
    let mut ladder = Ladder::new(LISTENER);
    loop {
        let opened = tokio::select! {
            biased;
            () = shutdown.draining() => return,
            opened = timeout(SETUP, open(&held)) => opened.unwrap_or(Err(OpenError::TooSlow)),
        };
        let pause = match opened {
            Ok(open) => {
                let began = Instant::now();
                Box::pin(hold(&held, open)).await;
                ladder.ended(began.elapsed());
                ladder.next_wait(None)
            }
            Err(error) => {
                held.metrics.channel_failures.inc();
                let pause = ladder.next_wait(error.retry_after());
                warn!(
                    relay = %held.address,
                    error = %daemon::process::explain(&error).replace('\n', ";"),
                    again_ms = pause.as_millis() as u64,
                    "control channel cannot be opened"
                );
                if error.is_unreachable() && held.began.elapsed() >= UNREACHABLE_IS_READY {
                    held.mark_ready();
                }
                pause
            }
        };
        tokio::select! {
            biased;
            () = shutdown.draining() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn open(held: &Held) -> Result<Open, OpenError> {
    let token = held.credential.mint(&held.address).await?;
    let headers = sender::token_headers(&token)?;
    let Address { host, port, .. } = &held.address;
    let carrier = held.dialer.connect(host, *port).await.map_err(DialError::Reach)?;
    let relay = carrier.peer().map(|peer| peer.ip());
    let id = new_id();
    let target = listen_target(&held.address.path, &id);
    let upgraded = sender::upgrade(carrier, &held.address, &target, &held.tls, headers, &[]).await?;
    Ok(Open { io: upgraded.io, read_ahead: upgraded.read_ahead, token, id, relay })
}

/// Lives as long as the channel does.
async fn hold(held: &Arc<Held>, open: Open) {
    let Open { io, read_ahead, token, id, relay } = open;
    let (channel, mut receiver, writer) = split(io, Role::Client, read_ahead, MESSAGE_MAX, PING);
    held.open.fetch_add(1, Ordering::Relaxed);
    held.metrics.active_channels.inc();
    held.metrics.channels.inc();
    held.mark_ready();
    info!(relay = %held.address, listener = id, "control channel up");
    tokio::pin!(writer);
    let ended = tokio::select! {
        biased;
        ended = serve(held, &channel, &mut receiver, token, relay) => Some(ended),
        () = &mut writer => None,
    };
    held.open.fetch_sub(1, Ordering::Relaxed);
    held.metrics.active_channels.dec();
    let (reason, farewell) = ended.unwrap_or_else(|| ("connection lost".to_owned(), None));
    info!(relay = %held.address, listener = id, reason, "control channel down");
    if let Some(farewell) = farewell {
        farewell.say(channel, &mut receiver, writer).await;
    }
}

/// Until the channel should end; says why.
async fn serve(
    held: &Arc<Held>,
    channel: &Sender,
    receiver: &mut Receiver<Transport>,
    mut token: Minted,
    relay: Option<IpAddr>,
) -> (String, Option<Farewell>) {
    let draining = held.context.shutdown.drain_token();
    let mut renew_at = renewal(held, &token);
    loop {
        let message = tokio::select! {
            biased;
            () = draining.cancelled() => {
                return ("draining".to_owned(), Some(Farewell::Close(1000, "closed by the listener".to_owned())));
            }
            () = sleep_until(renew_at) => {
                renew_at = renew(held, channel, &mut token).await;
                continue;
            }
            message = receiver.next() => message,
        };
        match message {
            Ok(Message::Text(text)) => match message::Message::read(&text) {
                Ok(message) => obey(held, channel, message, relay).await,
                // What we cannot read cannot be obeyed; the channel itself is sound.
                Err(error) => warn!(relay = %held.address, %error, "relay sent an unreadable message"),
            },
            // Body of a request that was answered without it.
            Ok(Message::Binary(_)) => {}
            Ok(Message::Close(close)) => {
                let (code, reason) = close.unwrap_or((1005, String::new()));
                let reason = clean(&reason, REASON_SHOWN);
                return (format!("closed by the relay: {code} {reason}"), Some(Farewell::Queued));
            }
            Err(error) => {
                let reason = daemon::process::explain(&error).replace('\n', ";");
                return (reason, Some(Farewell::after(&error)));
            }
        }
    }
}

async fn obey(held: &Arc<Held>, channel: &Sender, message: message::Message, relay: Option<IpAddr>) {
    match message {
        message::Message::Accept(accept) => match (waiting(held), held.joined.clone().try_acquire_owned()) {
            (Some(waiting), Ok(joined)) => {
                let place = Place { waiting, joined };
                held.context.shutdown.spawn(rendezvous::serve(held.clone(), accept, relay, place));
            }
            (waiting, _) => {
                held.metrics.ended("crowded");
                let limit = if waiting.is_none() { "too many dials are waiting" } else { "too many are joined" };
                warn!(relay = %held.address, limit, "rendezvous dropped");
            }
        },
        message::Message::Request(request) => match request.id {
            Some(id) if request.method.is_some() => {
                let response = Response {
                    request_id: id,
                    status_code: NO_HTTP,
                    status_description: Some("this listener forwards WebSockets only".to_owned()),
                    response_headers: message::Headers::default(),
                    body: false,
                };
                if let Ok(text) = message::Message::Response(response).write() {
                    // A channel that has ended needs no answer.
                    let _ = channel.send(vec![Message::Text(text)]).await;
                }
            }
            // Without an id there is nothing to answer to here, and its sender learns from the relay.
            _ => debug!(relay = %held.address, "HTTP request by rendezvous ignored"),
        },
        // For relays, not for us.
        message::Message::Response(_) | message::Message::RenewToken(_) | message::Message::Unknown => {}
    }
}

fn waiting(held: &Held) -> Option<OwnedSemaphorePermit> {
    held.dials_waiting.clone().try_acquire_owned().ok()
}

/// When to renew.
fn renewal(held: &Held, token: &Minted) -> Instant {
    let left = token.expires.duration_since(held.context.clock.now()).unwrap_or_default();
    Instant::now() + left.mul_f64(RENEW_AT)
}

/// Sends a fresh token; gives the time of the next renewal.
async fn renew(held: &Held, channel: &Sender, token: &mut Minted) -> Instant {
    let fresh = match held.credential.mint(&held.address).await {
        Ok(fresh) => fresh,
        Err(error) => {
            let error = daemon::process::explain(&error).replace('\n', ";");
            warn!(relay = %held.address, error, "token of a control channel cannot be renewed");
            return Instant::now() + RENEW_AGAIN;
        }
    };
    let renew = RenewToken { token: fresh.secret.expose().to_owned() };
    if let Ok(text) = message::Message::RenewToken(renew).write() {
        // A channel that has ended is noticed by its reader.
        let _ = channel.send(vec![Message::Text(text)]).await;
        debug!(relay = %held.address, "token of a control channel renewed");
    }
    *token = fresh;
    renewal(held, token)
}
