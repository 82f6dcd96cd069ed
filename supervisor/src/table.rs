//! Desired against actual: the pure core of the supervisor.
//!
//! [`Table::step`] takes one fact or command and returns what to do. It knows no clock, no process and no socket; a test drives it with
//! any time it likes. Level-triggered: commands edit the *desired* set, each step compares it with what is there, so that no order of
//! crash, stop, scale and restart needs a rule of its own.
//!
//! INVARIANT: at most one live process per instance; `Activate` never before every requirement is Ready; a state that is not Ready has a
//! reason; facts of an older generation change nothing. [`Table::check`] asserts them after each step in debug builds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wk_types::{Daemon, InstanceName};

use crate::backoff::{RestartBucket, Time};
use crate::cause::{Cause, Exit};
use crate::limits::{ABORT_GRACE, FAST_DEADLINE, KILL_GRACE};
use crate::process::Work;
use crate::spec::Spec;
use crate::timing::Timing;

mod command;
mod converge;
mod describe;
mod escalate;
mod facts;
mod instance;
mod mark;
mod measure;
mod moves;
mod op;
pub mod plan;
mod progress;
mod request;
mod restore;
mod roll;
mod rollback;
mod shares;
mod surge;
#[cfg(test)]
mod tests;
mod unready;

pub use command::Waiting;
pub use describe::{InstanceView, Overall};
pub(crate) use instance::name_text;
pub use instance::{EndStep, Ending, Instance, LastEnd, Rest, Run, State, Times};
pub use measure::Measure;
pub use moves::Move;
pub use op::Op;
pub use progress::Progress;
pub use request::{End, Flags, Kind, Outcome, Pace, Refusal, Report, Request, Stop};
pub use restore::{Desired, Leaving};

/// Something that happened to one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Exec succeeded.
    Spawned {
        /// Process id.
        pid: u32,
        /// Random identity.
        incarnation: u64,
        /// When the fork began.
        began: Time,
        /// Fork to exec done.
        exec: Duration,
        /// Fingerprint of all that it reads of the configuration.
        reads: u64,
    },
    /// There is no process.
    SpawnFailed(Cause),
    /// First answer on the health socket.
    HealthUp,
    /// `wk.ready` changed.
    Serving(bool),
    /// Outcome of a liveness check.
    Alive(Probe),
    /// Outcome of a probe.
    Probed(Probe),
    /// The health connection is lost and did not come back.
    HealthLost,
    /// Another process answers on the health socket.
    Identity(String),
    /// The kernel says that the process was stopped (SIGSTOP).
    Halted,
    /// What is seen of its work.
    Work(Work),
    /// The process has ended; something that it had started lived on and was killed.
    LeftBehind,
    /// The process ended and was reaped; its group is dead.
    Exited(Exit),
}

/// Outcome of a liveness check, or of a probe, which is several in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// One of the checks was answered, or a debugger holds the process.
    Answered,
    /// None was, and somebody has stopped the process (SIGSTOP).
    Stopped,
    /// None was.
    Silent,
}

/// Signals the table asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sig {
    /// Drain, with a SIGCONT behind it.
    Term,
    /// Core dump, with a SIGCONT behind it.
    Abort,
    /// To the whole group.
    Kill,
}

/// Orders to the edge modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start this generation; answer with [`Fact::Spawned`] or [`Fact::SpawnFailed`].
    Spawn(InstanceName, u64),
    /// Call `Activate` until it succeeds or the generation ends.
    Activate(InstanceName, u64),
    /// Call `Admit` until it succeeds or the generation ends.
    Admit(InstanceName, u64),
    /// Ask at once whether it lives; answer with [`Fact::Probed`].
    Probe(InstanceName, u64),
    /// Read how much it has worked; answer with [`Fact::Work`].
    Look(InstanceName, u64),
    /// Send a signal.
    Signal(InstanceName, u64, Sig),
    /// Quiesce the node for operation `op`; answers come through [`Table::quiesced`].
    Quiesce {
        /// Operation.
        op: u64,
        /// Time left.
        deadline: Duration,
    },
    /// One line about a running operation.
    OpText {
        /// Operation.
        op: u64,
        /// Whom it is about.
        instance: Option<InstanceName>,
        /// For a person.
        text: String,
    },
    /// An operation is over.
    OpEnd(u64, Box<End>),
    /// For the event log.
    Note {
        /// Whom it is about.
        instance: InstanceName,
        /// A crash or failure.
        bad: bool,
        /// For a person.
        text: String,
    },
    /// A crash, for the counters.
    Crashed(InstanceName, Cause),
    /// This crash made it a crash loop.
    Looping(InstanceName, Cause),
    /// By its policy the crash loop of this instance ends the node.
    Escalate(InstanceName),
    /// For the metrics.
    Measured(InstanceName, Measure),
    /// An instance entered another state.
    Moved(Box<Move>),
}

