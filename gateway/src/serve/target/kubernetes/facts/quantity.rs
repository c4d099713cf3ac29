//! Quantities as Kubernetes writes them: `3920m`, `16Gi`, `1e3`, `0.5`.

/// Digits behind the point that are looked at: the smallest unit is a billionth.
const FRACTION: usize = 9;

/// A quantity in thousandths of its unit, rounded down; nothing if the text is none or it is too large to be told.
pub(super) fn milli(text: &str) -> Option<u64> {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let padded = format!("{fraction:0<FRACTION$}");
    let fraction: u128 = padded.get(..FRACTION)?.parse().ok()?;
    let billionths = whole.checked_mul(1_000_000_000)?.checked_add(fraction)?;
    let (factor, divisor) = scale(suffix)?;
    u64::try_from(billionths.checked_mul(factor)? / divisor / 1_000_000).ok()
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let decimal = |power: u32| Some((10_u128.pow(power), 1));
    let binary = |power: u32| Some((1_u128 << (10 * power), 1));
    match suffix {
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let power: i8 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10_u128.checked_pow(u32::from(power.unsigned_abs()))?;
            Some(if power < 0 { (1, size) } else { (size, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::milli;

    #[test]
    fn quantities_are_read_as_they_are_written() {
        for (text, expected) in [
            ("4", Some(4000)),
            ("3920m", Some(3920)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.", Some(1000)),
            ("1500u", Some(1)),
            ("999999n", Some(0)),
            ("1Ki", Some(1_024_000)),
            ("16Gi", Some(16 * 1024 * 1024 * 1024 * 1000)),
            ("2k", Some(2_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("1P", Some(1_000_000_000_000_000_000)),
            ("1E", None),
            ("1e300", None),
            ("340282366920938463463374607431768211456", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("-1", None),
            ("many", None),
            ("1 Gi", None),
            ("1K", None),
        ] {
            assert_eq!(milli(text), expected, "{text:?}");
        }
    }
}
