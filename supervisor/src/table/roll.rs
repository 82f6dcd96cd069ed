//! New generations a few at a time, and another number of slots.

use std::collections::{BTreeSet, VecDeque};

use wk_types::InstanceName;

use super::op::{Op, Phase};
use super::{EndStep, Instance, Kind, Pace, Request, Rest, Table};
use crate::backoff::Time;

/// One instance on its way to a new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) name: InstanceName,
    /// Generation that is replaced.
    old: u64,
}

/// A roll or partial restart under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roll {
    queue: VecDeque<InstanceName>,
    pub(super) current: Vec<Turn>,
    taken: u32,
    done: Vec<InstanceName>,
    skipped: Vec<String>,
    pace: Pace,
    /// Exit code of a failure.
    code: u32,
    /// When the youngest of the current ones has been Ready for long enough.
    pub(super) deadline: Option<Time>,
}

impl Roll {
    /// The canary has been taken.
    fn paused(&self) -> bool {
        self.pace.canary > 0 && self.taken >= self.pace.canary
    }
}

impl Table {
    pub(super) fn plan_roll(&self, request: &Request, targets: &BTreeSet<InstanceName>) -> Roll {
        let roll = request.kind == Kind::Roll;
        let pace = if roll { request.flags.roll } else { Pace::default() };
        Roll {
            queue: targets.iter().copied().collect(),
            current: Vec::new(),
            taken: 0,
            done: Vec::new(),
            skipped: Vec::new(),
            pace: Pace { max_unavailable: pace.max_unavailable.max(1), ..pace },
            code: if roll { 8 } else { 5 },
            deadline: None,
        }
    }

