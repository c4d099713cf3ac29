//! When a token is renewed, and when a failed attempt is repeated. Pure arithmetic, so that a year can be simulated.
use std::time::Duration;

use super::TokenError;
use crate::chance::Chance;

/// SDKs call a token dead this long before its end: ours are renewed before, when they live long enough.
const LEAD: Duration = Duration::from_secs(5 * 60);

/// From this life on, tokens are renewed at half of it, as Microsoft's own clients do.
const LONG_LIFE: Duration = Duration::from_secs(2 * 3600);

/// Never ask again sooner than this after an issue: some issuers give the same token until it is nearly due.
const LEAST: Duration = Duration::from_secs(30);

/// Part of the time until renewal that jitter may take off.
const JITTER: f64 = 0.1;

/// First interval between attempts, before jitter.
const BASE: Duration = Duration::from_secs(1);

/// Longest interval between attempts: somebody may be waiting.
const CAP: Duration = Duration::from_secs(60);

/// A pause never shrinks to nothing.
const FLOOR: Duration = Duration::from_millis(200);

/// Longest hint that is obeyed: a mistaken issuer must not silence us for a day.
const LONGEST_HINT: Duration = Duration::from_secs(600);

/// Pauses when only a person can mend it; a change of the file that holds the secret ends them at once.
const CONFIGURATION: [Duration; 5] = [
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
    Duration::from_secs(600),
    Duration::from_secs(1800),
];

/// Time from receipt to renewal of a token that lives `life`; `hint` is the issuer's wish, also from receipt.
pub(super) fn refresh_after(life: Duration, hint: Option<Duration>, chance: &Chance) -> Duration {
    let half = life / 2;
    let wished = match hint {
        Some(hint) => hint,
        None if life >= LONG_LIFE => half,
        None => life.saturating_sub(LEAD.max(life / 4).min(half)),
    };
    let latest = life.saturating_sub(LEAD).max(half);
    let earliest = LEAST.min(half);
    let wished = wished.min(latest);
    wished.saturating_sub(wished.mul_f64(JITTER * chance.fraction())).max(earliest)
}

/// Pause after the `failures`-th failure in a row.
pub(super) fn pause_after(error: &TokenError, failures: u32, chance: &Chance) -> Duration {
    let hint = error.retry_after.unwrap_or_default().min(LONGEST_HINT);
    let index = failures.saturating_sub(1);
    let own = if error.code.retryable() {
        CAP.min(BASE * 2_u32.pow(index.min(6))).mul_f64(chance.fraction()).max(FLOOR)
    } else {
        CONFIGURATION[(index as usize).min(CONFIGURATION.len() - 1)]
    };
    // A little after the hint, so that everybody who got the same one does not come back in the same instant.
    own.max(hint + hint.mul_f64(JITTER * chance.fraction()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::ErrorCode;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn fixed(fraction: f64) -> Chance {
        Chance::new(move || fraction)
    }

    #[test]
    fn renewal_follows_the_hint_else_half_of_a_long_life_else_a_quarter_before_the_end() {
        let none = fixed(0.0);
        assert_eq!(refresh_after(24 * HOUR, Some(HOUR), &none), HOUR);
        assert_eq!(refresh_after(24 * HOUR, None, &none), 12 * HOUR);
        assert_eq!(refresh_after(HOUR, None, &none), 45 * MINUTE);
        assert_eq!(refresh_after(12 * MINUTE, None, &none), 7 * MINUTE);
        assert_eq!(refresh_after(6 * MINUTE, None, &none), 3 * MINUTE);
        assert_eq!(refresh_after(HOUR, None, &fixed(1.0)), 45 * MINUTE - 270 * SECOND);
    }

    #[test]
    fn renewal_comes_neither_at_once_nor_too_late_whatever_the_hint() {
        for life in [10, 60, 300, 900, 3600, 7200, 86_400].map(Duration::from_secs) {
            for hint in [None, Some(Duration::ZERO), Some(life), Some(life * 3)] {
                for fraction in [0.0, 0.5, 0.999] {
                    let after = refresh_after(life, hint, &fixed(fraction));
                    assert!(after >= LEAST.min(life / 2), "{life:?} {hint:?}: {after:?}");
                    assert!(after <= life.saturating_sub(LEAD).max(life / 2), "{life:?} {hint:?}: {after:?}");
                }
            }
        }
    }

    #[test]
    fn pauses_grow_to_their_cap_and_obey_a_bounded_hint() {
        let error = |code, hint| TokenError::new(code, "").after(hint);
        let full = fixed(1.0);
        let down = error(ErrorCode::SourceUnavailable, None);
        let pauses: Vec<_> = (1..9).map(|n| pause_after(&down, n, &full).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(&down, 3, &fixed(0.0)), FLOOR);
        assert_eq!(pause_after(&down, u32::MAX, &full), CAP);
        let hinted = error(ErrorCode::SourceThrottled, Some(30 * SECOND));
        assert_eq!(pause_after(&hinted, 1, &fixed(0.0)), 30 * SECOND);
        let absurd = error(ErrorCode::SourceThrottled, Some(Duration::MAX));
        assert_eq!(pause_after(&absurd, 1, &fixed(0.0)), LONGEST_HINT);
        let wrong = error(ErrorCode::EntraRejected, None);
        let pauses: Vec<_> = [1, 2, 5, 99].iter().map(|n| pause_after(&wrong, *n, &full).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 1800, 1800]);
    }
}
