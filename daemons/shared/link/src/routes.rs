//! Who owns which bucket of a pool, and what is kept back while buckets move, as a pure state machine.
//!
//! A bucket's life during a move (`ARCHITECTURE.md`, life of a move): *open* at its owner → *held*: new items wait here, what was sent before is
//! settled by the old owner → *open* at the next owner, which gets what waited, in order. Where no table was seen yet every bucket is held.
//!
//! INVARIANT: an item that was pushed later never overtakes one of its bucket, whoever owns it.

use wk_types::{BUCKETS, Bucket};

/// A set of buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSet([u64; WORDS]);

const WORDS: usize = BUCKETS as usize / 64;

impl BucketSet {
    /// The buckets for which `member` is true.
    #[must_use]
    pub fn of(member: impl Fn(Bucket) -> bool) -> Self {
        let mut buckets = Bucket::all();
        let word = |_| (0..64).fold(0, |bits, bit| bits | u64::from(buckets.next().is_some_and(&member)) << bit);
        Self(std::array::from_fn(word))
    }

    /// True for a member.
    #[must_use]
    pub fn has(&self, bucket: Bucket) -> bool {
        let index = usize::from(bucket.index());
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// True without members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// Routes of one pool. `T`: what is kept back.
#[derive(Debug)]
pub(crate) struct Routes<T> {
    owners: Box<[u16]>,
    /// A table named the pool's slots.
    known: bool,
    held: BucketSet,
    waiting: Vec<(Bucket, T)>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        let owners = vec![0; usize::from(BUCKETS)].into_boxed_slice();
        Self { owners, known: false, held: BucketSet::of(|_| true), waiting: Vec::new() }
    }
}

impl<T> Routes<T> {
    /// Takes over a table and returns what need not wait any more, with its owner, in the order it was pushed. `next` is empty without a move.
    pub(crate) fn take(&mut self, slots: &[u16], next: &[u16]) -> Vec<(u16, T)> {
        if slots.is_empty() {
            return Vec::new();
        }
        for (owner, bucket) in self.owners.iter_mut().zip(Bucket::all()) {
            *owner = wk_types::owner_slot(bucket, slots).unwrap_or(0);
        }
        self.known = true;
        self.held = BucketSet::of(|bucket| !next.is_empty() && wk_types::owner_slot(bucket, next) != wk_types::owner_slot(bucket, slots));
        let (mut free, mut still) = (Vec::new(), Vec::new());
        for (bucket, item) in std::mem::take(&mut self.waiting) {
            match self.open_owner(bucket) {
                Some(slot) => free.push((slot, item)),
                None => still.push((bucket, item)),
            }
        }
        self.waiting = still;
        free
    }

    /// The owner to hand an item of this bucket to; `None`: it has to wait here.
    pub(crate) fn open_owner(&self, bucket: Bucket) -> Option<u16> {
        self.owner(bucket).filter(|_| !self.held.has(bucket))
    }

    /// The owner, also while the bucket is held; `None` before the first table.
    pub(crate) fn owner(&self, bucket: Bucket) -> Option<u16> {
        self.owners.get(usize::from(bucket.index())).copied().filter(|_| self.known)
    }

    /// Keeps an item back.
    pub(crate) fn wait(&mut self, bucket: Bucket, item: T) {
        debug_assert!(self.open_owner(bucket).is_none(), "an open bucket keeps nothing back");
        self.waiting.push((bucket, item));
    }

    /// Keeps items back that were with an owner who is gone: before all others, in their order.
    pub(crate) fn wait_first(&mut self, items: impl IntoIterator<Item = (Bucket, T)>) {
        self.waiting.splice(0..0, items);
    }

    /// Items kept back.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Buckets that are held for a move; all before the first table.
    pub(crate) fn held(&self) -> &BucketSet {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_leaves_before_the_first_table() {
        let mut routes = Routes::default();
        assert_eq!(routes.open_owner(Bucket::of("a")), None);
        routes.wait(Bucket::of("a"), 1);
        assert_eq!(routes.take(&[], &[]), []);
        assert_eq!(routes.take(&[3], &[]), [(3, 1)]);
        assert_eq!(routes.open_owner(Bucket::of("a")), Some(3));
    }

    #[test]
    fn what_an_owner_left_behind_goes_first() {
        let mut routes = Routes::default();
        routes.take(&[0, 1], &[]);
        let bucket = Bucket::all().find(|b| routes.owner(*b) == Some(1)).expect("half of them");
        routes.take(&[0, 1], &[0]);
        routes.wait(bucket, 3);
        routes.wait_first([(bucket, 1), (bucket, 2)]);
        assert_eq!(routes.take(&[0], &[]), [(0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn only_moving_buckets_wait_and_a_move_that_is_called_off_gives_them_back() {
        let mut routes = Routes::default();
        routes.take(&[0], &[]);
        assert!(routes.held().is_empty());
        routes.take(&[0], &[0, 1]);
        let moving = Bucket::all().find(|b| routes.held().has(*b)).expect("half of them move");
        let resting = Bucket::all().find(|b| !routes.held().has(*b)).expect("half of them stay");
        assert_eq!(routes.open_owner(resting), Some(0));
        assert_eq!((routes.open_owner(moving), routes.owner(moving)), (None, Some(0)));
        routes.wait(moving, 1);
        assert_eq!(routes.take(&[0], &[]), [(0, 1)]);
        routes.take(&[0], &[0, 1]);
        routes.wait(moving, 2);
        assert_eq!(routes.take(&[0, 1], &[]), [(1, 2)]);
    }

    proptest! {
        /// Items of a bucket come out in the order they went in, whatever tables come, each exactly once; and while old items of a bucket are
        /// with one owner none goes to another (a table that changes an owner comes only after the held step).
        #[test]
        fn order_is_kept(steps in prop::collection::vec((0u8..4, 0u16..6, 1u16..5), 1..120)) {
            let mut routes = Routes::default();
            let (mut slots, mut next): (Vec<u16>, Vec<u16>) = (Vec::new(), Vec::new());
            let (mut count, mut out): (u64, BTreeMap<u16, Vec<u64>>) = (0, BTreeMap::new());
            let mut sent: BTreeMap<u16, u64> = BTreeMap::new();
            let bucket = |n: u16| Bucket::all().nth(usize::from(n) * 170).expect("in range");
            for (what, n, size) in steps {
                match what {
                    0 | 1 => {
                        count += 1;
                        *sent.entry(n).or_default() += 1;
                        match routes.open_owner(bucket(n)) {
                            Some(_) => out.entry(n).or_default().push(count),
                            None => routes.wait(bucket(n), (n, count)),
                        }
                        continue;
                    }
                    // A move begins, or the one under way is called off.
                    2 => next = if next.is_empty() && !slots.is_empty() { (0..size).collect() } else { Vec::new() },
                    // It is carried out; or the first table comes.
                    _ => slots = if slots.is_empty() { (0..size).collect() } else if next.is_empty() { slots } else { std::mem::take(&mut next) },
                }
                for (owner, (n, item)) in routes.take(&slots, &next) {
                    prop_assert_eq!(Some(owner), wk_types::owner_slot(bucket(n), &slots));
                    out.entry(n).or_default().push(item);
                }
            }
            let slots = if slots.is_empty() { vec![0] } else { slots };
            for (_, (n, item)) in routes.take(&slots, &[]) {
                out.entry(n).or_default().push(item);
            }
            prop_assert_eq!(routes.waiting(), 0);
            for (n, items) in out {
                prop_assert!(items.is_sorted());
                prop_assert_eq!(items.len() as u64, sent[&n]);
            }
        }
    }
}
