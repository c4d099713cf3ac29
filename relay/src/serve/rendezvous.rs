//! Rendezvous that were offered to listeners and not yet taken: each behind a secret of its own.
//!
//! A secret has 128 random bits, is kept as its SHA-256 (so that looking it up tells nothing about near misses), counts
//! once, only for the entity, action and sender it was made for, and only while that sender waits.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::upgrade::OnUpgrade;
use proto::hybrid::address::Action;
use tokio::sync::oneshot;

/// Bytes of a secret.
const SECRET: usize = 16;

type Key = [u8; 32];

/// What a listener decided.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It dialled back.
    Accepted {
        /// Its connection, once its 101 is out.
        upgrade: OnUpgrade,
        /// The subprotocol it chose.
        protocol: Option<String>,
        /// Where it dialled from.
        remote: SocketAddr,
    },
    /// It said no.
    Rejected {
        /// For the sender.
        status: u16,
        /// For the sender.
        description: String,
    },
}

/// One sender that waits for one listener.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Name of the entity.
    pub(crate) entity: String,
    /// What the listener was asked to do.
    pub(crate) action: Action,
    /// Id of the sender, or of its request.
    pub(crate) id: String,
    /// Subprotocols that the sender offers.
    pub(crate) protocols: Vec<String>,
}

/// An offer that was taken out of the table.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What was offered.
    pub(crate) offer: Offer,
    /// Where the sender waits.
    pub(crate) verdict: oneshot::Sender<Verdict>,
}

/// All offers of a relay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    offers: Arc<Mutex<HashMap<Key, Taken>>>,
}

/// The sender's end of an offer; dropping it takes the offer back.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// For the address.
    pub(crate) secret: String,
    /// The listener's verdict; an error when the secret was used wrongly.
    pub(crate) verdict: oneshot::Receiver<Verdict>,
    key: Key,
    table: Table,
}

impl Table {
    /// Makes an offer. How many there are is bounded by whoever calls.
    pub(crate) fn offer(&self, offer: Offer) -> Ticket {
        let mut bytes = [0; SECRET];
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has random bytes");
        let secret = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let key = key_of(&secret);
        let (sender, verdict) = oneshot::channel();
        self.lock().insert(key, Taken { offer, verdict: sender });
        Ticket { secret, verdict, key, table: self.clone() }
    }

    /// Takes an offer out. A secret that is used for another entity, action or sender is spent all the same: it has
    /// leaked.
    pub(crate) fn take(&self, secret: &str, entity: &str, action: Action, id: &str) -> Option<Taken> {
        let taken = self.lock().remove(&key_of(secret))?;
        let offer = &taken.offer;
        let is_bound = offer.entity == entity && offer.action == action && offer.id == id;
        (is_bound && !taken.verdict.is_closed()).then_some(taken)
    }

    /// How many offers there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Taken>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.lock().remove(&self.key);
    }
}

fn key_of(secret: &str) -> Key {
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(table: &Table) -> Ticket {
        table.offer(Offer { entity: "e".into(), action: Action::Accept, id: "i".into(), protocols: Vec::new() })
    }

    #[test]
    fn a_secret_counts_once() {
        let table = Table::default();
        let ticket = offer(&table);
        assert!(table.take(&ticket.secret, "e", Action::Accept, "i").is_some());
        assert!(table.take(&ticket.secret, "e", Action::Accept, "i").is_none());
    }

    #[test]
    fn a_secret_of_another_entity_action_or_sender_is_refused_and_spent() {
        for (entity, action, id) in
            [("other", Action::Accept, "i"), ("e", Action::Request, "i"), ("e", Action::Accept, "other")]
        {
            let table = Table::default();
            let mut ticket = offer(&table);
            assert!(table.take(&ticket.secret, entity, action, id).is_none());
            assert!(table.take(&ticket.secret, "e", Action::Accept, "i").is_none());
            assert!(ticket.verdict.try_recv().is_err());
        }
    }

    #[test]
    fn a_guessed_secret_finds_nothing() {
        let table = Table::default();
        let ticket = offer(&table);
        let mut near = ticket.secret.clone();
        near.pop();
        for guess in ["", "AAAAAAAAAAAAAAAAAAAAAA", &near] {
            assert!(table.take(guess, "e", Action::Accept, "i").is_none());
        }
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_offer_goes_with_its_sender() {
        let table = Table::default();
        let ticket = offer(&table);
        let secret = ticket.secret.clone();
        drop(ticket);
        assert_eq!(table.len(), 0);
        assert!(table.take(&secret, "e", Action::Accept, "i").is_none());
    }

    #[test]
    fn secrets_have_128_bits_and_an_alphabet_that_every_sdk_reads() {
        let table = Table::default();
        let (one, other) = (offer(&table), offer(&table));
        assert_ne!(one.secret, other.secret);
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(&one.secret).unwrap().len(), 16);
        assert!(one.secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }
}
