//! From hyper's hands back into ours: the transport of a connection whose upgrade was answered.
use std::time::Duration;

use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use proto::ws::handshake;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::transport::Link;

/// A connection that the relay accepted.
pub(crate) type Accepted = Link<TlsStream<TcpStream>>;

/// How long a 101 may take to leave. It is one packet into an empty socket buffer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until the 101 is out and takes the connection over. `None` when it broke before.
pub(crate) async fn taken_over(upgrade: OnUpgrade) -> Option<(Accepted, BytesMut)> {
    let upgraded = tokio::time::timeout(ANSWER_DEADLINE, upgrade).await.ok()?.ok()?;
    handshake::into_parts::<Accepted>(upgraded)
}
