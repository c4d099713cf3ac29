//! `grpc-timeout`: how long the caller of any of the contract's calls is going to wait. Source: the gRPC over HTTP/2
//! protocol description: at most eight digits, and a unit.

use std::time::Duration;

use http::HeaderMap;

use super::failure::{Code, Failure};

/// Metadata that says it.
const TIMEOUT: &str = "grpc-timeout";

/// Digits that there may be.
const DIGITS_MAX: usize = 8;

/// How long the caller waits; `None` for ever.
///
/// # Errors
/// `InvalidRequest` if what it says is no time.
pub fn read(metadata: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let wrong = || Failure::before_target(Code::InvalidRequest, "grpc-timeout is not 1 to 8 digits and a unit");
    let mut values = metadata.get_all(TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let (Some((unit, digits)), None) = (value.as_bytes().split_last(), values.next()) else { return Err(wrong()) };
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let count = digits.iter().fold(0, |count: u64, digit| count * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(wrong()),
    }))
}

/// Works until the caller's deadline.
///
/// # Errors
/// The work's own failure; `DeadlineExceeded` when the caller waits no longer; what [`read`] says.
pub async fn within<T, E: From<Failure>>(
    metadata: &HeaderMap,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(limit) = read(metadata)? else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("the caller's deadline has passed, {} ms after its call", limit.as_millis());
        Err(Failure::perhaps(Code::DeadlineExceeded, message).into())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str]) -> Result<Option<Duration>, Code> {
        let metadata =
            values.iter().map(|value| (http::HeaderName::from_static(TIMEOUT), HeaderValue::from_static(value)));
        read(&metadata.collect()).map_err(|failure| failure.code)
    }

    #[test]
    fn every_unit_is_read_and_anything_else_is_refused() {
        assert_eq!(of(&[]), Ok(None));
        for (text, expected) in [
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("2M", Duration::from_secs(120)),
            ("0S", Duration::ZERO),
            ("1500m", Duration::from_millis(1500)),
            ("7u", Duration::from_micros(7)),
            ("00000001n", Duration::from_nanos(1)),
        ] {
            assert_eq!(of(&[text]), Ok(Some(expected)), "{text}");
        }
        for bad in [&[""][..], &["S"], &["1"], &["1s"], &["123456789S"], &["-1S"], &["1.5S"], &["1S", "1S"]] {
            assert_eq!(of(bad), Err(Code::InvalidRequest), "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_with_the_deadline_and_not_before() {
        let metadata = HeaderMap::from_iter([(http::HeaderName::from_static(TIMEOUT), HeaderValue::from_static("2S"))]);
        let work = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok::<_, Failure>(seconds)
        };
        assert_eq!(within(&metadata, work(1)).await, Ok(1));
        assert_eq!(within(&metadata, work(3)).await.unwrap_err().code, Code::DeadlineExceeded);
        assert_eq!(within(&HeaderMap::new(), work(3)).await, Ok(3));
    }
}
