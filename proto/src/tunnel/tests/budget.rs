//! The steps of the budget, each at its edge, or as near as one frame of each tunnel. Streams hold what was sent and not
//! taken, to the byte.

use super::*;
use crate::{
    limits::FRAME_MAX,
    tunnel::{
        budget::{Budget, Party},
        failure::{Code, Reached},
    },
};

const MIB: usize = 1 << 20;
const LIMIT: usize = 4 * MIB;

/// A stream whose bytes lie with the gateway, on a tunnel of its own: windows shrink under pressure, and only a new tunnel
/// begins with a large one.
struct Stuck {
    _up: client::Sender,
    down: Receiver<pb::ForwardResponse>,
    served: Forward,
    _pair: Pair,
}

struct Bench {
    budget: Budget,
    /// A tunnel on which nothing is stuck.
    pair: Pair,
}

impl Bench {
    async fn new() -> Self {
        let budget = Budget::new("limits.buffers", LIMIT);
        Self { pair: Self::pair(&budget).await, budget }
    }

    async fn pair(budget: &Budget) -> Pair {
        // One tunnel may hold nearly as much as the budget allows.
        let settings = Settings { stream_window: 3 << 20, budget: budget.clone(), ..Settings::default() };
        Pair::with(Settings::default(), settings).await
    }

    /// A stream that holds exactly so much, message framing included, when all has arrived.
    async fn stuck(&self, held: usize) -> Stuck {
        self.stuck_by(held, Vec::new()).await
    }

    async fn stuck_by(&self, held: usize, parties: Vec<Party>) -> Stuck {
        let mut pair = Self::pair(&self.budget).await;
        let (mut up, down, served) = pair.forward().await;
        let hold = served.receiver.hold();
        // One that belongs to nobody is not asked, as if it had begun before.
        if !parties.is_empty() {
            hold.enter(parties).unwrap();
        }
        let mut left = held;
        while left > 0 {
            // Flag, length, tag and a length of three bytes.
            let piece = left.min(60_000) - 9;
            up.data(bytes(piece)).await.unwrap();
            left -= piece + 9;
        }
        while !hold.is_cut() && hold.held() < held {
            tokio::task::yield_now().await;
        }
        Stuck { _up: up, down, served, _pair: pair }
    }

    /// Several streams that hold so much together.
    async fn stuck_all(&self, each: usize, count: usize, parties: &[Party]) -> Vec<Stuck> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.stuck_by(each, parties.to_vec()).await);
        }
        all
    }
}

fn party(kind: &'static str, name: &str) -> Party {
    Party { kind, name: name.into() }
}

#[tokio::test(start_paused = true)]
async fn below_three_quarters_nothing_is_withheld() {
    let bench = Bench::new().await;
    let streams = [bench.stuck(MIB).await, bench.stuck(2 * MIB - 100_000).await];
    assert!(streams.iter().all(|stream| !stream.served.receiver.hold().is_withheld()));
    // A frame that was half there when it was counted is missing on each tunnel.
    let least = 3 * MIB - 100_000 - 2 * FRAME_MAX as usize;
    assert!((least..3 * MIB).contains(&bench.budget.held()), "{}", bench.budget.held());
}

