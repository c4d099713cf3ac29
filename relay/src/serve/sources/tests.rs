//! Who is served, who waits, and who is turned away.
use std::task::Poll;

use super::*;

fn peer(last: u8) -> SocketAddr {
    SocketAddr::new([192, 0, 2, last].into(), 5000)
}

fn sources(limits: Limits) -> Sources {
    Sources::new(&limits)
}

async fn admitted(sources: &Sources, peer: SocketAddr) -> (Unproven, Connected) {
    let (unproven, connected, _) = sources.admit(peer, sources.room().await).unwrap();
    (unproven, connected)
}

fn is_served_now(unproven: &mut Unproven) -> bool {
    let mut turn = Box::pin(unproven.turn());
    let polled = turn.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    polled == Poll::Ready(true)
}

#[tokio::test(start_paused = true)]
async fn so_many_of_an_address_are_served_and_the_next_when_one_is_done() {
    let sources = sources(Limits { handshakes_per_address: 2, ..Limits::default() });
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut unproven, connected) = admitted(&sources, peer(1)).await;
        assert!(unproven.turn().await);
        held.push((unproven, connected));
    }
    let (mut waiting, _connected) = admitted(&sources, peer(1)).await;
    assert!(!is_served_now(&mut waiting));
    let (mut other, _other_connected) = admitted(&sources, peer(2)).await;
    assert!(is_served_now(&mut other), "another address does not wait");
    let (served, ()) = tokio::join!(waiting.turn(), async {
        sleep(TURN - Duration::from_millis(1)).await;
        held.pop();
    });
    assert!(served);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_in_time_is_given_up() {
    let sources = sources(Limits { handshakes_per_address: 1, ..Limits::default() });
    let (mut first, _connected) = admitted(&sources, peer(1)).await;
    assert!(first.turn().await);
    let (mut waiting, _waiting_connected) = admitted(&sources, peer(1)).await;
    let began = Instant::now();
    assert!(!waiting.turn().await);
    assert_eq!(began.elapsed(), TURN);
}

#[tokio::test(start_paused = true)]
async fn an_address_leaves_a_quarter_of_all_handshakes_to_others() {
    let sources = sources(Limits { handshakes: 8, ..Limits::default() });
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(admitted(&sources, peer(1)).await);
    }
    let excess = sources.admit(peer(1), sources.room().await).unwrap_err();
    assert_eq!((excess.limit, excess.value, excess.current), ("limits.handshakes", 2, 6));
    held.push(admitted(&sources, peer(2)).await);
    held.push(admitted(&sources, peer(2)).await);
    let room = sources.room();
    tokio::pin!(room);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(room.as_mut().poll(&mut cx).is_pending(), "in all, newcomers wait to be accepted");
    held.clear();
    assert!(room.as_mut().poll(&mut cx).is_ready());
}

#[tokio::test(start_paused = true)]
async fn handshakes_of_an_address_are_begun_no_faster_than_they_may_be() {
    let sources = sources(Limits { handshakes_per_second_per_address: Some(2), ..Limits::default() });
    let mut waits = Vec::new();
    for _ in 0..6 {
        let (mut unproven, _connected) = admitted(&sources, peer(1)).await;
        let began = Instant::now();
        assert!(unproven.turn().await);
        waits.push(began.elapsed().as_millis());
    }
    // One and a second's worth begin at once; what waits lets time pass.
    assert_eq!(waits, [0, 0, 0, 500, 500, 500]);
    let mut crowd = Vec::new();
    for _ in 0..25 {
        crowd.push(admitted(&sources, peer(1)).await);
    }
    let (last, _) = crowd.last_mut().unwrap();
    assert!(!last.turn().await, "its turn is too far away");
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_makes_nobody_wait_longer() {
    let sources = sources(Limits { handshakes_per_second_per_address: Some(2), ..Limits::default() });
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        crowd.push(admitted(&sources, peer(1)).await);
        crowd.truncate(100);
    }
    tokio::time::advance(TURN).await;
    let (mut next, _connected) = admitted(&sources, peer(1)).await;
    let began = Instant::now();
    assert!(next.turn().await, "whoever had a turn is through");
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_address_are_counted_to_their_end() {
    let sources = sources(Limits { connections_per_address: 2, ..Limits::default() });
    let mut held = vec![admitted(&sources, peer(1)).await.1, admitted(&sources, peer(1)).await.1];
    let (_, third, excess) = sources.admit(peer(1), sources.room().await).unwrap();
    let excess = excess.unwrap();
    assert_eq!((excess.limit, excess.value, excess.current), ("limits.connections_per_address", 2, 3));
    drop(third);
    held.pop();
    let (_, again, excess) = sources.admit(peer(1), sources.room().await).unwrap();
    assert_eq!(excess, None);
    drop((held, again));
    assert!(lock(&sources.table).by_address.is_empty(), "nothing is remembered of an address that is gone");
}

#[tokio::test(start_paused = true)]
async fn addresses_that_were_only_fast_are_forgotten_once_they_were_slow() {
    let sources = sources(Limits { handshakes_per_second_per_address: Some(1), ..Limits::default() });
    for number in 0..3 * u32::try_from(STALE).unwrap() {
        let address = std::net::Ipv4Addr::from(number);
        for _ in 0..3 {
            drop(admitted(&sources, SocketAddr::new(address.into(), 1)).await);
        }
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let known = lock(&sources.table).by_address.len();
    assert!(known <= STALE, "{known}");
}

#[test]
fn one_ipv6_user_is_one_address() {
    let counted = |address: &str| counted(address.parse().unwrap()).to_string();
    assert_eq!(counted("2001:db8:1:2:aaaa::1"), "2001:db8:1:2::");
    assert_eq!(counted("::ffff:192.0.2.1"), "192.0.2.1");
}
