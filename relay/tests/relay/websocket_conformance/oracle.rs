//! The same bytes, straight to tungstenite and to tungstenite behind the relay: it must see the same.
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, error::ProtocolError, protocol::Role},
};

use super::{
    Meeting,
    cases::{self, Case, Expected},
};

/// How a conversation ended for tungstenite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a Close of this code.
    Closed(Option<u16>),
    /// With text that is none.
    NotText,
    /// With a broken rule.
    Broken,
    /// Without a Close.
    Lost,
}

/// Reads to the end: messages, and how it ended.
async fn read(stream: TcpStream, role: Role) -> (Vec<Message>, End) {
    let mut socket = WebSocketStream::from_raw_socket(stream, role, None).await;
    let mut messages = Vec::new();
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(close))) => {
                let end = End::Closed(close.map(|close| close.code.into()));
                // Its answer leaves while it is read on.
                while let Some(Ok(_)) = socket.next().await {}
                return (messages, end);
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) => messages.push(message),
            Some(Err(Error::Utf8(_))) => return (messages, End::NotText),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_))) | None => {
                return (messages, End::Lost);
            }
            Some(Err(_)) => return (messages, End::Broken),
        }
    }
}

async fn write(mut stream: TcpStream, bytes: &[u8]) {
    let (mut reading, mut writing) = stream.split();
    let mut answer = Vec::new();
    // Whoever reads may have had enough.
    let _ = tokio::join!(
        async {
            writing.write_all(bytes).await?;
            writing.shutdown().await
        },
        reading.read_to_end(&mut answer)
    );
}

async fn straight(case: &Case) -> (Vec<Message>, End) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await.unwrap().0 });
    let (_, seen) = tokio::join!(write(one.unwrap(), &case.bytes), read(other, Role::Server));
    seen
}

async fn relayed(meeting: &mut Meeting, case: &Case) -> (Vec<Message>, End) {
    let (one, other) = meeting.joined(false).await;
    let (_, seen) = tokio::join!(write(one, &case.bytes), read(other, Role::Client));
    seen
}

/// Cases that tungstenite takes although the RFC does not.
const TAKEN: [&str; 2] = ["the length 125 in two bytes", "the length 65,535 in eight bytes"];

#[tokio::test]
async fn tungstenite_sees_the_same_behind_the_relay_as_straight() {
    let mut meeting = Meeting::new().await;
    for case in cases::all() {
        let (direct, end) = straight(&case).await;
        let (through, relayed_end) = relayed(&mut meeting, &case).await;
        match &case.expected {
            Expected::Passes { .. } => {
                assert!((&through, relayed_end) == (&direct, end), "{}: {end:?} {relayed_end:?}", case.name);
            }
            Expected::Refused { .. } => {
                // It tells a code that may not be sent as the one that answers it.
                let refuses = matches!(end, End::Broken | End::NotText | End::Closed(Some(1002)));
                assert!(refuses || TAKEN.contains(&&case.name[..]), "{}: {end:?}", case.name);
                assert_eq!(relayed_end, End::Lost, "{}", case.name);
                assert!(direct.starts_with(&through), "{}", case.name);
            }
        }
    }
}
