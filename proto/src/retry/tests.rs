//! The ladder over simulated time: a loop that adds up the waits instead of sleeping.
use super::*;

const POLICY: Policy = Policy {
    climb: Climb::Exponential { first: Duration::from_secs(1), factor: 2.0, cap: Duration::from_secs(10) },
    hint_max: Duration::from_secs(60),
    healthy: Duration::from_secs(30),
};

/// A ladder whose every draw is `part`.
fn ladder(part: f64) -> Ladder {
    Ladder::with_random(POLICY, move || part)
}

fn waits(ladder: &mut Ladder, count: usize) -> Vec<f64> {
    (0..count).map(|_| ladder.next_wait(None).as_secs_f64()).collect()
}

#[test]
fn intervals_double_up_to_the_cap() {
    assert_eq!(waits(&mut ladder(1.0), 6), [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
}

#[test]
fn a_listener_climbs_as_the_sdks_do() {
    let mut ladder = Ladder::with_random(LISTENER, || 1.0);
    assert_eq!(waits(&mut ladder, 8), [0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 30.0, 30.0]);
    ladder.ended(LISTENER.healthy);
    assert_eq!(waits(&mut ladder, 2), [0.0, 1.0]);
}

#[test]
fn jitter_takes_any_part_of_the_interval() {
    assert_eq!(waits(&mut ladder(0.0), 6), [0.0; 6]);
    assert_eq!(waits(&mut ladder(0.5), 5), [0.5, 1.0, 2.0, 4.0, 5.0]);
}

#[test]
fn a_hint_is_obeyed_and_spread_and_clamped() {
    let mut ladder = ladder(0.5);
    assert_eq!(ladder.next_wait(Some(Duration::from_secs(7))), Duration::from_millis(7500));
    assert_eq!(ladder.next_wait(Some(Duration::from_secs(86_400))), Duration::from_secs(61));
    assert_eq!(ladder.next_wait(Some(Duration::MAX)), Duration::from_secs(62));
}

#[test]
fn a_healthy_spell_starts_again_at_the_foot() {
    let mut ladder = ladder(1.0);
    waits(&mut ladder, 4);
    ladder.ended(POLICY.healthy);
    assert_eq!(waits(&mut ladder, 2), [1.0, 2.0]);
}

#[test]
fn flapping_does_not_reset() {
    let mut ladder = ladder(1.0);
    let mut hour = Duration::from_secs(3600);
    let mut attempts = 0;
    // Each connection is accepted and lost after two seconds.
    while let Some(rest) = hour.checked_sub(ladder.next_wait(None) + Duration::from_secs(2)) {
        ladder.ended(Duration::from_secs(2));
        (hour, attempts) = (rest, attempts + 1);
    }
    assert!((300..310).contains(&attempts), "{attempts}");
}

#[test]
fn a_thousand_listeners_do_not_return_together() {
    let mut busiest = [0; 60];
    for seed in 0..1000u64 {
        // A multiplicative generator, so that the test says the same every time.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut ladder = Ladder::with_random(LISTENER, move || {
            state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            (state >> 40) as f64 / (1u64 << 24) as f64
        });
        // The relay is away for ten seconds; the first attempt after that succeeds.
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(10) {
            now += ladder.next_wait(None);
        }
        busiest[now.as_secs().min(59) as usize] += 1;
    }
    assert!(*busiest.iter().max().unwrap() < 200, "{busiest:?}");
}

#[test]
fn system_jitter_stays_in_range() {
    for policy in [TUNNEL, LISTENER] {
        let mut ladder = Ladder::new(policy);
        for _ in 0..1000 {
            assert!(ladder.next_wait(None) <= policy.climb.cap());
        }
    }
}
