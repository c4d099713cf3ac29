//! How a control channel ends, on either side: with a Close of ours, with one that is queued already, or at once.
use std::{pin::Pin, time::Duration};

use proto::ws::message::{ChannelError, Message, Receiver, Sender};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// How long the last words may take to leave and to be answered.
const FAREWELL: Duration = Duration::from_secs(3);

/// What is left to be said when a channel ends.
#[derive(Debug)]
pub(crate) enum Farewell {
    /// We close: code and reason.
    Close(u16, String),
    /// The message layer has queued a Close: the echo of the peer's, or the name of its fault.
    Queued,
    /// Nothing can be said any more.
    Nothing,
}

impl Farewell {
    /// For a channel whose reader has failed.
    pub(crate) fn after(error: &ChannelError) -> Self {
        match error {
            ChannelError::Io(_) | ChannelError::Ended => Self::Nothing,
            ChannelError::Frame(_)
            | ChannelError::TooLarge { .. }
            | ChannelError::NotText
            | ChannelError::Silent(_) => Self::Queued,
        }
    }

    /// Says it, and waits for the answer. `writer` must not have ended yet.
    pub(crate) async fn say<IO: AsyncRead + AsyncWrite + Unpin>(
        self,
        channel: Sender,
        receiver: &mut Receiver<IO>,
        mut writer: Pin<&mut impl Future<Output = ()>>,
    ) {
        let said = async {
            match self {
                Self::Nothing => {}
                Self::Queued => writer.as_mut().await,
                Self::Close(code, reason) => {
                    // The writer ends with the Close, or fails; either way there is nothing more to send.
                    let close = vec![Message::Close(Some((code, reason)))];
                    let _ = tokio::join!(channel.send(close), writer.as_mut());
                    while receiver.next().await.is_ok_and(|message| !matches!(message, Message::Close(_))) {}
                }
            }
        };
        // A peer that does not take its farewell does without.
        let _ = timeout(FAREWELL, said).await;
    }
}
