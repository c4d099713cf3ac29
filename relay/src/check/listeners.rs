//! How many listen, as the relay's description of the hybrid connection says. It is read as the .NET SDK reads it. A relay
//! of ours tells whoever has a right there; Azure does not tell every credential of one right, and then nothing is told.
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{
    Finding, Stage,
    probe::{Probe, STEP},
};
use crate::sender::{self, Minted};

/// Largest description that is read.
const DESCRIPTION_MAX: usize = 64 * 1024;

/// Counts the listeners besides this check, which is one.
pub(super) async fn besides_us(probe: &Probe<'_>, token: &Minted) -> Option<Finding> {
    let text = timeout(STEP, describe(probe, token)).await.ok()??;
    let count: usize = between(&text, "<ListenerCount>", "<")?.trim().parse().ok()?;
    let text = match count.saturating_sub(1) {
        1 => "1 listener is connected besides this check".to_owned(),
        others => format!("{others} listeners are connected besides this check"),
    };
    Some(Finding::ok(Stage::Listeners, text))
}

async fn describe(probe: &Probe<'_>, token: &Minted) -> Option<String> {
    let address = probe.address;
    let carrier = probe.dialer.connect(&address.host, address.port).await.ok()?;
    let io = sender::secure(carrier, address, &probe.tls).await.ok()?;
    let (mut asking, connection) = http1::handshake(TokioIo::new(io)).await.ok()?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("/{}?api-version=2016-07", address.path))
        .header(header::HOST, address.authority())
        .header("X-PROCESS-AT", "ServiceBus")
        .header(header::AUTHORIZATION, token.secret.header("")?)
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answered = async {
        let answer = asking.send_request(request).await.ok().filter(|answer| answer.status().is_success())?;
        let body = Limited::new(answer.into_body(), DESCRIPTION_MAX).collect().await.ok()?.to_bytes();
        Some(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::pin!(answered);
    tokio::select! {
        biased;
        text = &mut answered => text,
        // A connection may end before its last answer is taken.
        _ = connection => answered.await,
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(value, _)| value)
}
