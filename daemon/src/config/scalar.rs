//! What a plain scalar means where its type does not say: YAML's core schema, without its surprises of 1.1 (`yes`, `on`
//! and `0777` are texts). Never fails: what is nothing else is a text.

/// What a plain scalar is under the core schema (YAML 1.2.2, 10.3.2), numbers within 64 bits.
pub(super) enum Meaning {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

impl Meaning {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            ".inf" | "+.inf" => return Self::Float(f64::INFINITY),
            "-.inf" => return Self::Float(f64::NEG_INFINITY),
            ".nan" => return Self::Float(f64::NAN),
            _ => {}
        }
        // Else Rust would also take `inf`, `infinity` and `nan`.
        if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.')) {
            return Self::Text;
        }
        let radix = [("0x", 16), ("0o", 8)];
        if let Some((digits, radix)) = radix.iter().find_map(|(sign, radix)| Some((text.strip_prefix(sign)?, *radix))) {
            // `0x+1` is not a number, though Rust would take the sign.
            let digits = if digits.starts_with('+') { "" } else { digits };
            return u64::from_str_radix(digits, radix).map_or(Self::Text, Self::Unsigned);
        }
        let numeric =
            text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
        if let Ok(value) = text.parse() {
            Self::Unsigned(value)
        } else if let Ok(value) = text.parse() {
            Self::Signed(value)
        } else if let (true, Ok(value)) = (numeric, text.parse()) {
            Self::Float(value)
        } else {
            Self::Text
        }
    }
}

/// Nothing, in any of its spellings.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_only_look_like_numbers_are_texts() {
        for text in
            ["yes", "on", "inf", "nan", "infinity", "0x", "0x+1", "1_000", "1e", "10.0.0.1", "12:30", "2026-01-01"]
        {
            assert!(matches!(Meaning::of(text), Meaning::Text), "{text}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_core_schema() {
        assert!(matches!(Meaning::of("0x1F"), Meaning::Unsigned(31)));
        assert!(matches!(Meaning::of("0o17"), Meaning::Unsigned(15)));
        assert!(matches!(Meaning::of("-7"), Meaning::Signed(-7)));
        assert!(matches!(Meaning::of("1.5e3"), Meaning::Float(value) if (value - 1500.0).abs() < 1e-9));
        assert!(matches!(Meaning::of("99999999999999999999"), Meaning::Float(_)), "beyond 64 bits, and no panic");
    }
}
