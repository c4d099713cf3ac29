//! Texts that go into reason phrases and Close frames: cleaned, bounded, and ended by a tracking block.
//!
//! Senders' tools match on the block, so its form is the live service's:
//! `<text>. TrackingId:<id>_G0, SystemTracker:sb://<namespace>/<path>, Timestamp:<time>`.
use std::time::SystemTime;

use time::{OffsetDateTime, macros::format_description};

/// Longest reason phrase in bytes. Clients read a status line into small buffers (Node: 64 KiB for the whole head,
/// proxies often 4 KiB a line).
pub const REASON_MAX: usize = 512;

/// Longest reason of a Close frame in bytes (RFC 6455 section 5.5: 125 less the code).
pub const CLOSE_REASON_MAX: usize = 123;

/// Suffix of a tracking id: which gateway node answered. A relay of ours is one node.
const NODE: &str = "_G0";

/// What the tracking block names.
#[derive(Debug, Clone, Copy)]
pub struct Tracking<'a> {
    /// The client's `sb-hc-id`, or one that we made.
    pub id: &'a str,
    /// Host name of the namespace.
    pub namespace: &'a str,
    /// Path of the entity as asked for.
    pub path: &'a str,
    /// When.
    pub at: SystemTime,
}

/// A reason phrase: the text, then the tracking block. At most [`REASON_MAX`] bytes, printable ASCII only.
pub fn reason(text: &str, tracking: &Tracking<'_>) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let at = OffsetDateTime::from(tracking.at).format(format).unwrap_or_default();
    let block = format!(
        ". TrackingId:{}{NODE}, SystemTracker:sb://{}/{}, Timestamp:{at}",
        clean(tracking.id, 64),
        clean(tracking.namespace, 64),
        clean(tracking.path, 128),
    );
    let text = clean(text, REASON_MAX.saturating_sub(block.len()));
    format!("{}{block}", text.trim_end_matches('.'))
}

/// A reason for a Close frame: the text and the tracking id, at most [`CLOSE_REASON_MAX`] bytes.
pub fn close_reason(text: &str, id: &str) -> String {
    let block = format!(". TrackingId:{}{NODE}", clean(id, 48));
    let text = clean(text, CLOSE_REASON_MAX - block.len());
    format!("{}{block}", text.trim_end_matches('.'))
}

/// A text fit for one line of a protocol: control characters removed (CR and LF would start a new header), everything
/// beyond ASCII replaced by `?`, cut to `max` bytes.
pub fn clean(text: &str, max: usize) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .map(|character| if character.is_ascii() { character } else { '?' })
        .take(max)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn tracking<'a>(id: &'a str, path: &'a str) -> Tracking<'a> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_572_000_000);
        Tracking { id, namespace: "ns.example.com", path, at }
    }

    #[test]
    fn a_reason_ends_with_the_tracking_block() {
        assert_eq!(
            reason("Endpoint does not exist.", &tracking("9a8b", "hyco/x")),
            "Endpoint does not exist. TrackingId:9a8b_G0, SystemTracker:sb://ns.example.com/hyco/x, \
             Timestamp:2019-10-25T10:40:00"
        );
    }

    #[test]
    fn line_breaks_and_control_characters_do_not_survive() {
        let reason = reason("a\r\nSet-Cookie: x\0\u{7f}\u{85}é", &tracking("i\r\nd", "p\nq"));
        assert!(reason.starts_with("aSet-Cookie: x?. TrackingId:id_G0"), "{reason}");
        assert!(reason.contains("sb://ns.example.com/pq,"));
    }

    #[test]
    fn a_close_reason_fits_a_close_frame() {
        let reason = close_reason(&"x".repeat(500), &"i".repeat(500));
        assert_eq!(reason.len(), CLOSE_REASON_MAX);
        assert_eq!(close_reason("token expired", "i"), "token expired. TrackingId:i_G0");
    }

    proptest! {
        #[test]
        fn whatever_goes_in_a_reason_is_one_bounded_printable_line(text in ".{0,700}", id in ".{0,200}", path in ".{0,300}") {
            let reason = reason(&text, &tracking(&id, &path));
            prop_assert!(reason.len() <= REASON_MAX);
            prop_assert!(reason.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert!(close_reason(&text, &id).len() <= CLOSE_REASON_MAX);
        }
    }
}
