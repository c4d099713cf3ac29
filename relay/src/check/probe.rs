//! One connection to the relay after another, each asking one question, and what a failure of one means.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{
    hybrid::status::clean,
    ws::handshake::{UpgradeError, Upgraded},
};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{Code, Finding, Stage};
use crate::{
    dial::{Dialer, ReachError},
    sender::{self, Address, DialError, Minted, Transport},
};

/// Time for one question, all of its connection included.
pub(super) const STEP: Duration = Duration::from_secs(15);

/// Names the only listeners that a sender may be joined with.
pub(super) const ALLOWED: HeaderName = HeaderName::from_static("microsoft-relay-allowedlisteners");

/// Longest text of a relay that is repeated.
const WORDS_SHOWN: usize = 200;

/// Where questions go.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    pub(super) address: &'a Address,
    pub(super) dialer: &'a Dialer,
    pub(super) tls: Arc<ClientConfig>,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    /// 101.
    Open(Box<Open>),
    /// Anything else.
    Refused(Refused),
}

/// An open WebSocket.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) io: Transport,
    pub(super) read_ahead: BytesMut,
    pub(super) headers: HeaderMap,
}

/// An answer other than 101.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: u16,
    /// The relay's words, without its tracking block.
    pub(super) words: String,
    /// Whether there was such a block: then a relay said it, and nobody on the way.
    pub(super) tracked: bool,
    pub(super) headers: HeaderMap,
}

impl Probe<'_> {
    /// Asks in a connection of its own.
    pub(super) async fn ask(&self, target: &str, token: Option<&Minted>, more: HeaderMap) -> Result<Answer, DialError> {
        let asked = async {
            let mut headers = more;
            if let Some(token) = token {
                headers.extend(sender::token_headers(token)?);
            }
            let carrier = self.dialer.connect(&self.address.host, self.address.port).await?;
            let upgraded = sender::upgrade(carrier, self.address, target, &self.tls, headers, &[]).await;
            answer(upgraded)
        };
        timeout(STEP, Box::pin(asked)).await.unwrap_or(Err(DialError::TooSlow(STEP)))
    }
}

/// A refusal is an answer; what is no answer stays an error.
pub(super) fn answer(upgraded: Result<Upgraded<Transport>, DialError>) -> Result<Answer, DialError> {
    match upgraded {
        Ok(Upgraded { io, read_ahead, headers, .. }) => Ok(Answer::Open(Box::new(Open { io, read_ahead, headers }))),
        Err(DialError::Upgrade(UpgradeError::Refused { status, reason, headers, .. })) => {
            let (words, tracking) = reason.split_once("TrackingId:").unwrap_or((&reason, ""));
            Ok(Answer::Refused(Refused {
                status,
                words: clean(words.trim_end_matches(['.', ' ']), WORDS_SHOWN),
                tracked: !tracking.is_empty(),
                headers: *headers,
            }))
        }
        Err(error) => Err(error),
    }
}

impl Answer {
    pub(super) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Open(open) => &open.headers,
            Self::Refused(refused) => &refused.headers,
        }
    }
}

impl Refused {
    /// Status and words.
    pub(super) fn said(&self) -> String {
        format!("{} {}", self.status, self.words).trim_end().to_owned()
    }

    /// What it means where a right was asked for.
    pub(super) fn finding(&self, stage: Stage) -> Finding {
        let said = self.said();
        let is_full = ["MaximumListeners", "QuotaExceeded"].iter().any(|word| self.words.contains(word));
        match self.status {
            401 => Finding::fail(stage, Code::TokenRefused, format!("the relay refuses the token: {said}")),
            403 if is_full => Finding::fail(Stage::Listeners, Code::ListenersFull, said),
            403 => Finding::fail(stage, Code::RightMissing, format!("the relay denies it: {said}")),
            404 if self.words.contains("does not exist") || !self.tracked => {
                Finding::fail(stage, Code::EntityUnknown, said)
            }
            404 => Finding::fail(Stage::Listeners, Code::NoListener, said),
            429 | 500..=503 => Finding::fail(stage, Code::Busy, format!("the relay refuses for now: {said}")),
            504 => Finding::fail(stage, Code::Silent, said),
            _ => Finding::fail(stage, Code::NotARelay, format!("an answer that no relay gives: {said}")),
        }
    }
}

/// What a failed connection means. `stage` is what was being looked at; some failures belong to an earlier one.
pub(super) fn failure(stage: Stage, error: &DialError) -> Finding {
    let text = daemon::process::explain(error).replace("\n  because: ", ": ");
    let (stage, code) = match error {
        DialError::Key(_) | DialError::Token(_) | DialError::Unsendable => (Stage::Token, Code::TokenUnavailable),
        DialError::Reach(ReachError::Host | ReachError::Resolve { .. }) => (Stage::Dns, Code::NameUnknown),
        DialError::Reach(ReachError::Connect { .. }) => (Stage::Tcp, Code::Unreachable),
        DialError::Reach(ReachError::Proxy(error)) if error.is_login() => (Stage::Proxy, Code::ProxyLogin),
        DialError::Reach(ReachError::Proxy(_)) => (Stage::Proxy, Code::ProxyFailed),
        DialError::Untrusted { .. } => (Stage::Tls, Code::Untrusted),
        DialError::Tls { .. } => (Stage::Tls, Code::TlsFailed),
        DialError::Upgrade(UpgradeError::Io(_)) => (stage, Code::UpgradeStripped),
        DialError::Upgrade(_) => (stage, Code::NotARelay),
        DialError::TooSlow(_) => (stage, Code::Silent),
    };
    Finding::fail(stage, code, text)
}

/// Who says that he stood in between, or answered.
pub(super) fn hints(headers: &HeaderMap) -> String {
    let shown = |name: HeaderName, word: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(format!(", {word} \"{}\"", clean(value, 60)))
    };
    [shown(header::VIA, "via"), shown(header::SERVER, "answered by")].into_iter().flatten().collect()
}

/// Only this listener. A made-up id means nobody, so that a question disturbs nobody.
pub(super) fn only(listener: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(listener) {
        headers.insert(ALLOWED, value);
    }
    headers
}

/// How long something took.
pub(super) async fn timed<T>(what: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let value = what.await;
    (value, began.elapsed())
}
