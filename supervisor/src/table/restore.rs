//! The table of a predecessor, continued.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wk_types::{Daemon, InstanceName};

use super::{Action, EndStep, Ending, Flags, Instance, Kind, Request, Rest, Run, Sig, Table};
use crate::backoff::Time;
use crate::spec::Orphans;
use crate::timing::Timing;

/// What the node is to be, without its processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Wanted slots, by daemon name.
    pub slots: BTreeMap<String, u16>,
    /// Instances that an operator (or a rollback) stopped.
    pub stopped: Vec<String>,
    /// Instances that an operator holds.
    #[serde(default)]
    pub held: Vec<String>,
    /// Clients are admitted.
    pub admitted: bool,
    /// Of the node table.
    pub epoch: u64,
    /// Slots that own buckets, by pool.
    #[serde(default)]
    pub shares: BTreeMap<String, u16>,
    /// Buckets are being moved: called off by a successor, and begun again.
    #[serde(default)]
    pub shifting: bool,
    /// Number of the next operation.
    pub next_op: u64,
    /// A stop or restart of everything is under way: daemons that were quiesced serve no more, so it has to be finished.
    pub leaving: Option<Leaving>,
    /// Last completed start.
    pub timing: Option<Timing>,
}

/// An operation that cannot be left where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// To nothing.
    Stop,
    /// And back.
    Restart,
}

impl Leaving {
    /// The operation that finishes it.
    #[must_use]
    pub fn request(self) -> Request {
        let kind = match self {
            Self::Stop => Kind::Stop,
            Self::Restart => Kind::Restart,
        };
        Request::new(kind, Vec::new(), Flags::default())
    }
}

impl Table {
    /// For a successor.
    #[must_use]
    pub fn desired(&self) -> Desired {
        let leaving = self.ops.iter().find(|op| op.leaves()).and_then(|op| match op.kind() {
            Kind::Stop => Some(Leaving::Stop),
            Kind::Restart => Some(Leaving::Restart),
            Kind::Start | Kind::Roll | Kind::Scale(..) => None,
        });
        Desired {
            slots: self.spec.daemons.keys().map(|d| (d.name().to_owned(), self.slots(*d))).collect(),
            stopped: self.stopped.iter().map(ToString::to_string).collect(),
            held: self.held.iter().map(ToString::to_string).collect(),
            admitted: self.admitted,
            epoch: self.epoch,
            shares: self.shares.iter().map(|(d, n)| (d.name().to_owned(), *n)).collect(),
            shifting: self.shares.moving().is_some(),
            next_op: self.next_op,
            leaving,
            timing: self.timing.clone(),
        }
    }

    /// All slots, for the record.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// Takes over what a predecessor wanted. `configured`: slots that it had read from its file; a pool whose number there is another now
    /// follows the file. To be called on a table that is down.
    pub fn inherit(&mut self, desired: Desired, configured: &BTreeMap<String, u16>) {
        let mut changed = desired.shifting;
        for (name, slots) in &desired.slots {
            let Ok(daemon) = name.parse::<Daemon>() else { continue };
            if configured.get(name) == self.configured.get(&daemon) {
                self.slots.insert(daemon, *slots);
            }
            changed |= self.slots.get(&daemon) != Some(slots);
        }
        self.share_all();
        for (name, share) in &desired.shares {
            let Ok(pool) = name.parse::<Daemon>() else { continue };
            if self.shares.get(pool).is_some() {
                self.shares.set(pool, *share);
            }
        }
        let needed: BTreeMap<Daemon, u16> = self.spec.daemons.keys().map(|host| (*host, self.slots_needed(*host))).collect();
        self.instances.retain(|name, _| name.slot < needed.get(&name.daemon).copied().unwrap_or(1));
        self.add_slots();
        self.stopped = desired.stopped.iter().filter_map(|n| n.parse().ok()).filter(|n| self.in_slots(*n)).collect();
        self.held = desired.held.iter().filter_map(|n| n.parse().ok()).filter(|n| self.in_slots(*n)).collect();
        self.admitted = desired.admitted;
        self.epoch = self.epoch.max(desired.epoch + u64::from(changed));
        self.next_op = desired.next_op.max(1);
        self.timing = desired.timing;
    }

