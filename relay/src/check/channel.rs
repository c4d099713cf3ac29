//! A control channel for a moment: long enough to hear a Pong, or to take the one rendezvous that the check itself asks
//! for. A sender of somebody else's that a relay sends here meanwhile is not answered; the channel is closed soon, and
//! the relay takes it elsewhere.
use std::{
    io,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use proto::{
    hybrid::message::{Accept, BODY_MAX, Message},
    ws::{
        Role,
        frame::{Decoder, Event, Opcode, close_payload, put_control},
        keys::Keys,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::probe::Open;
use crate::sender::Transport;

/// For the relay to take our Close.
const FAREWELL: Duration = Duration::from_secs(1);

/// An open control channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: String,
    io: Transport,
    input: BytesMut,
    decoder: Decoder,
    keys: Keys,
    text: Vec<u8>,
}

impl Channel {
    pub(super) fn new(id: String, open: Open) -> Self {
        let decoder = Decoder::new(Role::Client);
        Self { id, io: open.io, input: open.read_ahead, decoder, keys: Keys::default(), text: Vec::new() }
    }

    /// Sends a Ping; how long its Pong took.
    pub(super) async fn ping(&mut self) -> io::Result<Duration> {
        let began = Instant::now();
        self.say(Opcode::Ping, b"causeway-check").await?;
        loop {
            if let Event::Control { opcode: Opcode::Pong, .. } = self.event().await? {
                return Ok(began.elapsed());
            }
        }
    }

    /// The next `accept` that `is_ours`.
    pub(super) async fn accept(&mut self, is_ours: impl Fn(&Accept) -> bool) -> io::Result<Accept> {
        loop {
            match self.event().await? {
                Event::Start(header) if header.opcode == Opcode::Text => self.text.clear(),
                Event::Start(_) => {}
                Event::Payload { bytes, end } => {
                    if self.text.len() + bytes.len() > BODY_MAX {
                        return Err(io::Error::other("the relay's message is too large"));
                    }
                    self.text.extend_from_slice(&bytes);
                    if let (true, Ok(text)) = (end, std::str::from_utf8(&self.text))
                        && let Ok(Message::Accept(accept)) = Message::read(text)
                        && is_ours(&accept)
                    {
                        return Ok(accept);
                    }
                }
                Event::Control { .. } => {}
            }
        }
    }

    /// Leaves in good order.
    pub(super) async fn close(mut self) {
        let left = async {
            self.say(Opcode::Close, &close_payload(1000, "checked")).await?;
            while self.event().await.is_ok() {}
            io::Result::Ok(())
        };
        // A relay that does not answer its Close has closed, too.
        let _ = timeout(FAREWELL, left).await;
    }

    async fn say(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut frame = BytesMut::new();
        put_control(&mut frame, opcode, payload, Some(self.keys.draw()?));
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }

    /// The next event; a Ping is answered, a Close is an end.
    async fn event(&mut self) -> io::Result<Event> {
        loop {
            match self.decoder.next(&mut self.input).map_err(io::Error::other)? {
                Some(Event::Control { opcode: Opcode::Ping, payload }) => self.say(Opcode::Pong, &payload).await?,
                Some(Event::Control { opcode: Opcode::Close, .. }) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the relay closed the channel"));
                }
                Some(event) => return Ok(event),
                None if self.io.read_buf(&mut self.input).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        }
    }
}
