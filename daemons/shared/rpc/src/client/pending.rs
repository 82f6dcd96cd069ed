//! Table of open requests: correlation id to waiter.

use slab::Slab;
use tokio::sync::oneshot;

use super::{CallError, ReplyResult};

/// What a waiter gets.
pub(super) type Answer = Result<ReplyResult, CallError>;

/// Open requests. An id is slot and round, so that a late answer never meets the next request in the same slot.
#[derive(Debug, Default)]
pub(super) struct Pending {
    slots: Slab<(u32, oneshot::Sender<Answer>)>,
    round: u32,
}

impl Pending {
    /// Registers a waiter and returns the id of its request.
    pub(super) fn insert(&mut self, waiter: oneshot::Sender<Answer>) -> u64 {
        self.round = self.round.wrapping_add(1);
        let slot = self.slots.insert((self.round, waiter));
        u64::try_from(slot).unwrap_or(u64::MAX) << 32 | u64::from(self.round)
    }

    /// Takes the waiter of `id`; `None` when it is gone.
    pub(super) fn take(&mut self, id: u64) -> Option<oneshot::Sender<Answer>> {
        let slot = usize::try_from(id >> 32).ok()?;
        let (round, _) = self.slots.get(slot)?;
        (u64::from(*round) == id & 0xffff_ffff).then(|| self.slots.remove(slot).1)
    }

    /// Ends every open request with an unknown outcome: dropping the waiters says so.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_does_not_meet_the_next_request() {
        let mut pending = Pending::default();
        let (a, _a) = oneshot::channel();
        let first = pending.insert(a);
        assert!(pending.take(first).is_some());
        let (b, _b) = oneshot::channel();
        let second = pending.insert(b);
        assert_eq!(first >> 32, second >> 32);
        assert!(pending.take(first).is_none());
        assert!(pending.take(second).is_some());
        assert!(pending.take(u64::MAX).is_none());
        assert_eq!(pending.len(), 0);
    }
}
