//! Rows of channels that were written lately, so that the hot path does no point reads.

use hashbrown::HashMap;

use super::rows::ChanRow;

/// Bounded map from `chan` key to row: two generations, the older one is dropped when the younger is full.
///
/// INVARIANT: nothing is dropped between [`ChanCache::put`] and the next [`ChanCache::trim`], so rows of a batch that is not written yet are
/// always found here.
#[derive(Debug)]
pub struct ChanCache {
    young: HashMap<Box<[u8]>, ChanRow>,
    old: HashMap<Box<[u8]>, ChanRow>,
    half: usize,
}

impl ChanCache {
    /// A cache of about `capacity` rows.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The row under `key`, if it is cached.
    #[must_use]
    pub fn get(&mut self, key: &[u8]) -> Option<ChanRow> {
        if let Some(row) = self.young.get(key) {
            return Some(*row);
        }
        let (key, row) = self.old.remove_entry(key)?;
        self.young.insert(key, row);
        Some(row)
    }

    /// Keeps the newest row of `key`.
    pub fn put(&mut self, key: &[u8], row: ChanRow) {
        match self.young.get_mut(key) {
            Some(slot) => *slot = row,
            None => {
                self.young.insert(key.into(), row);
            }
        }
    }

    /// Drops what is over the bound. Call it only when the batch is written.
    pub fn trim(&mut self) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// Rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// True when no row is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_stays_bounded() {
        let mut cache = ChanCache::new(4);
        for n in 0..100_u64 {
            cache.put(&n.to_be_bytes(), ChanRow { number: n, ..ChanRow::default() });
            assert_eq!(cache.get(&n.to_be_bytes()).map(|r| r.number), Some(n));
            cache.put(b"hot", ChanRow::default());
            assert!(cache.get(b"hot").is_some());
            cache.trim();
            assert!(cache.len() <= 5, "{}", cache.len());
        }
        assert!(cache.get(&0_u64.to_be_bytes()).is_none());
    }
}
