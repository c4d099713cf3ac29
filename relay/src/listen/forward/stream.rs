//! A WebSocket sender and a TCP target, joined.
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use daemon::shutdown::Shutdown;
use http::StatusCode;
use proto::{tunnel::SUBPROTOCOL, ws::Role};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::proxy_v2;
use crate::{
    listen::{
        Listener,
        knock::{Accepted, Knock},
    },
    sender,
    splice::{Buffers, End, Framing, Leg, Side, Signals, Splice, drain_notice},
    transport,
};

/// For the target alone, so that a rejection is still in time.
const TARGET: Duration = Duration::from_secs(10);

/// Where senders are taken to.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) target: String,
    /// A gateway is there, to whom our subprotocol means something.
    pub(super) is_tunnel: bool,
    pub(super) proxy_protocol: bool,
    pub(super) listener: Listener,
    pub(super) buffers: Buffers,
    pub(super) shutdown: Shutdown,
}

type Joined = Splice<sender::Transport, TcpStream>;

impl Stream {
    /// Joins one sender with the target, or tells it why not.
    pub(super) async fn let_in(self: Arc<Self>, mut knock: Knock) {
        knock.line().target.clone_from(&self.target);
        let reached = timeout(TARGET, self.reach(&knock)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let target = match reached {
            Ok(target) => target,
            Err(error) => {
                let text = format!("The listener cannot reach its target ({})", error.kind());
                knock.line().end("target_down", "target", error.to_string());
                // The line says what became of it.
                let _ = knock.rejected(StatusCode::BAD_GATEWAY.as_u16(), &text).await;
                return;
            }
        };
        let noticed = self.is_tunnel && knock.protocols().any(|name| name == SUBPROTOCOL);
        let Ok(accepted) = knock.accept(noticed.then_some(SUBPROTOCOL)).await else { return };
        // A task that remembers nothing of the dials.
        self.shutdown.clone().spawn(self.joined(accepted, target, noticed));
    }

    /// Connects to the target, and says who is coming where that is wanted.
    async fn reach(&self, knock: &Knock) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.target).await?;
        transport::prepare(&stream)?;
        if self.proxy_protocol {
            let target = stream.peer_addr()?;
            // Nobody is an unknown source.
            let sender = knock.remote().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
            stream.write_all(&proxy_v2::header(sender, target, knock.id())).await?;
        }
        Ok(stream)
    }

    fn joined(
        self: Arc<Self>,
        accepted: Accepted,
        target: TcpStream,
        noticed: bool,
    ) -> impl Future<Output = ()> + use<> {
        let Accepted { io, read_ahead, line, .. } = accepted;
        let buffers = self.buffers.clone();
        let from = Leg::new(io, Framing::WebSocket(Role::Client), read_ahead, buffers.clone());
        let to = Leg::new(target, Framing::Raw { skip_text: noticed }, BytesMut::new(), buffers);
        let splice = Splice::new(from, to);
        let signals = Signals {
            drain: self.shutdown.drain_token(),
            force: self.shutdown.force_token(),
            notice: noticed.then(drain_notice),
        };
        relayed(self, splice, signals, line)
    }
}

async fn relayed(stream: Arc<Stream>, mut splice: Joined, signals: Signals, mut line: crate::listen::knock::Line) {
    let metrics = stream.listener.metrics();
    metrics.active_rendezvous.inc();
    let end = splice
        .run(signals, |up, down| {
            metrics.bytes_to_target.inc_by(up);
            metrics.bytes_to_sender.inc_by(down);
        })
        .await;
    metrics.active_rendezvous.dec();
    (line.bytes_up, line.bytes_down) = splice.bytes();
    let fault = match end.side() {
        Some(Side::A) => "sender",
        Some(Side::B) => "target",
        None if matches!(end, End::Forced) => "listener",
        None => "none",
    };
    let detail = match &end {
        End::Lost(_, error) => error.to_string(),
        End::Broken(_, error) => error.to_string(),
        End::Cut(_, code) => format!("close code {code}"),
        End::Complete | End::HalfClosed | End::Forced => String::new(),
    };
    line.end(end.name(), fault, detail);
    if !matches!(end, End::Complete) {
        // A FIN would make data that was cut short look whole; without the option the target sees one.
        let _ = splice.b().set_zero_linger();
    }
}
