//! Clients that are refused, in simulated time.
use std::{cell::Cell, future::Future, pin::Pin, rc::Rc};

use tokio::task::LocalSet;

use super::*;

const ENTITY: &str = "e";

fn source(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from(number).into()
}

fn is_plain(course: &Course) -> bool {
    matches!(course.kind, Kind::Plain)
}

fn delay(course: &Course) -> Duration {
    match course.kind {
        Kind::Plain => Duration::ZERO,
        Kind::Delay(delay, _) => delay,
        Kind::Park(..) => panic!("parked"),
    }
}

/// A hyco-ws with a bad token: two attempts for each failed handshake, one for each connection that was closed.
fn storm(offenders: Offenders, attempts: Rc<Cell<u32>>) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        loop {
            attempts.set(attempts.get() + 1);
            let course = offenders.refuse(source(1), ENTITY, Slowed::Parked);
            match course.kind {
                Kind::Plain => drop(tokio::task::spawn_local(storm(offenders.clone(), attempts.clone()))),
                Kind::Delay(..) => panic!("a delayed refusal doubles it"),
                Kind::Park(time, held) => {
                    sleep(time).await;
                    drop(held);
                }
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_hyco_ws_makes_few_attempts_in_a_minute_and_no_more_in_the_next() {
    let tasks = LocalSet::new();
    let counts = tasks.run_until(async {
        let (offenders, attempts) = (Offenders::default(), Rc::new(Cell::new(0)));
        tokio::task::spawn_local(storm(offenders.clone(), attempts.clone()));
        let mut counts = Vec::new();
        for _ in 0..10 {
            let before = attempts.get();
            sleep(Duration::from_secs(60)).await;
            counts.push(attempts.get() - before);
        }
        counts
    });
    let counts = counts.await;
    // Four connections, each back after 10 to 30 s.
    assert!(counts.iter().all(|count| (4..=PLAIN + 4 * 7).contains(count)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn good_listeners_of_the_same_site_do_not_make_a_storm_grow() {
    let tasks = LocalSet::new();
    let counts = tasks.run_until(async {
        let (offenders, attempts) = (Offenders::default(), Rc::new(Cell::new(0)));
        tokio::task::spawn_local(storm(offenders.clone(), attempts.clone()));
        let mut counts = Vec::new();
        for _ in 0..10 {
            let before = attempts.get();
            for _ in 0..60 {
                sleep(Duration::from_secs(1)).await;
                offenders.clear(source(1), ENTITY);
            }
            counts.push(attempts.get() - before);
        }
        counts
    });
    let counts = counts.await;
    assert!(counts[9] < 60, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn sdks_that_pause_by_themselves_are_always_told_at_once() {
    let offenders = Offenders::default();
    // Five listeners of one site on the ladder of .NET and Java.
    for pause in [0, 1, 2, 5, 10, 30, 30, 30, 30] {
        for _ in 0..5 {
            assert!(is_plain(&offenders.refuse(source(1), ENTITY, Slowed::Delayed)), "after {pause} s");
        }
        tokio::time::advance(Duration::from_secs(pause.max(5))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_without_pauses_gets_its_refusals_ever_later() {
    let offenders = Offenders::default();
    for _ in 0..10 {
        assert!(is_plain(&offenders.refuse(source(1), ENTITY, Slowed::Delayed)));
    }
    let held: Vec<Course> = (0..7).map(|_| offenders.refuse(source(1), ENTITY, Slowed::Delayed)).collect();
    let delays: Vec<u64> = held.iter().map(|course| delay(course).as_secs()).collect();
    assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
    // Another hybrid connection, another source: nobody else is touched.
    assert!(is_plain(&offenders.refuse(source(1), "other", Slowed::Delayed)));
    assert!(is_plain(&offenders.refuse(source(2), ENTITY, Slowed::Delayed)));
    offenders.clear(source(1), ENTITY);
    assert!(is_plain(&offenders.refuse(source(1), ENTITY, Slowed::Delayed)), "a good token ends it");
}

#[tokio::test(start_paused = true)]
async fn whose_token_is_genuine_is_told_at_once_whatever_others_at_its_address_do() {
    let offenders = Offenders::default();
    let refuse = |slowed| offenders.refuse(source(1), ENTITY, slowed);
    let held: Vec<Course> = (0..50).map(|_| refuse(Slowed::Delayed)).collect();
    assert!(!is_plain(&held[49]));
    (0..50).for_each(|_| assert!(is_plain(&refuse(Slowed::Never))));
    drop(held);
    // Nor do its own refusals make others late.
    offenders.clear(source(1), ENTITY);
    (0..50).for_each(|_| assert!(is_plain(&refuse(Slowed::Never))));
    assert!(is_plain(&refuse(Slowed::Delayed)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_each_refusal_is_slowed_to_one_in_a_second() {
    let (offenders, began) = (Offenders::default(), Instant::now());
    let mut refusals = 0;
    while began.elapsed() < Duration::from_secs(600) {
        let course = offenders.refuse(source(1), ENTITY, Slowed::Delayed);
        sleep(delay(&course)).await;
        refusals += 1;
    }
    assert!(refusals <= 610, "{refusals}");
}

#[tokio::test(start_paused = true)]
async fn ten_quiet_minutes_forget() {
    let offenders = Offenders::default();
    (0..PLAIN).for_each(|_| assert!(is_plain(&offenders.refuse(source(1), ENTITY, Slowed::Parked))));
    tokio::time::advance(QUIET - Duration::from_millis(1)).await;
    assert!(!is_plain(&offenders.refuse(source(1), ENTITY, Slowed::Parked)));
    tokio::time::advance(QUIET).await;
    assert!(is_plain(&offenders.refuse(source(1), ENTITY, Slowed::Parked)));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_bounded_for_one_offender_and_for_all() {
    let offenders = Offenders::default();
    let mut held = Vec::new();
    for number in 1.. {
        let courses: Vec<Course> =
            (0..PLAIN + HELD_OF_ONE).map(|_| offenders.refuse(source(number), ENTITY, Slowed::Parked)).collect();
        held.extend(courses.into_iter().filter(|course| !is_plain(course)));
        assert!(is_plain(&offenders.refuse(source(number), ENTITY, Slowed::Parked)), "{number}");
        if held.len() >= HELD_MAX {
            break;
        }
    }
    assert_eq!(held.len(), HELD_MAX);
    for _ in 0..=PLAIN {
        assert!(is_plain(&offenders.refuse(source(99), ENTITY, Slowed::Parked)));
    }
    held.pop();
    assert!(!is_plain(&offenders.refuse(source(99), ENTITY, Slowed::Parked)), "room comes back");
    drop(held);
    assert_eq!(offenders.places.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_address_with_many_paths_leaves_room_for_others() {
    let offenders = Offenders::default();
    let mut held = Vec::new();
    for path in 0..16 {
        let path = format!("path{path}");
        held.extend((0..PLAIN + HELD_OF_ONE).map(|_| offenders.refuse(source(1), &path, Slowed::Parked)));
    }
    held.retain(|course| !is_plain(course));
    assert_eq!(held.len(), HELD_MAX * 3 / 4);
    for number in 2..4 {
        (0..PLAIN).for_each(|_| drop(offenders.refuse(source(number), ENTITY, Slowed::Parked)));
        held.extend((0..HELD_OF_ONE).map(|_| offenders.refuse(source(number), ENTITY, Slowed::Parked)));
    }
    assert!(held.iter().all(|course| !is_plain(course)));
    drop(held);
    assert_eq!(offenders.places.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded_and_keeps_who_storms() {
    let offenders = Offenders::default();
    for number in 0..10 * u32::try_from(OFFENDERS_MAX).unwrap() {
        if number % 100 == 0 {
            tokio::time::advance(Duration::from_millis(1)).await;
            offenders.refuse(source(u32::MAX), ENTITY, Slowed::Parked);
        }
        offenders.refuse(source(number), ENTITY, Slowed::Parked);
        assert!(offenders.table().offenders.len() <= OFFENDERS_MAX);
    }
    assert!(!is_plain(&offenders.refuse(source(u32::MAX), ENTITY, Slowed::Parked)));
}

#[test]
fn only_hyco_ws_is_taken_for_hyco_ws() {
    let headers = |fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        fields.collect::<HeaderMap>()
    };
    assert!(is_hyco_ws(&headers(&[("sec-websocket-key", "MTMtMTU3MjAwMDAwMDAwMA==")])));
    assert!(!is_hyco_ws(&headers(&[("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")])));
    assert!(!is_hyco_ws(&headers(&[("sec-websocket-key", "MTMtMTU3MjAwMDAwMDAwMA=="), ("relay-user-agent", "x")])));
    assert!(!is_hyco_ws(&headers(&[])));
}

#[tokio::test(start_paused = true)]
async fn every_spelling_of_a_path_counts_as_one_and_every_other_path_alone() {
    let offenders = Offenders::default();
    for spelling in ["a/b", "A//B", "/a/%62/", "a%2fb"] {
        offenders.refuse(source(1), spelling, Slowed::Parked);
    }
    assert!(matches!(offenders.refuse(source(1), "a/b", Slowed::Parked).kind, Kind::Park(..)));
    // Whether a hybrid connection `a` exists makes no difference to any of these.
    for other in ["a", "a/c", "b"] {
        assert!(is_plain(&offenders.refuse(source(1), other, Slowed::Parked)), "{other}");
    }
}