    /// Why an instance is passed over.
    fn skips(&self, name: InstanceName) -> Option<&'static str> {
        let instance = self.instances.get(&name).filter(|_| self.wanted(name));
        let Some(instance) = instance else { return Some("is not wanted any more") };
        if self.held.contains(&name) {
            return Some("is held");
        }
        // It has not begun to work: the generation stays, the wait goes on.
        instance.run.as_ref().is_some_and(|r| r.times.activate.is_none() && r.ending.is_none()).then_some("was not running yet")
    }

    pub(super) fn progress_roll(&mut self, now: Time, op: &Op, mut roll: Roll) -> bool {
        let before = roll.clone();
        roll.deadline = None;
        for turn in std::mem::take(&mut roll.current) {
            match self.judge(now, turn, &roll) {
                Verdict::Bad(text) => return self.fail_roll(op, &roll, turn.name, &text),
                Verdict::Good => {
                    self.op_text(op.id, Some(turn.name), format!("proved ({} of {})", roll.done.len() + 1, op.targets.len()));
                    roll.done.push(turn.name);
                }
                Verdict::Away(text) => roll.skipped.push(format!("{} {text}", turn.name)),
                Verdict::Wait(until) => {
                    roll.deadline = roll.deadline.into_iter().chain(until).min();
                    roll.current.push(turn);
                }
            }
        }
        self.take_turns(now, op, &mut roll);
        if roll.current.is_empty() && (roll.queue.is_empty() || roll.paused()) {
            self.close_op(op.id, 0, finished(&roll, op.request.kind));
            return true;
        }
        let changed = Roll { deadline: None, ..before } != Roll { deadline: None, ..roll.clone() };
        self.set_phase(op.id, Phase::Roll(roll));
        changed
    }

    fn take_turns(&mut self, now: Time, op: &Op, roll: &mut Roll) {
        while let Some(next) = roll.queue.front().copied() {
            let full = roll.current.len() >= roll.pace.max_unavailable as usize;
            // Different daemons are never away together.
            let other = roll.current.first().is_some_and(|t| t.name.daemon != next.daemon);
            if roll.paused() || full || other || self.instances.get(&next).is_some_and(|i| matches!(i.rest, Rest::Spawning)) {
                break;
            }
            roll.queue.pop_front();
            if let Some(reason) = self.skips(next) {
                self.op_text(op.id, Some(next), format!("passed over: it {reason}"));
                roll.skipped.push(format!("{next} {reason}"));
                continue;
            }
            let Some(instance) = self.instances.get_mut(&next) else { continue };
            instance.clear();
            roll.current.push(Turn { name: next, old: instance.generation });
            roll.taken += 1;
            self.end(now, next, None, EndStep::Term);
        }
    }

    fn judge(&self, now: Time, turn: Turn, roll: &Roll) -> Verdict {
        let Some(instance) = self.instances.get(&turn.name).filter(|_| self.wanted(turn.name)) else {
            return Verdict::Away("is not wanted any more");
        };
        if self.held.contains(&turn.name) && instance.run.is_none() {
            return Verdict::Away("is held");
        }
        if instance.generation <= turn.old {
            return Verdict::Wait(None);
        }
        // Waiting for a restart, or a third generation: the new one died.
        if matches!(instance.rest, Rest::Backoff { .. } | Rest::Failed(_)) || instance.generation > turn.old + 1 {
            return Verdict::Bad(self.failure(turn.name).unwrap_or_else(|| self.last_words(instance)));
        }
        if let Some(text) = self.failure(turn.name) {
            return Verdict::Bad(text);
        }
        let ready_at = instance.run.as_ref().filter(|r| r.ready()).and_then(|r| r.times.ready);
        match ready_at.map(|at| at + roll.pace.min_ready) {
            Some(proved) if proved <= now => Verdict::Good,
            proved => Verdict::Wait(proved),
        }
    }

    fn last_words(&self, instance: &Instance) -> String {
        match &instance.rest {
            Rest::Backoff { cause, .. } => cause.to_string(),
            _ => instance.last_end.as_ref().map_or_else(|| "it crashed".to_owned(), |end| end.exit.to_string()),
        }
    }

    fn fail_roll(&mut self, op: &Op, roll: &Roll, name: InstanceName, text: &str) -> bool {
        if let Some(op) = self.op_mut(op.id) {
            op.end.failed = Some(name);
        }
        let left: Vec<String> = roll.queue.iter().map(ToString::to_string).collect();
        let rest = if left.is_empty() {
            "nothing was left to do after it".to_owned()
        } else {
            let list = left.join(" ");
            format!("left as they were: {list}; to go on: wkctl {} {name} {list}", op.request.kind.name())
        };
        self.close_op(op.id, roll.code, format!("{name} failed: {text}; {rest}"));
        true
    }

    pub(super) fn progress_scale(&mut self, op: &Op) -> bool {
        let Kind::Scale(daemon, _) = op.request.kind else { return false };
        let added = op.targets.iter().filter(|n| self.wanted(**n));
        if let Some((name, text)) = added.clone().find_map(|n| self.failure(*n).map(|f| (*n, f))) {
            if let Some(op) = self.op_mut(op.id) {
                op.end.failed = Some(name);
            }
            self.close_op(op.id, 5, format!("{name} failed: {text}"));
            return true;
        }
        let up = added.clone().all(|n| self.held.contains(n) || self.instances.get(n).is_some_and(Instance::ready));
        let mut leaving = self.instances.values().filter(|i| i.name.daemon == daemon && !self.in_slots(i.name));
        let down = leaving.clone().next().is_none();
        // Buckets of a pool that is stopped move when it has been started.
        let idle = self.instances.values().filter(|i| i.name.daemon == daemon).all(|i| self.stopped.contains(&i.name));
        if up && (idle || self.share_settled(daemon)) && (down || leaving.all(|i| self.stuck(i.name))) {
            let slots = self.slots(daemon);
            let (code, text) = if down { (0, "") } else { (70, "; one of the old ones cannot be killed") };
            let plural = if slots == 1 { "" } else { "s" };
            self.close_op(op.id, code, format!("{daemon} has {slots} slot{plural}{text}"));
            return true;
        }
        false
    }
}

/// What a turn has come to.
enum Verdict {
    Good,
    Bad(String),
    Away(&'static str),
    Wait(Option<Time>),
}

fn finished(roll: &Roll, kind: Kind) -> String {
    let skipped = if roll.skipped.is_empty() { String::new() } else { format!("; {}", roll.skipped.join("; ")) };
    let count = roll.done.len();
    let word = if kind == Kind::Roll { "rolled" } else { "restarted" };
    if roll.queue.is_empty() {
        return format!("{word} {count}{skipped}");
    }
    let left: Vec<String> = roll.queue.iter().map(ToString::to_string).collect();
    format!("canary: rolled {count}{skipped}; to go on: wkctl roll {}", left.join(" "))
}
