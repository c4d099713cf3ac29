//! `relay send`: standard input through a hybrid connection, and what comes back to standard output. For people who want
//! to see whether the other side hears them. An HTTP sender is `curl` with a token of `relay token`.
//!
//! Standard input is sent as binary messages; its end closes our direction, and the other side may go on. The exit code
//! is 0 when the other side closed in good order, with code 1000 or none, 1 when nothing came about, it broke or it was
//! closed with another code, 64 when the join string cannot be used.
use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use daemon::{
    clock::SystemClock,
    config::{ConfigError, EXIT_BAD_CONFIG, SecretRef},
    process::explain,
};
use identity::tls::{TlsError, Trust, client, roots};
use proto::ws::stream::{CutShort, WsStream};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy},
    time::timeout,
};

use crate::{
    dial::{Dialer, ProxyConfig},
    sender::{Credential, DialError, JoinFile, Request, Sender},
};

/// For the other side to take our Close when it has closed already.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where to send.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// File with the sender's join string
    #[arg(long, value_name = "FILE")]
    pub join: PathBuf,
    /// PEM file that is trusted beside the system's roots; may be repeated
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,
    /// Subprotocol to offer; may be repeated
    #[arg(long, value_name = "NAME")]
    pub protocol: Vec<String>,
}

/// Why it ended otherwise than in good order.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("--join cannot be used")]
    Config(#[from] ConfigError),
    #[error("--ca cannot be used")]
    Trust(#[from] TlsError),
    #[error("no connection")]
    Dial(#[from] DialError),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("standard input and output cannot be used")]
    Local(#[source] io::Error),
}

/// Sends until the other side ends.
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let sent = runtime.map_err(Failed::Local).and_then(|runtime| {
        let sent = runtime.block_on(send(args));
        // Somebody may still be typing; nobody reads it any more.
        runtime.shutdown_background();
        sent
    });
    let Err(failed) = sent else { return ExitCode::SUCCESS };
    say(&explain(&failed));
    match failed {
        Failed::Config(_) | Failed::Trust(_) => ExitCode::from(EXIT_BAD_CONFIG),
        Failed::Dial(_) | Failed::Broken(_) | Failed::Local(_) => ExitCode::FAILURE,
    }
}

fn say(text: &str) {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(io::stderr(), "relay send: {text}");
}

async fn send(args: &Args) -> Result<(), Failed> {
    let here = Path::new(".");
    let file = JoinFile::new(SecretRef::File(args.join.clone()), here);
    let (address, credential) = Credential::join(file, here, std::sync::Arc::new(SystemClock))?;
    let trust = Trust { system: true, files: args.ca.clone() };
    let dialer = Dialer::open(&ProxyConfig::FromEnvironment, &trust, here)?;
    let sender = Sender::new(dialer, client(roots(&trust, here)?, &[b"http/1.1"]));
    let protocols: Vec<&str> = args.protocol.iter().map(String::as_str).collect();
    let request = Request { protocols: &protocols, ..Request::default() };
    let connected = sender.dial(&address, &credential, request).await?;
    let listener = connected.listener.as_deref().unwrap_or("a listener");
    let protocol = connected.protocol.as_deref().map(|name| format!(", protocol {name}")).unwrap_or_default();
    say(&format!("joined with {listener} at {address}{protocol}"));
    let (input, output) = standard().map_err(Failed::Local)?;
    relay(connected.stream, input, output).await
}

/// Both directions, until the other side has ended; ours ends with `input`.
async fn relay(
    stream: WsStream<impl AsyncRead + AsyncWrite + Unpin>,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), Failed> {
    let (mut from, mut to) = tokio::io::split(stream.whole_or_error());
    let heard_first = {
        let forth = async {
            let mut piece = vec![0; 16 * 1024];
            loop {
                let length = input.read(&mut piece).await.map_err(Failed::Local)?;
                if length == 0 {
                    return to.shutdown().await.map_err(Failed::Broken);
                }
                to.write_all(&piece[..length]).await.map_err(Failed::Broken)?;
                // A person may be typing, and wants each line to be heard.
                to.flush().await.map_err(Failed::Broken)?;
            }
        };
        let back = async {
            copy(&mut from, &mut output).await.map_err(Failed::Broken)?;
            output.flush().await.map_err(Failed::Local)
        };
        tokio::pin!(forth, back);
        tokio::select! {
            biased;
            back = &mut back => Some(back),
            forth = &mut forth => {
                forth?;
                back.await?;
                None
            }
        }
    };
    let Some(heard) = heard_first else { return Ok(()) };
    if has_closed(&heard) {
        // It is gone; whether it takes our Close is its own affair.
        let _ = timeout(FAREWELL, to.shutdown()).await;
    }
    heard
}

/// Whether the other side has closed, be it in good order or not.
fn has_closed(heard: &Result<(), Failed>) -> bool {
    match heard {
        Ok(()) => true,
        Err(Failed::Broken(error)) => error.get_ref().is_some_and(|cause| cause.is::<CutShort>()),
        Err(_) => false,
    }
}

/// Standard input and output, read and written without blocking the connection.
fn standard() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok((File::from_std(input.into()), File::from_std(output.into())))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proto::ws::{
        Role,
        frame::{Opcode, close_payload, put_control},
    };
    use tokio::io::{duplex, empty};

    use super::*;

    fn pair() -> (WsStream<tokio::io::DuplexStream>, WsStream<tokio::io::DuplexStream>) {
        let (near, far) = duplex(1024);
        (WsStream::new(near, Role::Client, BytesMut::new()), WsStream::new(far, Role::Server, BytesMut::new()))
    }

    #[tokio::test]
    async fn the_end_of_input_closes_our_direction_and_the_answer_still_comes() {
        let (near, mut far) = pair();
        let mut output = Vec::new();
        let other = async {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            far.write_all(b"heard").await.unwrap();
            far.shutdown().await.unwrap();
            heard
        };
        let (sent, heard) = tokio::join!(relay(near, &b"hello"[..], &mut output), other);
        sent.unwrap();
        assert_eq!((heard.as_slice(), output.as_slice()), (&b"hello"[..], &b"heard"[..]));
    }

    #[tokio::test]
    async fn the_other_sides_end_ends_it_although_input_goes_on() {
        let (near, mut far) = pair();
        let (_typing, input) = duplex(16);
        let mut output = Vec::new();
        let other = async {
            far.write_all(b"bye").await.unwrap();
            far.shutdown().await.unwrap();
            far.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let (sent, ()) = tokio::join!(relay(near, input, &mut output), other);
        sent.unwrap();
        assert_eq!(output, b"bye");
    }

    #[tokio::test]
    async fn a_close_that_says_that_something_was_cut_short_is_no_good_end() {
        for (code, is_good) in [(1000, true), (1001, false), (1008, false), (1011, false), (4000, false)] {
            let (near, mut far) = duplex(1024);
            let mut wire = Vec::new();
            put_control(&mut wire, Opcode::Close, &close_payload(code, ""), None);
            far.write_all(&wire).await.unwrap();
            let near = WsStream::new(near, Role::Client, BytesMut::new());
            let sent = relay(near, empty(), Vec::new()).await;
            assert_eq!(sent.is_ok(), is_good, "{code}: {sent:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_no_good_end() {
        let (near, far) = pair();
        drop(far);
        assert!(matches!(relay(near, empty(), Vec::new()).await, Err(Failed::Broken(_))));
    }
}
