//! How long a crashed instance waits: 0, 0.2, 0.4, 0.8 … 30 s, ±20 %, or as the configuration says.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{
    BACKOFF_BASE, BACKOFF_CAP, BACKOFF_FACTOR, BACKOFF_JITTER, BACKOFF_RESET, CRASH_LOOP_COUNT, CRASH_LOOP_WINDOW, RESTART_BUCKET,
    RESTART_WINDOW,
};

/// Time since the supervisor started, monotonic.
pub type Time = Duration;

/// The numbers of one daemon. Ranges and relations: `wk_config::BackoffPolicy`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// First delay that is not zero.
    pub base: Duration,
    /// Each delay is so many times the one before; at least 1.
    pub factor: f64,
    /// Longest delay, at least `base`.
    pub cap: Duration,
    /// Share of a delay by which it is longer or shorter at random, 0 to 1.
    pub jitter: f64,
    /// Time in Ready after which earlier crashes count no more (or twice the last delay, if that is longer).
    pub reset_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { base: BACKOFF_BASE, factor: BACKOFF_FACTOR, cap: BACKOFF_CAP, jitter: BACKOFF_JITTER, reset_after: BACKOFF_RESET }
    }
}

impl Policy {
    /// Delay before the restart that follows crash number `crash` (from 1), without jitter.
    #[must_use]
    pub fn delay(&self, crash: u32) -> Duration {
        let Some(steps) = crash.checked_sub(2) else { return Duration::ZERO };
        let grown = self.base.as_secs_f64() * self.factor.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        Duration::try_from_secs_f64(grown).map_or(self.cap, |delay| delay.min(self.cap))
    }

    /// A delay with its random share, -1..=1.
    fn jittered(&self, delay: Duration, share: f64) -> Duration {
        delay.mul_f64(1.0 + self.jitter * share.clamp(-1.0, 1.0))
    }
}

/// Crash history of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    crashes: u32,
    /// Crashes since the last stable time in Ready; [`Self::crashes`] counts some of them twice.
    #[serde(default)]
    in_a_row: u32,
    last_delay: Duration,
    recent: VecDeque<Time>,
    /// In a crash loop since then.
    #[serde(default)]
    looping: Option<Time>,
}

/// What happened just before a crash.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// Now.
    pub at: Time,
    /// Time in Ready of the generation that died; `None`: it never was.
    pub ready_for: Option<Duration>,
    /// Hang or out of memory: one step more.
    pub heavy: bool,
    /// Random share of the jitter, -1..=1.
    pub jitter: f64,
}

impl Backoff {
    /// Counts a crash and says how long to wait.
    pub fn on_crash(&mut self, crash: Crash, policy: &Policy) -> Duration {
        if crash.ready_for.is_some_and(|ready| ready >= self.stable(policy)) {
            self.settle();
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.crashes = self.crashes.saturating_add(1 + u32::from(crash.heavy));
        if crash.ready_for.is_none() {
            self.crashes = self.crashes.max(2);
        }
        self.recent.push_back(crash.at);
        if self.recent.len() > CRASH_LOOP_COUNT {
            self.recent.pop_front();
        }
        let near = self.recent.front().is_some_and(|first| crash.at.saturating_sub(*first) < CRASH_LOOP_WINDOW);
        if near && self.recent.len() == CRASH_LOOP_COUNT {
            self.looping.get_or_insert(crash.at);
        }
        self.last_delay = policy.delay(self.crashes);
        policy.jittered(self.last_delay, crash.jitter)
    }

    /// Forgets everything: an operator asked for a start or restart.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Since when it is in a crash loop: five crashes within a minute, and since then no stable time in Ready. The growing pauses do not end it.
    #[must_use]
    pub fn crash_loop(&self) -> Option<Time> {
        self.looping
    }

    /// When the crash loop is over, if the generation that is ready since then stays so.
    #[must_use]
    pub fn crash_loop_end(&self, ready_since: Option<Time>, policy: &Policy) -> Option<Time> {
        self.looping.and(ready_since).map(|ready| ready + self.stable(policy))
    }

    /// The time of [`Self::crash_loop_end`] has come.
    pub fn settle(&mut self) {
        (self.crashes, self.in_a_row, self.looping) = (0, 0, None);
    }

    /// Time in Ready after which earlier crashes count no more.
    fn stable(&self, policy: &Policy) -> Duration {
        policy.reset_after.max(self.last_delay * 2)
    }

    /// Crashes that count for the next pause.
    #[must_use]
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// Crashes since the last stable time in Ready, or since an operator asked for a start.
    #[must_use]
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// True when this instance has crashed once since the counter was cleared.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.crashes <= 1
    }
}

