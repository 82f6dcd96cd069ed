//! Operations: start, stop, restart, roll, scale. They belong to the supervisor, not to who asked for them; those that touch different
//! daemons run side by side, others wait for each other ([`super::command`]).

use std::collections::BTreeSet;

use wk_types::{Daemon, InstanceName};

use super::roll::Roll;
use super::{Action, End, EndStep, Flags, Instance, Kind, Outcome, Report, Request, Rest, State, Stop, Table};
use crate::backoff::Time;
use crate::limits::{CLOSE_DEADLINE, FAST_DEADLINE, OPTIONAL_GRACE, QUIESCE_DEADLINE, START_ATTEMPTS};
use crate::timing::Timing;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Start { required_at: Option<Time> },
    Rollback,
    Quiesce { until: Time, then_start: bool },
    Drain { then_start: bool },
    Roll(Roll),
    Scale,
}

/// A running operation.
#[derive(Debug, Clone)]
pub struct Op {
    pub(super) id: u64,
    pub(super) request: Request,
    pub(super) began: Time,
    pub(super) targets: BTreeSet<InstanceName>,
    /// Targets that were there before: a start that fails leaves them as they are.
    pub(super) ran: BTreeSet<InstanceName>,
    /// A start on a node that was admitted already, and stays so whatever becomes of it.
    pub(super) keeps: bool,
    /// Targets of a start that nothing is waited for any more.
    pub(super) late: BTreeSet<InstanceName>,
    pub(super) phase: Phase,
    pub(super) end: End,
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
        self.request.kind
    }

    /// It is about everything.
    #[must_use]
    pub fn full(&self) -> bool {
        self.request.full()
    }

    /// Part of what it changes.
    pub(super) fn covers(&self, name: InstanceName) -> bool {
        let added = self.surges() == Some(name.daemon);
        self.full() || added || self.targets.contains(&name) || matches!(self.request.kind, Kind::Scale(daemon, _) if daemon == name.daemon)
    }

    /// Daemons that no other operation may change meanwhile.
    pub(super) fn locks(&self) -> BTreeSet<Daemon> {
        let scaled = match self.request.kind {
            Kind::Scale(daemon, _) => Some(daemon),
            _ => None,
        };
        let all = self.full().then_some(Daemon::ALL).into_iter().flatten();
        self.targets.iter().map(|n| n.daemon).chain(scaled).chain(all).collect()
    }

    /// The node (or all that was started) is going down: nobody is admitted.
    pub(super) fn leaves(&self) -> bool {
        let rollback = matches!(self.phase, Phase::Rollback) && !self.keeps;
        (rollback || matches!(self.phase, Phase::Quiesce { .. } | Phase::Drain { .. })) && self.full()
    }

    pub(super) fn quiescing(&self) -> bool {
        matches!(self.phase, Phase::Quiesce { .. } | Phase::Drain { .. }) && self.full()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Start { required_at } => required_at.map(|at| at + OPTIONAL_GRACE),
            Phase::Quiesce { until, .. } => Some(*until),
            Phase::Roll(roll) => roll.deadline,
            _ => None,
        }
    }

    pub(super) fn stopped(&mut self, stop: Stop) {
        let shown = match &self.phase {
            Phase::Rollback | Phase::Drain { .. } | Phase::Quiesce { .. } => true,
            Phase::Start { .. } => false,
            Phase::Roll(_) | Phase::Scale => stop.outcome != Outcome::Gone,
        };
        // Bounded: an instance in a crash loop during a long quiesce must not fill the table.
        if shown && self.end.stops.len() < 1024 {
            self.end.stops.push(stop);
        }
    }
}

