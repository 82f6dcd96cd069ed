//! Bounded maps that forget what was not used for long.

use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

/// Map of two generations: when the young one is half of the capacity, the old one is thrown away and the young one grows old. What is
/// read moves to the young generation, so an entry survives at least `capacity / 2` other insertions after its last use.
#[derive(Debug)]
pub struct TwoGen<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V: Clone> TwoGen<K, V> {
    /// An empty map for at most `capacity` entries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The value of `key`, marked as used.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        let copy = value.clone();
        self.insert(key, value);
        Some(copy)
    }

    /// Stores a value.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets a key.
    pub fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_unused_and_keeps_the_used() {
        let mut map = TwoGen::new(8);
        map.insert("kept".to_owned(), 0);
        for n in 1..100 {
            map.insert(format!("k{n}"), n);
            assert_eq!(map.get("kept"), Some(0));
            assert!(map.len() <= 8);
        }
        assert_eq!(map.get("k1"), None);
        map.remove("kept");
        assert_eq!(map.get("kept"), None);
    }
}
