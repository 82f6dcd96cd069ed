//! One comparison of desired and actual: who is spawned, activated, drained, admitted.

use wk_node::rules;
use wk_types::{Daemon, InstanceName};

use super::{Action, EndStep, Instance, Measure, Op, Rest, Table};
use crate::backoff::Time;

/// What holds for all instances of a daemon in one step.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Slots that may have a process.
    slots: u16,
    /// Every requirement is ready.
    open: bool,
    /// Nothing that is leaving needs it.
    free: bool,
}

impl Table {
    /// What holds for a whole daemon is asked once, not by each of its slots: nothing that they do here changes it.
    pub(super) fn converge_all(&mut self, now: Time, daemon: Daemon) {
        let names: Vec<InstanceName> = self.of(daemon).map(|i| i.name).collect();
        let room = Room { slots: self.room(daemon), open: self.requires_ready(daemon), free: !self.needed_by_leaving(daemon) };
        for name in names {
            self.converge(now, name, room);
        }
    }

    /// One instance, one comparison.
    fn converge(&mut self, now: Time, name: InstanceName, room: Room) {
        let in_slots = name.slot < room.slots;
        let wanted = in_slots && !self.stopped.contains(&name);
        let Some(instance) = self.instances.get_mut(&name) else { return };
        if instance.run.is_some() {
            match wanted {
                false if room.free => self.release(now, name),
                true if room.open => self.activate(now, name),
                _ => {}
            }
            return;
        }
        match &mut instance.rest {
            Rest::Spawning => {}
            _ if !in_slots => {
                let (from, generation) = (instance.seen, instance.generation);
                self.instances.remove(&name);
                self.stopped.remove(&name);
                self.held.remove(&name);
                self.removed(name, generation, from);
            }
            rest if !wanted => *rest = Rest::Idle,
            _ if self.held.contains(&name) => {}
            Rest::Idle => {
                if self.has_its_turn(room) {
                    self.spawn(name);
                }
            }
            Rest::Backoff { until, cause } if *until <= now => {
                match if instance.backoff.is_first() { Ok(()) } else { self.bucket.take(now) } {
                    Ok(()) => {
                        self.out.push(Action::Measured(name, Measure::Restarted(cause.clone())));
                        self.spawn(name);
                    }
                    Err(free) => *until = free,
                }
            }
            Rest::Backoff { .. } | Rest::Failed(_) | Rest::Exited => {}
        }
    }

    /// All are begun at once and told when what they require is ready; with a bound each is begun only then, so that none holds a place
    /// while it waits for another.
    fn has_its_turn(&self, room: Room) -> bool {
        let coming = |i: &&Instance| match &i.run {
            Some(run) => run.ending.is_none() && run.times.ready.is_none(),
            None => matches!(i.rest, Rest::Spawning),
        };
        self.spec.parallel.is_none_or(|most| room.open && self.instances.values().filter(coming).count() < usize::from(most.get()))
    }

    fn spawn(&mut self, name: InstanceName) {
        let Some(instance) = self.instances.get_mut(&name) else { return };
        instance.generation += 1;
        instance.rest = Rest::Spawning;
        self.out.push(Action::Spawn(name, instance.generation));
    }

    /// Drains an unwanted process.
    fn release(&mut self, now: Time, name: InstanceName) {
        if self.instances.get(&name).and_then(|i| i.run.as_ref()).is_some_and(|r| r.ending.is_some()) {
            return;
        }
        let step = if self.ops.iter().any(|o| o.covers(name) && o.request.flags.now) { EndStep::Kill } else { EndStep::Term };
        self.end(now, name, None, step);
    }

    /// Something that is also leaving needs this daemon: it waits for that.
    fn needed_by_leaving(&self, daemon: Daemon) -> bool {
        self.spec.daemons.keys().any(|d| self.spec.depends(*d, daemon) && self.leaving(*d))
    }

    /// Some process of this daemon is there and no longer wanted. One that the kernel does not let go must not keep the others for ever.
    fn leaving(&self, daemon: Daemon) -> bool {
        let slots = self.room(daemon);
        self.of(daemon).any(|i| i.live() && !self.stuck(i.name) && (i.name.slot >= slots || self.stopped.contains(&i.name)))
    }

    /// Slots of a daemon.
    pub(super) fn of(&self, daemon: Daemon) -> impl Iterator<Item = &Instance> + Clone {
        let slot = |slot| InstanceName { daemon, slot };
        self.instances.range(slot(u16::MIN)..=slot(u16::MAX)).map(|(_, instance)| instance)
    }

    fn activate(&mut self, now: Time, name: InstanceName) {
        let waits = |i: &Instance| i.run.as_ref().is_some_and(|r| r.ending.is_none() && r.times.activate.is_none());
        let Some(instance) = self.instances.get_mut(&name).filter(|i| waits(i)) else { return };
        let generation = instance.generation;
        if let Some(run) = instance.run.as_mut() {
            run.times.activate = Some(now);
            self.out.push(Action::Activate(name, generation));
            self.first_ready(now, name);
        }
    }

    /// Every edge is satisfied: before admission by all wanted slots of a requirement, later by any, so that one slot in a crash loop does
    /// not keep others from coming back.
    pub(super) fn requires_ready(&self, daemon: Daemon) -> bool {
        rules::may_activate(self.spec.requires(daemon), |d| self.readiness(d), self.admitted)
    }

    /// Readiness of each wanted instance of a daemon.
    fn readiness(&self, daemon: Daemon) -> impl Iterator<Item = bool> + '_ {
        self.wanted_of(daemon).map(Instance::ready)
    }

    /// The whole required set is there for the first time, or a generation came back behind it.
    pub(super) fn admit(&mut self) {
        if self.ops.iter().any(Op::leaves) {
            return;
        }
        let required = self.spec.daemons.iter().filter(|(_, spec)| spec.required).map(|(daemon, _)| *daemon);
        self.admitted = self.admitted || rules::complete(required, |d| self.readiness(d));
        if !self.admitted {
            return;
        }
        for instance in self.instances.values_mut() {
            let admits = self.spec.daemons.get(&instance.name.daemon).is_some_and(|s| s.admits);
            let (name, generation) = (instance.name, instance.generation);
            if let Some(run) = instance.run.as_mut().filter(|r| admits && r.ready() && !r.admitted) {
                run.admitted = true;
                self.out.push(Action::Admit(name, generation));
            }
        }
    }
}
