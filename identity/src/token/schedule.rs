//! When a token is renewed, and when a failed attempt is repeated. Pure arithmetic, so that a year can be simulated.
use std::time::Duration;

use proto::retry::{self, Ladder};

use super::{TokenError, error::Patience};
use crate::chance::Chance;

/// SDKs call a token dead this long before its end: ours are renewed before, when they live long enough.
const LEAD: Duration = Duration::from_secs(5 * 60);

/// From this life on, tokens are renewed at half of it, as Microsoft's own clients do.
const LONG_LIFE: Duration = Duration::from_secs(2 * 3600);

/// Never ask again sooner than this after an issue: some issuers give the same token until it is nearly due.
const LEAST: Duration = Duration::from_secs(30);

/// Part of the time until renewal that jitter may take off.
const JITTER: f64 = 0.1;

/// Attempts after a failure that may pass: somebody may be waiting, and an issuer that sheds load says so itself. A fetch
/// that succeeded is a healthy spell.
pub(super) const FETCH: retry::Policy = retry::Policy {
    climb: retry::Climb::Exponential { first: Duration::from_secs(1), factor: 2.0, cap: Duration::from_secs(60) },
    hint_max: Duration::from_secs(600),
    healthy: Duration::ZERO,
};

/// A pause never shrinks to nothing.
const FLOOR: Duration = Duration::from_millis(200);

/// Pauses when only a person can mend it; a change of the file that holds the secret ends them at once.
const CONFIGURATION: [Duration; 5] = [
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
    Duration::from_secs(600),
    Duration::from_secs(1800),
];

/// Pauses while what was just set up may not be known everywhere yet: five minutes of short ones, then as above.
const PROPAGATION: [Duration; 9] = [
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
    Duration::from_secs(60),
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

/// Pause after the `failures`-th failure in a row; `ladder` is that of [`FETCH`].
pub(super) fn pause_after(error: &TokenError, failures: u32, ladder: &mut Ladder) -> Duration {
    let steps: &[Duration] = match error.code.patience() {
        Patience::Soon => return ladder.next_wait(error.retry_after).max(FLOOR),
        Patience::Propagation => &PROPAGATION,
        Patience::Person => &CONFIGURATION,
    };
    steps[(failures.saturating_sub(1) as usize).min(steps.len() - 1)]
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

    fn ladder(fraction: f64) -> Ladder {
        Ladder::with_random(FETCH, move || fraction)
    }

    #[test]
    fn pauses_grow_to_their_cap_and_begin_anew_after_a_success() {
        let down = TokenError::new(ErrorCode::SourceUnavailable, "");
        let mut ladder = ladder(1.0);
        let pauses: Vec<_> = (1..9).map(|n| pause_after(&down, n, &mut ladder).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        ladder.ended(Duration::ZERO);
        assert_eq!(pause_after(&down, 1, &mut ladder), SECOND);
    }

    #[test]
    fn a_hint_is_obeyed_within_bounds_and_no_pause_is_nothing() {
        let throttled = |hint| TokenError::new(ErrorCode::SourceThrottled, "").after(hint);
        assert_eq!(pause_after(&throttled(None), 3, &mut ladder(0.0)), FLOOR);
        assert_eq!(pause_after(&throttled(Some(30 * SECOND)), 1, &mut ladder(0.0)), 30 * SECOND);
        assert_eq!(pause_after(&throttled(Some(Duration::MAX)), 1, &mut ladder(0.0)), FETCH.hint_max);
    }

    #[test]
    fn what_a_person_must_mend_is_tried_ever_more_rarely() {
        let wrong = TokenError::new(ErrorCode::EntraRejected, "");
        let pauses = [1, 2, 5, 99].map(|n| pause_after(&wrong, n, &mut ladder(1.0)).as_secs());
        assert_eq!(pauses, [60, 120, 1800, 1800]);
    }

    #[test]
    fn a_new_federation_is_tried_often_for_five_minutes() {
        let unknown = TokenError::new(ErrorCode::FederationMismatch, "");
        let pauses: Vec<_> = (1..=6).map(|n| pause_after(&unknown, n, &mut ladder(1.0))).collect();
        assert_eq!(pauses.iter().sum::<Duration>(), 5 * MINUTE);
        assert!(pauses.is_sorted());
        assert_eq!(pause_after(&unknown, u32::MAX, &mut ladder(1.0)), 30 * MINUTE);
    }
}
