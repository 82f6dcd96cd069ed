//! Who may append: the newest owner seen of each bucket (architecture §7a).
//!
//! A channel worker takes its buckets over before it reads their journal. From then on appends of older owners are refused here; what was
//! taken of them before stands in the queues ahead of the takeover's own entry, so the log holds it below that.
//!
//! Kept in memory only. What a dead owner sent lies in sockets and queues of the cluster process of that time and dies with it; a new one can
//! only hear of owners that live, and the next life of a slot takes over anew before it reads.

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
    /// True when `owner` is at least as new as the newest seen of the bucket; it becomes the newest. The epoch at which it was first seen
    /// counts: an owner that has lost the bucket does not get newer by hearing of a later table.
    pub fn admit(&self, bucket: Bucket, owner: &Owner) -> bool {
        let mut owners = self.owners.lock();
        let Some(newest) = owners.get_mut(usize::from(bucket.index())) else { return false };
        if newest.as_ref().is_some_and(|seen| same_life(owner, seen)) {
            return true;
        }
        let newer = newest.as_ref().is_none_or(|seen| is_newer(owner, seen));
        if newer {
            *newest = Some(*owner);
        }
        newer
    }
}

fn same_life(owner: &Owner, seen: &Owner) -> bool {
    (owner.slot, owner.born, owner.generation, owner.incarnation) == (seen.slot, seen.born, seen.generation, seen.incarnation)
}

/// Of one slot the later life, whatever epoch the earlier one has heard of meanwhile. Of two slots the one that got the bucket later: at one
/// epoch a bucket has one slot.
fn is_newer(owner: &Owner, seen: &Owner) -> bool {
    if owner.slot == seen.slot { (owner.born, owner.generation) > (seen.born, seen.generation) } else { owner.epoch > seen.epoch }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(slot: u32, generation: u64, epoch: u64) -> Owner {
        Owner { slot, generation, epoch, born: 5, incarnation: u64::from(slot) << 32 | generation }
    }

    #[test]
    fn older_owners_are_refused() {
        let fences = Fences::default();
        let bucket = Bucket::of("g");
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

    /// A slot that has lost a bucket still sends what it holds, with the epoch at which it gained its buckets.
    #[test]
    fn what_the_old_slot_still_sends_does_not_shut_the_new_one_out() {
        let fences = Fences::default();
        let bucket = Bucket::of("g");
        assert!(fences.admit(bucket, &owner(0, 1, 5)));
        assert!(fences.admit(bucket, &owner(0, 1, 5)), "after the scale, before the new owner is up");
        assert!(fences.admit(bucket, &owner(2, 1, 6)));
        assert!(!fences.admit(bucket, &owner(0, 1, 5)));
    }

    #[test]
    fn an_owner_that_hears_of_the_move_does_not_get_newer() {
        let fences = Fences::default();
        let bucket = Bucket::of("g");
        assert!(fences.admit(bucket, &owner(0, 1, 5)));
        assert!(fences.admit(bucket, &owner(0, 1, 6)), "it has heard of the table that takes the bucket from it");
        assert!(fences.admit(bucket, &owner(1, 1, 6)), "its next owner");
        assert!(!fences.admit(bucket, &owner(0, 1, 6)), "from now on it is an old one");
        assert!(fences.admit(bucket, &owner(0, 1, 9)), "until it gets the bucket back");
    }

    #[test]
    fn a_restarted_supervisor_counts_from_one_and_its_lives_are_newer() {
        let fences = Fences::default();
        let bucket = Bucket::of("g");
        assert!(fences.admit(bucket, &owner(0, 7, 5)));
        let next = Owner { born: 6, ..owner(0, 1, 6) };
        assert!(fences.admit(bucket, &next), "first life under the new supervisor");
        assert!(!fences.admit(bucket, &owner(0, 7, 6)), "the old life, which has heard of the new epoch");
        let impostor = Owner { incarnation: 99, ..next };
        assert!(!fences.admit(bucket, &impostor), "two lives cannot be born together");
    }
}
