//! What a fact about one generation changes.

use std::time::Duration;

use wk_types::InstanceName;

use super::{Action, EndStep, Ending, Fact, LastEnd, Measure, Outcome, Probe, Rest, Run, Stop, Table};
use crate::backoff::{Crash, Time};
use crate::cause::{Cause, Exit};
use crate::spec::Orphans;

impl Table {
    pub(super) fn fact(&mut self, now: Time, name: InstanceName, fact: Fact) {
        let Some(instance) = self.instances.get_mut(&name) else { return };
        match fact {
            Fact::Spawned { pid, incarnation, began, exec, reads } => {
                instance.rest = Rest::Idle;
                instance.last_incarnation = incarnation;
                let bound = self.spec.daemons.get(&name.daemon).is_some_and(|s| s.orphans == Orphans::Kill);
                instance.run = Some(Run { bound, reads: Some(reads), ..Run::new(pid, incarnation, began, exec) });
            }
            Fact::SpawnFailed(cause) => {
                instance.rest = Rest::Idle;
                self.crashed(now, name, cause, None);
            }
            Fact::Exited(exit) => self.exited(now, name, exit),
            other => self.run_fact(now, name, other),
        }
    }

    fn run_fact(&mut self, now: Time, name: InstanceName, fact: Fact) {
        let failures = self.spec.daemons.get(&name.daemon).map(|s| s.liveness).unwrap_or_default().failures;
        let Some(run) = self.instances.get_mut(&name).and_then(|i| i.run.as_mut()) else { return };
        match fact {
            Fact::HealthUp => {
                run.unconfirmed = None;
                run.times.up.get_or_insert(now);
            }
            Fact::Serving(serving) => {
                run.unconfirmed = None;
                run.times.up.get_or_insert(now);
                run.serving = serving;
                run.lost = if serving { None } else { run.times.ready.map(|_| run.lost.unwrap_or(now)) };
                self.first_ready(now, name);
            }
            Fact::Alive(Probe::Answered) => run.misses = 0,
            Fact::Alive(missed) => {
                run.misses = run.misses.saturating_add(1);
                self.out.push(Action::Measured(name, Measure::Missed));
                if u16::from(run.misses) >= failures {
                    run.stopped = missed == Probe::Stopped;
                    let how = if run.stopped { "stopped, liveness checks unanswered" } else { "liveness checks unanswered" };
                    self.end(now, name, Some(Cause::Hang(how.into())), EndStep::Abort);
                }
            }
            Fact::Probed(Probe::Answered) => run.probing = false,
            Fact::Probed(probe) => {
                (run.probing, run.stopped) = (false, probe == Probe::Stopped);
                self.out.push(Action::Measured(name, Measure::Missed));
                let how = if run.stopped { "stopped, no answer to a probe" } else { "no answer to a probe" };
                self.end(now, name, Some(Cause::Hang(how.into())), EndStep::Abort);
                self.abort_soon(now, name);
            }
            Fact::HealthLost => self.end(now, name, Some(Cause::Hang("health connection lost".into())), EndStep::Abort),
            Fact::Identity(text) => self.end(now, name, Some(Cause::Identity(text)), EndStep::Kill),
            Fact::Halted => self.probe(name),
            Fact::Work(work) => run.progress.look(now, work),
            Fact::LeftBehind => run.left_behind = true,
            Fact::Spawned { .. } | Fact::SpawnFailed(_) | Fact::Exited(_) => {}
        }
    }

    /// Notes the moment of the first readiness: activated and serving, whichever came last.
    pub(super) fn first_ready(&mut self, now: Time, name: InstanceName) {
        let Some(run) = self.instances.get_mut(&name).and_then(|i| i.run.as_mut()) else { return };
        if run.ready() && run.times.ready.is_none() {
            run.times.ready = Some(now);
            self.out.push(Action::Measured(name, Measure::Started(run.times)));
            let text = format!("ready after {:.1} ms", (now.saturating_sub(run.times.spawn)).as_secs_f64() * 1e3);
            self.note(name, false, text);
        }
    }

    /// A neighbour waits for it: less time for the core than when nobody has missed it.
    fn abort_soon(&mut self, now: Time, name: InstanceName) {
        let run = self.instances.get_mut(&name).and_then(|i| i.run.as_mut());
        if let Some(ending) = run.and_then(|r| r.ending.as_mut()).filter(|e| e.step == EndStep::Abort) {
            ending.deadline = ending.deadline.min(now + wk_node::probe::ABORT_GRACE);
        }
    }

    /// A neighbour reports a link without progress: probes the instance when the report is about its present life.
    pub fn stall(&mut self, name: InstanceName, incarnation: u64) {
        let name = InstanceName { daemon: self.spec.host(name.daemon), ..name };
        if self.instances.get(&name).and_then(|i| i.run.as_ref()).is_some_and(|r| r.incarnation == incarnation) {
            self.probe(name);
        }
    }

