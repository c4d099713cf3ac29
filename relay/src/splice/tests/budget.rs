//! Memory for bytes in flight: bounded, counted, given back, and never so short that nothing moves.
use super::{super::leg::READ_MAX, *};

/// What one direction holds at the least while bytes are on their way.
const LEAST: usize = 3 * 4096;

/// What one direction holds at the most.
const MOST: usize = 3 * READ_MAX;

/// A splice on this budget, and its peers.
fn on(buffers: &Buffers) -> (Splice<DuplexStream, DuplexStream>, DuplexStream, DuplexStream) {
    let ((ours_a, theirs_a), (ours_b, theirs_b)) = (duplex(1 << 18), duplex(1 << 18));
    let leg = |io| Leg::new(io, SERVER, BytesMut::new(), buffers.clone());
    (Splice::new(leg(ours_a), leg(ours_b)), theirs_a, theirs_b)
}

/// Sends one message of `size` bytes through; the most that was held on the way.
async fn peak(buffers: &Buffers, size: usize) -> usize {
    let (mut splice, mut a, mut b) = on(buffers);
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Binary, &vec![7; size]);
    let mut peak = 0;
    let read = async {
        let mut left = size;
        while left > 0 {
            left = left.saturating_sub(b.read(&mut vec![0; 1 << 20]).await.unwrap());
        }
    };
    tokio::select! {
        biased;
        end = splice.run(signals(), |_, _| peak = peak.max(buffers.held())) => panic!("{end:?}"),
        (wrote, ()) = async { tokio::join!(a.write_all(&wire), read) } => wrote.unwrap(),
    }
    peak
}

#[tokio::test]
async fn with_an_exhausted_budget_bytes_still_move() {
    let all = Buffers::new(1 << 20);
    let rest = all.share().lease_between(1 << 20, 1 << 20);
    let ours = all.share();
    assert!((1..=2 * LEAST).contains(&peak(&ours, 3_000_000).await));
    // Once there is room again, reads grow again.
    drop(rest);
    assert!(peak(&ours, 3_000_000).await > 4 * LEAST);
    assert_eq!((ours.held(), all.used()), (0, 0));
}

#[tokio::test]
async fn a_connection_alone_holds_its_two_largest_reads_and_no_more() {
    let buffers = Buffers::new(1 << 30);
    assert!((MOST..=2 * MOST).contains(&peak(&buffers, 30_000_000).await));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_splice_gives_back_what_it_holds_when_it_is_dropped() {
    let buffers = Buffers::new(1 << 30);
    let (mut splice, mut a, b) = on(&buffers);
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Binary, &vec![7; 5_000_000]);
    // Nobody reads at the other end: at some point nothing moves any more.
    let stalled = async {
        let mut written = 0;
        while let Ok(more) = tokio::time::timeout(Duration::from_secs(1), a.write(&wire[written..])).await {
            written += more.unwrap();
        }
        written
    };
    let written = tokio::select! {
        end = splice.run(signals(), |_, _| {}) => panic!("{end:?}"),
        written = stalled => written,
    };
    assert!(written < wire.len());
    assert!((1..=2 * MOST).contains(&buffers.held()), "{}", buffers.held());
    drop(splice);
    assert_eq!(buffers.held(), 0);
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_its_pace_it_holds_nothing() {
    let buffers = Buffers::new(1 << 30);
    let (splice, mut a, mut b) = on(&buffers);
    let mut splice = splice.paced(&Pace::new(Some(1000)));
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Binary, &[7; 100_000]);
    a.write_all(&wire).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(2), splice.run(signals(), |_, _| {})).await;
    assert!(waited.is_err());
    assert!(splice.bytes().0 > 0 && b.read(&mut [0; 100]).await.unwrap() > 0);
    assert_eq!((buffers.held(), splice.a.read_memory()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_sent_and_whenever_it_ends_every_lease_comes_back(
        budget in 0_usize..2_000_000,
        up in prop::collection::vec((0_usize..100_000, 0_usize..50_000), 0..20),
        down in prop::collection::vec((0_usize..100_000, 0_usize..50_000), 0..20),
        polls in 1_usize..200,
    ) {
        runtime().block_on(async {
            let buffers = Buffers::new(budget);
            let (mut splice, a, b) = on(&buffers);
            let ((mut a_read, mut a_write), (mut b_read, mut b_write)) = (tokio::io::split(a), tokio::io::split(b));
            let write = async |peer: &mut tokio::io::WriteHalf<DuplexStream>, sizes: &[(usize, usize)]| {
                for (size, step) in sizes {
                    let mut wire = Vec::new();
                    put_frame(&mut wire, true, Opcode::Binary, &vec![7; *size]);
                    for piece in wire.chunks(step + 1) {
                        // The splice may be gone.
                        let _ = peer.write_all(piece).await;
                    }
                }
            };
            let (mut at_a, mut at_b) = (tokio::io::sink(), tokio::io::sink());
            let everything = async {
                tokio::join!(
                    async { splice.run(signals(), |_, _| {}).await },
                    write(&mut a_write, &up),
                    write(&mut b_write, &down),
                    tokio::io::copy(&mut a_read, &mut at_a),
                    tokio::io::copy(&mut b_read, &mut at_b),
                )
            };
            {
                tokio::pin!(everything);
                for _ in 0..polls {
                    if futures_util::poll!(everything.as_mut()).is_ready() {
                        break;
                    }
                    assert!(buffers.used() <= 2 * MOST, "{}", buffers.used());
                    tokio::task::yield_now().await;
                }
            }
            drop(splice);
            assert_eq!((buffers.held(), buffers.used()), (0, 0));
        });
    }
}
