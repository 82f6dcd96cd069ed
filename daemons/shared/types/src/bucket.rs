//! Buckets: the unit of ownership and of placement.
//!
//! A bucket is the cluster's slot: `crc32(key) mod 1024`. The owner of a bucket inside a worker pool is found by rendezvous hashing over the
//! pool's slots, so that adding one slot moves only the buckets which the new slot wins.

/// Number of buckets, fixed for the life of a cluster (architecture §7a).
pub const BUCKETS: u16 = 1024;

/// One of the [`BUCKETS`] shares of the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket of a routing key: a uid, or the base id of a channel (`ChannelKey::routing_id`).
    #[must_use]
    pub fn of(key: &str) -> Self {
        let slot = crc32fast::hash(key.as_bytes()) % u32::from(BUCKETS);
        Self(u16::try_from(slot).unwrap_or(0))
    }

    /// The bucket with this index, or `None` when it is not below [`BUCKETS`].
    #[must_use]
    pub fn from_index(index: u16) -> Option<Self> {
        (index < BUCKETS).then_some(Self(index))
    }

    /// Index in `0..BUCKETS`.
    #[must_use]
    pub fn index(self) -> u16 {
        self.0
    }

    /// All buckets in ascending order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS).map(Self)
    }
}

/// The slot of a pool that owns `bucket`: the highest rendezvous score among `slots`.
///
/// Returns `None` for an empty pool. The result depends only on the set of slots, never on their order.
#[must_use]
pub fn owner_slot(bucket: Bucket, slots: &[u16]) -> Option<u16> {
    slots.iter().copied().max_by_key(|&slot| (score(bucket, slot), slot))
}

/// Rendezvous score of a (bucket, slot) pair: a 64-bit finaliser over both numbers.
fn score(bucket: Bucket, slot: u16) -> u64 {
    let mut x = (u64::from(bucket.0) << 16 | u64::from(slot)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_crc32() {
        assert_eq!(u32::from(Bucket::of("u1").index()) % 64, 54);
        assert_eq!(u32::from(Bucket::of("u2@u1").index()) % 64, 1);
    }

    #[test]
    fn a_new_slot_takes_only_what_it_wins() {
        for bucket in Bucket::all() {
            let before = owner_slot(bucket, &[0, 1, 2]);
            let after = owner_slot(bucket, &[3, 2, 1, 0]);
            assert!(after == before || after == Some(3));
        }
        assert_eq!(owner_slot(Bucket::of("x"), &[]), None);
    }

    #[test]
    fn shares_are_even() {
        let mut share = [0_u32; 4];
        for bucket in Bucket::all() {
            let slot = owner_slot(bucket, &[0, 1, 2, 3]).expect("the pool is not empty");
            share[usize::from(slot)] += 1;
        }
        assert!(share.iter().all(|&n| (180..330).contains(&n)), "{share:?}");
    }
}
