//! Sizes and times as people write them. A number without a unit is a time in nothing, so it is refused.
use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

/// Units of sizes: binary, as Kubernetes writes them.
const SIZES: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

/// Units of times, in milliseconds, largest first.
const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A size: `64Mi`, `512Ki`, `1Gi` or plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A time: `250ms`, `30s`, `15m`, `24h`, `30d`, or several of them, largest first: `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a text is no size or time. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("not a size: write bytes (4096) or 512Ki, 64Mi, 1Gi, 1Ti")]
    Size,
    /// A decimal unit; the binary one was probably meant.
    #[error("sizes are binary here: write Ki, Mi, Gi or Ti")]
    DecimalSize,
    /// Not a time.
    #[error("not a time: write 250ms, 30s, 15m, 24h, 30d or 1h30m")]
    Span,
    /// A number alone.
    #[error("a time needs its unit: write {0}s or {0}ms")]
    SpanWithoutUnit(u64),
    /// More than 64 bits hold.
    #[error("too large")]
    TooLarge,
}

impl std::str::FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split_number(text).ok_or(UnitError::Size)?;
        let factor = match unit {
            "" => 1,
            "k" | "K" | "M" | "G" | "T" | "KB" | "kB" | "MB" | "GB" | "TB" => return Err(UnitError::DecimalSize),
            unit => SIZES.iter().find(|(name, _)| *name == unit).ok_or(UnitError::Size)?.1,
        };
        number?.checked_mul(factor).map(Self).ok_or(UnitError::TooLarge)
    }
}

impl std::str::FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (mut rest, mut total, mut units) = (text, 0_u64, SPANS.as_slice());
        while !rest.is_empty() {
            let (number, tail) = split_number(rest).ok_or(UnitError::Span)?;
            let number = number?;
            let unit = &tail[..tail.find(|next: char| next.is_ascii_digit()).unwrap_or(tail.len())];
            if unit.is_empty() {
                return Err(if rest == text { UnitError::SpanWithoutUnit(number) } else { UnitError::Span });
            }
            let index = units.iter().position(|(name, _)| *name == unit).ok_or(UnitError::Span)?;
            let part = number.checked_mul(units[index].1).ok_or(UnitError::TooLarge)?;
            total = total.checked_add(part).ok_or(UnitError::TooLarge)?;
            units = &units[index + 1..];
            rest = &tail[unit.len()..];
        }
        if text.is_empty() { Err(UnitError::Span) } else { Ok(Self(Duration::from_millis(total))) }
    }
}

/// Leading decimal digits, and what follows them.
fn split_number(text: &str) -> Option<(Result<u64, UnitError>, &str)> {
    let end = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
    let digits = &text[..end];
    // Digits alone fail to parse only when there are too many.
    (end > 0).then(|| (digits.parse().map_err(|_| UnitError::TooLarge), &text[end..]))
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_millis();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in SPANS {
            let count = left / u128::from(factor);
            if count > 0 {
                write!(f, "{count}{unit}")?;
                left -= count * u128::from(factor);
            }
        }
        Ok(())
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

struct SizeVisitor;
struct SpanVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 64Mi")
    }
    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }
}

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time such as 30s")
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<Span, E> {
        Err(E::custom(UnitError::SpanWithoutUnit(number)))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "integer"], "format": "size", "description": "64Mi, 512Ki, 1Gi or bytes" })
    }
}

impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "time", "description": "250ms, 30s, 15m, 24h" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("512Ki", 524_288), ("64Mi", 64 << 20), ("1Gi", 1 << 30), ("2Ti", 2 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert_eq!(Size(4096).to_string(), "4Ki");
        assert_eq!(Size(1000).to_string(), "1000");
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for (text, error) in [
            ("", UnitError::Size),
            ("Mi", UnitError::Size),
            ("64mi", UnitError::Size),
            ("-1", UnitError::Size),
            ("1.5Gi", UnitError::Size),
            ("64 Mi", UnitError::Size),
            ("64MB", UnitError::DecimalSize),
            ("64M", UnitError::DecimalSize),
            ("99999999999Ti", UnitError::TooLarge),
            ("99999999999999999999999", UnitError::TooLarge),
        ] {
            assert_eq!(text.parse::<Size>(), Err(error), "{text}");
        }
    }

    #[test]
    fn times_are_read_and_written() {
        for (text, ms) in
            [("250ms", 250), ("30s", 30_000), ("15m", 900_000), ("24h", 86_400_000), ("0s", 0), ("1h30m", 5_400_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for (ms, text) in [(0, "0s"), (250, "250ms"), (90_000, "1m30s"), (86_400_000, "1d")] {
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_reason() {
        for (text, error) in [
            ("", UnitError::Span),
            ("s", UnitError::Span),
            ("30x", UnitError::Span),
            ("30 s", UnitError::Span),
            ("1m1h", UnitError::Span),
            ("1m1m", UnitError::Span),
            ("1h30", UnitError::Span),
            ("-5s", UnitError::Span),
            ("30", UnitError::SpanWithoutUnit(30)),
            ("999999999999999999d", UnitError::TooLarge),
        ] {
            assert_eq!(text.parse::<Span>(), Err(error), "{text}");
        }
    }
}
