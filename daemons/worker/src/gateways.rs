//! Which gateways live, and whether all of their sessions are known here.
//!
//! Shared by the user and the push pool. Until the snapshot of **every** live gateway is complete, a share answers "unknown" (architecture §4b).

use std::collections::BTreeMap;

use wk_types::{Daemon, Incarnation};

/// Sessions that are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Void {
    /// Those of this life of a gateway slot.
    Life(u16, Incarnation),
    /// Those of every other life of the slot.
    OtherThan(u16, Incarnation),
    /// All of the slot.
    Slot(u16),
}

impl Void {
    /// True for a session of life `incarnation` of gateway `slot`.
    #[must_use]
    pub fn hits(self, slot: u16, incarnation: Incarnation) -> bool {
        match self {
            Self::Life(s, i) => (s, i) == (slot, incarnation),
            Self::OtherThan(s, i) => s == slot && i != incarnation,
            Self::Slot(s) => s == slot,
        }
    }
}

/// State of all gateways.
#[derive(Debug, Default)]
pub struct Gateways {
    /// A table was seen.
    known: bool,
    live: BTreeMap<u16, Incarnation>,
    snapshots: BTreeMap<u16, Snapshot>,
}

#[derive(Debug, Clone, Copy)]
struct Snapshot {
    incarnation: Incarnation,
    complete: bool,
}

impl Gateways {
    /// Takes over a table and returns the lives whose sessions are void now.
    pub fn table(&mut self, table: &wk_rpc::Table) -> Vec<Void> {
        if table.epoch == 0 {
            return Vec::new();
        }
        let live = table.instances_of(Daemon::Gateway).filter(|r| r.dialable()).map(|r| (r.name.slot, r.incarnation)).collect();
        self.set_live(live)
    }

    /// Sets the gateways that live.
    pub fn set_live(&mut self, live: BTreeMap<u16, Incarnation>) -> Vec<Void> {
        self.known = true;
        // What a newer life has already told stays: only the life whose end the supervisor has seen is void.
        let dead = self.live.iter().filter(|(slot, incarnation)| live.get(slot) != Some(incarnation));
        let void = dead.map(|(slot, incarnation)| Void::Life(*slot, *incarnation)).collect();
        self.live = live;
        void
    }

    /// A gateway starts to tell its sessions: what was known of the slot is void.
    pub fn begin(&mut self, slot: u16, incarnation: Incarnation) -> Void {
        self.snapshots.insert(slot, Snapshot { incarnation, complete: false });
        Void::Slot(slot)
    }

    /// A gateway has told all its sessions.
    pub fn end(&mut self, slot: u16, incarnation: Incarnation) {
        if let Some(snapshot) = self.snapshots.get_mut(&slot).filter(|s| s.incarnation == incarnation) {
            snapshot.complete = true;
        }
    }

    /// A newer life of a slot was met on a link: sessions of older ones are void.
    pub fn met(&mut self, slot: u16, incarnation: Incarnation) -> Void {
        self.snapshots.retain(|s, snapshot| *s != slot || snapshot.incarnation == incarnation);
        Void::OtherThan(slot, incarnation)
    }

    /// True when the sessions of this gateway are known.
    #[must_use]
    pub fn slot_complete(&self, slot: u16) -> bool {
        self.snapshots.get(&slot).is_some_and(|s| s.complete)
    }

    /// True when the sessions of every live gateway are known.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.known
            && self
                .live
                .iter()
                .all(|(slot, incarnation)| self.snapshots.get(slot).is_some_and(|s| s.complete && s.incarnation == *incarnation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_only_with_every_live_gateway() {
        let mut g = Gateways::default();
        assert!(!g.complete());
        assert_eq!(g.set_live(BTreeMap::from([(0, 10), (1, 20)])), []);
        g.begin(0, 10);
        g.end(0, 10);
        assert!(g.slot_complete(0) && !g.complete());
        g.begin(1, 20);
        assert!(!g.complete());
        g.end(1, 20);
        assert!(g.complete());
        // A new life of slot 1: what the old one said is void.
        assert_eq!(g.set_live(BTreeMap::from([(0, 10), (1, 21)])), [Void::Life(1, 20)]);
        assert!(!g.complete());
        g.begin(1, 21);
        g.end(1, 21);
        assert!(g.complete());
        assert_eq!(g.set_live(BTreeMap::from([(0, 10)])), [Void::Life(1, 21)]);
        assert!(g.complete());
    }

    #[test]
    fn a_snapshot_may_come_before_the_table() {
        let mut g = Gateways::default();
        g.begin(0, 10);
        g.end(0, 10);
        g.set_live(BTreeMap::from([(0, 10)]));
        assert!(g.complete());
    }
}
