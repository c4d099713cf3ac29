//! Claims about the cache, with a source that a test steers and a clock that it moves.
use std::{future::Future, pin::Pin, sync::atomic::AtomicUsize, time::UNIX_EPOCH};

use daemon::clock::{Clock, Manual};
use tokio::{sync::Semaphore, task::JoinSet};

use super::*;
use crate::secret::Secret;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const AUDIENCE: &str = "https://storage.azure.com";

type Script = Box<dyn Fn(usize, SystemTime) -> Result<Token, TokenError> + Send + Sync>;

struct Steered {
    clock: Arc<Manual>,
    script: Script,
    fetches: AtomicUsize,
    generation: AtomicU64,
    /// A fetch takes one permit; tests that hold fetches back start with none.
    gate: Semaphore,
}

impl fmt::Debug for Steered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steered")
    }
}

impl Source for Steered {
    fn fetch<'a>(&'a self, _audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        let number = self.fetches.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            (self.script)(number, self.clock.now())
        })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

struct World {
    clock: Arc<Manual>,
    source: Arc<Steered>,
    cache: Cache,
    shutdown: Shutdown,
}

impl World {
    fn new(script: impl Fn(usize, SystemTime) -> Result<Token, TokenError> + Send + Sync + 'static) -> Self {
        let clock = Arc::new(Manual::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        let source = Arc::new(Steered {
            clock: clock.clone(),
            script: Box::new(script),
            fetches: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            gate: Semaphore::new(1_000_000),
        });
        let shutdown = Shutdown::new();
        let cache = Cache::with_chance(source.clone(), clock.clone(), shutdown.clone(), Chance::new(|| 0.5));
        Self { clock, source, cache, shutdown }
    }

    fn held_back(self) -> Self {
        self.source.gate.forget_permits(1_000_000);
        self
    }

    fn fetches(&self) -> usize {
        self.source.fetches.load(Ordering::SeqCst)
    }

    async fn get(&self) -> Result<String, TokenError> {
        self.cache.get(AUDIENCE).await.map(|token| token.secret.expose().to_owned())
    }

    /// Lets tasks in the background come to rest.
    async fn settle(&self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

fn token(number: usize, now: SystemTime, life: Duration) -> Token {
    Token { secret: Secret::new(format!("token-{number}")), expires: now + life, refresh: None }
}

fn hourly(number: usize, now: SystemTime) -> Result<Token, TokenError> {
    Ok(token(number, now, HOUR))
}

fn down() -> TokenError {
    TokenError::new(ErrorCode::SourceUnavailable, "down")
}

/// Good once, then the source is gone.
fn good_once(number: usize, now: SystemTime) -> Result<Token, TokenError> {
    if number == 0 { hourly(number, now) } else { Err(down()) }
}

#[tokio::test]
async fn many_first_callers_make_one_fetch() {
    let world = World::new(hourly).held_back();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let cache = world.cache.clone();
        callers.spawn(async move { cache.get(AUDIENCE).await.unwrap() });
    }
    world.settle().await;
    world.source.gate.add_permits(1);
    for token in callers.join_all().await {
        assert_eq!(token.secret.expose(), "token-0");
    }
    assert_eq!(world.fetches(), 1);
}

#[tokio::test]
async fn a_caller_who_gives_up_does_not_take_the_fetch_along() {
    let world = World::new(hourly).held_back();
    let mut leader = JoinSet::new();
    let cache = world.cache.clone();
    leader.spawn(async move { cache.get(AUDIENCE).await });
    world.settle().await;
    leader.shutdown().await;
    world.source.gate.add_permits(1);
    assert_eq!(world.get().await.unwrap(), "token-0");
    assert_eq!(world.fetches(), 1);
}

#[tokio::test]
async fn audiences_do_not_wait_for_each_other() {
    let world = World::new(hourly).held_back();
    let mut slow = JoinSet::new();
    let cache = world.cache.clone();
    slow.spawn(async move { cache.get("slow").await });
    world.settle().await;
    world.source.gate.add_permits(2);
    world.cache.get("quick").await.unwrap();
    slow.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn a_due_token_is_served_at_once_and_renewed_behind_the_callers_back() {
    let world = World::new(hourly);
    world.get().await.unwrap();
    world.clock.advance(40 * MINUTE);
    assert_eq!(world.get().await.unwrap(), "token-0");
    assert_eq!(world.fetches(), 1, "renewed before it was due");
    world.clock.advance(5 * MINUTE);
    assert_eq!(world.get().await.unwrap(), "token-0");
    world.settle().await;
    assert_eq!(world.get().await.unwrap(), "token-1");
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn the_issuers_hint_decides_when_a_token_is_due() {
    let world = World::new(|number, now| Ok(Token { refresh: Some(now + 10 * MINUTE), ..token(number, now, HOUR) }));
    world.get().await.unwrap();
    world.clock.advance(10 * MINUTE);
    world.get().await.unwrap();
    world.settle().await;
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn a_valid_token_is_served_through_an_outage_and_an_expired_one_never() {
    let world = World::new(good_once);
    world.get().await.unwrap();
    for _ in 0..59 {
        world.clock.advance(MINUTE);
        assert_eq!(world.get().await.unwrap(), "token-0");
        world.settle().await;
    }
    world.clock.advance(Duration::from_secs(54));
    assert_eq!(world.get().await.unwrap(), "token-0");
    world.clock.advance(Duration::from_secs(2));
    let error = world.get().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::TokenExpired, "four seconds are not enough for the way");
    assert!(error.message.contains("down"), "the cause is told: {error}");
    assert!(error.retry_after.is_some());
}

#[tokio::test]
async fn in_its_last_minute_a_token_waits_for_one_attempt() {
    let world = World::new(hourly);
    world.get().await.unwrap();
    world.clock.advance(59 * MINUTE + Duration::from_secs(30));
    assert_eq!(world.get().await.unwrap(), "token-1");
}

#[tokio::test]
async fn a_dead_source_is_not_asked_again_before_its_time() {
    let world = World::new(|_, _| Err(down()));
    for _ in 0..50 {
        assert_eq!(world.get().await.unwrap_err().code, ErrorCode::SourceUnavailable);
    }
    assert_eq!(world.fetches(), 1);
    let pause = world.get().await.unwrap_err().retry_after.unwrap();
    assert!(pause > Duration::ZERO && pause <= MINUTE);
    world.clock.advance(pause);
    world.get().await.unwrap_err();
    assert_eq!(world.fetches(), 2);
    for _ in 0..10 {
        world.clock.advance(10 * MINUTE);
        world.get().await.unwrap_err();
    }
    assert!(world.get().await.unwrap_err().retry_after.unwrap() > 20 * Duration::from_secs(1), "pauses did not grow");
}

#[tokio::test]
async fn a_hint_to_wait_is_obeyed() {
    let world = World::new(|_, _| Err(TokenError::new(ErrorCode::SourceThrottled, "").after(Some(5 * MINUTE))));
    world.get().await.unwrap_err();
    world.clock.advance(5 * MINUTE - Duration::from_secs(1));
    world.get().await.unwrap_err();
    assert_eq!(world.fetches(), 1);
    world.clock.advance(MINUTE);
    world.get().await.unwrap_err();
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn a_changed_file_is_read_at_once_whatever_went_wrong_before() {
    let rejected = || TokenError::new(ErrorCode::EntraRejected, "wrong secret");
    let world = World::new(move |number, now| if number == 0 { Err(rejected()) } else { hourly(number, now) });
    assert_eq!(world.get().await.unwrap_err().code, ErrorCode::EntraRejected);
    world.get().await.unwrap_err();
    assert_eq!(world.fetches(), 1);
    for generation in 1..=3 {
        world.source.generation.store(generation, Ordering::SeqCst);
        assert_eq!(world.get().await.unwrap(), format!("token-{generation}"));
        world.get().await.unwrap();
    }
    assert_eq!(world.fetches(), 4);
}

#[tokio::test]
async fn a_changed_file_that_cannot_be_read_leaves_the_held_token() {
    let world = World::new(good_once);
    world.get().await.unwrap();
    world.source.generation.store(1, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(world.get().await.unwrap(), "token-0");
    }
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn a_token_that_arrives_expired_is_no_token() {
    for life in [Duration::ZERO, Duration::from_secs(5)] {
        let world = World::new(move |number, now| Ok(token(number, now, life)));
        assert_eq!(world.get().await.unwrap_err().code, ErrorCode::TokenExpired);
    }
}

#[tokio::test]
async fn a_wall_clock_set_back_neither_prolongs_a_token_nor_lets_its_end_be_told_later() {
    let world = World::new(good_once);
    world.get().await.unwrap();
    world.clock.step_wall(-7200);
    let token = world.cache.get(AUDIENCE).await.unwrap();
    assert_eq!(token.expires, world.clock.now() + HOUR, "its end is an hour from now on the clock of now");
    world.clock.advance(HOUR);
    world.get().await.unwrap_err();
}

#[tokio::test]
async fn a_wall_clock_past_the_end_is_believed_as_after_a_suspended_night() {
    let world = World::new(good_once);
    world.get().await.unwrap();
    world.clock.step_wall(8 * 3600);
    assert_eq!(world.get().await.unwrap_err().code, ErrorCode::TokenExpired);
    let healthy = World::new(hourly);
    healthy.get().await.unwrap();
    healthy.clock.step_wall(8 * 3600);
    assert_eq!(healthy.get().await.unwrap(), "token-1");
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_but_not_in_a_loop() {
    let world = World::new(hourly);
    world.get().await.unwrap();
    for _ in 0..20 {
        world.cache.refused(AUDIENCE);
        assert_eq!(world.get().await.unwrap(), "token-0");
    }
    world.clock.advance(REFUSED_PAUSE);
    world.cache.refused(AUDIENCE);
    assert_eq!(world.get().await.unwrap(), "token-1");
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn memory_is_bounded_and_the_idlest_audience_goes_first() {
    let world = World::new(hourly);
    for number in 0..2 * MAX_AUDIENCES {
        world.cache.get(&format!("audience-{number}")).await.unwrap();
        world.get().await.unwrap();
    }
    assert_eq!(world.cache.inner.entries.lock().unwrap().len(), MAX_AUDIENCES);
    assert_eq!(world.fetches(), 2 * MAX_AUDIENCES + 1, "the busy audience was evicted");
    for audience in ["", &"x".repeat(MAX_AUDIENCE + 1)] {
        assert_eq!(world.cache.get(audience).await.unwrap_err().code, ErrorCode::SourceMisconfigured);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let world = World::new(hourly).held_back();
    let began = tokio::time::Instant::now();
    assert_eq!(world.get().await.unwrap_err().code, ErrorCode::SourceUnavailable);
    assert_eq!(began.elapsed(), JOIN);
    assert_eq!(world.fetches(), 1);
}

#[tokio::test]
async fn a_source_that_panics_is_a_source_that_failed() {
    let world = World::new(|number, now| if number == 0 { panic!("a bug") } else { hourly(number, now) });
    assert_eq!(world.get().await.unwrap_err().code, ErrorCode::SourceUnavailable);
    world.clock.advance(MINUTE);
    assert_eq!(world.get().await.unwrap(), "token-1");
}

#[tokio::test]
async fn a_fetch_under_way_ends_with_the_process() {
    let world = World::new(hourly).held_back();
    let mut caller = JoinSet::new();
    let cache = world.cache.clone();
    caller.spawn(async move { cache.get(AUDIENCE).await });
    world.settle().await;
    world.shutdown.run(Duration::ZERO).await;
    assert_eq!(caller.join_next().await.unwrap().unwrap().unwrap_err().code, ErrorCode::SourceUnavailable);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_fresh_needs_nobody_to_ask() {
    let world = World::new(hourly);
    world.cache.keep_fresh(AUDIENCE);
    for _ in 0..60 {
        world.clock.advance(MINUTE);
        tokio::time::sleep(MINUTE).await;
    }
    assert_eq!(world.fetches(), 2);
    let held = world.cache.inner.entries.lock().unwrap()[AUDIENCE].lock().left(world.cache.inner.now());
    assert!(held > 30 * MINUTE);
    assert_eq!(world.shutdown.run(HOUR).await, daemon::shutdown::Outcome::Drained);
}

#[tokio::test]
async fn a_year_of_renewals_with_outages_serves_no_dead_token_and_asks_rarely() {
    // Every day has an outage of two hours; every ninth fetch beside that fails, every seventh life is short.
    let outage = |now: SystemTime| now.duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400 < 7200;
    let world = World::new(move |number, now| {
        if outage(now) || number % 9 == 8 {
            return Err(if number % 2 == 0 { down() } else { TokenError::new(ErrorCode::SourceThrottled, "busy") });
        }
        Ok(token(number, now, if number % 7 == 6 { 10 * MINUTE } else { HOUR + MINUTE * (number % 30) as u32 }))
    });
    let (mut served, mut refused) = (0_u32, 0_u32);
    for _ in 0..365 * 24 * 20 {
        world.clock.advance(3 * MINUTE);
        let now = world.clock.now();
        match world.cache.get(AUDIENCE).await {
            Ok(token) => {
                assert!(token.expires >= now + LEAST_LIFE, "a dead token was served");
                served += 1;
            }
            Err(error) => {
                assert!(outage(now) || outage(now - 6 * MINUTE), "refused while the source was there: {error}");
                refused += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(refused < served / 10, "{refused} refusals beside {served} tokens");
    assert!(world.fetches() < 365 * 24 * 8, "{} fetches in a year", world.fetches());
}
