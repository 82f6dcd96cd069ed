//! Listeners of a reactor, and the bound of connections per address.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};

use parking_lot::Mutex;

use crate::exchange::Transport;

/// A client listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) transport: Transport,
    pub(super) socket: TcpListener,
    /// A multishot accept is under way.
    pub(super) armed: bool,
}

/// Connections per address, over all reactors. Costs nothing without a bound.
#[derive(Debug)]
pub struct Addresses {
    max: u32,
    open: Mutex<HashMap<IpAddr, u32>>,
}

impl Addresses {
    /// At most `max` connections from one address; 0: no bound.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// Counts a connection; false when it is one too many, then it is not counted.
    pub fn enter(&self, ip: IpAddr) -> bool {
        if self.max == 0 {
            return true;
        }
        let mut open = self.open.lock();
        let count = open.entry(ip).or_insert(0);
        let fits = *count < self.max;
        if fits {
            *count += 1;
        }
        fits
    }

    /// A counted connection has ended.
    pub fn leave(&self, ip: IpAddr) {
        if self.max == 0 {
            return;
        }
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_each_address_alone() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let addresses = Addresses::new(2);
        assert!(addresses.enter(a) && addresses.enter(a) && !addresses.enter(a) && addresses.enter(b));
        addresses.leave(a);
        assert!(addresses.enter(a) && !addresses.enter(a));
        assert!(Addresses::new(0).enter(a));
    }
}