    /// Takes over one slot. `live`: its recorded process was found; what only the process itself can tell is asked again. Without it the
    /// caller says what became of a recorded process with [`super::Fact::Exited`].
    pub fn adopt(&mut self, now: Time, mut instance: Instance, live: bool) {
        if !self.spec.daemons.contains_key(&instance.name.daemon) {
            return;
        }
        if matches!(instance.rest, Rest::Spawning) {
            // Without a process after all: the generation stays counted, the next try has the next number.
            instance.rest = Rest::Idle;
        }
        if let Some(run) = instance.run.as_mut() {
            run.adopt(now);
            run.admitted &= self.admitted;
        }
        let leaves = self.leaves_as_orphan(now, &mut instance, live);
        let (name, listed) = (instance.name, live || self.instances.contains_key(&instance.name));
        if listed {
            self.instances.insert(name, instance);
            if live {
                let text = if leaves { "outlived its supervisor, its end is waited for" } else { "adopted" };
                self.note(name, false, text.into());
            }
        }
    }

    /// By the policy of its daemon it ends with the supervisor that started it: that is a planned end, also when it is over already. The
    /// kernel has told a bound process; whoever was started under another policy is told now.
    fn leaves_as_orphan(&mut self, now: Time, instance: &mut Instance, live: bool) -> bool {
        let (name, generation) = (instance.name, instance.generation);
        let deadline = now + self.step_time(name, EndStep::Term);
        let killed = self.spec.daemons.get(&name.daemon).is_some_and(|s| s.orphans == Orphans::Kill);
        let Some(run) = instance.run.as_mut().filter(|r| (r.bound || killed) && r.ending.is_none()) else { return false };
        run.ending = Some(Ending { cause: None, step: EndStep::Term, deadline, began: now });
        if live && !run.bound {
            self.out.push(Action::Signal(name, generation, Sig::Term));
        }
        true
    }

    /// Takes back a slot whose process is still our child, after an exec of ourselves.
    pub fn take_back(&mut self, now: Time, mut instance: Instance) {
        let name = instance.name;
        if !self.spec.daemons.contains_key(&name.daemon) {
            return;
        }
        if let Some(run) = instance.run.as_mut() {
            let adopted = run.adopted;
            run.adopt(now);
            run.adopted = adopted;
        }
        self.instances.insert(name, instance);
    }

    /// A generation that a predecessor began, or was about to begin, is not begun again. For an instance of which no process lives.
    pub fn begun(&mut self, name: InstanceName, generation: u64) {
        if let Some(instance) = self.instances.get_mut(&name) {
            instance.generation = instance.generation.max(generation);
        }
    }

    /// Takes over a process that no record knows, found by its marker.
    pub fn adopt_unrecorded(&mut self, now: Time, name: InstanceName, generation: u64, pid: u32, incarnation: u64) {
        let mut instance = self.instances.get(&name).cloned().unwrap_or_else(|| Instance::new(name));
        instance.generation = instance.generation.max(generation);
        instance.last_incarnation = incarnation;
        instance.rest = Rest::Idle;
        // What no record says is as the policy says now.
        let bound = self.spec.daemons.get(&name.daemon).is_some_and(|s| s.orphans == Orphans::Kill);
        instance.run = Some(Run { bound, ..Run::new(pid, incarnation, now, std::time::Duration::ZERO) });
        self.adopt(now, instance, true);
    }

    /// Health of an adopted process is not known yet.
    #[must_use]
    pub fn is_confirming(&self) -> bool {
        self.instances.values().any(|i| i.run.as_ref().is_some_and(|r| r.unconfirmed.is_some()))
    }

    /// Nothing is wanted.
    #[must_use]
    pub fn wants_nothing(&self) -> bool {
        self.instances.keys().all(|n| !self.wanted(*n))
    }

    /// True while an operation is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.ops.is_empty() || !self.waiting.is_empty()
    }
}
