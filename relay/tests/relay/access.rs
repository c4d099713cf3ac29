//! The access log: one line of JSON for each connection, with everything in it, and nothing that should not be.
use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tracing::{Dispatch, subscriber::NoSubscriber};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{Relay, until};

/// What is logged on this thread; the relay of a test runs on the thread of the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// While there is one subscriber alone, tracing asks whichever thread is first at a line whether the line is wanted, and
/// keeps the answer for all. With this one beside it, the subscribers are asked.
static BESIDE: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

impl Log {
    pub(crate) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&BESIDE);
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Access lines of one kind.
    pub(crate) fn lines(&self, kind: &str) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        lines.filter(|line| line["target"] == "access" && line["kind"] == kind).collect()
    }
}

/// Every line has all of these.
const FIELDS: &[&str] = &[
    "kind",
    "peer",
    "id",
    "entity",
    "listener",
    "holder",
    "status",
    "outcome",
    "fault",
    "detail",
    "bytes_up",
    "bytes_down",
    "duration_ms",
];

pub(crate) fn check(line: &Value, expected: &[(&str, Value)]) {
    for field in FIELDS {
        assert!(!line[field].is_null(), "{field} in {line}");
    }
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    for (field, value) in expected {
        assert_eq!(&line[field], value, "{field} in {line}");
    }
}

#[tokio::test]
async fn a_sender_and_its_listener_have_one_line_each_with_everything_in_it() {
    let (log, _guard) = Log::start();
    let relay = Relay::new().await;
    let (mut sender, mut listener, mut control) = relay.pair().await;
    sender.send(Message::binary(vec![0; 1000])).await.unwrap();
    listener.next().await.unwrap().unwrap();
    listener.send(Message::binary(vec![0; 10])).await.unwrap();
    sender.next().await.unwrap().unwrap();
    sender.close(None).await.unwrap();
    while listener.next().await.is_some() {}
    while sender.next().await.is_some() {}
    until("the sender's line", || log.lines("sender").len() == 1).await;
    check(
        &log.lines("sender")[0],
        &[
            ("entity", "e".into()),
            ("listener", "listener-1".into()),
            ("holder", "send".into()),
            ("status", 101.into()),
            ("outcome", "complete".into()),
            ("fault", "none".into()),
            ("bytes_up", 1000.into()),
            ("bytes_down", 10.into()),
        ],
    );
    control.0.close(None).await.unwrap();
    until("the listener's line", || log.lines("listener").len() == 1).await;
    check(
        &log.lines("listener")[0],
        &[
            ("entity", "e".into()),
            ("listener", "listener-1".into()),
            ("holder", "listen".into()),
            ("status", 101.into()),
            ("outcome", "closed".into()),
            ("fault", "none".into()),
        ],
    );
    assert!(log.lines("rendezvous").is_empty(), "the sender's line tells about it");
}

#[tokio::test]
async fn whoever_is_refused_has_a_line_that_says_why() {
    let (log, _guard) = Log::start();
    let relay = Relay::new().await;
    relay.raw("/$hc/e?sb-hc-id=who", &[]).await.rest().await;
    relay.raw("/$hc/e?sb-hc-action=accept&sb-hc-rendezvous=AAAA", &[]).await.rest().await;
    relay.send_raw(b"SSH-2.0-x\r\n\r\n").await.rest().await;
    until("all lines", || !log.lines("connection").is_empty()).await;
    let refused = |kind: &str, outcome: &str, status: u16| {
        check(&log.lines(kind)[0], &[("outcome", outcome.into()), ("status", status.into()), ("fault", "peer".into())]);
    };
    refused("sender", "token_missing", 401);
    refused("rendezvous", "rendezvous_unknown", 403);
    refused("connection", "bad_request", 0);
    assert_eq!(log.lines("sender")[0]["id"], "who");
}

#[tokio::test]
async fn no_secret_and_no_control_character_is_in_any_line_however_much_is_logged() {
    let (log, _guard) = Log::start();
    let relay = Relay::new().await;
    let mut control = relay.listener_as("l%0d%0a%1b[31m").await;
    let token = relay.send_token();
    let in_query: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let sender_target = format!("/$hc/e/s%0a%1b/x?secret=MARKER&sb-hc-id=%1b[0m%0a&sb-hc-token={in_query}");
    let headers = [("Authorization", "MARKER"), ("Cookie", "MARKER"), ("User-Agent", "MARKER")];
    let (_, address) = tokio::join!(relay.raw(&sender_target, &headers), async {
        let address = control.address().await;
        let reject = "sb-hc-statusCode=418&sb-hc-statusDescription=%1b%0d%0awhy";
        relay.raw(&format!("{}&{reject}", crate::support::target(&address)), &[]).await;
        address
    });
    control.send_text(r#"{"renewToken":{"token":"SharedAccessSignature sig=MARKER"}}"#).await;
    control.close().await;
    until("the listener's line", || !log.lines("listener").is_empty()).await;
    let text = log.text();
    let secret = address.rsplit_once('=').unwrap().1;
    let signature = token.split("sig=").nth(1).unwrap().split('&').next().unwrap();
    for (what, marker) in [("a query or header", "MARKER"), ("a rendezvous", secret), ("a token", signature)] {
        assert!(!text.contains(marker), "{what} is in\n{text}");
    }
    assert!(log.lines("sender")[0]["detail"].as_str().unwrap().ends_with("why"));
    // What JSON would escape is not there to begin with; colours of a terminal neither.
    assert!(!text.contains("\\u00") && !text.contains("\\n") && !text.contains("\\r"), "{text}");
}