impl Table {
    /// Begins what was admitted; nothing that runs is in its way.
    pub(super) fn open_op(&mut self, now: Time, id: u64, request: Request, targets: BTreeSet<InstanceName>, ran: BTreeSet<InstanceName>) {
        let (full, flags, kind) = (request.full(), request.flags, request.kind);
        let phase = match kind {
            Kind::Start => Phase::Start { required_at: None },
            Kind::Restart | Kind::Roll if !request.restarts_together() => Phase::Roll(self.plan_roll(&request, &targets)),
            Kind::Stop | Kind::Restart | Kind::Roll => self.leave_phase(now, kind == Kind::Restart, full, flags),
            Kind::Scale(..) => Phase::Scale,
        };
        let quiesce = matches!(phase, Phase::Quiesce { .. });
        // Where nobody was admitted there is nothing to count.
        let report = (!self.serving()).then(Report::default);
        let end = End { code: 0, message: String::new(), timing: None, stops: Vec::new(), report, failed: None };
        let keeps = kind == Kind::Start && self.admitted;
        self.ops.push(Op { id, request, began: now, targets, ran, keeps, late: BTreeSet::new(), phase, end });
        if quiesce {
            let deadline = if flags.fast { FAST_DEADLINE } else { QUIESCE_DEADLINE };
            self.out.push(Action::Quiesce { op: id, deadline });
            self.op_text(id, None, "quiescing: no new work, what was accepted is finished".into());
        }
    }

    pub(super) fn op_text(&mut self, op: u64, instance: Option<InstanceName>, text: String) {
        self.out.push(Action::OpText { op, instance, text });
    }

    pub(super) fn op_mut(&mut self, id: u64) -> Option<&mut Op> {
        self.ops.iter_mut().find(|o| o.id == id)
    }

    /// Some daemon has admitted clients.
    pub(super) fn serving(&self) -> bool {
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
        let Some(running) = self.op_mut(op) else { return };
        if let Phase::Quiesce { until, .. } = &mut running.phase {
            running.end.report = Some(report);
            if done {
                *until = now;
            }
        }
    }

    /// Shortens the deadlines of a running stop: 1 is `--fast`, 2 is `--now`.
    pub(super) fn hurry(&mut self, now: Time, id: u64, flags: Flags) {
        let Some(op) = self.op_mut(id) else { return };
        op.request.flags.fast |= flags.fast || flags.now;
        op.request.flags.now |= flags.now;
        let (fast, kills, soon) = (op.request.flags.fast, op.request.flags.now, now + FAST_DEADLINE);
        if !fast {
            return;
        }
        if let Phase::Quiesce { until, .. } = &mut op.phase {
            *until = if kills { now } else { soon.min(*until) };
        }
        let targets = op.targets.clone();
        for name in targets {
            let run = self.instances.get_mut(&name).and_then(|i| i.run.as_mut());
            if let Some(ending) = run.and_then(|r| r.ending.as_mut()).filter(|e| e.step < EndStep::Kill) {
                ending.deadline = if kills { now } else { soon.min(ending.deadline) };
            }
        }
    }

    /// A stop of everything that has taken its time goes on as after a second signal. A store that is seen to flush is still not killed.
    pub(super) fn hurry_late(&mut self, now: Time) {
        let late: Vec<u64> = self.ops.iter().filter(|op| self.late_at(op).is_some_and(|at| at <= now)).map(Op::id).collect();
        for id in late {
            let passed = humantime::format_duration(self.spec.stop_timeout);
            let soon = FAST_DEADLINE.as_secs();
            self.op_text(id, None, format!("supervisor.stopTimeout ({passed}) has passed: deadlines of {soon} s from here on"));
            self.hurry(now, id, Flags { fast: true, ..Flags::default() });
        }
    }

    /// When [`Self::hurry_late`] comes to an operation.
    pub(super) fn late_at(&self, op: &Op) -> Option<Time> {
        let patient = op.quiescing() && !op.request.flags.fast && !op.request.flags.now;
        patient.then(|| op.began + self.spec.stop_timeout)
    }

    pub(super) fn close_op(&mut self, id: u64, code: u32, message: String) {
        if let Some(index) = self.ops.iter().position(|o| o.id == id) {
            let op = self.ops.remove(index);
            self.out.push(Action::OpEnd(id, Box::new(End { code, message, ..op.end })));
        }
    }

