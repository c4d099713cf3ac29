//! The history and its followers, without sockets.
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::{
    follow::{HEARTBEAT, STALLED},
    *,
};

fn events(count: usize) -> Events {
    let events = Events::new();
    for number in 0..count {
        events.emit("counted", [("number", number.into())]);
    }
    events
}

fn follow(events: &Events, seen: Option<u64>) -> Follower {
    events.follow(seen, &Patience::new(STALLED)).unwrap()
}

async fn piece(follower: &mut Follower) -> Option<String> {
    let data = follower.frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

/// The numbers of the events in a piece.
fn numbers(piece: &str) -> Vec<u64> {
    let data = piece.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str::<Value>(data).unwrap()["number"].as_u64()).collect()
}

#[tokio::test]
async fn history_comes_first_and_then_what_happens() {
    let events = events(2);
    let mut follower = follow(&events, None);
    assert_eq!(numbers(&piece(&mut follower).await.unwrap()), [0, 1]);
    let (next, ()) = tokio::join!(piece(&mut follower), async { events.emit("counted", [("number", 2.into())]) });
    let next = next.unwrap();
    let newest = events.recent().pop().unwrap();
    assert!(next.starts_with(&format!("id: {}\nevent: counted\ndata: {{", newest.id)), "{next}");
    assert!(next.ends_with("}\n\n"), "{next}");
    let data: Value = serde_json::from_str(next.lines().nth(2).unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&data["kind"], &data["number"]), (&"counted".into(), &2.into()));
    assert_eq!(data["time"], timestamp(newest.time));
}

#[tokio::test]
async fn whoever_comes_back_gets_what_was_missed_and_nothing_twice() {
    let events = events(5);
    let seen = events.recent()[2].id;
    assert_eq!(numbers(&piece(&mut follow(&events, Some(seen))).await.unwrap()), [3, 4]);
    let all = events.recent()[4].id;
    let mut follower = follow(&events, Some(all));
    events.emit("counted", [("number", 5.into())]);
    assert_eq!(numbers(&piece(&mut follower).await.unwrap()), [5]);
}

#[tokio::test]
async fn a_gap_is_marked() {
    let events = events(HISTORY + 2);
    let oldest = events.recent()[0].id;
    let whole = piece(&mut follow(&events, Some(oldest - 1))).await.unwrap();
    assert!(whole.starts_with("id: "), "{whole}");
    for seen in [0, oldest - 2, u64::MAX, oldest + HISTORY as u64] {
        let first = piece(&mut follow(&events, Some(seen))).await.unwrap();
        assert!(first.starts_with("event: missed\ndata: "), "{seen}: {first}");
        assert_eq!(numbers(&first)[0], 2, "all that is kept follows");
    }
}

#[test]
fn ids_grow_from_one_process_to_the_next() {
    let started = SystemTime::now();
    let (before, after) = (Events::since(started), Events::since(started + std::time::Duration::from_secs(1)));
    for events in [&before, &after] {
        (0..HISTORY).for_each(|_| events.emit("counted", []));
    }
    assert!(before.recent()[HISTORY - 1].id < after.recent()[0].id);
}

