//! Text messages beside the tunnel: `{"drain":{"within_ms":N}}`, by which a relay or listener says that it goes away.
//! They are not proven to come from anybody, so they can cause nothing but a new tunnel.
use serde::Deserialize;

/// A notice as it is written. Unknown fields are left for newer versions.
#[derive(Debug, Deserialize)]
struct Notice {
    drain: Option<Drain>,
}

#[derive(Debug, Deserialize)]
struct Drain {
    #[serde(rename = "within_ms")]
    _within_ms: u32,
}

/// Whether a text message asks us to go.
pub(super) fn is_drain(text: &str) -> bool {
    serde_json::from_str::<Notice>(text).is_ok_and(|notice| notice.drain.is_some())
}

#[cfg(test)]
mod tests {
    use super::is_drain;

    #[test]
    fn only_a_well_formed_drain_notice_counts() {
        assert!(is_drain(r#"{"drain":{"within_ms":5000}}"#));
        assert!(is_drain(r#"{"drain":{"within_ms":0,"why":"upgrade"},"more":1}"#));
        for text in ["", "drain", "{}", r#"{"drain":null}"#, r#"{"drain":{}}"#, r#"{"drain":{"within_ms":-1}}"#, "[1]"]
        {
            assert!(!is_drain(text), "{text}");
        }
    }
}
