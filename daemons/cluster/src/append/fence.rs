//! Who may append: the newest owner seen of each bucket (architecture §7a).
//!
//! Kept in memory only: a restarted cluster daemon learns owners anew, and an old owner cannot outlive it unseen, because the supervisor has
//! seen its exit before the new one starts.

use parking_lot::Mutex;
use wk_proto::cluster::v1::Owner;
use wk_types::{BUCKETS, Bucket};

/// Newest owner of each bucket.
#[derive(Debug)]
pub struct Fences {
    owners: Mutex<Vec<Option<Owner>>>,
}

impl Default for Fences {
    fn default() -> Self {
        Self { owners: Mutex::new(vec![None; usize::from(BUCKETS)]) }
    }
}

impl Fences {
    /// True when `owner` is at least as new as the newest seen of the bucket; it becomes the newest. A larger table epoch wins; at equal epochs
    /// a bucket has one slot, and of that slot the larger generation wins.
    pub fn admit(&self, bucket: Bucket, owner: &Owner) -> bool {
        let mut owners = self.owners.lock();
        let Some(newest) = owners.get_mut(usize::from(bucket.index())) else { return false };
        let admitted = match newest {
            None => true,
            Some(seen) if owner.epoch != seen.epoch => owner.epoch > seen.epoch && !older_life(owner, seen),
            Some(seen) => owner.slot == seen.slot && owner.generation >= seen.generation,
        };
        if admitted && *newest != Some(*owner) {
            *newest = Some(*owner);
        }
        admitted
    }
}

/// Same slot, but an earlier process: it is dead or about to die, whatever epoch it has heard of.
fn older_life(owner: &Owner, seen: &Owner) -> bool {
    owner.slot == seen.slot && owner.generation < seen.generation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_owners_are_refused() {
        let fences = Fences::default();
        let bucket = Bucket::of("g");
        let owner = |slot, generation, epoch| Owner { slot, generation, epoch };
        assert!(fences.admit(bucket, &owner(0, 3, 5)));
        assert!(fences.admit(bucket, &owner(0, 3, 5)), "the same owner again");
        assert!(!fences.admit(bucket, &owner(0, 2, 5)), "an earlier life");
        assert!(!fences.admit(bucket, &owner(0, 2, 6)), "an earlier life with a newer table");
        assert!(!fences.admit(bucket, &owner(1, 9, 5)), "another slot at the same epoch");
        assert!(!fences.admit(bucket, &owner(1, 9, 4)));
        assert!(fences.admit(bucket, &owner(1, 1, 6)), "the bucket moved");
        assert!(!fences.admit(bucket, &owner(0, 3, 5)), "and its old owner is out");
        assert!(fences.admit(bucket, &owner(1, 2, 6)), "the next life of the slot");
        assert!(fences.admit(Bucket::of("other"), &owner(0, 1, 1)), "buckets are independent");
    }
}
