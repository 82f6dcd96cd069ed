//! Ids from a time that is handed in: 41 bits of milliseconds since [`EPOCH_MS`], 10 bits node, 12 bits step.

use wk_proto::cluster::v1::IdRun;
use wk_types::NodeId;

/// 2010-11-04 01:42:54.657 UTC. Unit: ms since 1970. Source: bwmarrin/snowflake 0.3.0, which the original uses.
pub const EPOCH_MS: u64 = 1_288_834_974_657;
/// Ids of one millisecond.
const STEPS: u32 = 1 << 12;
/// How far ids may run ahead of the clock before the caller must wait. Unit: ms.
pub(super) const BORROW_MS_MAX: u64 = 1_000;
/// The persisted ceiling is set this far ahead. Unit: ms.
pub const CEILING_AHEAD_MS: u64 = 3_000;
/// How far ahead of the clock ids may begin after a restart; above it (the clock was set back) the start waits. Unit: ms.
pub const LEAD_MS_MAX: u64 = CEILING_AHEAD_MS + BORROW_MS_MAX;

/// Why no id came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The ceiling must be raised first, at least to this time. Unit: ms since 1970.
    Ceiling(u64),
    /// Ids ran ahead of the clock; wait this long. Unit: ms.
    Clock(u64),
}

/// State of the generator. Times are ms since 1970.
#[derive(Debug)]
pub struct Generator {
    node: NodeId,
    /// Millisecond of the next id.
    next_ms: u64,
    /// Step of the next id.
    step: u32,
    /// Ids of this millisecond and later must not be handed out yet.
    ceiling_ms: u64,
    /// Where this run began.
    floor_ms: u64,
}

impl Generator {
    /// A generator that begins at `floor_ms`, the ceiling of the last run (0: none): nothing at or above it was handed out.
    #[must_use]
    pub fn new(node: NodeId, floor_ms: u64) -> Self {
        Self { node, next_ms: floor_ms, step: 0, ceiling_ms: floor_ms, floor_ms }
    }

    /// How long a start must wait for the clock. Unit: ms. 0 unless the clock was set back since the last run.
    #[must_use]
    pub fn start_wait_ms(&self, now_ms: u64) -> u64 {
        self.next_ms.saturating_sub(now_ms.saturating_add(LEAD_MS_MAX))
    }

    /// Everything below is durable as "handed out".
    pub fn raise(&mut self, ceiling_ms: u64) {
        self.ceiling_ms = self.ceiling_ms.max(ceiling_ms);
    }

    /// The ceiling to store next.
    #[must_use]
    pub fn wanted_ceiling_ms(&self, now_ms: u64) -> u64 {
        self.next_ms.max(now_ms).saturating_add(CEILING_AHEAD_MS)
    }

    /// True when less than half of the room below the ceiling is left.
    #[must_use]
    pub fn ceiling_is_near(&self, now_ms: u64) -> bool {
        self.ceiling_ms < self.next_ms.max(now_ms).saturating_add(CEILING_AHEAD_MS / 2)
    }

    /// The smallest ceiling that a clean stop may leave: nothing at or above it was handed out.
    #[must_use]
    pub fn used_up_to_ms(&self) -> u64 {
        self.next_ms.saturating_add(1)
    }

    /// Up to `count` ids as runs; fewer when a bound is met on the way.
    ///
    /// # Errors
    /// [`Blocked`] when not even one can be handed out now.
    pub fn alloc(&mut self, now_ms: u64, count: u32) -> Result<Vec<IdRun>, Blocked> {
        if now_ms > self.next_ms {
            self.next_ms = now_ms;
            self.step = 0;
        }
        let mut runs = Vec::new();
        let mut left = count;
        while left > 0 {
            if self.step == STEPS {
                self.next_ms += 1;
                self.step = 0;
            }
            if let Some(blocked) = self.blocked(now_ms) {
                if runs.is_empty() {
                    return Err(blocked);
                }
                break;
            }
            let take = left.min(STEPS - self.step);
            runs.push(IdRun { first: self.id(), count: take });
            self.step += take;
            left -= take;
        }
        Ok(runs)
    }

