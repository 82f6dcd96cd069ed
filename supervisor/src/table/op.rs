//! Operations: start, stop, restart, scale. At most one runs; it belongs to the supervisor, not to who asked for it.

use std::collections::{BTreeSet, VecDeque};

use wk_types::InstanceName;

use super::{Action, End, EndStep, Flags, Instance, Kind, Outcome, Report, Request, Rest, Stop, Table};
use crate::backoff::Time;
use crate::limits::{CLOSE_DEADLINE, FAST_DEADLINE, OPTIONAL_GRACE, QUIESCE_DEADLINE, START_ATTEMPTS};
use crate::timing::Timing;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Start { required_at: Option<Time> },
    Rollback,
    Quiesce { until: Time, then_start: bool },
    Drain { then_start: bool },
    Roll { queue: VecDeque<InstanceName>, current: Option<(InstanceName, u64)> },
    Scale,
}

/// The running operation.
#[derive(Debug, Clone)]
pub struct Op {
    id: u64,
    kind: Kind,
    key: String,
    flags: Flags,
    began: Time,
    full: bool,
    targets: BTreeSet<InstanceName>,
    phase: Phase,
    end: End,
}

impl Op {
    /// Number, from 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it does.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn hurries(&self) -> bool {
        self.flags.fast
    }

    pub(super) fn kills(&self) -> bool {
        self.flags.now
    }

    /// The node (or all that was started) is going down: nobody is admitted.
    pub(super) fn leaves(&self) -> bool {
        matches!(self.phase, Phase::Rollback | Phase::Quiesce { .. } | Phase::Drain { .. }) && self.full
    }

    /// A stop of everything that ends with nothing.
    pub(super) fn full_stop(&self) -> bool {
        self.full && self.kind == Kind::Stop
    }

    pub(super) fn quiescing(&self) -> bool {
        matches!(self.phase, Phase::Quiesce { .. } | Phase::Drain { .. }) && self.full
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Start { required_at } => required_at.map(|at| at + OPTIONAL_GRACE),
            Phase::Quiesce { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(super) fn stopped(&mut self, stop: Stop) {
        let shown = match &self.phase {
            Phase::Rollback | Phase::Drain { .. } | Phase::Quiesce { .. } => true,
            Phase::Start { .. } => false,
            Phase::Roll { .. } | Phase::Scale => stop.outcome != Outcome::Gone,
        };
        // Bounded: an instance in a crash loop during a long quiesce must not fill the table.
        if shown && self.end.stops.len() < 1024 {
            self.end.stops.push(stop);
        }
    }
}

impl Table {
    pub(super) fn open_op(&mut self, now: Time, request: Request, targets: BTreeSet<InstanceName>) -> u64 {
        let id = self.next_op;
        self.next_op += 1;
        let full = request.names.is_empty();
        let phase = match request.kind {
            Kind::Start => Phase::Start { required_at: None },
            Kind::Restart if !full => Phase::Roll { queue: targets.iter().copied().collect(), current: None },
            Kind::Stop | Kind::Restart => self.leave_phase(now, request.kind == Kind::Restart, full, request.flags),
            Kind::Scale(..) => Phase::Scale,
        };
        let quiesce = matches!(phase, Phase::Quiesce { .. });
        // Where nobody was admitted there is nothing to count.
        let report = (!self.serving()).then(Report::default);
        let end = End { code: 0, message: String::new(), timing: None, stops: Vec::new(), report, failed: None };
        self.op = Some(Op { id, kind: request.kind, key: request.key, flags: request.flags, began: now, full, targets, phase, end });
        if quiesce {
            let deadline = if request.flags.fast { FAST_DEADLINE } else { QUIESCE_DEADLINE };
            self.out.push(Action::Quiesce { op: id, deadline });
            self.out.push(Action::OpText { op: id, instance: None, text: "quiescing: no new work, what was accepted is finished".into() });
        }
        id
    }

    /// Some daemon has admitted clients.
    fn serving(&self) -> bool {
        self.instances.values().any(|i| i.run.as_ref().is_some_and(|r| r.admitted))
    }

    /// Quiesce first when clients are served by what is leaving.
    fn leave_phase(&self, now: Time, then_start: bool, full: bool, flags: Flags) -> Phase {
        if full && self.serving() && !flags.now {
            let time = if flags.fast { FAST_DEADLINE } else { QUIESCE_DEADLINE + CLOSE_DEADLINE };
            Phase::Quiesce { until: now + time, then_start }
        } else {
            Phase::Drain { then_start }
        }
    }

    /// Latest count of work under way; `done`: nothing is left to wait for. Counts of daemons that are already going down say nothing.
    pub fn quiesced(&mut self, now: Time, op: u64, report: Report, done: bool) {
        let Some(running) = self.op.as_mut().filter(|o| o.id == op) else { return };
        if let Phase::Quiesce { until, .. } = &mut running.phase {
            running.end.report = Some(report);
            if done {
                *until = now;
            }
        }
    }

    /// Ends the running operation early.
    pub(super) fn cancel_op(&mut self, by: &str) {
        if let Some(op) = &self.op {
            let (code, message) = match &op.phase {
                Phase::Rollback => (6, op.end.message.clone()),
                _ => (7, format!("cancelled by {by}")),
            };
            self.close_op(code, message);
        }
    }

    /// Shortens the deadlines of a running stop: 1 is `--fast`, 2 is `--now`.
    pub(super) fn hurry(&mut self, now: Time, flags: Flags) {
        let Some(op) = &mut self.op else { return };
        op.flags.fast |= flags.fast || flags.now;
        op.flags.now |= flags.now;
        let (kills, soon) = (op.flags.now, now + FAST_DEADLINE);
        if let Phase::Quiesce { until, .. } = &mut op.phase {
            *until = if kills { now } else { soon.min(*until) };
        }
        for instance in self.instances.values_mut() {
            if let Some(ending) = instance.run.as_mut().and_then(|r| r.ending.as_mut()).filter(|e| e.step < EndStep::Kill) {
                ending.deadline = if kills { now } else { soon.min(ending.deadline) };
            }
        }
    }

    fn close_op(&mut self, code: u32, message: String) {
        if let Some(op) = self.op.take() {
            let end = End { code, message, ..op.end };
            self.out.push(Action::OpEnd(op.id, Box::new(end)));
        }
    }

    /// Moves the running operation on; true when its phase changed or it ended.
    pub(super) fn progress(&mut self, now: Time) -> bool {
        let Some(op) = self.op.clone() else { return false };
        match &op.phase {
            Phase::Start { required_at } => self.progress_start(now, &op, *required_at),
            Phase::Rollback => {
                let gone = op.targets.iter().all(|n| !self.live(*n) || self.stuck(*n));
                if gone {
                    self.close_op(6, op.end.message.clone());
                }
                gone
            }
            Phase::Quiesce { until, then_start } => {
                let over = *until <= now;
                if over {
                    self.set_phase(Phase::Drain { then_start: *then_start });
                }
                over
            }
            Phase::Drain { then_start } => self.progress_drain(now, &op, *then_start),
            Phase::Roll { queue, current } => self.progress_roll(now, queue.clone(), *current),
            Phase::Scale => self.progress_scale(&op),
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(op) = &mut self.op {
            op.phase = phase;
        }
    }

    fn live(&self, name: InstanceName) -> bool {
        self.instances.get(&name).is_some_and(Instance::live)
    }

    fn stuck(&self, name: InstanceName) -> bool {
        let run = self.instances.get(&name).and_then(|i| i.run.as_ref());
        run.and_then(|r| r.ending.as_ref()).is_some_and(|e| e.step == EndStep::Stuck)
    }

    /// What keeps an instance from becoming ready for good, in words.
    fn failure(&self, name: InstanceName) -> Option<String> {
        let instance = self.instances.get(&name)?;
        match &instance.rest {
            Rest::Failed(cause) => Some(cause.to_string()),
            Rest::Backoff { cause, .. } if instance.start_crashes >= START_ATTEMPTS => Some(format!("{cause} ({START_ATTEMPTS} attempts)")),
            _ => instance
                .run
                .as_ref()?
                .ending
                .as_ref()?
                .cause
                .as_ref()
                .filter(|_| instance.run.as_ref().is_some_and(|r| r.times.ready.is_none()))
                .map(ToString::to_string),
        }
    }

    fn progress_start(&mut self, now: Time, op: &Op, required_at: Option<Time>) -> bool {
        let required = |n: &&InstanceName| self.spec.daemons.get(&n.daemon).is_some_and(|d| d.required);
        let failed: Vec<(InstanceName, String)> =
            op.targets.iter().filter(required).filter_map(|n| self.failure(*n).map(|f| (*n, f))).collect();
        if let Some((name, text)) = failed.first().filter(|_| !op.flags.keep_going) {
            return self.fail_start(op, *name, text);
        }
        let ready = |n: &InstanceName| self.instances.get(n).is_some_and(Instance::ready);
        let failed_names: Vec<InstanceName> = failed.iter().map(|(n, _)| *n).collect();
        let settled = |n: &InstanceName| ready(n) || failed_names.iter().any(|f| f == n || self.spec.depends(n.daemon, f.daemon));
        if !op.targets.iter().filter(required).all(settled) {
            // Lost again: the grace of the optional ones begins anew with the next time.
            let lost = required_at.is_some();
            if lost {
                self.set_phase(Phase::Start { required_at: None });
            }
            return lost;
        }
        if required_at.is_none() {
            self.set_phase(Phase::Start { required_at: Some(now) });
            return true;
        }
        let late = required_at.is_some_and(|at| at + OPTIONAL_GRACE <= now);
        if !late && !op.targets.iter().all(|n| settled(n) || self.failure(*n).is_some()) {
            return false;
        }
        let times: Vec<_> = op.targets.iter().filter_map(|n| Some((*n, self.instances.get(n)?.run.as_ref()?.times))).collect();
        let timing = Timing::build(&self.spec, op.began, &times);
        self.timing = Some(timing.clone());
        if let Some(op) = &mut self.op {
            op.end.timing = Some(timing);
            op.end.failed = failed.first().map(|(n, _)| *n);
        }
        match failed.first() {
            None => self.close_op(0, "ready".into()),
            Some((name, text)) => self.close_op(5, format!("{name} failed: {text}")),
        }
        true
    }

    /// Turns a start round: what it started goes down again, in reverse.
    fn fail_start(&mut self, op: &Op, name: InstanceName, text: &str) -> bool {
        let message = format!("{name} failed: {text}");
        if let Some(op) = &mut self.op {
            op.end.failed = Some(name);
            op.end.message.clone_from(&message);
        }
        if op.flags.no_rollback {
            self.close_op(5, message);
            return true;
        }
        self.out.push(Action::OpText { op: op.id, instance: Some(name), text: format!("start failed: {text}; rolling back") });
        self.stopped.extend(op.targets.iter().copied());
        self.retract(op.full);
        self.set_phase(Phase::Rollback);
        true
    }

    /// The node is no longer admitted: after a stop the next start admits anew.
    fn retract(&mut self, full: bool) {
        if full {
            self.admitted = false;
            for run in self.instances.values_mut().filter_map(|i| i.run.as_mut()) {
                run.admitted = false;
            }
        }
    }

    fn progress_drain(&mut self, now: Time, op: &Op, then_start: bool) -> bool {
        let before = self.stopped.len();
        self.stopped.extend(op.targets.iter().copied());
        if self.stopped.len() != before {
            self.retract(op.full);
            return true;
        }
        // A process that the kernel does not let go must not block the others for ever.
        if !op.targets.iter().all(|n| !self.live(*n) || self.stuck(*n)) {
            return false;
        }
        let stuck: Vec<String> = op.targets.iter().filter(|n| self.stuck(**n)).map(ToString::to_string).collect();
        if !stuck.is_empty() {
            self.close_op(70, format!("not killable: {}", stuck.join(", ")));
        } else if then_start {
            for name in &op.targets {
                self.stopped.remove(name);
                if let Some(instance) = self.instances.get_mut(name) {
                    instance.clear();
                }
            }
            if let Some(op) = &mut self.op {
                op.began = now;
            }
            self.set_phase(Phase::Start { required_at: None });
        } else {
            self.close_op(0, "stopped".into());
        }
        true
    }

    fn progress_roll(&mut self, now: Time, mut queue: VecDeque<InstanceName>, current: Option<(InstanceName, u64)>) -> bool {
        if let Some((name, old)) = current {
            let Some(instance) = self.instances.get(&name) else { return false };
            if instance.generation > old && (instance.start_crashes > 0 || matches!(instance.rest, Rest::Failed(_))) {
                let text = self.failure(name).unwrap_or_else(|| "crashed before it was ready".into());
                if let Some(op) = &mut self.op {
                    op.end.failed = Some(name);
                }
                self.close_op(5, format!("{name} failed: {text}; the rest was left as it was"));
                return true;
            }
            if instance.generation == old || !instance.ready() {
                return false;
            }
        }
        let Some(next) = queue.pop_front() else {
            self.close_op(0, "restarted".into());
            return true;
        };
        let generation = self.instances.get(&next).map_or(0, |i| i.generation);
        if let Some(instance) = self.instances.get_mut(&next) {
            instance.clear();
        }
        self.end(now, next, None, EndStep::Term);
        self.set_phase(Phase::Roll { queue, current: Some((next, generation)) });
        true
    }

    fn progress_scale(&mut self, op: &Op) -> bool {
        let Kind::Scale(daemon, _) = op.kind else { return false };
        let added = op.targets.iter().filter(|n| self.wanted(**n));
        if let Some((name, text)) = added.clone().find_map(|n| self.failure(*n).map(|f| (*n, f))) {
            if let Some(op) = &mut self.op {
                op.end.failed = Some(name);
            }
            self.close_op(5, format!("{name} failed: {text}"));
            return true;
        }
        let up = added.clone().all(|n| self.instances.get(n).is_some_and(Instance::ready));
        let down = self.instances.values().filter(|i| i.name.daemon == daemon).all(|i| self.in_slots(i.name));
        if up && down {
            let slots = self.slots.get(&daemon).copied().unwrap_or(1);
            self.close_op(0, format!("{daemon} has {slots} slots"));
        }
        up && down
    }
}
