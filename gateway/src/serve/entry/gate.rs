//! How many connections may be in the middle of their handshakes, in all and from one address, so that somebody who
//! opens many and finishes none cannot keep others out for longer than the deadline.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// The counts.
#[derive(Debug)]
pub struct Gate {
    total_max: usize,
    address_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// Holds no more entries than there are tickets.
    by_address: HashMap<IpAddr, usize>,
}

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// In all.
    #[error("{0} in all")]
    Total(usize),
    /// From one address.
    #[error("{0} from one address")]
    Address(usize),
}

impl Gate {
    /// A gate with these limits.
    pub fn new(total_max: usize, address_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, address_max, counts: Mutex::default() })
    }

    /// Lets one connection begin; it counts for nobody until its address is known.
    ///
    /// # Errors
    /// When too many are in flight.
    pub fn enter(self: &Arc<Self>) -> Result<Ticket, Full> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total_max {
            return Err(Full::Total(self.total_max));
        }
        counts.total += 1;
        Ok(Ticket { gate: Arc::clone(self), address: None })
    }
}

/// One connection in the middle of its handshakes. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Ticket {
    /// Counts the connection for this address. IPv6 addresses count by /64, which is what one customer gets.
    ///
    /// # Errors
    /// When too many from this address are in flight.
    pub fn rename(&mut self, address: IpAddr) -> Result<(), Full> {
        let address = match address.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            v4 => v4,
        };
        let mut counts = self.gate.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.leave(self.address.take());
        let count = counts.by_address.entry(address).or_default();
        if *count >= self.gate.address_max {
            return Err(Full::Address(self.gate.address_max));
        }
        *count += 1;
        self.address = Some(address);
        Ok(())
    }
}

impl Counts {
    fn leave(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.leave(self.address.take());
        counts.total -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_fill_the_gate_and_leaving_makes_room() {
        let gate = Gate::new(3, 2);
        let enter = |address: &str| -> Result<Ticket, Full> {
            let mut ticket = gate.enter()?;
            ticket.rename(address.parse().unwrap())?;
            Ok(ticket)
        };
        let first = enter("10.0.0.1").unwrap();
        let _second = enter("::ffff:10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.1").unwrap_err(), Full::Address(2));
        let _third = enter("10.0.0.2").unwrap();
        assert_eq!(enter("10.0.0.3").unwrap_err(), Full::Total(3));
        drop(first);
        assert!(enter("10.0.0.1").is_ok());
        assert_eq!(gate.counts.lock().unwrap().total, 2);
    }

    #[test]
    fn ipv6_counts_by_customer_and_a_refused_address_leaves_nothing_behind() {
        let gate = Gate::new(10, 1);
        let mut one = gate.enter().unwrap();
        one.rename("2001:db8::1".parse().unwrap()).unwrap();
        let mut two = gate.enter().unwrap();
        assert_eq!(two.rename("2001:db8::2".parse().unwrap()), Err(Full::Address(1)));
        drop((one, two));
        let counts = gate.counts.lock().unwrap();
        assert_eq!((counts.total, counts.by_address.len()), (0, 0));
    }
}
