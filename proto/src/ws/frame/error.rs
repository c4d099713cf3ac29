//! What a peer can do wrong, each with the rule it broke and the close code that answers it.

/// A broken rule of RFC 6455. The connection cannot go on; [`Self::close_code`] is what to tell the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A client must mask, a server must not (section 5.1).
    #[error("frame from a client is not masked")]
    Unmasked,
    /// A client must mask, a server must not (section 5.1).
    #[error("frame from a server is masked")]
    Masked,
    /// No extension was agreed, so these bits are zero (section 5.2).
    #[error("reserved bits are set")]
    ReservedBits,
    /// Opcodes 3 to 7 and 11 to 15 have no meaning (section 5.2).
    #[error("unknown opcode {0}")]
    UnknownOpcode(u8),
    /// Lengths use the shortest form (section 5.2).
    #[error("payload length is not in its shortest form")]
    LongLength,
    /// The highest bit of a 64-bit length is zero (section 5.2).
    #[error("payload length exceeds 63 bits")]
    LengthTooLarge,
    /// The frame is larger than this decoder was told to take.
    #[error("frame of more than {limit} bytes")]
    FrameTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// Control frames are not fragmented (section 5.5).
    #[error("fragmented control frame")]
    FragmentedControl,
    /// Control frames carry at most 125 bytes (section 5.5).
    #[error("control frame of more than 125 bytes")]
    LongControl,
    /// A continuation continues something (section 5.4).
    #[error("continuation outside a message")]
    StrayContinuation,
    /// One message ends before the next begins (section 5.4).
    #[error("new message inside a fragmented one")]
    InterleavedMessage,
    /// A Close frame is empty or begins with a two-byte code (section 5.5.1).
    #[error("close frame with one byte")]
    CloseLength,
    /// The code may not be sent (section 7.4).
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    /// The reason is UTF-8 (section 5.5.1).
    #[error("close reason is not UTF-8")]
    CloseReason,
    /// More frames without payload than [`super::super::flood`] allows.
    #[error("flood of frames without payload")]
    Flood,
}

impl DecodeError {
    /// The close code that answers this (section 7.4.1): 1009 for what is too large, 1007 for text that is none, 1008
    /// for behaviour we do not put up with, 1002 for the rest.
    pub fn close_code(self) -> u16 {
        match self {
            Self::LengthTooLarge | Self::FrameTooLarge { .. } => 1009,
            Self::CloseReason => 1007,
            Self::Flood => 1008,
            Self::Unmasked
            | Self::Masked
            | Self::ReservedBits
            | Self::UnknownOpcode(_)
            | Self::LongLength
            | Self::FragmentedControl
            | Self::LongControl
            | Self::StrayContinuation
            | Self::InterleavedMessage
            | Self::CloseLength
            | Self::CloseCode(_) => 1002,
        }
    }
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
