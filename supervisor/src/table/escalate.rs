//! Crash loops that end: by a stable time, or, where the policy of the daemon says so, with the whole node (`design/supervisor.md` §4.4,
//! `escalate`). Off unless it does.

use super::{Action, Instance, Op, Table};
use crate::backoff::Time;

impl Table {
    /// Takes back the flag of who was ready for long enough. Orders the end of the node, once: who watches the supervisor decides what follows.
    pub(super) fn loops(&mut self, now: Time) {
        for instance in self.instances.values_mut().filter(|i| i.crash_loop_end(&self.spec).is_some_and(|at| at <= now)) {
            instance.backoff.settle();
        }
        let due = self.instances.values().filter_map(|i| Some((self.escalation(i)?, i.name))).min();
        let Some((_, name)) = due.filter(|(at, _)| *at <= now) else {
            self.escalated = false;
            return;
        };
        if !std::mem::replace(&mut self.escalated, true) {
            self.out.push(Action::Escalate(name));
        }
    }

    /// When a crash loop is over or becomes the end of the node.
    pub(super) fn next_loop(&self) -> Option<Time> {
        let ends = self.instances.values().filter_map(|i| i.crash_loop_end(&self.spec));
        let escalations = self.instances.values().filter(|_| !self.escalated).filter_map(|i| self.escalation(i));
        ends.chain(escalations).min()
    }

    /// When the crash loop of an instance has lasted too long. Held or not wanted, it keeps nobody waiting.
    fn escalation(&self, instance: &Instance) -> Option<Time> {
        let after = self.spec.daemons.get(&instance.name.daemon)?.escalate_after?;
        let counts = self.wanted(instance.name) && !self.held.contains(&instance.name) && !self.ops.iter().any(Op::leaves);
        instance.backoff.crash_loop().filter(|_| counts).map(|since| since + after)
    }
}
