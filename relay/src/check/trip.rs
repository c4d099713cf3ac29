//! There and back. A listener's credential alone gives control channels, on which the relay answers a Ping; with a
//! sender's credential beside it, bytes go through a real rendezvous between the two; a sender's alone is joined with
//! whoever listens, for a moment.
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use proto::{
    hybrid::{message::Accept, new_id},
    ws::{Role as WsRole, stream::WsStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    Code, Finding, Stage, Subject,
    channel::Channel,
    probe::{ALLOWED, Probe, STEP, failure},
    token::{Judged, listen},
};
use crate::{
    listen::permit::{Permit, may_dial},
    sender::{self, Connected, Credential, DialError, Request, Sender, Transport},
};

/// For a Pong, or for bytes to come back.
const BACK: Duration = Duration::from_secs(5);

/// For a sender to be joined: a relay waits 30 s for its listeners.
const JOINED: Duration = Duration::from_secs(40);

/// Rendezvous that are measured; the middle one is told.
const TRIPS: usize = 3;

/// Marks the senders of this check, so that nobody else's is taken.
const MARK: HeaderName = HeaderName::from_static("causeway-check");

/// A listener's trips, on as many channels as it will hold.
pub(super) async fn listener(probe: &Probe<'_>, subject: &Subject, Judged { token, channel }: Judged) -> Finding {
    let mut channels: Vec<Channel> = channel.into_iter().collect();
    let mut finding = None;
    while channels.len() < subject.channels && finding.is_none() {
        match listen(probe, &token, Stage::RoundTrip).await {
            Ok(channel) => channels.push(channel),
            Err(mut refused) => {
                refused.text = format!("channel {} of {}: {}", channels.len() + 1, subject.channels, refused.text);
                finding = Some(refused);
            }
        }
    }
    let finding = match (finding, &subject.other) {
        (Some(refused), _) => refused,
        (None, None) => pings(&mut channels).await,
        (None, Some(sender)) => {
            // A relay that does not know the wish for one listener must find no other of ours.
            while channels.len() > 1 {
                close(channels.pop()).await;
            }
            match channels.first_mut() {
                Some(channel) => rendezvous(probe, subject, sender, channel).await.unwrap_or_else(|failed| failed),
                None => Finding::fail(Stage::RoundTrip, Code::NoRoundTrip, "no control channel"),
            }
        }
    };
    for channel in channels {
        close(Some(channel)).await;
    }
    finding
}

async fn close(channel: Option<Channel>) {
    if let Some(channel) = channel {
        channel.close().await;
    }
}

/// A Ping on each channel.
async fn pings(channels: &mut [Channel]) -> Finding {
    let mut times = Vec::with_capacity(channels.len());
    for channel in channels.iter_mut() {
        match timeout(BACK, channel.ping()).await {
            Ok(Ok(time)) => times.push(time),
            Ok(Err(error)) => {
                let text = format!("the relay ended a control channel that was asked for a sign of life: {error}");
                return Finding::fail(Stage::RoundTrip, Code::NoRoundTrip, text);
            }
            Err(_) => {
                let text = format!("no answer to a Ping on a control channel within {BACK:?}");
                return Finding::warn(Stage::RoundTrip, Code::NoRoundTrip, text);
            }
        }
    }
    Finding::ok(Stage::RoundTrip, format!("{} over {}", milliseconds(median(&mut times)), channel_count(channels)))
}

/// Senders through the relay to this channel, one after another, and bytes there and back.
async fn rendezvous(
    probe: &Probe<'_>,
    subject: &Subject,
    credential: &Credential,
    channel: &mut Channel,
) -> Result<Finding, Finding> {
    let began = Instant::now();
    let (mut setups, mut trips) = (Vec::with_capacity(TRIPS), Vec::with_capacity(TRIPS));
    for _ in 0..TRIPS {
        let began = Instant::now();
        let (mut near, mut far) = join(probe, subject, credential, channel).await?;
        setups.push(began.elapsed());
        let began = Instant::now();
        let back = async {
            near.write_all(b"there").await?;
            near.flush().await?;
            let mut bytes = [0; 5];
            far.read_exact(&mut bytes).await?;
            far.write_all(&bytes).await?;
            far.flush().await?;
            near.read_exact(&mut bytes).await
        };
        let back = timeout(BACK, back).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        back.map_err(|error| {
            let text = format!("bytes through a rendezvous did not come back: {error}");
            Finding::fail(Stage::RoundTrip, Code::NoRoundTrip, text)
        })?;
        trips.push(began.elapsed());
        // Both directions end by Close; who does not answer in time is dropped.
        let _ = timeout(BACK, async { tokio::join!(near.shutdown(), far.shutdown()) }).await;
    }
    let text = format!(
        "{} through a rendezvous, joined in {}; {} channels",
        milliseconds(median(&mut trips)),
        milliseconds(median(&mut setups)),
        subject.channels
    );
    Ok(Finding::ok(Stage::RoundTrip, text).after(began.elapsed()))
}

type Ends = (WsStream<Transport>, WsStream<Transport>);

/// Joins a sender of ours with this channel.
async fn join(
    probe: &Probe<'_>,
    subject: &Subject,
    credential: &Credential,
    channel: &mut Channel,
) -> Result<Ends, Finding> {
    let mark = new_id();
    let mut headers = HeaderMap::new();
    for (name, value) in [(ALLOWED, &channel.id), (MARK, &mark)] {
        headers.extend(HeaderValue::from_str(value).map(|value| (name, value)));
    }
    let sender = Sender::new(probe.dialer.clone(), probe.tls.clone()).with_timeout(JOINED);
    let request = Request { headers, ..Request::default() };
    let dialled = sender.dial(probe.address, credential, request);
    let accepted = async {
        let accept =
            timeout(JOINED, channel.accept(|accept| accept.connect_headers.find(MARK.as_str()) == Some(&mark)));
        let accept = accept.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let accept = accept.map_err(|error| {
            let text = format!("the sender was not sent to this listener: {error}");
            Finding::fail(Stage::RoundTrip, Code::NoRoundTrip, text)
        })?;
        dial_back(probe, subject, &accept).await
    };
    tokio::pin!(dialled, accepted);
    let near = |dialled: Result<Connected, DialError>| dialled.map(|connected| connected.stream).map_err(refused);
    tokio::select! {
        far = &mut accepted => {
            let far = far?;
            Ok((near(dialled.await)?, far))
        }
        dialled = &mut dialled => {
            let near = near(dialled)?;
            // The relay answers the listener first; if it has not, it took another one.
            match timeout(BACK, accepted).await {
                Ok(far) => Ok((near, far?)),
                Err(_) => Err(Finding::warn(
                    Stage::RoundTrip,
                    Code::NoRoundTrip,
                    "the relay joined the sender with another listener than this check; it works, and was not measured",
                )),
            }
        }
    }
}

/// Dials where an `accept` says, if a listener would.
async fn dial_back(probe: &Probe<'_>, subject: &Subject, accept: &Accept) -> Result<WsStream<Transport>, Finding> {
    let refused = |error: &dyn std::fmt::Display| {
        let text = format!("the relay names a rendezvous that no listener dials: {error}");
        Finding::fail(Stage::RoundTrip, Code::NoRoundTrip, text)
    };
    let permit = Permit::new(probe.address, &subject.rendezvous_hosts, &subject.rendezvous_ports);
    let destination = permit.check(&accept.address).map_err(|error| refused(&error))?;
    let dialled = async {
        let there = &destination.address;
        let relay = probe.dialer.route(&probe.address.host, probe.address.port).await?;
        let relay = relay.addresses().and_then(|addresses| addresses.first()).map(std::net::SocketAddr::ip);
        let route = probe.dialer.route(&there.host, there.port).await?;
        if !route.addresses().unwrap_or_default().iter().all(|one| may_dial(one.ip(), relay)) {
            return Ok(None);
        }
        let carrier = route.connect().await?;
        sender::upgrade(carrier, there, &destination.target, &probe.tls, HeaderMap::new(), &[]).await.map(Some)
    };
    match timeout(STEP, dialled).await.unwrap_or(Err(DialError::TooSlow(STEP))) {
        Ok(Some(upgraded)) => Ok(WsStream::new(upgraded.io, WsRole::Client, upgraded.read_ahead)),
        Ok(None) => Err(refused(&"its host resolves to an address inside")),
        Err(error) => Err(failure(Stage::RoundTrip, &error)),
    }
}

/// A sender alone: whoever listens is asked.
pub(super) async fn sender(probe: &Probe<'_>, subject: &Subject) -> Finding {
    let began = Instant::now();
    let sender = Sender::new(probe.dialer.clone(), probe.tls.clone()).with_timeout(JOINED);
    match sender.dial(probe.address, &subject.credential, Request::default()).await {
        Ok(mut connected) => {
            let took = began.elapsed();
            // Left in good order, so that the listener's target sees an end and no loss.
            let _ = timeout(BACK, connected.stream.shutdown()).await;
            Finding::ok(Stage::RoundTrip, format!("a listener accepted in {}", milliseconds(took))).after(took)
        }
        Err(error) => refused(error).after(began.elapsed()),
    }
}

/// What a sender was told.
fn refused(error: DialError) -> Finding {
    match super::probe::answer(Err(error)) {
        Ok(super::probe::Answer::Refused(refused)) => match refused.status {
            401 | 403 | 404 | 429 | 503 | 504 => refused.finding(Stage::RoundTrip),
            _ => {
                let text = format!("refused: {}", refused.said());
                Finding::fail(Stage::RoundTrip, Code::NoRoundTrip, text)
            }
        },
        Ok(super::probe::Answer::Open(_)) => Finding::ok(Stage::RoundTrip, "joined"),
        Err(error) => failure(Stage::RoundTrip, &error),
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    match time.as_secs_f64() * 1000.0 {
        short if short < 10.0 => format!("{short:.1} ms"),
        long => format!("{long:.0} ms"),
    }
}

fn channel_count(channels: &[Channel]) -> String {
    match channels.len() {
        1 => "1 channel".to_owned(),
        count => format!("{count} channels"),
    }
}
