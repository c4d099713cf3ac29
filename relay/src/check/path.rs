//! The way to the relay, one step after another on one connection: name, proxy or TCP, TLS, WebSocket upgrade, and what
//! the answer says about the clocks. The question at its end carries no token, so a relay refuses it, and that is well.
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};
use identity::tls::Trust;
use proto::hybrid::{address::listen_target, new_id};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::time::timeout;

use super::{
    Code, Finding, Stage,
    probe::{Answer, Probe, STEP, answer, failure, hints, timed},
    tls::Witness,
};
use crate::{
    dial::{Carrier, Route},
    sender::{self, DialError, Transport},
};

/// A difference of the clocks that somebody should know of.
const CLOCK_WARN: Duration = Duration::from_secs(30);

/// One that makes tokens worthless: relays allow five minutes at most.
const CLOCK_FAIL: Duration = Duration::from_secs(300);

/// Most addresses of a name that are shown.
const ADDRESSES_SHOWN: usize = 3;

/// What a relay says to a plain request below `/$hc/`.
const NO_UPGRADE: &str = "only for web-socket requests";

/// Walks it; nothing more is worth asking when this fails.
pub(super) async fn walk(
    probe: &Probe<'_>,
    witness: Option<&Witness>,
    trust: &Trust,
    found: &mut Vec<Finding>,
) -> Result<(), Finding> {
    let carrier = connect(probe, found).await?;
    let io = secure(probe, witness, trust, carrier, found).await?;
    let target = listen_target(&probe.address.path, &new_id());
    let asked = sender::shake(io, probe.address, &target, HeaderMap::new(), &[]);
    let (asked, took) = timed(timeout(STEP, asked)).await;
    let answered = asked.unwrap_or(Err(DialError::TooSlow(STEP)));
    let now = SystemTime::now();
    let answered = answer(answered).map_err(|error| failure(Stage::Upgrade, &error).after(took))?;
    found.push(upgrade(&answered)?.after(took));
    found.extend(clock(answered.headers(), now, took));
    Ok(())
}

/// Name, and proxy or TCP.
async fn connect(probe: &Probe<'_>, found: &mut Vec<Finding>) -> Result<Carrier, Finding> {
    let host = &probe.address.host;
    let resolved = async { Ok(probe.dialer.route(host, probe.address.port).await?) };
    let (route, took) = timed(timeout(STEP, resolved)).await;
    let route =
        route.unwrap_or(Err(DialError::TooSlow(STEP))).map_err(|error| failure(Stage::Dns, &error).after(took))?;
    found.push(name(host, &route, took));
    let stage = if route.proxy().is_some() { Stage::Proxy } else { Stage::Tcp };
    let connected = async { Ok(route.connect().await?) };
    let (carrier, took) = timed(timeout(STEP, connected)).await;
    let carrier =
        carrier.unwrap_or(Err(DialError::TooSlow(STEP))).map_err(|error| failure(stage, &error).after(took))?;
    found.push(match (route.proxy(), carrier.peer()) {
        (Some(proxy), _) => Finding::ok(stage, format!("{proxy} CONNECT allowed")).after(took),
        (None, Some(peer)) => Finding::ok(stage, format!("{peer} answers")).after(took),
        (None, None) => Finding::ok(stage, "connected").after(took),
    });
    Ok(carrier)
}

fn name(host: &str, route: &Route, took: Duration) -> Finding {
    if host.parse::<IpAddr>().is_ok() {
        return Finding::ok(Stage::Dns, format!("{host} is an address"));
    }
    let Some(addresses) = route.addresses() else {
        return Finding::ok(Stage::Dns, format!("{host} is left to the proxy"));
    };
    let shown: Vec<_> = addresses.iter().take(ADDRESSES_SHOWN).map(|address| address.ip().to_string()).collect();
    let more = if addresses.len() > shown.len() { ", …" } else { "" };
    Finding::ok(Stage::Dns, format!("{host} → {}{more}", shown.join(", "))).after(took)
}