#[tokio::test]
async fn a_follower_that_falls_behind_the_history_is_told_and_dropped_and_nobody_waits_for_it() {
    let events = events(0);
    let (mut slow, mut slower) = (follow(&events, None), follow(&events, None));
    for number in 0..HISTORY {
        events.emit("counted", [("number", number.into())]);
    }
    assert_eq!(numbers(&piece(&mut slow).await.unwrap())[0], 0, "the whole history is no lag");
    events.emit("counted", [("number", HISTORY.into())]);
    let last = piece(&mut slower).await.unwrap();
    assert!(last.starts_with("event: too_slow\n"), "{last}");
    assert_eq!(piece(&mut slower).await, None);
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_comments() {
    let events = events(0);
    let mut follower = follow(&events, None);
    let began = Instant::now();
    assert_eq!(piece(&mut follower).await.unwrap(), ":\n\n");
    assert_eq!(began.elapsed(), HEARTBEAT);
    events.emit("counted", [("number", 1.into())]);
    assert_eq!(numbers(&piece(&mut follower).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn patience_lasts_as_long_as_the_peer_reads() {
    let events = events(0);
    let patience = Patience::new(HEARTBEAT);
    let mut follower = events.follow(None, &patience).unwrap();
    let began = Instant::now();
    let reading = async {
        for _ in 0..100 {
            piece(&mut follower).await.unwrap();
        }
    };
    tokio::select! { () = patience.run_out() => panic!("while it read"), () = reading => {} }
    assert_eq!(began.elapsed(), 100 * HEARTBEAT);
    // The last question was 15 s ago.
    patience.run_out().await;
    assert_eq!(began.elapsed(), 99 * HEARTBEAT + STALLED);
}

#[test]
fn followers_are_limited_and_a_place_comes_back() {
    let events = events(0);
    let mut held: Vec<Follower> = (0..FOLLOWERS_MAX).map(|_| follow(&events, None)).collect();
    let one_more = || events.follow(None, &Patience::new(STALLED));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    assert!(one_more().is_none());
    held.pop();
    assert!(one_more().is_some());
}

#[test]
fn texts_of_peers_are_cleaned_and_cut() {
    let events = Events::new();
    let hostile = "a\r\nevent: fake\u{0}\u{7f}\u{85}\u{1b}[31m\u{202e}é<script>";
    events.emit(
        "listener_connected",
        [
            ("id", hostile.into()),
            ("long", "x".repeat(TEXT_MAX + 1).into()),
            ("nested", serde_json::json!({ "list": [hostile] })),
        ],
    );
    let event = events.recent().pop().unwrap();
    let clean = "aevent: fake[31m??<script>";
    assert_eq!(event.fields["id"], clean);
    assert_eq!(event.fields["long"].as_str().unwrap().len(), TEXT_MAX);
    assert_eq!(event.fields["nested"]["list"][0], clean);
    assert!(!event.json().contains(['\n', '\r']));
}

#[test]
fn what_is_kept_is_bounded() {
    let events = events(HISTORY + 10);
    let kept = events.recent();
    assert_eq!((kept.len(), &kept[0].fields["number"]), (HISTORY, &10.into()));
    assert!(kept.windows(2).all(|pair| pair[0].id + 1 == pair[1].id));
}

/// What is kept of one kind about one entity.
fn kept(events: &Events, kind: &str, entity: &str) -> Vec<Arc<Event>> {
    let mut kept = events.recent();
    kept.retain(|event| event.kind == kind && event.fields["entity"] == entity);
    kept
}

#[test]
fn whoever_comes_and_goes_again_and_again_washes_out_nothing_but_its_own() {
    let events = Events::new();
    let tell = |kind, entity: &str| events.emit(kind, [("entity", entity.into())]);
    (0..3).for_each(|_| tell("listener_new_address", "quiet"));
    tell("config_refused", "");
    for _ in 0..10 * HISTORY {
        tell("listener_connected", "loud");
        tell("listener_disconnected", "loud");
    }
    (0..3).for_each(|_| tell("listener_connected", "quiet"));
    assert_eq!(events.recent().len(), HISTORY);
    for (kind, entity, count) in
        [("listener_new_address", "quiet", 3), ("config_refused", "", 1), ("listener_connected", "quiet", 3)]
    {
        let kept = kept(&events, kind, entity);
        assert_eq!(kept.len(), count, "{kind} {entity}");
        assert!(kept.iter().all(|event| !event.fields.contains_key("forgotten")));
    }
    let last = kept(&events, "listener_connected", "loud").pop().unwrap();
    assert_eq!(last.fields["forgotten"], 10 * HISTORY - (HISTORY - 4) / 2, "of this kind, before this one");
}

#[test]
fn as_many_of_each_are_kept_where_all_are_many() {
    let events = Events::new();
    for entity in ["a", "b", "c", "d"] {
        (0..HISTORY).for_each(|_| events.emit("counted", [("entity", entity.into())]));
    }
    for entity in ["a", "b", "c", "d"] {
        assert_eq!(kept(&events, "counted", entity).len(), HISTORY / 4, "{entity}");
    }
    // And where each is the only one, the oldest goes.
    let events = Events::new();
    (0..=HISTORY).for_each(|number| events.emit("counted", [("entity", number.to_string().into())]));
    let kept = events.recent();
    assert_eq!((kept.len(), &kept[0].fields["entity"]), (HISTORY, &"1".into()));
    assert_eq!(events.history().counts.len(), HISTORY);
}

#[tokio::test]
async fn who_comes_new_gets_what_is_left_and_who_resumes_is_told_of_what_is_not() {
    let events = Events::new();
    let tell =
        |entity: &str, number: usize| events.emit("counted", [("entity", entity.into()), ("number", number.into())]);
    (0..100).for_each(|number| tell("quiet", number));
    (100..100 + 2 * HISTORY).for_each(|number| tell("loud", number));
    let quiet = events.recent()[99].id;
    let mut follower = follow(&events, None);
    let mut all = Vec::new();
    while all.len() < HISTORY {
        // More of it goes while the follower is on its way.
        tell("loud", 100 + 2 * HISTORY + all.len());
        all.extend(numbers(&piece(&mut follower).await.unwrap()));
    }
    assert!(all.is_sorted() && (0..100).all(|number| all.contains(&number)));
    let first = piece(&mut follow(&events, Some(quiet))).await.unwrap();
    assert!(first.starts_with("event: missed\n"), "{first}");
    let newest = events.recent()[HISTORY - 1].id;
    tell("loud", 9999);
    assert_eq!(numbers(&piece(&mut follow(&events, Some(newest))).await.unwrap()), [9999]);
}
