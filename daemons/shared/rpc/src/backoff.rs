//! Pauses between attempts to reach a process again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::limits::{RECONNECT_MAX, RECONNECT_MIN};

/// Doubling pause with jitter, from [`RECONNECT_MIN`] to [`RECONNECT_MAX`].
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    jitter: RandomState,
    step: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RECONNECT_MIN, jitter: RandomState::new(), step: 0 }
    }
}

impl Backoff {
    /// The pause before the next attempt: between half and all of the current step, which then doubles.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(RECONNECT_MAX);
        self.step += 1;
        let mut hasher = self.jitter.build_hasher();
        hasher.write_u64(self.step);
        let part = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
        step / 2 + (step / 2) * part / 1000
    }

    /// Begins again with the shortest pause.
    pub fn reset(&mut self) {
        self.next = RECONNECT_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_bound_and_resets() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..10).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= RECONNECT_MIN / 2 && pauses[0] <= RECONNECT_MIN);
        assert!(pauses.iter().all(|p| *p <= RECONNECT_MAX));
        assert!(pauses[9] >= RECONNECT_MAX / 2);
        backoff.reset();
        assert!(backoff.pause() <= RECONNECT_MIN);
    }
}