    fn probe(&mut self, name: InstanceName) {
        let Some(instance) = self.instances.get_mut(&name) else { return };
        let generation = instance.generation;
        if let Some(run) = instance.run.as_mut().filter(|r| !r.probing && r.ending.is_none()) {
            run.probing = true;
            self.out.push(Action::Probe(name, generation));
        }
    }

    fn exited(&mut self, now: Time, name: InstanceName, exit: Exit) {
        let Some(instance) = self.instances.get_mut(&name) else { return };
        let Some(run) = instance.run.take() else { return };
        let generation = instance.generation;
        let planned = run.ending.as_ref().is_some_and(|e| e.cause.is_none());
        // Whom we end for a cause is to blame, unless it was stopped by somebody else.
        let killed = match &run.ending {
            Some(Ending { cause: Some(_), .. }) => run.stopped,
            _ => matches!(exit, Exit::OutOfMemory | Exit::Signal { signal: 9, .. }),
        };
        instance.last_end = Some(LastEnd { generation, exit, at: now, up: now.saturating_sub(run.times.spawn), planned, killed });
        instance.rest = Rest::Idle;
        let took = run.ending.as_ref().map_or(Duration::ZERO, |e| now.saturating_sub(e.began));
        let asked = matches!(exit, Exit::Signal { signal: 15, .. });
        let outcome = match &run.ending {
            Some(Ending { cause: None, step: EndStep::Term, .. }) if exit == Exit::Code(0) => Outcome::Clean,
            // It had not come so far as to answer signals: nothing was begun.
            Some(Ending { cause: None, step: EndStep::Term, .. }) if asked && run.times.up.is_none() => Outcome::Clean,
            Some(Ending { cause: None, step, .. }) if *step > EndStep::Term => Outcome::Forced,
            _ => Outcome::Gone,
        };
        match run.ending {
            Some(Ending { cause: None, .. }) => {
                self.out.push(Action::Measured(name, Measure::Stopped(took)));
                self.note(name, outcome != Outcome::Clean, format!("stopped ({exit})"));
            }
            ending => {
                let daemonised = exit == Exit::Code(0) && run.left_behind && run.times.ready.is_none();
                let own = if daemonised { Cause::Daemonised } else { Cause::Exit(exit) };
                let cause = ending.and_then(|e| e.cause).unwrap_or(own);
                self.crashed(now, name, cause, run.times.ready.map(|at| now.saturating_sub(at)));
            }
        }
        for op in self.ops.iter_mut().filter(|o| o.covers(name)) {
            op.stopped(Stop { name, outcome, took, exit });
        }
    }

    fn crashed(&mut self, now: Time, name: InstanceName, cause: Cause, ready_for: Option<Duration>) {
        if self.spec.daemons.get(&name.daemon).is_some_and(|s| s.ends_well(&cause)) {
            if let Some(instance) = self.instances.get_mut(&name) {
                instance.rest = Rest::Exited;
            }
            self.note(name, false, format!("{cause}; left so by its policy (restart)"));
            return self.observe_one(now, name);
        }
        let (jitter, policy) = (self.jitter(), self.spec.backoff(name.daemon));
        let Some(instance) = self.instances.get_mut(&name) else { return };
        instance.restarts += 1;
        instance.last_restart = Some(now);
        if ready_for.is_none() {
            instance.start_crashes += 1;
        }
        let before = instance.backoff.crash_loop();
        let delay = instance.backoff.on_crash(Crash { at: now, ready_for, heavy: cause.heavy(), jitter }, &policy);
        let given_up = cause.permanent() || self.spec.daemons.get(&name.daemon).is_some_and(|s| s.gives_up(instance.backoff.in_a_row()));
        let end = instance.ended_for(&cause);
        let (text, rest) = if given_up {
            (format!("{end}; not restarted"), Rest::Failed(cause.clone()))
        } else {
            let text = format!("{end}; next try in {:.1} s", delay.as_secs_f64());
            (text, Rest::Backoff { until: now + delay, cause: cause.clone() })
        };
        instance.rest = rest;
        let looping = instance.backoff.crash_loop().is_some() && before.is_none();
        self.note(name, true, text);
        // One poisoned item takes a whole pool along: that is told once.
        let told = self.of(name.daemon).any(|i| i.name != name && i.backoff.crash_loop().is_some());
        if looping && !told {
            self.out.push(Action::Looping(name, cause.clone()));
        }
        self.out.push(Action::Crashed(name, cause));
        self.observe_one(now, name);
    }

    /// Next pseudo-random number in -1..1 (xorshift): spreads restarts, needs no quality.
    fn jitter(&mut self) -> f64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        f64::from(u32::try_from(self.rng >> 33).unwrap_or(0)) / f64::from(1u32 << 30) - 1.0
    }
}
