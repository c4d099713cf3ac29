//! Listeners that are refused and come back at once, over real sockets. How it goes on for minutes is tested in simulated
//! time, beside the code.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};
use tokio_util::task::TaskTracker;

use crate::support::{Answer, LISTEN_KEY, Relay, config, dial_address, until};

/// A process with hyco-ws in it and a bad token: it comes back twice for each handshake that fails, and once for each
/// connection that was open.
#[derive(Clone)]
struct HycoWs {
    relay: SocketAddr,
    attempts: Arc<AtomicUsize>,
    tasks: TaskTracker,
    /// What parked connections were told at their end.
    told: mpsc::UnboundedSender<Vec<u8>>,
}

impl HycoWs {
    fn attempt(&self) {
        self.attempts.fetch_add(1, SeqCst);
        let this = self.clone();
        self.tasks.spawn(async move {
            let answer = handshake(this.relay, "MTMtMTU3MjAwMDAwMDAwMA==", "").await;
            if answer.status == 101 {
                let _ = this.told.send(answer.rest().await);
            } else {
                this.attempt();
            }
            this.attempt();
        });
    }
}

async fn handshake(relay: SocketAddr, key: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(relay).await.unwrap();
    let head = format!(
        "GET /$hc/e?sb-hc-action=listen&sb-hc-id=storm HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Host: 127.0.0.1\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\
         ServiceBusAuthorization: SharedAccessSignature sr=x&sig=x&se=1&skn=x\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    Answer::read(stream).await
}

#[tokio::test]
async fn a_storming_hyco_ws_is_parked_and_told_why_while_others_are_served() {
    // The limits that a relay has by default, and everybody behind one address.
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", "")).await;
    let mut control = relay.listener().await;
    let (told, mut ends) = mpsc::unbounded_channel();
    let storm = HycoWs { relay: relay.address, attempts: Arc::default(), tasks: TaskTracker::new(), told };
    storm.attempt();
    let first_end = tokio::time::timeout(Duration::from_secs(40), ends.recv());
    tokio::pin!(first_end);
    let mut served = 0;
    let end = loop {
        tokio::select! {
            end = &mut first_end => break end.expect("nobody stays parked for longer").unwrap(),
            (sender, accepted) = async {
                tokio::join!(relay.sender(""), async { dial_address(&control.address().await, &[]).await })
            } => {
                sender.unwrap();
                accepted.unwrap();
                served += 1;
                // Not to use a core for nothing: the storm is what is tested.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let text = String::from_utf8_lossy(&end[4..]).into_owned();
    assert_eq!((end[0], &end[2..4]), (0x88, &1008_u16.to_be_bytes()[..]), "{text}");
    assert!(text.starts_with("MalformedToken") || text.starts_with("InvalidSignature"), "{text}");
    let attempts = storm.attempts.load(SeqCst);
    assert!(attempts <= 12, "{attempts} attempts");
    assert!(served >= 20, "{served} others were served");
    let parked = relay.events("listener_parked");
    assert_eq!((parked.len(), &parked[0]["entity"], &parked[0]["address"]), (1, &"e".into(), &"127.0.0.1".into()));
    assert_eq!(relay.events("listener_refused").len(), 1);
    assert!(relay.context.metrics.encode().contains("causeway_relay_parked_total{entity=\"e\"} "));
    // It is nobody's listener.
    assert_eq!(relay.shown_listener("storm"), serde_json::Value::Null);
}

#[tokio::test]
async fn other_sdks_are_never_parked() {
    let relay = Relay::new().await;
    for (key, more) in
        [("AAAAAAAAAAAAAAAAAAAAAA==", ""), ("MTMtMTU3MjAwMDAwMDAwMA==", "Relay-User-Agent: azure-relay-dotnet\r\n")]
    {
        for _ in 0..5 {
            assert_eq!(handshake(relay.address, key, more).await.status, 401);
        }
    }
    // The last of so many at once come late, and still plain.
    let began = tokio::time::Instant::now();
    let mut refused = tokio::task::JoinSet::new();
    for _ in 0..4 {
        refused.spawn(handshake(relay.address, "AAAAAAAAAAAAAAAAAAAAAA==", ""));
    }
    while let Some(answer) = refused.join_next().await {
        assert_eq!(answer.unwrap().status, 401);
    }
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn whose_token_is_genuine_is_refused_at_once_however_many_others_are_late() {
    let relay = Relay::new().await;
    let mut refused = tokio::task::JoinSet::new();
    for _ in 0..30 {
        refused.spawn(handshake(relay.address, "AAAAAAAAAAAAAAAAAAAAAA==", ""));
    }
    let has_told = |count: u64| relay.events("listener_refused").iter().any(|event| event["count"] == count);
    until("refusals are late", || has_told(10)).await;
    let expired = relay.token_until("listen", LISTEN_KEY, "e", SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let lacking = relay.send_token();
    let began = tokio::time::Instant::now();
    for (token, status) in [(&expired, 401), (&lacking, 403)] {
        for _ in 0..20 {
            let answer = relay.raw("/$hc/e?sb-hc-action=listen", &[("ServiceBusAuthorization", token)]).await;
            assert_eq!(answer.status, status);
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    refused.abort_all();
}

#[tokio::test]
async fn a_good_token_is_taken_at_once_whatever_came_before() {
    let relay = Relay::new().await;
    for _ in 0..4 {
        handshake(relay.address, "MTMtMTU3MjAwMDAwMDAwMA==", "").await;
    }
    let token = relay.listen_token();
    let headers = [("Sec-WebSocket-Key", "MTMtMTU3MjAwMDAwMDAwMA=="), ("ServiceBusAuthorization", token.as_str())];
    let good = relay.raw("/$hc/e?sb-hc-action=listen&sb-hc-id=good", &headers).await;
    assert_eq!(good.status, 101);
    until("it is registered", || relay.shown_listener("good")["id"] == "good").await;
}

#[tokio::test]
async fn a_draining_relay_keeps_nobody_parked() {
    let relay = Relay::new().await;
    let mut parked = Vec::new();
    for _ in 0..5 {
        let answer = handshake(relay.address, "MTMtMTU3MjAwMDAwMDAwMA==", "").await;
        parked.extend((answer.status == 101).then_some(answer));
    }
    relay.context.shutdown.begin();
    for answer in parked {
        let end = answer.rest().await;
        assert_eq!((end[0], &end[2..4]), (0x88, &1001_u16.to_be_bytes()[..]));
    }
    let outcome = relay.context.shutdown.run(Duration::from_secs(10)).await;
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}
