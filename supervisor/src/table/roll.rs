//! New generations a few at a time, and another number of slots.

use std::collections::{BTreeSet, VecDeque};

use wk_types::InstanceName;

use super::op::{Op, Phase};
use super::surge::Surge;
use super::{EndStep, Instance, Kind, LastEnd, Pace, Request, Rest, Table};
use crate::backoff::Time;

/// One instance on its way to a new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) name: InstanceName,
    /// Generation that is replaced.
    pub(super) old: u64,
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
    pub(super) surge: Surge,
    /// Exit code of a failure.
    code: u32,
    /// When the youngest of the current ones has been Ready for long enough.
    pub(super) deadline: Option<Time>,
}

impl Roll {
    /// The canary has been taken.
    pub(super) fn paused(&self) -> bool {
        self.pace.canary > 0 && self.taken >= self.pace.canary
    }

    /// Whose turn is next.
    pub(super) fn next(&self) -> Option<InstanceName> {
        self.queue.front().copied()
    }
}

impl Table {
    pub(super) fn plan_roll(&self, request: &Request, targets: &BTreeSet<InstanceName>) -> Roll {
        let roll = request.kind == Kind::Roll;
        let pace = if roll { request.flags.roll } else { Pace::default() };
        Roll {
            queue: self.turn_order(targets, pace).into(),
            current: Vec::new(),
            taken: 0,
            done: Vec::new(),
            skipped: Vec::new(),
            pace: Pace { max_unavailable: pace.size(), ..pace },
            surge: Surge::new(pace.surge),
            code: if roll { 8 } else { 5 },
            deadline: None,
        }
    }

    /// Why an instance is passed over.
    fn skips(&self, name: InstanceName) -> Option<&'static str> {
        let instance = self.instances.get(&name).filter(|_| self.wanted(name) && name.slot < self.slots(name.daemon));
        let Some(instance) = instance else { return Some("is not wanted any more") };
        if self.held.contains(&name) {
            return Some("is held");
        }
        // It has not begun to work: the generation stays, the wait goes on.
        instance.run.as_ref().is_some_and(|r| r.times.activate.is_none() && r.ending.is_none()).then_some("was not running yet")
    }

    /// Wanted, by the configuration or for the time of this roll, and not only until its share has moved.
    fn stays(&self, name: InstanceName) -> bool {
        self.wanted(name) && name.slot < self.in_use(name.daemon)
    }

    pub(super) fn progress_roll(&mut self, now: Time, op: &Op, mut roll: Roll) -> bool {
        let before = roll.clone();
        roll.deadline = None;
        if let Err((name, text)) = self.judge_all(now, op, &mut roll) {
            return self.fail_roll(op, &roll, name, &text);
        }
        if let Some((name, text)) = self.surge_failure(&roll) {
            return self.fail_roll(op, &roll, name, &text);
        }
        self.lift(op, &mut roll);
        self.take_turns(now, op, &mut roll);
        if roll.current.is_empty() && roll.surge.is_over() && (roll.queue.is_empty() || roll.paused()) {
            self.close_op(op.id, 0, finished(&roll, op.request.kind));
            return true;
        }
        let changed = Roll { deadline: None, ..before } != Roll { deadline: None, ..roll.clone() };
        self.set_phase(op.id, Phase::Roll(roll));
        self.add_slots();
        changed
    }

    /// What has become of the turns under way, those of added slots first; the first bad one with its reason.
    fn judge_all(&mut self, now: Time, op: &Op, roll: &mut Roll) -> Result<(), (InstanceName, String)> {
        let added = std::mem::take(&mut roll.surge.proving).into_iter().map(|turn| (turn, true));
        let turns: Vec<(Turn, bool)> = added.chain(std::mem::take(&mut roll.current).into_iter().map(|turn| (turn, false))).collect();
        for (turn, added) in turns {
            match self.judge(now, turn, roll) {
                Verdict::Bad(text) => return Err((turn.name, text)),
                Verdict::Good if added => self.op_text(op.id, Some(turn.name), "proved, takes its share".into()),
                Verdict::Good => {
                    self.op_text(op.id, Some(turn.name), format!("proved ({} of {})", roll.done.len() + 1, op.targets.len()));
                    roll.done.push(turn.name);
                }
                Verdict::Away(_) if added => {}
                Verdict::Away(text) => roll.skipped.push(format!("{} {text}", turn.name)),
                Verdict::Wait(until) => {
                    roll.deadline = roll.deadline.into_iter().chain(until).min();
                    let kept = if added { &mut roll.surge.proving } else { &mut roll.current };
                    kept.push(turn);
                }
            }
        }
        Ok(())
    }

    fn take_turns(&mut self, now: Time, op: &Op, roll: &mut Roll) {
        while let Some(next) = roll.queue.front().copied() {
            let full = roll.current.len() >= roll.pace.max_unavailable as usize;
            // Different daemons are never away together.
            let other = roll.current.first().is_some_and(|t| t.name.daemon != next.daemon);
            let room = self.spares(roll, next);
            if roll.paused() || full || other || !room || self.instances.get(&next).is_some_and(|i| matches!(i.rest, Rest::Spawning)) {
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
            let missed = roll.surge.count > 0 && self.instances.get(&next).is_some_and(Instance::ready);
            self.end(now, next, None, if op.request.flags.now { EndStep::Kill } else { EndStep::Term });
            debug_assert!(!missed || self.ready_slots(next.daemon) >= usize::from(self.slots(next.daemon)), "{next} would be missed");
        }
    }

    fn judge(&self, now: Time, turn: Turn, roll: &Roll) -> Verdict {
        let Some(instance) = self.instances.get(&turn.name).filter(|_| self.stays(turn.name)) else {
            return Verdict::Away("is not wanted any more");
        };
        if self.held.contains(&turn.name) && instance.run.is_none() {
            return Verdict::Away("is held");
        }
        if instance.generation <= turn.old {
            return Verdict::Wait(None);
        }
        // Waiting for a restart, or a third generation: the new one died.
        if matches!(instance.rest, Rest::Backoff { .. } | Rest::Failed(_) | Rest::Exited) || instance.generation > turn.old + 1 {
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
            _ => instance.last_end.as_ref().map_or_else(|| "it crashed".to_owned(), LastEnd::text),
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
            // An added slot does not stay: to go on means those that were to be replaced.
            let again = if self.adds(roll, name) { list.clone() } else { format!("{name} {list}") };
            format!("left as they were: {list}; to go on: wkctl {} {again}{}", op.request.kind.name(), surge_option(roll))
        };
        self.close_op(op.id, roll.code, format!("{name} failed: {text}; {rest}{}", self.surge_rest(roll)));
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
    format!("canary: rolled {count}{skipped}; to go on: wkctl roll {}{}", left.join(" "), surge_option(roll))
}

/// The option that makes a second command do as the first.
fn surge_option(roll: &Roll) -> String {
    if roll.surge.count == 0 { String::new() } else { format!(" --surge {}", roll.surge.count) }
}