#[tokio::test(start_paused = true)]
async fn from_three_quarters_on_the_largest_holder_gets_no_credit_until_there_is_room_again() {
    let bench = Bench::new().await;
    let (small, mut large) = (bench.stuck(MIB).await, bench.stuck(2 * MIB + 100_000).await);
    let hold = large.served.receiver.hold();
    assert!(hold.is_withheld() && !small.served.receiver.hold().is_withheld());
    data(&mut large.served.receiver, 100_000).await;
    assert!(hold.is_withheld(), "there is hardly more room");
    data(&mut large.served.receiver, 500_000).await;
    assert!(!hold.is_withheld());
    // Nothing is lost on the way.
    data(&mut large.served.receiver, 1_400_000).await;
    assert!(!small.served.receiver.hold().is_withheld());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_given_back_nearly_all_gets_credit_though_others_keep_theirs() {
    let bench = Bench::new().await;
    let mut large = bench.stuck(800_000).await;
    // More than the mark of relief by themselves.
    let _others = (bench.stuck_all(780_000, 3, &[]).await, bench.stuck_all(330_000, 3, &[]).await);
    let hold = large.served.receiver.hold();
    assert!(hold.is_withheld());
    data(&mut large.served.receiver, 700_000).await;
    assert!(hold.is_withheld());
    data(&mut large.served.receiver, 60_000).await;
    assert!(!hold.is_withheld());
    assert!(bench.budget.held() > LIMIT / 100 * 70, "so it was not relief that helped it");
}

#[tokio::test(start_paused = true)]
async fn from_ninety_five_percent_on_no_stream_is_begun() {
    let mut bench = Bench::new().await;
    let mut large = bench.stuck(2 * MIB).await;
    let mut others = vec![bench.stuck(MIB).await];
    others.extend(bench.stuck_all(260_000, 3, &[]).await);
    assert!(bench.budget.held() < LIMIT / 100 * 95, "{}", bench.budget.held());
    let (_up, _down, served) = bench.pair.forward().await;
    served.receiver.hold().enter(Vec::new()).unwrap();
    others.push(bench.stuck(80_000).await);
    assert!(bench.budget.held() >= LIMIT / 100 * 95, "{}", bench.budget.held());

    let (_up, _down, served) = bench.pair.forward().await;
    let refusal = served.receiver.hold().enter(Vec::new()).unwrap_err();
    assert_eq!((refusal.code, refusal.reached), (Code::LimitReached, Reached::No));
    for part in ["limits.buffers", "of 4.0 MiB", "95 %", "try again in 1 s"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    assert_eq!(bench.budget.counts().refused, 1);
    data(&mut large.served.receiver, 500_000).await;
    served.receiver.hold().enter(Vec::new()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_the_largest_holder_is_reset_with_a_reason_and_nobody_else() {
    let bench = Bench::new().await;
    let (mut small, mut large) = (bench.stuck(MIB).await, bench.stuck(2 * MIB).await);
    let mut last = bench.stuck_all(250_000, 4, &[]).await;
    assert_eq!(bench.budget.counts().reset, 0);
    last.push(bench.stuck(250_000).await);
    assert_eq!(bench.budget.counts().reset, 1);
    assert!(bench.budget.held() < 3 * MIB, "what it held is let go at once: {}", bench.budget.held());
    let why = large.served.receiver.hold().cut().await;
    assert_eq!(why.code, Code::LimitReached);
    assert!(why.message.contains("limits.buffers") && why.message.contains("this stream held 2.0 MiB"), "{why:?}");
    assert_eq!(failure(&mut large.served.receiver).await, why);
    large.served.sender.cut(&why);
    assert_eq!(failure(&mut large.down).await.message, why.message);
    data(&mut small.served.receiver, 1_000_000).await;
    for stream in &mut last {
        data(&mut stream.served.receiver, 240_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_written_counts_until_it_is_given_up() {
    let budget = Budget::new("limits.buffers", LIMIT);
    let settings = Settings { budget: budget.clone(), ..Settings::default() };
    // Nobody reads at the other end.
    let (near, _far) = tokio::io::duplex(1024);
    let (client, driver) = client::connect(near, settings).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let (mut up, down) = client.forward(HeaderMap::new(), open()).await.unwrap();
    up.data(bytes(60_000)).await.unwrap();
    assert!((60_000..60_100).contains(&budget.held()), "{}", budget.held());
    drop((up, down));
    tasks.shutdown().await;
    assert_eq!(budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_peers_credit_counts_until_it_is_given_up() {
    let budget = Budget::new("limits.buffers", LIMIT);
    let settings = Settings { budget: budget.clone(), ..Settings::default() };
    // Beside the few bytes in which the call itself came.
    let mut pair = Pair::with(Settings { stream_window: 0, ..Settings::default() }, settings).await;
    let (_up, _down, mut served) = pair.forward().await;
    {
        let mut sending = std::pin::pin!(served.sender.data(bytes(200_000)));
        assert!(futures_util::poll!(sending.as_mut()).is_pending());
        assert!((200_000..201_000).contains(&budget.held()), "{}", budget.held());
    }
    assert!(budget.held() < 1000, "{}", budget.held());
    let hold = served.receiver.hold();
    let ahead = hold.ahead(300_000);
    assert!((300_000..301_000).contains(&budget.held()), "{}", budget.held());
    let too_much = hold.ahead(LIMIT);
    assert!(hold.is_cut());
    drop((ahead, too_much));
    assert!(budget.held() < 1000, "{}", budget.held());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_takes_nothing_is_reset_because_a_status_would_wait_behind_the_rest() {
    let budget = Budget::new("limits.buffers", 150_000);
    let settings = Settings { budget: budget.clone(), ..Settings::default() };
    let mut pair = Pair::with(Settings { stream_window: 100_000, ..Settings::default() }, settings).await;
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let (up, down, mut served) = pair.forward().await;
        // More than fits into the caller's window.
        served.sender.data(bytes(60_000)).await.unwrap();
        served.sender.data(bytes(60_000)).await.unwrap();
        stuck.push((up, down, served));
    }
    assert_eq!(budget.counts().reset, 1, "{}", budget.held());
    let cut = stuck.iter().position(|(.., served)| served.receiver.hold().is_cut()).unwrap();
    let (_up, mut down, served) = stuck.swap_remove(cut);
    let why = served.receiver.hold().cut().await;
    served.sender.cut(&why);
    let seen = failure(&mut down).await;
    assert_eq!(seen.code, Code::LimitReached, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn who_holds_more_than_a_share_begins_nothing_while_others_wait() {
    let mut bench = Bench::new().await;
    let (one, two) = (party("subject", "tests/one"), party("subject", "tests/two"));
    let _first = bench.stuck_by(2 * MIB, vec![one.clone()]).await;
    let _second = bench.stuck_by(MIB + 100_000, vec![one.clone()]).await;
    let (_up, _down, served) = bench.pair.forward().await;
    served.receiver.hold().enter(vec![one.clone()]).expect("nobody else is there");

    let _other = bench.stuck_by(200_000, vec![two.clone()]).await;
    let (_up, _down, served) = bench.pair.forward().await;
    let refusal = served.receiver.hold().enter(vec![one]).unwrap_err();
    assert!(refusal.message.contains("by subject tests/one, whose share is 1.0 MiB"), "{}", refusal.message);
    let (_up, _down, served) = bench.pair.forward().await;
    served.receiver.hold().enter(vec![two]).expect("it has its share");
}

#[tokio::test(start_paused = true)]
async fn those_over_their_share_are_reset_before_larger_streams_of_others() {
    let bench = Bench::new().await;
    let (greedy, modest) = (party("actor", "tests/greedy"), party("actor", "tests/modest"));
    let alone = bench.stuck_by(1_000_000, vec![modest]).await;
    let many = bench.stuck_all(500_000, 4, &[greedy]).await;
    let _others = bench.stuck_all(280_000, 3, &[]).await;
    assert_eq!(bench.budget.counts().reset, 0);
    let _last = bench.stuck(380_000).await;
    assert_eq!(bench.budget.counts().reset, 1);
    assert!(!alone.served.receiver.hold().is_cut());
    assert_eq!(many.iter().filter(|stream| stream.served.receiver.hold().is_cut()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_when_every_stream_is_over() {
    let mut bench = Bench::new().await;
    for _ in 0..20 {
        let (mut up, mut down, mut served) = bench.pair.forward().await;
        let (sent, read) = tokio::join!(up.data(bytes(200_000)), data(&mut served.receiver, 150_000));
        sent.unwrap();
        served.sender.data(read.into()).await.unwrap();
        data(&mut down, 100_000).await;
        drop((up, down, served));
    }
    let Bench { pair, budget } = bench;
    pair.end().await.into_iter().for_each(drop);
    assert_eq!(budget.held(), 0);
}
