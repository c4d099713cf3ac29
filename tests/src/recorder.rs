//! A recorder in the place of a relay's operator: it ends the TLS sessions with a certificate that both sides accept,
//! passes everything on to the real relay, and keeps all plaintext that it saw. A search looks at the bytes as they came
//! and at WebSocket payload with its masking undone and its frames joined, so that nothing hides behind framing.
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::pki::Pki;

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// One direction of one connection.
type Capture = Arc<Mutex<Vec<u8>>>;

/// A recording proxy; it and its connections end when this is dropped.
#[derive(Debug)]
pub struct Recorder {
    /// Where clients connect.
    pub address: SocketAddr,
    captures: Arc<Mutex<Vec<Capture>>>,
    _tasks: JoinSet<()>,
}

impl Recorder {
    /// Records plain TCP on its way to `upstream`.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn plain(upstream: SocketAddr) -> Self {
        Self::start("127.0.0.1:0".parse().expect("an address"), move |client, pair| async move {
            let server = TcpStream::connect(upstream).await?;
            pair.pass(client, server).await
        })
        .await
    }

    /// Records what is inside the TLS sessions on their way to `upstream`.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn tls(pki: &Pki, address: IpAddr, upstream: SocketAddr) -> Self {
        let acceptor = pki.acceptor(address);
        let connector = pki.connector(&[b"http/1.1"]);
        Self::start(SocketAddr::new(address, 0), move |client, pair| {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            async move {
                let client = acceptor.accept(client).await?;
                let server = TcpStream::connect(upstream).await?;
                let server = connector.connect(upstream.ip().into(), server).await?;
                pair.pass(client, server).await
            }
        })
        .await
    }

    async fn start<F, Fut>(address: SocketAddr, connection: F) -> Self
    where
        F: Fn(TcpStream, Pair) -> Fut + Send + 'static,
        Fut: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let captures = Arc::<Mutex<Vec<Capture>>>::default();
        let mut tasks = JoinSet::new();
        let all = captures.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let pair = Pair::default();
                all.lock().expect("nothing panics here").extend([pair.there.clone(), pair.back.clone()]);
                let connection = connection(client, pair);
                // How a connection ends is for the two sides to say.
                connections.spawn(async move { drop(connection.await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, captures, _tasks: tasks }
    }

    /// How many bytes were recorded.
    pub fn recorded(&self) -> usize {
        self.copies().iter().map(Vec::len).sum()
    }

    /// Whether `marker` went past, in the open or inside WebSocket messages.
    pub fn saw(&self, marker: &[u8]) -> bool {
        self.copies().iter().any(|bytes| contains(bytes, marker) || contains(&websocket_payload(bytes), marker))
    }

    fn copies(&self) -> Vec<Vec<u8>> {
        let captures = self.captures.lock().expect("nothing panics here");
        captures.iter().map(|capture| capture.lock().expect("nothing panics here").clone()).collect()
    }
}

/// Both directions of one connection.
#[derive(Debug, Default)]
struct Pair {
    there: Capture,
    back: Capture,
}

impl Pair {
    async fn pass<A, B>(self, client: A, server: B) -> std::io::Result<()>
    where
        A: AsyncRead + AsyncWrite,
        B: AsyncRead + AsyncWrite,
    {
        let (client_read, client_write) = tokio::io::split(client);
        let (server_read, server_write) = tokio::io::split(server);
        tokio::try_join!(copy(client_read, server_write, &self.there), copy(server_read, client_write, &self.back))?;
        Ok(())
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    capture: &Capture,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        capture.lock().expect("nothing panics here").extend_from_slice(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

fn contains(bytes: &[u8], marker: &[u8]) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker)
}

/// The joined, unmasked payload of all frames behind the HTTP head; stops where the bytes end or stop being frames.
fn websocket_payload(bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return payload };
    let mut rest = &bytes[end + 4..];
    while let Some((frame, next)) = frame(rest) {
        payload.extend_from_slice(&frame);
        rest = next;
    }
    payload
}

/// The first frame's unmasked payload (as much as was recorded), and what follows.
fn frame(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&[_, second], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match second & 0x7f {
        126 => rest.split_first_chunk::<2>().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest.split_first_chunk::<8>().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        short => (u64::from(short), rest),
    };
    let (mask, rest) = if second & 0x80 == 0 {
        ([0; 4], rest)
    } else {
        rest.split_first_chunk::<4>().map(|(mask, rest)| (*mask, rest))?
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
    let (payload, rest) = rest.split_at(length);
    Some((payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::Target;

    #[test]
    fn payload_is_found_behind_masks_and_across_frames() {
        let mut bytes = b"GET / HTTP/1.1\r\n\r\n".to_vec();
        for part in [b"mar".as_slice(), b"ker"] {
            let mask = [7, 11, 13, 17];
            bytes.extend([0x82, 0x80 | part.len() as u8]);
            bytes.extend(mask);
            bytes.extend(part.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
        assert!(!contains(&bytes, b"marker"));
        assert!(contains(&websocket_payload(&bytes), b"marker"));
    }

    #[test]
    fn a_cut_frame_is_read_as_far_as_it_goes() {
        assert_eq!(websocket_payload(b"HTTP/1.1 101\r\n\r\n\x82\x7e\x01\x00abc"), b"abc");
    }

    #[tokio::test]
    async fn both_directions_are_recorded_inside_tls() {
        // Two recorders back to back: the first ends TLS towards the test, the second towards the first.
        let (echo, pki) = (Target::echo().await, Pki::new());
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner_address = inner.local_addr().unwrap();
        let acceptor = pki.acceptor(inner_address.ip());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = inner.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut echo = TcpStream::connect(echo.address).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut stream, &mut echo).await);
        });
        let recorder = Recorder::tls(&pki, "127.0.0.1".parse().unwrap(), inner_address).await;
        let stream = TcpStream::connect(recorder.address).await.unwrap();
        let mut stream = pki.connector(&[]).connect(recorder.address.ip().into(), stream).await.unwrap();
        stream.write_all(b"marker").await.unwrap();
        let mut back = [0; 6];
        stream.read_exact(&mut back).await.unwrap();
        assert!(recorder.saw(b"marker"));
        assert_eq!(recorder.recorded(), 12);
        assert!(!recorder.saw(b"absent"));
    }
}
