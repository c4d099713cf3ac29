//! The last words to a client that is refused: written, and left to be read, before the connection ends.
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::socket::Socket;

/// For the words and for the client's own end. A connection closed over unread bytes would be reset, and the words lost.
const DEADLINE: Duration = Duration::from_secs(1);
/// Most that is read and thrown away meanwhile.
const UNREAD_MAX: usize = 256 * 1024;

/// Says it and closes.
pub(super) async fn farewell(client: &mut Socket, words: &[u8]) {
    let saying = async {
        client.write_all(words).await?;
        client.shutdown().await?;
        let (mut buffer, mut left) = ([0; 1024], UNREAD_MAX);
        while left > 0 {
            match client.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    // Whoever does not listen has missed it.
    let _ = tokio::time::timeout(DEADLINE, saying).await;
}
