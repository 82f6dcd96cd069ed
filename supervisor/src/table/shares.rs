//! Which slots own the buckets of a pool: `slots` is what is wanted, `shares` is what the node table says, and [`wk_node::shares`] decides how the
//! one follows the other under load, for this host and for the other one. Here is what it needs to know: who is Ready, who has met the epoch.

use wk_node::shares::{Seen, Turn, Wish};
use wk_types::{Daemon, InstanceName};

use super::{Instance, Kind, Op, Table};
use crate::backoff::Time;

impl Table {
    /// Slots that own buckets of a pool, `0..` this. Not always those that are wanted.
    #[must_use]
    pub fn share(&self, pool: Daemon) -> u16 {
        self.shares.get(pool).copied().unwrap_or(1)
    }

    /// The shares are what is wanted: for a node that is down.
    pub(super) fn share_all(&mut self) {
        self.shares = self.spec.daemons.keys().flat_map(|host| self.spec.housed(*host).map(|pool| (pool, self.slots(*host)))).collect();
    }

    /// Slots of a daemon that have to have a process: those that are wanted, those that own something, those that are about to.
    pub(super) fn slots_needed(&self, host: Daemon) -> u16 {
        let shares = self.spec.housed(host).map(|pool| self.share(pool));
        let next = self.shares.moving().filter(|(moving, _)| self.spec.housed(host).any(|pool| pool == *moving)).map(|(_, to)| *to);
        shares.chain(next).chain([self.in_use(host)]).max().unwrap_or(1)
    }

    /// The share is what is wanted.
    pub(super) fn share_settled(&self, host: Daemon) -> bool {
        self.spec.housed(host).all(|pool| self.share(pool) == self.in_use(host))
    }

    /// A process has done what the table of this epoch asks.
    pub fn met(&mut self, name: InstanceName, incarnation: u64, epoch: u64) {
        let run = self.instances.get_mut(&name).and_then(|i| i.run.as_mut());
        if let Some(run) = run.filter(|r| r.incarnation == incarnation) {
            run.met = run.met.max(epoch);
        }
    }

    /// Processes that have links and have not met the present epoch.
    fn behind(&self) -> impl Iterator<Item = InstanceName> {
        let linked = |i: &&Instance| wk_node::graph::linked(i.name.daemon);
        self.instances.values().filter(linked).filter(|i| i.run.as_ref().is_some_and(|r| r.met < self.epoch)).map(|i| i.name)
    }

    /// When [`Self::shift`] has something to do.
    pub(super) fn shift_deadline(&self) -> Option<Time> {
        self.shares.moving()?;
        self.shares.deadline(self.behind().next().is_none())
    }

    /// Moves buckets on; true when the node table changed.
    pub(super) fn shift(&mut self, now: Time) -> bool {
        let wishes: Vec<Wish<u16>> = self.wishes().collect();
        if wishes.is_empty() && self.shares.moving().is_none() {
            return false;
        }
        let quiescing = self.ops.iter().any(Op::quiescing);
        let seen = Seen { now, admitted: self.admitted, quiescing, agreed: self.behind().next().is_none() };
        match self.shares.turn(seen, wishes) {
            Turn::Still => return false,
            Turn::Changed => {}
            Turn::CalledOff(pool) => self.shift_note(pool),
        }
        self.epoch += 1;
        true
    }

    /// Pools whose share is not what is wanted.
    fn wishes(&self) -> impl Iterator<Item = Wish<u16>> + '_ {
        let pools = self.spec.daemons.keys().flat_map(|host| self.spec.housed(*host).map(|pool| (*host, pool)));
        pools.filter(|(host, pool)| self.share(*pool) != self.in_use(*host)).map(|(host, pool)| {
            let slots = self.in_use(host);
            let ready = |slot| self.instances.get(&InstanceName { daemon: host, slot }).is_some_and(Instance::ready);
            Wish { pool, slots, ready: (0..self.share(pool).max(slots)).all(ready) }
        })
    }

    fn shift_note(&mut self, pool: Daemon) {
        let late: Vec<String> = self.behind().map(|n| n.to_string()).collect();
        let text = format!("buckets of {pool} do not move yet: {} did not get ready for it; tried again", late.join(", "));
        let concerned: Vec<u64> = self.ops.iter().filter(|o| o.locks().contains(&pool)).map(Op::id).collect();
        for op in concerned {
            self.op_text(op, None, text.clone());
        }
    }

    /// What a scale, or a roll with added slots, waits for, in words.
    pub(super) fn shift_text_of(&self, op: &Op) -> Option<String> {
        let host = match op.kind() {
            Kind::Scale(host, _) => host,
            _ => op.surges()?,
        };
        let (pool, to) = self.shares.moving().filter(|(moving, _)| self.spec.housed(host).any(|pool| pool == *moving))?;
        let late: Vec<String> = self.behind().take(3).map(|n| n.to_string()).collect();
        Some(format!("buckets of {pool} move to {to} slots: waits for {}", late.join(", ")))
    }
}
