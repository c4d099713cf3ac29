//! Reads from a client that grow with the traffic. Memory is taken only once there is something to read. What is read first
//! may be withheld until it has been judged.
use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use proto::limits::DATA_SENT_MAX;

use super::{
    refusal::Refusal,
    socket::ReadHalf,
    vet::{Verdict, Vet},
};

/// First size of a read: an idle or chatty connection needs no more.
const READ_FIRST: usize = 8 * 1024;
/// Largest read: two full messages, so that bulk pays few system calls and leaves no runt.
const READ_MAX: usize = 2 * DATA_SENT_MAX;
/// How long a first word is withheld that could be the beginning of an HTTP request. A browser sends the whole line at
/// once; other protocols may end their first message here.
const WORD_PAUSE: Duration = Duration::from_millis(500);

/// Why there is nothing more to read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The client broke the connection.
    Broken,
    /// What it says may not be carried.
    Refused(Box<Refusal>),
}

/// The client's direction.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    half: ReadHalf<'a>,
    buffer: BytesMut,
    size: usize,
    vet: Option<Vet<'a>>,
}

impl<'a> Reading<'a> {
    /// `ahead` was read already.
    pub(super) fn new(half: ReadHalf<'a>, ahead: BytesMut, vet: Option<Vet<'a>>) -> Self {
        Self { half, buffer: ahead, size: READ_FIRST, vet }
    }

    /// The next bytes; empty at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Bytes, ReadError> {
        let mut ended = false;
        while let Some(vet) = &self.vet {
            let patient = match vet.judge(&self.buffer, ended) {
                Verdict::Pass => {
                    self.vet = None;
                    break;
                }
                Verdict::Refuse(refusal) => return Err(ReadError::Refused(refusal)),
                Verdict::Word => false,
                Verdict::More => true,
            };
            if patient {
                ended = self.read().await? == 0;
            } else {
                match tokio::time::timeout(WORD_PAUSE, self.read()).await {
                    Ok(read) => ended = read? == 0,
                    Err(_) => self.vet = None,
                }
            }
        }
        if self.buffer.is_empty() && !ended {
            self.read().await?;
        }
        Ok(self.buffer.split().freeze())
    }

    /// Adds to the buffer; 0 at the end. Cancel-safe.
    async fn read(&mut self) -> Result<usize, ReadError> {
        loop {
            self.half.readable().await.map_err(|_| ReadError::Broken)?;
            // What is left of the last allocation is used as long as it is worth a system call.
            if self.buffer.capacity() - self.buffer.len() < self.size / 2 {
                self.buffer.reserve(self.size);
            }
            let room = self.buffer.capacity() - self.buffer.len();
            match self.half.try_read_buf(&mut self.buffer) {
                Ok(read) => {
                    if read == room && self.size < READ_MAX {
                        self.size = (self.size * 2).min(READ_MAX);
                    }
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(ReadError::Broken),
            }
        }
    }
}
