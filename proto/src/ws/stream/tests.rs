//! The byte stream against tungstenite, under `h2`, over transports that take and give what they like, and against peers
//! that break rules.
mod ends;
mod h2_runs;
mod oracle;
mod pieces;
mod pings;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::WsStream;
use crate::ws::{
    Role,
    frame::{Decoder, Event, HEADER_MAX, Header, Opcode},
};

/// A client and a server on the two ends of a pipe of `buffer` bytes.
fn pair(buffer: usize) -> (WsStream<DuplexStream>, WsStream<DuplexStream>) {
    let (client, server) = duplex(buffer);
    (WsStream::new(client, Role::Client, BytesMut::new()), WsStream::new(server, Role::Server, BytesMut::new()))
}

/// A client stream whose peer is the raw other end.
fn client_and_raw(buffer: usize) -> (WsStream<DuplexStream>, DuplexStream) {
    let (client, raw) = duplex(buffer);
    (WsStream::new(client, Role::Client, BytesMut::new()), raw)
}

/// A server's data frame.
fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, mask: None, len: payload.len() as u64 }.encode(&mut header);
    [&header[..len], payload].concat()
}

/// What a server sees in `wire`: joined payload of data frames, and control frames in order.
fn seen_by_server(wire: &[u8]) -> (Vec<u8>, Vec<(Opcode, Vec<u8>)>) {
    let (mut decoder, mut input) = (Decoder::new(Role::Server), BytesMut::from(wire));
    let (mut data, mut controls) = (Vec::new(), Vec::new());
    while let Some(event) = decoder.next(&mut input).unwrap() {
        match event {
            Event::Start(_) => {}
            Event::Payload { bytes, .. } => data.extend_from_slice(&bytes),
            Event::Control { opcode, payload } => controls.push((opcode, payload.to_vec())),
        }
    }
    assert!(input.is_empty() && decoder.between_messages(), "a frame was announced and not finished");
    (data, controls)
}

/// Bytes that repeat at no power of two.
fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// A transport driven by a script of sizes: 0 is one `Pending`, `n` takes or gives at most `n` bytes.
#[derive(Debug)]
struct Choppy<IO> {
    io: IO,
    reads: VecDeque<usize>,
    writes: VecDeque<usize>,
    vectored: bool,
}

impl<IO> Choppy<IO> {
    fn new(io: IO, script: &[usize], vectored: bool) -> Self {
        let script: VecDeque<usize> = script.iter().copied().collect();
        Self { io, reads: script.clone(), writes: script, vectored }
    }
}

/// The next size of an endless script.
fn turn(script: &mut VecDeque<usize>) -> usize {
    script.rotate_left(1);
    script.back().copied().unwrap_or(usize::MAX)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Choppy<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match turn(&mut this.reads) {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            most => {
                let mut part = vec![0; most.min(buf.remaining())];
                let mut part = ReadBuf::new(&mut part);
                let outcome = Pin::new(&mut this.io).poll_read(cx, &mut part);
                buf.put_slice(part.filled());
                outcome
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Choppy<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match turn(&mut this.writes) {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            most => Pin::new(&mut this.io).poll_write(cx, &buf[..most.min(buf.len())]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let joined = bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>();
        self.poll_write(cx, &joined)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Writes `data` in pieces of the given sizes, then ends the direction.
async fn write_in_pieces(to: &mut (impl AsyncWrite + Unpin), data: &[u8], pieces: &[usize]) {
    let (mut at, mut turn) = (0, 0);
    while at < data.len() {
        let piece = pieces[turn % pieces.len()].min(data.len() - at);
        to.write_all(&data[at..at + piece]).await.unwrap();
        (at, turn) = (at + piece, turn + 1);
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end with buffers of `size` bytes.
async fn read_to_end(from: &mut (impl AsyncRead + Unpin), size: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; size]);
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(all),
            len => all.extend_from_slice(&buffer[..len]),
        }
    }
}
