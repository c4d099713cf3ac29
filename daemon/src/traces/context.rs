//! W3C trace context: `traceparent` and `tracestate` (Trace Context, level 1), read strictly. What is malformed counts as
//! absent, as the recommendation wants it.

/// Longest `tracestate` that is taken over: what everybody must be able to carry.
const STATE_MAX: usize = 512;

/// The span that a caller is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) sampled: bool,
    pub(super) state: String,
}

impl Parent {
    /// Reads both fields; `tracestate` may be empty.
    pub fn read(traceparent: &str, tracestate: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let version = hex::<1>(parts.next()?)?[0];
        let (trace, span, flags) = (hex::<16>(parts.next()?)?, hex::<8>(parts.next()?)?, hex::<1>(parts.next()?)?[0]);
        // Later versions may add parts, the first one has none.
        let rest = parts.next();
        if version == 0xff || (version == 0 && rest.is_some()) || trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let plain = tracestate.len() <= STATE_MAX && tracestate.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let state = if plain { tracestate.to_owned() } else { String::new() };
        Some(Self { trace, span, sampled: flags & 1 == 1, state })
    }
}

/// Lower-case digits only, exactly so many.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// `traceparent` of version 0.
pub(super) fn write(trace: &[u8; 16], span: &[u8; 8], sampled: bool) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("00-{}-{}-0{}", hex(trace), hex(span), u8::from(sampled))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read_again() {
        let parent = Parent::read(GOOD, "vendor=x").unwrap();
        assert!(parent.sampled);
        assert_eq!(write(&parent.trace, &parent.span, parent.sampled), GOOD);
    }

    #[test]
    fn what_is_malformed_is_absent() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            assert_eq!(Parent::read(bad, ""), None, "{bad}");
        }
        assert!(Parent::read("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", "").is_some());
        assert_eq!(Parent::read(GOOD, &"x".repeat(STATE_MAX + 1)).unwrap().state, "");
        assert_eq!(Parent::read(GOOD, "a=\n").unwrap().state, "");
    }
}
