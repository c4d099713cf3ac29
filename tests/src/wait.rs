//! Waiting for conditions under one deadline per test, and saying what was waited for when it did not come.
use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// How often a condition that cannot notify is looked at. It bounds how late a test notices, never whether it passes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs a whole test under one deadline.
///
/// # Panics
/// When the deadline passes; before that, everything that was being waited for has said so.
pub async fn within<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    // Boxed, since tests grow large; dropped while unwinding, so that what it owns can see that the test failed.
    let mut test = Box::pin(test);
    match tokio::time::timeout(limit, &mut test).await {
        Ok(value) => value,
        Err(_) => panic!("the test was not done within {limit:?}"),
    }
}

/// Waits for `future`; if the test fails meanwhile, `what` is printed.
pub async fn named<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    let mut waiting = Waiting { what: what.to_string(), done: false };
    let value = future.await;
    waiting.done = true;
    value
}

/// Looks again and again until `look` gives something.
pub async fn until<T>(what: impl Display, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    named(what, async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await
}

/// Prints what a failed test was waiting for.
struct Waiting {
    what: String,
    done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done {
            report(format_args!("was waiting for: {}", self.what));
        }
    }
}

/// Prints to the test's captured output.
#[expect(clippy::print_stderr, reason = "the test runner captures and shows this when a test fails")]
pub(crate) fn report(text: std::fmt::Arguments<'_>) {
    eprintln!("{text}");
}

/// A loopback address that nobody else uses, so that a process can be killed and started again on its port without
/// anyone taking it meanwhile: the kernel gives outgoing connections and other tests ports of 127.0.0.1.
pub fn private_loopback() -> IpAddr {
    let mut random = [0; 3];
    aws_lc_rs::rand::fill(&mut random).expect("the system has random bytes");
    // 127.16.0.2 and up: away from 127.0.0.1 and 127.0.1.1, and no all-zero or all-one host part.
    IpAddr::V4(Ipv4Addr::new(127, random[0] | 16, random[1], random[2].clamp(2, 254)))
}