/// Desired and actual state of the node.
#[derive(Debug)]
pub struct Table {
    spec: Spec,
    slots: BTreeMap<Daemon, u16>,
    /// Slots of the configuration; [`Self::slots`] are what a command made of them.
    configured: BTreeMap<Daemon, u16>,
    stopped: BTreeSet<InstanceName>,
    held: BTreeSet<InstanceName>,
    instances: BTreeMap<InstanceName, Instance>,
    admitted: bool,
    /// Slots that own buckets, by pool; what the node table says.
    shares: wk_node::shares::Shares<u16>,
    epoch: u64,
    ops: Vec<Op>,
    waiting: VecDeque<Waiting>,
    next_op: u64,
    bucket: RestartBucket,
    rng: u64,
    timing: Option<Timing>,
    /// An escalation was ordered.
    escalated: bool,
    out: Vec<Action>,
}

impl Table {
    /// A node that is down. `epoch`: first epoch of the node table; `seed`: of the backoff jitter.
    #[must_use]
    pub fn new(spec: Spec, slots: BTreeMap<Daemon, u16>, epoch: u64, seed: u64) -> Self {
        let mut table = Self {
            spec,
            configured: slots.clone(),
            slots,
            stopped: BTreeSet::new(),
            held: BTreeSet::new(),
            instances: BTreeMap::new(),
            admitted: false,
            shares: wk_node::shares::Shares::default(),
            epoch,
            ops: Vec::new(),
            waiting: VecDeque::new(),
            next_op: 1,
            bucket: RestartBucket::default(),
            rng: seed | 1,
            timing: None,
            escalated: false,
            out: Vec::new(),
        };
        table.share_all();
        table.add_slots();
        table.stopped = table.instances.keys().copied().collect();
        table
    }

    fn add_slots(&mut self) {
        for daemon in self.spec.daemons.keys() {
            for slot in 0..self.slots_needed(*daemon) {
                let name = InstanceName { daemon: *daemon, slot };
                self.instances.entry(name).or_insert_with(|| Instance::new(name));
            }
        }
    }

    /// Takes one fact about one generation and says what to do. Facts of other generations are dropped.
    pub fn step(&mut self, now: Time, name: InstanceName, generation: u64, fact: Fact) -> Vec<Action> {
        self.hear(now, name, generation, fact);
        self.tick(now)
    }

    /// Takes one fact of several that came together: what follows from them all is told by the next [`Self::tick`].
    pub fn hear(&mut self, now: Time, name: InstanceName, generation: u64, fact: Fact) {
        if self.instances.get(&name).is_some_and(|i| i.generation == generation) {
            // What the one before has made of it would be hidden by this one.
            self.observe_one(now, name);
            self.fact(now, name, fact);
        }
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Time) -> Vec<Action> {
        // Each pass either gives out an action, ends or changes the phase of an operation, or is the last one; both are finite.
        loop {
            let before = self.out.len();
            self.looks(now);
            self.hurry_late(now);
            self.deadlines(now);
            self.unready(now);
            self.loops(now);
            for daemon in Daemon::ALL {
                self.converge_all(now, daemon);
            }
            self.admit();
            let changed = self.progress(now) | self.shift(now);
            if self.out.len() == before && !changed {
                break;
            }
        }
        self.observe(now);
        debug_assert_eq!(self.check(now), Ok(()));
        std::mem::take(&mut self.out)
    }