    /// Moves the running operations on and begins waiting ones; true when a phase changed or one ended.
    pub(super) fn progress(&mut self, now: Time) -> bool {
        let ids: Vec<u64> = self.ops.iter().map(|o| o.id).collect();
        let mut changed = false;
        for id in ids {
            if let Some(op) = self.ops.iter().find(|o| o.id == id).cloned() {
                changed |= self.progress_op(now, &op);
            }
        }
        changed | self.begin_waiting(now)
    }

    fn progress_op(&mut self, now: Time, op: &Op) -> bool {
        match &op.phase {
            Phase::Start { required_at } => self.progress_start(now, op, *required_at),
            Phase::Rollback => {
                let gone = op.targets.iter().all(|n| !self.live(*n) || self.stuck(*n));
                if gone {
                    let stuck: Vec<String> = op.targets.iter().filter(|n| self.stuck(**n)).map(ToString::to_string).collect();
                    let left = if stuck.is_empty() { String::new() } else { format!("; not killable: {}", stuck.join(", ")) };
                    self.close_op(op.id, op.end.code, format!("{}{left}", op.end.message));
                }
                gone
            }
            Phase::Quiesce { until, then_start } => {
                let over = *until <= now;
                if over {
                    self.set_phase(op.id, Phase::Drain { then_start: *then_start });
                }
                over
            }
            Phase::Drain { then_start } => self.progress_drain(now, op, *then_start),
            Phase::Roll(roll) => self.progress_roll(now, op, roll.clone()),
            Phase::Scale => self.progress_scale(op),
        }
    }

    pub(super) fn set_phase(&mut self, id: u64, phase: Phase) {
        if let Some(op) = self.op_mut(id) {
            op.phase = phase;
        }
    }

    pub(super) fn live(&self, name: InstanceName) -> bool {
        self.instances.get(&name).is_some_and(Instance::live)
    }

    pub(super) fn stuck(&self, name: InstanceName) -> bool {
        let run = self.instances.get(&name).and_then(|i| i.run.as_ref());
        run.and_then(|r| r.ending.as_ref()).is_some_and(|e| e.step == EndStep::Stuck)
    }

