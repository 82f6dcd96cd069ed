//! Rate limit of a log site that a peer can trigger.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lets one event through per period and counts the others. Made to be a `static` beside the log site.
///
/// ```
/// use std::time::Duration;
/// static BAD_FRAME: wk_telemetry::RateLimited = wk_telemetry::RateLimited::every(Duration::from_secs(1));
/// if let Some(suppressed) = BAD_FRAME.pass() {
///     tracing::warn!(suppressed, "malformed frame");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimited {
    period: Duration,
    /// Microseconds since `start()` from which the next event passes.
    next_us: AtomicU64,
    suppressed: AtomicU64,
}

impl RateLimited {
    /// One event per `period`; the first passes at once.
    #[must_use]
    pub const fn every(period: Duration) -> Self {
        Self { period, next_us: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// `Some(events held back since the last one that passed)` when this event may be logged, `None` when it is held back.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(micros(start().elapsed()))
    }

    fn pass_at(&self, now_us: u64) -> Option<u64> {
        let next = self.next_us.load(Ordering::Relaxed);
        let after = now_us.saturating_add(micros(self.period)).max(1);
        // Exactly one of the threads that see the period over wins the exchange.
        if now_us < next || self.next_us.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_holds_back() {
        let limit = RateLimited::every(Duration::from_micros(100));
        assert_eq!(limit.pass_at(0), Some(0));
        assert_eq!(limit.pass_at(99), None);
        assert_eq!(limit.pass_at(99), None);
        assert_eq!(limit.pass_at(100), Some(2));
        assert_eq!(limit.pass_at(150), None);
    }
}