    /// Earliest time at which [`Self::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let runs = self.instances.values().filter_map(|i| match (&i.run, &i.rest) {
            (Some(run), _) => match &run.ending {
                Some(ending) if ending.step == EndStep::Stuck => None,
                Some(ending) => Some(ending.deadline),
                None if self.held.contains(&i.name) => None,
                None => run.start_deadline(self.start_timeout(i.name.daemon)),
            },
            (None, Rest::Backoff { until, .. }) if self.wanted(i.name) && !self.held.contains(&i.name) => Some(*until),
            _ => None,
        });
        let late = self.ops.iter().flat_map(|op| [self.late_at(op), self.next_late(op)]).flatten();
        let others = late
            .chain(self.ops.iter().filter_map(Op::deadline))
            .chain(self.next_look())
            .chain(self.shift_deadline())
            .chain(self.next_unready())
            .chain(self.next_loop());
        runs.chain(others).min()
    }

    fn names(&self) -> Vec<InstanceName> {
        self.instances.keys().copied().collect()
    }

    fn start_timeout(&self, daemon: Daemon) -> Duration {
        self.spec.daemons.get(&daemon).map_or(Duration::MAX, |d| d.start_timeout)
    }

    /// Part of the desired set.
    #[must_use]
    pub fn wanted(&self, name: InstanceName) -> bool {
        self.in_slots(name) && !self.stopped.contains(&name)
    }

    fn in_slots(&self, name: InstanceName) -> bool {
        name.slot < self.room(name.daemon)
    }

    /// Slots that a daemon may have a process in.
    fn room(&self, daemon: Daemon) -> u16 {
        if self.spec.daemons.contains_key(&daemon) { self.slots_needed(daemon) } else { 0 }
    }

    /// Part of the desired set, of one daemon.
    fn wanted_of(&self, daemon: Daemon) -> impl Iterator<Item = &Instance> + Clone {
        let slots = self.room(daemon);
        self.of(daemon).filter(move |i| i.name.slot < slots && !self.stopped.contains(&i.name))
    }

    /// Begins to end a live generation, or goes a step further. Never goes back: a drain under way is not restarted by a later cause.
    fn end(&mut self, now: Time, name: InstanceName, cause: Option<Cause>, step: EndStep) {
        // Somebody looks at it: a debugger makes every process look hung.
        if cause.is_some() && self.held.contains(&name) {
            return;
        }
        let deadline = now + self.step_time(name, step);
        let Some(instance) = self.instances.get_mut(&name) else { return };
        let generation = instance.generation;
        let Some(run) = instance.run.as_mut() else { return };
        match &mut run.ending {
            Some(ending) if ending.step >= step => return,
            Some(ending) => {
                ending.step = step;
                ending.deadline = deadline;
                if step == EndStep::Kill {
                    self.out.push(Action::Measured(name, Measure::Escalated));
                }
            }
            none => {
                let text = match &cause {
                    Some(cause) => cause.to_string(),
                    None => "stopping".to_owned(),
                };
                *none = Some(Ending { cause, step, deadline, began: now });
                self.note(name, false, text);
            }
        }
        let sig = match step {
            EndStep::Term => Sig::Term,
            EndStep::Abort => Sig::Abort,
            EndStep::Kill => Sig::Kill,
            EndStep::Stuck => return,
        };
        self.out.push(Action::Signal(name, generation, sig));
    }

    fn step_time(&self, name: InstanceName, step: EndStep) -> Duration {
        match step {
            EndStep::Term if self.ops.iter().any(|o| o.covers(name) && o.request.flags.fast) => FAST_DEADLINE,
            EndStep::Term => self.spec.daemons.get(&name.daemon).map_or(FAST_DEADLINE, |d| d.term_deadline),
            EndStep::Abort => ABORT_GRACE,
            EndStep::Kill | EndStep::Stuck => KILL_GRACE,
        }
    }

    fn note(&mut self, instance: InstanceName, bad: bool, text: String) {
        let told = self.ops.iter().filter(|o| o.covers(instance)).map(Op::id);
        self.out.extend(told.map(|op| Action::OpText { op, instance: Some(instance), text: text.clone() }));
        self.out.push(Action::Note { instance, bad, text });
    }

    fn deadlines(&mut self, now: Time) {
        for name in self.names() {
            let timeout = self.start_timeout(name.daemon);
            let Some(run) = self.instances.get(&name).and_then(|i| i.run.as_ref()) else { continue };
            let (step, due) = match &run.ending {
                Some(ending) => (Some(ending.step), ending.deadline <= now && ending.step < EndStep::Stuck),
                None => (None, run.start_deadline(timeout).is_some_and(|d| d <= now)),
            };
            match step {
                _ if !due => {}
                Some(_) if self.lets_finish(now, name) => {}
                Some(step) => self.end(now, name, None, if step < EndStep::Kill { EndStep::Kill } else { EndStep::Stuck }),
                None if self.lets_start(now, name) => {}
                None => {
                    let dumps = self.spec.daemons.get(&name.daemon).is_some_and(|d| d.abort_on_timeout);
                    self.end(now, name, Some(Cause::StartTimeout), if dumps { EndStep::Abort } else { EndStep::Term });
                }
            }
        }
    }

    /// What must hold after each step.
    ///
    /// # Errors
    /// The first rule that does not hold, in words.
    pub fn check(&self, now: Time) -> Result<(), String> {
        for instance in self.instances.values() {
            let name = instance.name;
            if instance.run.is_some() && !matches!(instance.rest, Rest::Idle) {
                return Err(format!("{name} has a process and waits for another"));
            }
            if let Some(run) = &instance.run {
                if run.times.ready.is_some() && run.times.activate.is_none() {
                    return Err(format!("{name} is ready before it was activated"));
                }
                if run.admitted && !self.admitted {
                    return Err(format!("{name} was admitted before the node"));
                }
            }
            let view = self.view(now, name).ok_or("an instance without a view")?;
            if view.state != State::Ready && view.why.is_empty() {
                return Err(format!("{name} is {} without a reason", view.state.name()));
            }
        }
        Ok(())
    }
}
