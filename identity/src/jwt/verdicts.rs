//! Verdicts on tokens, by SHA-256 (SD-7): a verification costs more than a request should. Only acceptance is kept, and
//! only until the token ends or any key set changes. Two halves bound the memory: when the young half is full, it becomes
//! the old one, and what was not asked for since is forgotten.
use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use crate::principal::Principal;

/// Verdicts in one half; about 200 bytes each.
const HALF: usize = 2048;

/// SHA-256 of a token.
pub(super) type Hash = [u8; 32];

#[derive(Debug, Clone)]
struct Verdict {
    principal: Principal,
    until: SystemTime,
}

#[derive(Debug, Default)]
struct Halves {
    generation: u64,
    young: HashMap<Hash, Verdict>,
    old: HashMap<Hash, Verdict>,
}

/// The cache. Poisoning is ignored: every state of the maps is a valid one.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    halves: Mutex<Halves>,
}

impl Verdicts {
    /// The verdict on a token, if it was given under this generation of keys and still holds.
    pub(super) fn find(&self, hash: &Hash, generation: u64, now: SystemTime) -> Option<Principal> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.generation != generation {
            return None;
        }
        if let Some(verdict) = halves.young.get(hash) {
            return (now < verdict.until).then(|| verdict.principal.clone());
        }
        let verdict = halves.old.remove(hash).filter(|verdict| now < verdict.until)?;
        let principal = verdict.principal.clone();
        halves.insert(*hash, verdict);
        Some(principal)
    }

    /// Keeps a verdict that was reached under `generation`; older generations are forgotten, older verdicts not kept.
    pub(super) fn keep(&self, hash: Hash, generation: u64, principal: Principal, until: SystemTime) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.generation < generation {
            *halves = Halves { generation, ..Halves::default() };
        }
        if halves.generation == generation {
            halves.insert(hash, Verdict { principal, until });
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.halves.lock().unwrap();
        halves.young.len() + halves.old.len()
    }
}

impl Halves {
    fn insert(&mut self, hash: Hash, verdict: Verdict) {
        if self.young.len() >= HALF {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(hash, verdict);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::principal::Proof;

    fn principal() -> Principal {
        Principal {
            authenticator: "a".into(),
            subject: "s".into(),
            groups: [].into(),
            roles: [].into(),
            scopes: [].into(),
            claims: [].into(),
            proof: Proof::default(),
            expires: SystemTime::UNIX_EPOCH,
        }
    }

    fn hash(number: u64) -> Hash {
        let mut hash = Hash::default();
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn a_flood_is_bounded_and_the_busy_stay() {
        let verdicts = Verdicts::default();
        let (now, until) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        verdicts.keep(hash(0), 0, principal(), until);
        for number in 1..20_000 {
            verdicts.keep(hash(number), 0, principal(), until);
            assert!(verdicts.find(&hash(0), 0, now).is_some(), "forgotten after {number}");
        }
        assert!(verdicts.len() <= 2 * HALF);
    }

    #[test]
    fn a_verdict_ends_with_its_token_and_with_its_keys() {
        let verdicts = Verdicts::default();
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        verdicts.keep(hash(1), 1, principal(), until);
        assert!(verdicts.find(&hash(1), 1, until - Duration::from_secs(1)).is_some());
        assert!(verdicts.find(&hash(1), 1, until).is_none());
        assert!(verdicts.find(&hash(1), 2, SystemTime::UNIX_EPOCH).is_none());
        verdicts.keep(hash(2), 2, principal(), until);
        verdicts.keep(hash(3), 1, principal(), until);
        assert!(verdicts.find(&hash(3), 2, SystemTime::UNIX_EPOCH).is_none(), "reached with keys that are gone");
        assert_eq!(verdicts.len(), 1);
    }
}
