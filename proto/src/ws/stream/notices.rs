//! Text messages on a byte stream: short notices for whoever asked for them, skipped otherwise.

use tokio::sync::mpsc;

/// Longest notice taken, in bytes: a JSON object of a few fields. A longer one is skipped whole.
const NOTICE_MAX: usize = 1024;

/// Notices waiting to be read. They are hints about the future; when four are unread the fifth says nothing new.
const NOTICES_WAITING: usize = 4;

/// Gathers text messages while somebody listens.
#[derive(Debug, Default)]
pub(super) struct Notices {
    to: Option<mpsc::Sender<String>>,
    text: Vec<u8>,
    too_long: bool,
}

impl Notices {
    /// Starts delivery; a second call takes it over.
    pub(super) fn open(&mut self) -> mpsc::Receiver<String> {
        let (to, from) = mpsc::channel(NOTICES_WAITING);
        self.to = Some(to);
        from
    }

    /// A piece of a text message; `last` completes the message.
    pub(super) fn take(&mut self, piece: &[u8], last: bool) {
        let Some(to) = &self.to else { return };
        self.too_long |= self.text.len() + piece.len() > NOTICE_MAX;
        if !self.too_long {
            self.text.extend_from_slice(piece);
        }
        if last {
            let (text, too_long) = (std::mem::take(&mut self.text), std::mem::take(&mut self.too_long));
            if let (false, Ok(text)) = (too_long, String::from_utf8(text)) {
                // A full queue or a listener that left: a hint may be lost.
                let _ = to.try_send(text);
            }
        }
    }
}
