//! Restart of a daemon that lives and says for too long that it cannot take work (`design/supervisor.md`, row 11). Off unless its policy says so.

use wk_types::InstanceName;

use super::{EndStep, Table};
use crate::backoff::Time;
use crate::cause::Cause;

impl Table {
    /// Starts and stops the clocks of those who say so, and ends whose time is over. A daemon whose requirements are away says so because of
    /// them: its clock begins when they are back.
    pub(super) fn unready(&mut self, now: Time) {
        if self.spec.daemons.values().all(|d| d.unready_restart.is_none()) {
            return;
        }
        for name in self.names() {
            let counts = self.is_unready(name);
            if let Some(run) = self.instances.get_mut(&name).and_then(|i| i.run.as_mut()) {
                run.unready = counts.then(|| run.unready.unwrap_or(now));
            }
            if self.unready_deadline(name).is_some_and(|at| at <= now) {
                self.end(now, name, Some(Cause::Unready), EndStep::Term);
            }
        }
    }

    /// When the next of them is ended.
    pub(super) fn next_unready(&self) -> Option<Time> {
        self.instances.keys().filter_map(|name| self.unready_deadline(*name)).min()
    }

    fn is_unready(&self, name: InstanceName) -> bool {
        let policy = self.spec.daemons.get(&name.daemon).is_some_and(|d| d.unready_restart.is_some());
        let says = |i: &super::Instance| {
            i.run.as_ref().is_some_and(|r| r.times.ready.is_some() && !r.serving && r.ending.is_none() && r.unconfirmed.is_none())
        };
        policy && self.instances.get(&name).is_some_and(says) && !self.held.contains(&name) && self.requires_ready(name.daemon)
    }

    fn unready_deadline(&self, name: InstanceName) -> Option<Time> {
        let run = self.instances.get(&name)?.run.as_ref().filter(|r| r.ending.is_none())?;
        Some(run.unready? + self.spec.daemons.get(&name.daemon)?.unready_restart?)
    }
}
