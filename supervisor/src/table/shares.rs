//! Which slots own the buckets of a pool, and how that changes under load.
//!
//! Level-triggered like the rest: `slots` is what is wanted, `shares` is what the node table says. Where they differ, and everybody concerned is
//! Ready, buckets are moved in three steps, each a new epoch, each begun when every process that has links has met the one before:
//!
//! 1. *hold*: senders keep new items of the moving buckets back and let what they have sent be settled by the old owners;
//! 2. *drain*: old owners finish what is left of them (distribution, cursors), gateways tell their sessions to the next owners;
//! 3. the new share: senders hand on what they kept back.
//!
//! A step that takes too long is called off: what was kept back goes to the old owners, and it is tried again. Whoever dies meanwhile comes back
//! as the old owner, so nothing is ever routed around anybody. One pool at a time.

use wk_types::{Daemon, InstanceName};

use super::{Instance, Kind, Op, Table};
use crate::backoff::Time;
use crate::limits::{SHIFT_MAX, SHIFT_PAUSE};

/// Buckets of a pool on their way to another share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shift {
    pool: Daemon,
    to: u16,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hold {
        until: Time,
    },
    Drain {
        until: Time,
    },
    /// Called off; tried again after this.
    Rest {
        until: Time,
    },
}

impl Table {
    /// Slots that own buckets of a pool, `0..` this. Not always those that are wanted.
    #[must_use]
    pub fn share(&self, pool: Daemon) -> u16 {
        self.shares.get(&pool).copied().unwrap_or(1)
    }

    /// The shares are what is wanted: for a node that is down.
    pub(super) fn share_all(&mut self) {
        self.shares = self.spec.daemons.keys().flat_map(|host| self.spec.housed(*host).map(|pool| (pool, self.slots(*host)))).collect();
    }

    /// Slots that the pool has after the move, and whether nobody sends any more.
    #[must_use]
    pub(super) fn next_share(&self, pool: Daemon) -> Option<(u16, bool)> {
        let shift = self.shift.filter(|s| s.pool == pool)?;
        match shift.step {
            Step::Hold { .. } => Some((shift.to, false)),
            Step::Drain { .. } => Some((shift.to, true)),
            Step::Rest { .. } => None,
        }
    }

    /// Slots of a daemon that have to have a process: those that are wanted, those that own something, those that are about to.
    pub(super) fn slots_needed(&self, host: Daemon) -> u16 {
        let shares = self.spec.housed(host).map(|pool| self.share(pool));
        let next = self.shift.filter(|s| self.spec.housed(host).any(|pool| pool == s.pool)).map(|s| s.to);
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
        let linked = |i: &&Instance| matches!(i.name.daemon, Daemon::Gateway | Daemon::Api | Daemon::Worker(_));
        self.instances.values().filter(linked).filter(|i| i.run.as_ref().is_some_and(|r| r.met < self.epoch)).map(|i| i.name)
    }

    /// When [`Self::shift`] has something to do.
    pub(super) fn shift_deadline(&self) -> Option<Time> {
        match self.shift?.step {
            Step::Hold { until } | Step::Drain { until } => Some(until),
            // Afterwards a report is waited for.
            Step::Rest { until } => self.behind().next().is_none().then_some(until),
        }
    }

    /// Moves buckets on; true when the node table changed.
    pub(super) fn shift(&mut self, now: Time) -> bool {
        let Some(shift) = self.shift else { return self.begin_shift(now) };
        let agreed = self.behind().next().is_none();
        let leaving = !self.admitted || self.ops.iter().any(Op::quiescing);
        let next = match shift.step {
            _ if leaving => None,
            Step::Hold { until } if agreed => Some(Step::Drain { until }),
            Step::Drain { .. } if agreed => {
                self.shares.insert(shift.pool, shift.to);
                None
            }
            Step::Hold { until } | Step::Drain { until } if until <= now => {
                self.shift_note(&shift);
                Some(Step::Rest { until: now + SHIFT_PAUSE })
            }
            Step::Rest { until } if until <= now && agreed => {
                self.shift = None;
                return self.begin_shift(now);
            }
            Step::Hold { .. } | Step::Drain { .. } | Step::Rest { .. } => return false,
        };
        self.shift = next.map(|step| Shift { step, ..shift });
        self.epoch += 1;
        true
    }

    /// Begins to move the buckets of the first pool whose share is not what is wanted, once everybody concerned is Ready.
    fn begin_shift(&mut self, now: Time) -> bool {
        let hosts: Vec<Daemon> = self.spec.daemons.keys().copied().collect();
        let differing = hosts.iter().flat_map(|host| self.spec.housed(*host).map(|pool| (*host, pool)));
        let differing: Vec<(Daemon, Daemon)> = differing.filter(|(host, pool)| self.share(*pool) != self.in_use(*host)).collect();
        for (host, pool) in differing {
            let to = self.in_use(host);
            if !self.admitted {
                // Nobody sends anything yet, or any more.
                self.shares.insert(pool, to);
            } else {
                let ready = |slot| self.instances.get(&InstanceName { daemon: host, slot }).is_some_and(Instance::ready);
                let concerned = (0..self.share(pool).max(to)).all(ready);
                if !concerned || self.ops.iter().any(Op::quiescing) {
                    continue;
                }
                self.shift = Some(Shift { pool, to, step: Step::Hold { until: now + SHIFT_MAX } });
            }
            self.epoch += 1;
            return true;
        }
        false
    }

    fn shift_note(&mut self, shift: &Shift) {
        let late: Vec<String> = self.behind().map(|n| n.to_string()).collect();
        let text = format!("buckets of {} do not move yet: {} did not get ready for it; tried again", shift.pool, late.join(", "));
        let concerned: Vec<u64> = self.ops.iter().filter(|o| o.locks().contains(&shift.pool)).map(Op::id).collect();
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
        let shift = self.shift.filter(|s| self.spec.housed(host).any(|pool| pool == s.pool))?;
        let late: Vec<String> = self.behind().take(3).map(|n| n.to_string()).collect();
        Some(format!("buckets of {} move to {} slots: waits for {}", shift.pool, shift.to, late.join(", ")))
    }
}
