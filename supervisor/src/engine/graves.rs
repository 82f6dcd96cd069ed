//! Children that have ended and are not reaped yet: what else an end brings comes first.

use std::time::Instant;

use crate::limits::BURY_DELAY;
use crate::process::Process;

/// Those that ended together. The first of them decides when they go, so that a stream of ends does not keep their descriptors.
#[derive(Debug, Default)]
pub(super) struct Graves {
    dead: Vec<Process>,
    due: Option<Instant>,
}

impl Graves {
    /// One more.
    pub(super) fn add(&mut self, process: Process, now: Instant) {
        self.dead.push(process);
        self.due.get_or_insert(now + BURY_DELAY);
    }

    /// When they are to be let go.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Their numbers are not free yet.
    pub(super) fn processes(&self) -> &[Process] {
        &self.dead
    }

    /// Lets go of them.
    pub(super) fn bury(&mut self) {
        self.due = None;
        self.dead.drain(..).for_each(Process::bury);
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    #[test]
    fn a_stream_of_ends_does_not_put_off_the_burial() {
        let dead = || Process::adopted(getpid(), pidfd_open(getpid(), PidfdFlags::empty()).unwrap(), "");
        let (mut graves, mut now, mut most) = (Graves::default(), Instant::now(), 0);
        for _ in 0..100 {
            now += BURY_DELAY / 4;
            if graves.due().is_some_and(|at| at <= now) {
                graves.bury();
            }
            graves.add(dead(), now);
            most = most.max(graves.processes().len());
        }
        assert_eq!(most, 4, "as many as end within the delay");
        graves.bury();
        assert!(graves.processes().is_empty() && graves.due().is_none());
    }
}
