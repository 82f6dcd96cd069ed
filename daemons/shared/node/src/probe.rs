//! When a daemon counts as hung that somebody reported as making no progress. The host asks it a few times whether it lives; here is what
//! the answers say.

use std::time::Duration;

/// Deadline of one check; two in a row decide.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Checks of one probe that count; one answer is enough. Source: architecture §5a.
pub const CHECKS: u8 = 2;
/// A check that took so much longer than its deadline shows that the host was late itself: it does not count.
pub const LAG_MAX: Duration = Duration::from_millis(250);
/// Checks of one probe, those that do not count included.
pub const ROUNDS_MAX: u8 = 8;
/// Time to leave a core file between SIGABRT and SIGKILL after a probe: short, so that a hang which somebody waits for is repaired within five
/// seconds (two for the probe, this, and the start). Source: architecture §5a.
pub const ABORT_GRACE: Duration = Duration::from_secs(1);
const _: () = assert!(ROUNDS_MAX > CHECKS);

/// What a probe found without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host was late too often to say anything: the daemon is left alone.
    Unknown,
    /// The daemon does not answer.
    Silent,
}

/// Checks of one probe that were not answered.
#[derive(Debug, Default)]
pub struct Misses {
    counted: u8,
    rounds: u8,
}

impl Misses {
    /// One more, and how long it took with its wait. The verdict, or none yet: then it is asked again. A check that took longer than its timeout
    /// says that the host was late itself, and nothing about the daemon: on a machine that stands still it would be killed for it. After too
    /// many of them others are left to find out, the liveness checks of the supervisor or the watchdog of systemd.
    pub fn one(&mut self, took: Duration) -> Option<Verdict> {
        self.rounds += 1;
        self.counted += u8::from(took <= CHECK_TIMEOUT + LAG_MAX);
        if self.counted >= CHECKS {
            return Some(Verdict::Silent);
        }
        (self.rounds >= ROUNDS_MAX).then_some(Verdict::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_14_a_probe_that_the_host_was_late_for_kills_nobody() {
        let (timely, late) = (CHECK_TIMEOUT, CHECK_TIMEOUT * 2);
        let verdict = |rounds: &[Duration]| {
            let mut misses = Misses::default();
            rounds.iter().map(|took| misses.one(*took)).collect::<Vec<_>>()
        };
        assert_eq!(verdict(&[timely, timely]), [None, Some(Verdict::Silent)]);
        assert_eq!(verdict(&[CHECK_TIMEOUT + LAG_MAX; 2]), [None, Some(Verdict::Silent)], "a little late is every host");
        assert_eq!(verdict(&[late, timely, late, timely]), [None, None, None, Some(Verdict::Silent)]);
        let mut rounds = vec![None; usize::from(ROUNDS_MAX)];
        rounds[usize::from(ROUNDS_MAX) - 1] = Some(Verdict::Unknown);
        assert_eq!(verdict(&vec![late; usize::from(ROUNDS_MAX)]), rounds);
    }
}