/// Restarts of the whole node: a poisoned event that kills every worker must not become a fork storm.
#[derive(Debug, Clone, Default)]
pub struct RestartBucket {
    taken: VecDeque<Time>,
}

impl RestartBucket {
    /// Takes a token. `Err` holds the time at which one is free again.
    ///
    /// # Errors
    /// [`RESTART_BUCKET`] restarts lie within the last [`RESTART_WINDOW`].
    pub fn take(&mut self, now: Time) -> Result<(), Time> {
        while self.taken.front().is_some_and(|at| now.saturating_sub(*at) >= RESTART_WINDOW) {
            self.taken.pop_front();
        }
        match self.taken.front() {
            Some(first) if self.taken.len() >= RESTART_BUCKET => Err(*first + RESTART_WINDOW),
            _ => {
                self.taken.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { base: BACKOFF_BASE, factor: BACKOFF_FACTOR, cap: BACKOFF_CAP, jitter: BACKOFF_JITTER, reset_after: BACKOFF_RESET };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn crash(at: u64, ready_for: Option<u64>) -> Crash {
        Crash { at: Duration::from_secs(at), ready_for: ready_for.map(Duration::from_secs), heavy: false, jitter: 0.0 }
    }

    #[test]
    fn follows_the_sequence_and_stays_at_the_cap() {
        let mut backoff = Backoff::default();
        let got: Vec<u128> = (0..12).map(|n| backoff.on_crash(crash(n, Some(1)), &POLICY).as_millis()).collect();
        assert_eq!(got, [0, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
    }

    #[test]
    fn forgets_after_a_stable_time_and_not_before() {
        let mut backoff = Backoff::default();
        for n in 0..4 {
            backoff.on_crash(crash(n, Some(1)), &POLICY);
        }
        assert_ne!(backoff.on_crash(crash(80, Some(59)), &POLICY), Duration::ZERO);
        assert_eq!(backoff.on_crash(crash(200, Some(61)), &POLICY), Duration::ZERO);
    }

    #[test]
    fn death_before_ready_starts_with_a_delay() {
        assert_eq!(Backoff::default().on_crash(crash(0, None), &POLICY), BACKOFF_BASE);
    }

    #[test]
    fn hang_costs_one_step() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.on_crash(Crash { heavy: true, ..crash(0, Some(1)) }, &POLICY), BACKOFF_BASE);
    }

    #[test]
    fn flags_a_crash_loop() {
        let mut backoff = Backoff::default();
        for n in 0..4 {
            backoff.on_crash(crash(n, Some(1)), &POLICY);
            assert_eq!(backoff.crash_loop(), None);
        }
        backoff.on_crash(crash(5, Some(1)), &POLICY);
        assert_eq!((backoff.crash_loop(), backoff.crash_loop_end(None, &POLICY)), (Some(s(5)), None));
        // At the cap only two crashes fit into a minute: it is the same loop.
        for n in 1..10 {
            backoff.on_crash(crash(5 + 30 * n, Some(1)), &POLICY);
        }
        assert_eq!((backoff.crash_loop(), backoff.crash_loop_end(Some(s(290)), &POLICY)), (Some(s(5)), Some(s(350))));
        backoff.on_crash(crash(400, Some(61)), &POLICY);
        assert_eq!((backoff.crash_loop(), backoff.crash_loop_end(Some(s(400)), &POLICY)), (None, None), "it was stable in between");
    }

    #[test]
    fn numbers_that_grow_beyond_all_bounds_end_at_the_cap() {
        let huge = Policy { base: s(3600), factor: 100.0, cap: s(86_400), ..POLICY };
        assert_eq!([1, 2, 3, 4, u32::MAX].map(|n| huge.delay(n)), [s(0), s(3600), s(86_400), s(86_400), s(86_400)]);
        let level = Policy { factor: 1.0, ..POLICY };
        assert_eq!([2, 3, u32::MAX].map(|n| level.delay(n)), [BACKOFF_BASE; 3]);
        assert_eq!(Policy { jitter: 1.0, ..POLICY }.jittered(s(86_400), 1.0), s(172_800));
    }

    #[test]
    fn jitter_is_a_fifth() {
        assert_eq!(POLICY.jittered(s(10), 1.0), Duration::from_secs(12));
        assert_eq!(POLICY.jittered(s(10), -9.0), Duration::from_secs(8));
    }

    #[test]
    fn bucket_refuses_the_eleventh_and_says_when() {
        let mut bucket = RestartBucket::default();
        for n in 0..10 {
            assert_eq!(bucket.take(Duration::from_millis(n)), Ok(()));
        }
        assert_eq!(bucket.take(Duration::from_secs(1)), Err(Duration::from_secs(10)));
        assert_eq!(bucket.take(Duration::from_secs(10)), Ok(()));
    }
}
