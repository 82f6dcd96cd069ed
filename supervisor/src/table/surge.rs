//! Added slots for the time of a roll, so that no pool has less than its configured number of ready processes.
//!
//! Level-triggered like the rest: the added slots are a part of the roll ([`Table::in_use`]), never of [`Table::slots`]. Whatever ends the
//! roll (its success, a bad generation, a cancel, a stop, the death of this supervisor) ends them too: shares go back, then they are drained,
//! as in a scale. At most one live process per slot stays true; nothing runs twice.
//!
//! One pool at a time: add, prove, give them their shares; replace the old ones, each only when enough others are ready; take them away.

use std::collections::{BTreeMap, BTreeSet};

use wk_types::{Daemon, InstanceName};

use super::op::{Op, Phase};
use super::roll::{Roll, Turn};
use super::{Instance, Kind, Refusal, Request, Run, Table};
use crate::limits::SLOTS_MAX;

/// What a roll has added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Surge {
    /// Slots to add; 0: none.
    pub(super) count: u16,
    /// The pool that has them now.
    pub(super) of: Option<Daemon>,
    /// Added, and not ready for long enough.
    pub(super) proving: Vec<Turn>,
    /// The pool that is losing them.
    leaving: Option<Daemon>,
}

impl Surge {
    pub(super) fn new(count: u32) -> Self {
        Self { count: u16::try_from(count).unwrap_or(u16::MAX), ..Self::default() }
    }

    /// Nothing is there that has to go.
    pub(super) fn is_over(&self) -> bool {
        self.of.is_none() && self.leaving.is_none()
    }

    fn pool(&self) -> Option<Daemon> {
        self.of.or(self.leaving)
    }
}

/// Why there must never be two of a daemon.
fn only_one(daemon: Daemon) -> &'static str {
    match daemon {
        Daemon::Cluster => "two processes cannot have its data",
        Daemon::Gateway | Daemon::Api => "one process at a time accepts on its ports, which the supervisor keeps open meanwhile",
        Daemon::PluginHost => "each plugin runs once",
        Daemon::Worker(_) => "",
    }
}

fn surge_of(op: &Op) -> Option<&Surge> {
    match &op.phase {
        Phase::Roll(roll) => Some(&roll.surge),
        _ => None,
    }
}

impl Op {
    /// The pool whose slots this roll has added to, or takes them from.
    pub(super) fn surges(&self) -> Option<Daemon> {
        surge_of(self).and_then(Surge::pool)
    }
}

impl Table {
    /// Slots of a daemon that are in use: those that are wanted for good, and those that a roll has added.
    #[must_use]
    pub fn in_use(&self, daemon: Daemon) -> u16 {
        let added = self.ops.iter().filter_map(surge_of).filter(|s| s.of == Some(daemon)).map(|s| s.count).max();
        (self.slots(daemon) + added.unwrap_or(0)).min(SLOTS_MAX)
    }

    /// Slots that a roll of these would use, by daemon; empty without a surge.
    pub(super) fn surge_slots(&self, request: &Request, targets: &BTreeSet<InstanceName>) -> BTreeMap<Daemon, u16> {
        let count = if request.kind == Kind::Roll { Surge::new(request.flags.roll.surge).count } else { 0 };
        let pools = targets.iter().map(|n| n.daemon).filter(|_| count > 0);
        pools.map(|daemon| (daemon, self.slots(daemon).saturating_add(count))).collect()
    }

    /// Refuses what cannot be done with added slots.
    pub(super) fn check_surge(&self, request: &Request, targets: &BTreeSet<InstanceName>) -> Result<(), Refusal> {
        let pace = request.flags.roll;
        for (daemon, slots) in self.surge_slots(request, targets) {
            let refuse = |text: String| Err(Refusal::new(64, text));
            if !matches!(daemon, Daemon::Worker(_)) {
                return refuse(format!(
                    "{daemon} cannot run twice: {}; name the pools, such as worker, or leave --surge out",
                    only_one(daemon)
                ));
            }
            if slots > SLOTS_MAX {
                return refuse(format!("{daemon} has {} slots, {SLOTS_MAX} at most with the added ones", self.slots(daemon)));
            }
            if pace.max_unavailable > pace.surge {
                let (away, added) = (pace.max_unavailable, pace.surge);
                return refuse(format!("--max-unavailable {away} is more than --surge {added}: less than all of {daemon} would be left"));
            }
            let away = self.of(daemon).map(|i| i.name).find(|n| n.slot < self.slots(daemon) && (!self.wanted(*n) || self.held.contains(n)));
            if let Some(name) = away {
                let (state, mend) = if self.held.contains(&name) { ("held", "unhold") } else { ("stopped", "start") };
                return refuse(format!("{name} is {state}, so shares cannot move to added slots; `wkctl {mend} {name}` first"));
            }
        }
        Ok(())
    }

