//! Time: wall time that never steps back, anchored once.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Wall time of the start plus monotonic time since: steps of the wall clock while the process runs are not seen.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    anchor: Instant,
    wall_ms: u64,
}

impl Clock {
    /// Anchors the clock now.
    #[must_use]
    pub fn anchored() -> Self {
        let wall = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
        Self { anchor: Instant::now(), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Now. Unit: ms since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.wall_ms.saturating_add(self.elapsed_ms())
    }

    /// Since the anchor. Unit: ms.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.anchor.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