/// TLS, and who vouches for the relay.
async fn secure(
    probe: &Probe<'_>,
    witness: Option<&Witness>,
    trust: &Trust,
    carrier: Carrier,
    found: &mut Vec<Finding>,
) -> Result<Transport, Finding> {
    let secured = sender::secure(carrier, probe.address, &probe.tls);
    let (io, took) = timed(timeout(STEP, secured)).await;
    let io = match io.unwrap_or(Err(DialError::TooSlow(STEP))) {
        Ok(io) => io,
        Err(error) => {
            let mut finding = failure(Stage::Tls, &error).after(took);
            if let (Some(seen), DialError::Untrusted { .. }) = (witness.and_then(Witness::seen), &error) {
                finding.text = format!("certificate signed by \"{}\": {}", seen.signer(), finding.text);
                if seen.is_authority() {
                    finding.text += ". It is an authority's own, which no client takes from a server: the relay's owner \
                                     should make another, with basicConstraints=CA:FALSE";
                }
            }
            return Err(finding);
        }
    };
    if !probe.address.tls {
        return Ok(io);
    }
    found.push(match witness.and_then(Witness::seen) {
        None => Finding::ok(Stage::Tls, "the certificate is trusted").after(took),
        Some(seen) if seen.is_public(SystemTime::now()) => {
            Finding::ok(Stage::Tls, format!("certificate signed by \"{}\", a public authority", seen.signer()))
                .after(took)
        }
        // Who trusts nobody but these has said whom to expect.
        Some(seen) if !trust.system => {
            Finding::ok(Stage::Tls, format!("certificate signed by \"{}\", as `trust` says", seen.signer())).after(took)
        }
        Some(seen) => {
            let text = format!(
                "certificate signed by \"{}\", no public authority: traffic is opened on the way, unless that is the \
                 relay's own CA",
                seen.signer()
            );
            Finding::warn(Stage::Tls, Code::Intercepted, text).after(took)
        }
    });
    Ok(io)
}

/// Whether a WebSocket handshake reached a relay.
fn upgrade(answered: &Answer) -> Result<Finding, Finding> {
    let hints = hints(answered.headers());
    let fail = |code, text: String| Err(Finding::fail(Stage::Upgrade, code, text));
    match answered {
        Answer::Open(_) => fail(Code::NotARelay, format!("a listener without a token was let in{hints}")),
        Answer::Refused(refused) => match refused.status {
            400 if refused.words.contains(NO_UPGRADE) => fail(
                Code::UpgradeStripped,
                format!("the relay saw a plain request where a WebSocket handshake was sent{hints}"),
            ),
            426 => fail(Code::UpgradeStripped, format!("answered {}{hints}", refused.said())),
            401 => Ok(Finding::ok(Stage::Upgrade, format!("WebSocket kept by the path{hints}"))),
            // A relay says why; whatever else it is, the token's turn will tell.
            _ if refused.tracked => Ok(Finding::ok(Stage::Upgrade, format!("WebSocket kept by the path{hints}"))),
            _ => fail(Code::NotARelay, format!("answered {}{hints}", refused.said())),
        },
    }
}

/// The relay's clock as its answer shows it, in whole seconds.
fn clock(headers: &HeaderMap, now: SystemTime, took: Duration) -> Option<Finding> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let theirs = SystemTime::from(OffsetDateTime::parse(date, &Rfc2822).ok()?) + Duration::from_millis(500);
    let ours = now - took / 2;
    let (sign, apart) = match ours.duration_since(theirs) {
        Ok(ahead) => ('+', ahead),
        Err(behind) => ('-', behind.duration()),
    };
    let text = match apart.as_secs() {
        0..300 => format!("{sign}{:.1} s", apart.as_secs_f64()),
        seconds => format!("{sign}{} min", seconds / 60),
    };
    Some(match apart {
        apart if apart >= CLOCK_FAIL => {
            Finding::fail(Stage::Clock, Code::ClockOff, format!("{text}: this machine against the relay"))
        }
        apart if apart >= CLOCK_WARN => {
            Finding::warn(Stage::Clock, Code::ClockOff, format!("{text}: this machine against the relay"))
        }
        _ => Finding::ok(Stage::Clock, text),
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;
    use crate::check::Status;

    #[test]
    fn clocks_may_differ_by_less_than_tokens_bear() {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, HeaderValue::from_static("Thu, 01 Jan 1970 02:00:00 GMT"));
        let theirs = Duration::from_millis(7_200_500);
        for (ours, status, text) in [
            (theirs, Status::Ok, "+0.0 s"),
            (theirs - Duration::from_millis(400), Status::Ok, "-0.4 s"),
            (theirs + CLOCK_WARN - Duration::from_millis(1), Status::Ok, "+30.0 s"),
            (theirs + CLOCK_WARN, Status::Warn, "+30.0 s: "),
            (theirs - CLOCK_FAIL + Duration::from_millis(1), Status::Warn, "-300.0 s: "),
            (theirs - CLOCK_FAIL, Status::Fail, "-5 min: "),
            (theirs + Duration::from_secs(10_800), Status::Fail, "+180 min: "),
        ] {
            let finding = clock(&headers, UNIX_EPOCH + ours, Duration::ZERO).unwrap();
            assert!(finding.status == status && finding.text.starts_with(text), "{finding}");
        }
        headers.insert(header::DATE, HeaderValue::from_static("yesterday"));
        assert_eq!(clock(&headers, UNIX_EPOCH, Duration::ZERO), None);
        assert_eq!(clock(&HeaderMap::new(), UNIX_EPOCH, Duration::ZERO), None);
    }
}
