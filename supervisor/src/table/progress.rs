//! More time for who works: a start that replays a log, a store that flushes (`design/supervisor.md`, rows 10 and 23).
//!
//! The witness is the work that the kernel counts for the process (CPU time, bytes read and written, threads that wait for a disk), so that a
//! daemon need not report anything and one that hangs cannot pretend.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wk_types::InstanceName;

use super::{Action, EndStep, Run, Table};
use crate::backoff::Time;
use crate::limits::{WORK_EVERY, WORK_MIN, WORK_WINDOW};
use crate::process::Work;

/// What was seen of a process's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Next look.
    next: Time,
    /// Units at the last look.
    units: Option<u64>,
    /// When it was last seen to work.
    worked: Option<Time>,
    /// The start deadline was moved to here.
    pub(super) extended: Option<Time>,
}

impl Progress {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(spawn: Time) -> Self {
        Self { next: spawn + WORK_EVERY, ..Self::default() }
    }

    /// What is seen now.
    pub fn look(&mut self, now: Time, work: Work) {
        if work.waits || self.units.is_some_and(|last| work.units.saturating_sub(last) >= WORK_MIN) {
            self.worked = Some(now);
        }
        self.units = Some(work.units);
    }

    /// It worked a moment ago.
    #[must_use]
    pub fn recent(&self, now: Time) -> bool {
        self.worked.is_some_and(|at| now.saturating_sub(at) <= WORK_WINDOW)
    }
}

impl Table {
    /// Asks for the work of those whose deadline depends on it.
    pub(super) fn looks(&mut self, now: Time) {
        for name in self.names() {
            let watched = self.watches(name);
            let Some(instance) = self.instances.get_mut(&name) else { continue };
            let generation = instance.generation;
            if let Some(run) = instance.run.as_mut().filter(|r| watched && r.progress.next <= now) {
                run.progress.next = now + WORK_EVERY;
                self.out.push(Action::Look(name, generation));
            }
        }
    }

    /// Next time at which [`Self::looks`] asks.
    pub(super) fn next_look(&self) -> Option<Time> {
        self.instances.values().filter(|i| self.watches(i.name)).filter_map(|i| i.run.as_ref()).map(|r| r.progress.next).min()
    }

    fn watches(&self, name: InstanceName) -> bool {
        let Some(run) = self.instances.get(&name).and_then(|i| i.run.as_ref()) else { return false };
        match &run.ending {
            None => !self.held.contains(&name) && run.start_deadline(Duration::ZERO).is_some(),
            Some(ending) => ending.step == EndStep::Term && self.hard_stop(name).is_some(),
        }
    }

    fn hard_stop(&self, name: InstanceName) -> Option<Duration> {
        self.spec.daemons.get(&name.daemon).and_then(|d| d.hard_stop)
    }

    /// Moves the deadline of a stop on, when the daemon must not be killed while it works. True when it did.
    pub(super) fn lets_finish(&mut self, now: Time, name: InstanceName) -> bool {
        let kills = self.ops.iter().any(|o| o.covers(name) && o.request.flags.now);
        let hard = self.hard_stop(name);
        let Some(run) = self.instances.get_mut(&name).and_then(|i| i.run.as_mut()) else { return false };
        let recent = run.progress.recent(now);
        match (&mut run.ending, hard) {
            (Some(ending), Some(hard)) if ending.step == EndStep::Term && recent && !kills && now < ending.began + hard => {
                ending.deadline = now + WORK_EVERY;
                true
            }
            _ => false,
        }
    }

    /// Moves the deadline of a start on, as long as the daemon works, up to its maximum. True when it did.
    pub(super) fn lets_start(&mut self, now: Time, name: InstanceName) -> bool {
        let (timeout, max) = self.spec.daemons.get(&name.daemon).map_or_else(Default::default, |d| (d.start_timeout, d.start_timeout_max));
        let Some(run) = self.instances.get_mut(&name).and_then(|i| i.run.as_mut()) else { return false };
        let limit = run.first_start_deadline(max.max(timeout));
        let extend = run.progress.recent(now) && limit.is_some_and(|limit| now < limit);
        if extend {
            run.progress.extended = Some(now + WORK_EVERY);
        }
        extend
    }
}

impl Run {
    /// When a start counts as stuck; `None` while there is nothing to wait for on its side.
    #[must_use]
    pub fn start_deadline(&self, timeout: Duration) -> Option<Time> {
        let first = self.first_start_deadline(timeout)?;
        Some(self.progress.extended.map_or(first, |extended| first.max(extended)))
    }
}
