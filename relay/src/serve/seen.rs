//! From where listeners of one hybrid connection have come: a Listen key in other hands shows as an address that was never
//! seen (SD-9).
use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// Addresses that are remembered. More than listeners may be there at a time, so a pool that moves about is remembered
/// whole; one that is forgotten is reported again, which is harmless.
const REMEMBERED: usize = 64;

/// The addresses of one hybrid connection, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<VecDeque<IpAddr>>);

impl Seen {
    /// Remembers an address. True when it is new and others came before it.
    pub(crate) fn note(&self, address: IpAddr) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.iter().position(|other| *other == address);
        let is_news = known.is_none() && !seen.is_empty();
        if let Some(at) = known {
            seen.remove(at);
        } else if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(address);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: usize) -> IpAddr {
        Ipv4Addr::from(u32::try_from(number).unwrap()).into()
    }

    #[test]
    fn the_first_address_is_no_news_and_each_other_is_once() {
        let seen = Seen::default();
        assert_eq!(
            [1, 1, 2, 1, 2, 3].map(|number| seen.note(address(number))),
            [false, false, true, false, false, true]
        );
    }

    #[test]
    fn memory_is_bounded_and_forgets_who_was_away_longest() {
        let seen = Seen::default();
        for number in 0..REMEMBERED {
            seen.note(address(number));
        }
        assert!(!seen.note(address(0)), "back again, so it is not the oldest");
        assert!(seen.note(address(REMEMBERED)));
        assert!(!seen.note(address(0)));
        assert!(seen.note(address(1)), "forgotten");
        assert_eq!(seen.0.lock().unwrap().len(), REMEMBERED);
    }
}
