//! How far the distribution of one bucket is done in the journal of its group.

use std::collections::BTreeMap;

/// Dispatch cursor of a bucket. Everything up to [`Tracker::cursor`] is distributed and settled.
///
/// An append that is under way may get any index above what was seen when it was sent, so the cursor waits at that floor until its index is
/// known. INVARIANT: the cursor never falls within one life.
///
/// A bucket that is taken over again, after a fence or a failed attempt, begins a new *life*: its journal is read once more from the stored
/// cursor. What an earlier life still has under way is settled as a second copy, of which the new life must not count anything.
#[derive(Debug, Default, Clone)]
pub struct Tracker {
    /// Highest index known of this bucket.
    seen: u64,
    /// Index → Delivers that are not settled.
    open: BTreeMap<u64, u32>,
    /// Floor → appends under way that were sent when it was the highest index.
    floors: BTreeMap<u64, u32>,
    /// Value the cluster has stored.
    saved: u64,
    /// Number of the life.
    life: u32,
}

impl Tracker {
    /// Begins a new life: the bucket is distributed up to `index`, as the cluster has stored it, and its journal is read from there.
    pub fn restart(&mut self, index: u64) {
        *self = Self { seen: index, saved: index, life: self.life.wrapping_add(1), ..Self::default() };
    }

    /// The present life, for [`Tracker::closed`].
    #[must_use]
    pub fn life(&self) -> u32 {
        self.life
    }

    /// An append of this bucket is sent. Give the returned floor back with [`Tracker::end`].
    pub fn begin(&mut self) -> u64 {
        *self.floors.entry(self.seen).or_default() += 1;
        self.seen
    }

    /// The index of that append is known, or it certainly was not stored. Tell [`Tracker::opened`] first.
    pub fn end(&mut self, floor: u64) {
        if let Some(count) = self.floors.get_mut(&floor) {
            *count -= 1;
            if *count == 0 {
                self.floors.remove(&floor);
            }
        }
    }

    /// An entry of this bucket has `messages` to distribute; 0: none.
    pub fn opened(&mut self, index: u64, messages: u32) {
        self.seen = self.seen.max(index);
        if messages > 0 {
            *self.open.entry(index).or_default() += messages;
        }
    }

    /// One message of an entry is distributed and settled; `life` is that in which it was opened.
    pub fn closed(&mut self, index: u64, life: u32) {
        if life != self.life {
            return;
        }
        if let Some(count) = self.open.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&index);
            }
        }
    }

    /// Highest index up to which everything is settled.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        let open = self.open.first_key_value().map_or(u64::MAX, |(i, _)| i.saturating_sub(1));
        let floor = self.floors.first_key_value().map_or(u64::MAX, |(i, _)| *i);
        self.seen.min(open).min(floor)
    }

    /// True when nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.floors.is_empty()
    }

    /// The group has reached `index` and this bucket is idle: nothing of it lies below.
    pub fn catch_up(&mut self, index: u64) {
        if self.is_idle() {
            self.seen = self.seen.max(index);
        }
    }

    /// The cursor, when it is ahead of what the cluster has stored.
    #[must_use]
    pub fn unsaved(&self) -> Option<u64> {
        Some(self.cursor()).filter(|c| *c > self.saved)
    }

    /// The cluster has stored `index`.
    pub fn saved(&mut self, index: u64) {
        self.saved = self.saved.max(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn started(index: u64) -> Tracker {
        let mut t = Tracker::default();
        t.restart(index);
        t
    }

    #[test]
    fn copies_of_an_earlier_life_do_not_count() {
        let mut t = started(5);
        t.opened(6, 2);
        t.restart(5);
        t.opened(6, 2);
        t.closed(6, 1);
        t.closed(6, 2);
        assert_eq!((t.life(), t.cursor()), (2, 5));
        t.closed(6, 2);
        assert_eq!(t.cursor(), 6);
    }

    #[test]
    fn waits_for_the_earliest_delivery() {
        let mut t = started(5);
        t.opened(6, 2);
        t.opened(8, 1);
        t.closed(8, 1);
        assert_eq!(t.cursor(), 5);
        t.closed(6, 1);
        assert_eq!(t.cursor(), 5);
        t.closed(6, 1);
        assert_eq!((t.cursor(), t.unsaved()), (8, Some(8)));
        t.saved(8);
        assert_eq!(t.unsaved(), None);
    }

    #[test]
    fn waits_for_appends_whose_index_is_not_known() {
        let mut t = started(5);
        let slow = t.begin();
        let fast = t.begin();
        t.opened(7, 1);
        t.end(fast);
        t.closed(7, 1);
        // The slow one may have got 6.
        assert_eq!(t.cursor(), 5);
        t.catch_up(100);
        assert_eq!(t.cursor(), 5);
        t.opened(6, 1);
        t.end(slow);
        assert_eq!(t.cursor(), 5);
        t.closed(6, 1);
        assert_eq!(t.cursor(), 7);
        t.catch_up(100);
        assert_eq!(t.cursor(), 100);
    }

    proptest! {
        /// Appends get their indexes and settle in any order: the cursor never falls and never passes what is not settled.
        #[test]
        fn never_passes_what_is_open(steps in proptest::collection::vec((0_u8..4, any::<prop::sample::Index>()), 1..200)) {
            let mut t = Tracker::default();
            let (mut log, mut sent, mut open): (u64, Vec<(u64, u64)>, Vec<u64>) = (0, Vec::new(), Vec::new());
            let mut last = 0;
            for (what, which) in steps {
                match what {
                    // The log gives the next index to an append that is sent now; its reply comes later.
                    0 => {
                        let floor = t.begin();
                        log += 1;
                        sent.push((floor, log));
                    }
                    1 if !sent.is_empty() => {
                        let (floor, index) = sent.swap_remove(which.index(sent.len()));
                        t.opened(index, 1);
                        t.end(floor);
                        open.push(index);
                    }
                    2 if !open.is_empty() => t.closed(open.swap_remove(which.index(open.len())), 0),
                    _ => t.catch_up(log),
                }
                let unsettled = sent.iter().map(|(_, i)| *i).chain(open.iter().copied()).min();
                prop_assert!(unsettled.is_none_or(|i| t.cursor() < i));
                prop_assert!(t.cursor() >= last);
                last = t.cursor();
            }
        }
    }
}