    /// What keeps an instance from becoming ready for good, in words.
    pub(super) fn failure(&self, name: InstanceName) -> Option<String> {
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

    fn has_exited(&self, name: InstanceName) -> bool {
        self.instances.get(&name).is_some_and(|i| matches!(i.rest, Rest::Exited))
    }

    fn start_failure(&self, op: &Op, name: InstanceName) -> Option<String> {
        let late = || self.is_late(op, name).then(|| "it says it cannot take work".to_owned());
        self.failure(name).or_else(late)
    }

    fn progress_start(&mut self, now: Time, op: &Op, required_at: Option<Time>) -> bool {
        if self.mark_late(now, op) {
            return true;
        }
        let required = |n: &&InstanceName| self.spec.daemons.get(&n.daemon).is_some_and(|d| d.required);
        let failed: Vec<(InstanceName, String)> =
            op.targets.iter().filter(required).filter_map(|n| self.start_failure(op, *n).map(|f| (*n, f))).collect();
        if let Some((name, text)) = failed.first().filter(|_| !op.request.flags.keep_going) {
            return self.fail_start(op, Some(*name), 6, &format!("{name} failed: {text}"));
        }
        let ready = |n: &InstanceName| self.instances.get(n).is_some_and(Instance::ready);
        let exited: Vec<InstanceName> = op.targets.iter().filter(|n| self.has_exited(**n)).copied().collect();
        let over: Vec<InstanceName> = failed.iter().map(|(n, _)| *n).chain(exited.iter().copied()).collect();
        let settled = |n: &InstanceName| {
            // Scaled away or held meanwhile: nothing to wait for.
            let waits = self.wanted(*n) && !self.held.contains(n);
            !waits || ready(n) || over.iter().any(|f| f == n || self.spec.depends(n.daemon, f.daemon))
        };
        if !op.targets.iter().filter(required).all(settled) {
            // Lost again: the grace of the optional ones begins anew with the next time.
            let lost = required_at.is_some();
            if lost {
                self.set_phase(op.id, Phase::Start { required_at: None });
            }
            return lost;
        }
        if required_at.is_none() {
            self.set_phase(op.id, Phase::Start { required_at: Some(now) });
            return true;
        }
        let late = required_at.is_some_and(|at| at + OPTIONAL_GRACE <= now);
        if !late && !op.targets.iter().all(|n| settled(n) || self.start_failure(op, *n).is_some()) {
            return false;
        }
        let times: Vec<_> = op.targets.iter().filter_map(|n| Some((*n, self.instances.get(n)?.run.as_ref()?.times))).collect();
        let timing = Timing::build(&self.spec, op.began, &times);
        self.timing = Some(timing.clone());
        if let Some(op) = self.op_mut(op.id) {
            op.end.timing = Some(timing);
            op.end.failed = failed.first().map(|(n, _)| *n);
        }
        match failed.first() {
            None if exited.is_empty() => self.close_op(op.id, 0, "ready".into()),
            None => {
                let names: Vec<String> = exited.iter().map(ToString::to_string).collect();
                self.close_op(op.id, 0, format!("started; ended with 0 and left so by policy: {}", names.join(", ")));
            }
            Some((name, text)) => self.close_op(op.id, 5, format!("{name} failed: {text}")),
        }
        true
    }

    fn progress_drain(&mut self, now: Time, op: &Op, then_start: bool) -> bool {
        let before = self.stopped.len();
        self.stopped.extend(op.targets.iter().copied());
        if self.stopped.len() != before {
            self.retract(op.full());
            return true;
        }
        // A process that the kernel does not let go must not block the others for ever.
        if !op.targets.iter().all(|n| !self.live(*n) || self.stuck(*n)) {
            return false;
        }
        let stuck: Vec<String> = op.targets.iter().filter(|n| self.stuck(**n)).map(ToString::to_string).collect();
        if !stuck.is_empty() {
            self.close_op(op.id, 70, format!("not killable: {}", stuck.join(", ")));
        } else if then_start {
            for name in &op.targets {
                self.stopped.remove(name);
                if let Some(instance) = self.instances.get_mut(name) {
                    instance.clear();
                }
            }
            if let Some(op) = self.op_mut(op.id) {
                op.began = now;
            }
            self.set_phase(op.id, Phase::Start { required_at: None });
        } else {
            self.close_op(op.id, 0, "stopped".into());
        }
        true
    }

    /// Who keeps an operation from its end, with the reason: "api@0 draining: SIGTERM 3.2 s ago, killed in 6.8 s".
    #[must_use]
    pub fn held_up_by(&self, now: Time, op: &Op) -> Vec<String> {
        let leaving = matches!(op.phase, Phase::Rollback | Phase::Quiesce { .. } | Phase::Drain { .. });
        if let Phase::Quiesce { until, .. } = op.phase {
            let report = op.end.report.unwrap_or_default();
            let left = until.saturating_sub(now).as_secs_f64();
            return vec![format!("quiesce: {} unsettled, {} connections, {left:.1} s left", report.unsettled, report.connections)];
        }
        let slow = |name: &InstanceName| {
            let state = self.instances.get(name).map_or(State::Down, |i| self.state(now, i));
            match leaving {
                true => self.live(*name),
                false => !matches!(state, State::Ready | State::Down),
            }
        };
        let turns: Vec<InstanceName> = match &op.phase {
            Phase::Roll(roll) if roll.current.is_empty() && roll.surge.proving.is_empty() => self.surge_waits(op),
            Phase::Roll(roll) => roll.surge.proving.iter().chain(&roll.current).map(|t| t.name).collect(),
            Phase::Scale => self.instances.keys().filter(|n| op.covers(**n)).copied().collect(),
            _ => op.targets.iter().copied().collect(),
        };
        let rolled = matches!(op.phase, Phase::Roll(_));
        if let Some(text) = self.shift_text_of(op) {
            return vec![text];
        }
        let views = turns.iter().filter(|n| rolled || slow(n)).filter_map(|n| self.view(now, *n));
        views
            .take(3)
            .map(|v| format!("{} {}: {}", v.name, v.state.name(), if v.why.is_empty() { "being proved" } else { &v.why }))
            .collect()
    }
}
