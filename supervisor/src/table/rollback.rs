//! The other end of a start: what it began goes down again, what was there before stays (`design/supervisor.md` §4.3).

use std::collections::BTreeSet;

use wk_types::InstanceName;

use super::op::Phase;
use super::{Kind, Op, Request, Table};
use crate::backoff::Time;

impl Table {
    /// Targets of a start that run, or that an admitted node wants, already: they are not its to take back.
    pub(super) fn ran_before(&self, request: &Request, targets: &BTreeSet<InstanceName>) -> BTreeSet<InstanceName> {
        let starts = request.kind == Kind::Start;
        let ran = |n: &InstanceName| self.wanted(*n) && (self.admitted || (!request.full() && self.live(*n)));
        targets.iter().filter(|n| starts && ran(n)).copied().collect()
    }

    /// Turns a start round: what it started goes down again, in reverse.
    pub(super) fn fail_start(&mut self, op: &Op, name: Option<InstanceName>, code: u32, message: &str) -> bool {
        if let Some(op) = self.op_mut(op.id) {
            op.end.failed = name;
            op.end.code = code;
            message.clone_into(&mut op.end.message);
        }
        if op.request.flags.no_rollback {
            self.close_op(op.id, if code == 6 { 5 } else { code }, message.to_owned());
            return true;
        }
        self.op_text(op.id, name, format!("start failed: {message}; rolling back"));
        let begun: BTreeSet<InstanceName> = op.targets.difference(&op.ran).copied().collect();
        self.stopped.extend(begun.iter().copied());
        self.retract(op.full() && !op.keeps);
        if let Some(op) = self.op_mut(op.id) {
            op.targets = begun;
            op.phase = Phase::Rollback;
        }
        true
    }

    /// The node is no longer admitted: after a stop the next start admits anew.
    pub(super) fn retract(&mut self, full: bool) {
        if full {
            self.admitted = false;
            for run in self.instances.values_mut().filter_map(|i| i.run.as_mut()) {
                run.admitted = false;
            }
        }
    }

    /// Marks targets of a start that were ready before and have said for their start timeout that they cannot take work: nobody else judges
    /// them, and the start would never end. True when there is a new one.
    pub(super) fn mark_late(&mut self, now: Time, op: &Op) -> bool {
        let late: Vec<InstanceName> =
            op.targets.iter().filter(|n| self.late_at_start(op, **n).is_some_and(|at| at <= now)).copied().collect();
        if let Some(op) = self.op_mut(op.id) {
            op.late.extend(late.iter().copied());
        }
        !late.is_empty()
    }

    /// When the next target of a start is late.
    pub(super) fn next_late(&self, op: &Op) -> Option<Time> {
        op.targets.iter().filter_map(|n| self.late_at_start(op, *n)).min()
    }

    /// It is late and still cannot take work.
    pub(super) fn is_late(&self, op: &Op, name: InstanceName) -> bool {
        op.late.contains(&name) && self.lost_since(name).is_some()
    }

    fn late_at_start(&self, op: &Op, name: InstanceName) -> Option<Time> {
        let counts = matches!(op.phase, Phase::Start { .. }) && self.wanted(name) && !self.held.contains(&name) && !op.late.contains(&name);
        let since = self.lost_since(name).filter(|_| counts)?;
        Some(since.max(op.began) + self.start_timeout(name.daemon))
    }

    /// Since when an instance that was ready says that it cannot take work.
    fn lost_since(&self, name: InstanceName) -> Option<Time> {
        self.instances.get(&name)?.run.as_ref().filter(|r| r.ending.is_none() && r.unconfirmed.is_none())?.lost
    }
}