    /// Enough others are there to take this one away. What is not ready takes nothing with it, unless it is about to be.
    pub(super) fn spares(&self, roll: &Roll, name: InstanceName) -> bool {
        if roll.surge.count == 0 {
            return true;
        }
        let Some(instance) = self.instances.get(&name) else { return true };
        let coming = |run: &Run| run.ending.is_none() && run.times.ready.is_none();
        if instance.run.as_ref().is_some_and(coming) {
            return false;
        }
        if !instance.ready() {
            return roll.surge.leaving.is_none() && roll.surge.of.is_none_or(|daemon| daemon == name.daemon);
        }
        let there = self.ready_slots(name.daemon);
        let shared = roll.surge.of == Some(name.daemon) && roll.surge.proving.is_empty() && self.share_settled(name.daemon);
        shared && there > usize::from(self.slots(name.daemon))
    }

    /// Slots of a daemon that are ready and stay so.
    pub(super) fn ready_slots(&self, daemon: Daemon) -> usize {
        self.of(daemon).filter(|i| self.wanted(i.name) && i.ready()).count()
    }

    /// Adds slots for the next pool, or takes them away behind it. Before the turns of this step, on the table as it was before it.
    pub(super) fn lift(&mut self, op: &Op, roll: &mut Roll) {
        if roll.surge.leaving.is_some_and(|daemon| self.surge_gone(daemon)) {
            roll.surge.leaving = None;
        }
        let next = roll.next().filter(|_| !roll.paused());
        if let Some(daemon) = roll.surge.of {
            if roll.current.is_empty() && next.is_none_or(|n| n.daemon != daemon) {
                self.op_text(op.id, None, format!("{}: shares go back, then drained", added(daemon, self.slots(daemon), roll.surge.count)));
                roll.surge = Surge { of: None, proving: Vec::new(), leaving: Some(daemon), ..roll.surge };
            }
            return;
        }
        let Some(next) = next.filter(|_| roll.surge.count > 0 && roll.surge.is_over() && roll.current.is_empty()) else { return };
        if self.instances.get(&next).is_some_and(Instance::ready) {
            let (daemon, base) = (next.daemon, self.slots(next.daemon));
            let slots = base..base.saturating_add(roll.surge.count).min(SLOTS_MAX);
            roll.surge.proving = slots.map(|slot| self.before(InstanceName { daemon, slot })).collect();
            roll.surge.of = Some(daemon);
            self.op_text(op.id, None, format!("adds {} for the time of the roll", added(daemon, base, roll.surge.count)));
        }
    }

    /// The generation before the one that is to be proved: a slot that was about to go, and need not any more, keeps its process.
    fn before(&self, name: InstanceName) -> Turn {
        let Some(instance) = self.instances.get(&name) else { return Turn { name, old: 0 } };
        let stays = instance.live() && instance.run.as_ref().is_none_or(|r| r.ending.is_none());
        Turn { name, old: instance.generation - u64::from(stays) }
    }

    /// What the pool of a surge has lost for good, so that nothing would go on.
    pub(super) fn surge_failure(&self, roll: &Roll) -> Option<(InstanceName, String)> {
        let daemon = roll.surge.pool()?;
        let turning = |name: InstanceName| roll.current.iter().any(|t| t.name == name);
        let lost = |i: &Instance| {
            let held = (self.held.contains(&i.name) && !i.live()).then(|| "it is held and has no process".to_owned());
            self.failure(i.name).or(held).map(|text| (i.name, text))
        };
        self.of(daemon).filter(|i| self.wanted(i.name) && !turning(i.name)).find_map(lost)
    }

    /// Nothing is left of the added slots.
    fn surge_gone(&self, daemon: Daemon) -> bool {
        let gone = self.of(daemon).all(|i| self.in_slots(i.name) || self.stuck(i.name));
        gone && self.share_settled(daemon)
    }

    /// One of the added slots.
    pub(super) fn adds(&self, roll: &Roll, name: InstanceName) -> bool {
        roll.surge.pool() == Some(name.daemon) && name.slot >= self.slots(name.daemon)
    }

    /// What becomes of the added slots when the roll ends before its end.
    pub(super) fn surge_rest(&self, roll: &Roll) -> String {
        let Some(daemon) = roll.surge.of else { return String::new() };
        let (base, names) = (self.slots(daemon), added(daemon, self.slots(daemon), roll.surge.count));
        match self.spec.housed(daemon).any(|pool| self.share(pool) > base) {
            true => format!("; the added {names} goes when it has handed its share back, which takes all of {daemon} ready"),
            false => format!("; the added {names} goes again"),
        }
    }

    /// Whom a roll with added slots waits for.
    pub(super) fn surge_waits(&self, op: &Op) -> Vec<InstanceName> {
        let pool = op.surges().into_iter().flat_map(|daemon| self.of(daemon));
        pool.filter(|i| !i.ready() || !self.in_slots(i.name)).map(|i| i.name).collect()
    }

    /// Slots that a roll would use, by daemon; empty without added ones.
    #[must_use]
    pub fn surge_need(&self, request: &Request) -> BTreeMap<Daemon, u16> {
        self.resolve(&request.names).map_or_else(|_| BTreeMap::new(), |targets| self.surge_slots(request, &targets))
    }
}

/// Names of added slots.
pub(super) fn added(daemon: Daemon, base: u16, count: u16) -> String {
    let names = (base..base.saturating_add(count)).map(|slot| InstanceName { daemon, slot }.to_string());
    names.collect::<Vec<_>>().join(", ")
}