    /// Why the next id must wait, if it must.
    fn blocked(&self, now_ms: u64) -> Option<Blocked> {
        // After a quick restart the run begins ahead of the clock: what may be borrowed counts from there.
        let limit = now_ms.max(self.floor_ms.min(now_ms.saturating_add(LEAD_MS_MAX))).saturating_add(BORROW_MS_MAX);
        if self.next_ms > limit {
            Some(Blocked::Clock(self.next_ms - limit))
        } else if self.next_ms >= self.ceiling_ms {
            Some(Blocked::Ceiling(self.next_ms + 1))
        } else {
            None
        }
    }

    fn id(&self) -> i64 {
        let time = self.next_ms.saturating_sub(EPOCH_MS) & ((1 << 41) - 1);
        (time << 22 | u64::from(self.node.0 & 0x3ff) << 12 | u64::from(self.step)).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: u64 = EPOCH_MS + 500_000_000_000;

    fn take(generator: &mut Generator, now_ms: u64, count: u32, seen: &mut HashSet<i64>) -> u32 {
        let mut got = 0;
        for run in generator.alloc(now_ms, count).unwrap_or_default() {
            for id in run.first..run.first + i64::from(run.count) {
                assert!(id > 0 && seen.insert(id), "id {id} came twice");
                got += 1;
            }
        }
        got
    }

    #[test]
    fn layout_is_that_of_the_original() {
        let mut generator = Generator::new(NodeId(1001), 0);
        generator.raise(u64::MAX);
        let runs = generator.alloc(EPOCH_MS + 5, 2).expect("there is room");
        assert_eq!(runs, [IdRun { first: 5 << 22 | 1001 << 12, count: 2 }]);
        assert_eq!(generator.alloc(EPOCH_MS + 5, 1).expect("there is room")[0].first, 5 << 22 | 1001 << 12 | 2);
    }

    #[test]
    fn never_repeats_whatever_the_clock_does() {
        let mut seen = HashSet::new();
        let mut generator = Generator::new(NodeId(1), 0);
        generator.raise(NOW + 1_000_000);
        let mut total = 0;
        for (step, now) in [NOW, NOW + 1, NOW - 5_000, NOW + 1, NOW + 900, NOW + 100].into_iter().enumerate() {
            total += take(&mut generator, now, 9_000 + u32::try_from(step).expect("small"), &mut seen);
        }
        assert!(total > 20_000);
        // A restart with the clock set back a minute begins above everything that was handed out, and waits.
        let mut next = Generator::new(NodeId(1), generator.ceiling_ms);
        next.raise(u64::MAX);
        assert!(next.start_wait_ms(NOW - 60_000) > 50_000);
        assert_eq!(next.alloc(NOW - 60_000, 1).map_err(|b| matches!(b, Blocked::Clock(_))), Err(true));
        assert!(take(&mut next, generator.ceiling_ms, 5_000, &mut seen) > 0);
    }

    #[test]
    fn stays_below_the_ceiling_and_borrows_at_most_its_bound() {
        let mut generator = Generator::new(NodeId(1), 0);
        assert_eq!(generator.alloc(NOW, 1), Err(Blocked::Ceiling(NOW + 1)));
        generator.raise(NOW + 2);
        let got: u32 = generator.alloc(NOW, 100_000).expect("two milliseconds are free").iter().map(|run| run.count).sum();
        assert_eq!(got, 2 * STEPS);
        assert!(matches!(generator.alloc(NOW, 1), Err(Blocked::Ceiling(_))));
        generator.raise(u64::MAX);
        let mut borrowed = 0;
        while let Ok(runs) = generator.alloc(NOW, 1 << 20) {
            borrowed += runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        }
        assert!(borrowed <= u64::from(STEPS) * (BORROW_MS_MAX + 1), "{borrowed}");
    }
}
