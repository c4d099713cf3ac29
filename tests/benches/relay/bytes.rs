//! The load of the splice bench: frames written and counted on blocking sockets, one thread an end. It is lighter than
//! what it loads: frames are masked once and sent again and again, large reads and writes, no unmasking.
use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::TcpStream,
};

use anyhow::ensure;
use proto::ws::{
    frame::{HEADER_MAX, Header, Opcode},
    mask,
};
use rustls::Connection;

/// What one read of the socket takes at most.
const READ: usize = 256 * 1024;

/// Bytes that are handed to TLS at once, about: what fits its buffer.
const WRITE: usize = 64 * 1024;

/// One end of a path.
pub(crate) struct End {
    socket: BufReader<TcpStream>,
    tls: Connection,
    counter: Counter,
}

impl End {
    /// Takes a connection out of the runtime.
    pub(crate) fn new(stream: tokio::net::TcpStream, tls: impl Into<Connection>) -> anyhow::Result<Self> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(Self { socket: BufReader::with_capacity(READ, stream), tls: tls.into(), counter: Counter::default() })
    }

    /// Cipher suite and the like, so that both contenders can be seen to do the same.
    pub(crate) fn suite(&self) -> String {
        format!("{:?}", self.tls.negotiated_cipher_suite().map(|suite| suite.suite()))
    }

    /// Sends `bytes`.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let taken = self.tls.writer().write(&bytes[..bytes.len().min(WRITE)])?;
            bytes = &bytes[taken..];
            while self.tls.wants_write() {
                self.tls.write_tls(self.socket.get_mut())?;
            }
        }
        Ok(())
    }

    /// Reads frames until `payload` bytes of them have come.
    pub(crate) fn receive(&mut self, mut payload: u64) -> anyhow::Result<()> {
        while payload > 0 {
            let mut reader = self.tls.reader();
            match reader.fill_buf() {
                Ok(bytes) => {
                    ensure!(!bytes.is_empty(), "the connection ended");
                    let length = bytes.len();
                    payload = payload.saturating_sub(self.counter.payload(bytes));
                    reader.consume(length);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(self.tls.read_tls(&mut self.socket)? > 0, "the connection was cut");
                    self.tls.process_new_packets()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Closes as TCP does.
    pub(crate) fn close(mut self) {
        let _ = self.socket.get_mut().shutdown(std::net::Shutdown::Both);
        let _ = self.socket.read(&mut [0]);
    }
}

/// [`WRITE`] bytes or a little more of masked binary frames of `size` bytes, and how many bytes of payload that is.
pub(crate) fn frames(size: usize) -> (Vec<u8>, u64) {
    let frame = one_frame(size);
    let count = WRITE.div_ceil(frame.len());
    (frame.repeat(count), (count * size) as u64)
}

/// One masked binary frame.
pub(crate) fn one_frame(size: usize) -> Vec<u8> {
    let (key, mut header) = ([0x37, 0xfa, 0x21, 0x3d], [0; HEADER_MAX]);
    let length = Header { fin: true, opcode: Opcode::Binary, mask: Some(key), len: size as u64 }.encode(&mut header);
    let mut wire = header[..length].to_vec();
    wire.extend((0..size).map(|index| ((index * 31) >> 3) as u8));
    mask::apply(key, 0, &mut wire[length..]);
    wire
}

/// Counts payload across frame headers.
#[derive(Debug, Default)]
struct Counter {
    header: Vec<u8>,
    left: u64,
}

impl Counter {
    fn payload(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len() as u64);
                self.left -= taken;
                count += taken;
                bytes = &bytes[taken as usize..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let Some(length) = length(&self.header) {
                self.left = length;
                self.header.clear();
            }
        }
        count
    }
}

/// The length that a whole header announces.
fn length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let key = if second & 0x80 == 0 { 0 } else { 4 };
    let (length, size) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*header.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*header.get(2..)?.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    (header.len() >= size + key).then_some(length)
}
