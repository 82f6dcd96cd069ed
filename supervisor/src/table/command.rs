//! From a command to an operation: names, conflicts, refusals.
//!
//! An operation locks the daemons it changes. What meets a lock waits in one bounded queue, in the order of arrival, with these exceptions:
//! the same request joins; a stop cancels starts, rolls and scales in its way (a start is rolled back); a scale and a roll of one pool run
//! together, since both only edit what is wanted; a later scale of a pool replaces an earlier one.

use std::collections::BTreeSet;

use wk_types::{Daemon, InstanceName};

use super::op::{Op, Phase};
use super::{Action, End, Instance, Kind, Refusal, Request, Table};
use crate::backoff::Time;
use crate::limits::{OPS_WAITING_MAX, SLOTS_MAX};
use crate::names;

impl Refusal {
    /// A refusal with the exit code for `wkctl`.
    #[must_use]
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A request that waits for its turn.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Number of the operation it becomes.
    pub id: u64,
    /// What is asked.
    pub request: Request,
    locks: BTreeSet<Daemon>,
}

impl Table {
    /// Begins an operation, puts it behind those in its way, or joins the one that is the same. Returns its number.
    ///
    /// # Errors
    /// Unknown names (4), semantic misuse (64), another operation in the way (75).
    pub fn begin(&mut self, now: Time, request: Request) -> Result<u64, Refusal> {
        if request.kind == Kind::Stop {
            self.outlive_waiting(&request);
        }
        if let Some(id) = self.join(now, &request) {
            return Ok(id);
        }
        let targets = self.validate(&request)?;
        let full_stop = request.kind == Kind::Stop && request.full();
        let locks: BTreeSet<Daemon> = if request.full() { self.spec.daemons.keys().copied().collect() } else { locks(&request, &targets) };
        if full_stop {
            self.clear_the_way();
        } else if let Some(in_the_way) = self.clear_conflicts(now, &request, &locks) {
            return self.wait(request, locks, in_the_way);
        }
        let id = self.take_id();
        self.open(now, id, request, targets);
        Ok(id)
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_op;
        self.next_op += 1;
        id
    }

    /// What the request would change.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub(super) fn validate(&self, request: &Request) -> Result<BTreeSet<InstanceName>, Refusal> {
        let targets = self.resolve(&request.names)?;
        match request.kind {
            Kind::Start => Ok(self.start_targets(&targets)),
            Kind::Stop => self.stop_targets(request, targets),
            Kind::Restart if request.restarts_together() && !request.full() => {
                if let Some(name) = targets.iter().find(|n| !self.wanted(**n)) {
                    return Err(Refusal::new(64, format!("{name} is not running; use start")));
                }
                self.stop_targets(request, targets)
            }
            Kind::Restart | Kind::Roll => match targets.iter().find(|n| !self.wanted(**n) && !request.full()) {
                Some(name) => Err(Refusal::new(64, format!("{name} is not running; use start"))),
                None if request.full() && request.kind == Kind::Roll => {
                    let running = targets.into_iter().filter(|n| self.wanted(*n)).collect();
                    self.check_surge(request, &running).map(|()| running)
                }
                None => self.check_surge(request, &targets).map(|()| targets),
            },
            Kind::Scale(daemon, slots) => self.check_scale(daemon, slots).map(|()| BTreeSet::new()),
        }
    }

    fn open(&mut self, now: Time, id: u64, request: Request, targets: BTreeSet<InstanceName>) {
        let ran = self.ran_before(&request, &targets);
        let targets = match request.kind {
            Kind::Start => {
                self.want(&request, &targets);
                targets
            }
            Kind::Stop | Kind::Restart if request.full() => {
                self.held.clear();
                targets
            }
            Kind::Scale(daemon, slots) => self.rescale(daemon, slots),
            _ => targets,
        };
        self.open_op(now, id, request, targets, ran);
    }

    /// Daemon names, `worker` for all pools, or instances, to instances.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn resolve(&self, names: &[String]) -> Result<BTreeSet<InstanceName>, Refusal> {
        if names.is_empty() {
            return Ok(self.instances.keys().copied().collect());
        }
        let mut found = BTreeSet::new();
        for name in names {
            let before = found.len();
            let exact = name.contains('@').then(|| name.parse::<InstanceName>().ok()).flatten();
            found.extend(self.instances.keys().filter(|i| match exact {
                Some(exact) => **i == exact,
                None => i.daemon.name() == name || (name == "worker" && matches!(i.daemon, Daemon::Worker(_))),
            }));
            let known = found.len() > before || self.instances.keys().any(|i| i.daemon.name() == name || Some(*i) == exact);
            if !known {
                return Err(Refusal::new(4, names::unknown(name, &names::known(self.instances.keys().copied()))));
            }
        }
        Ok(found)
    }

    /// The same key, or the same start, stop or scale without one: the same operation. A repeated stop may be in more of a hurry.
    fn join(&mut self, now: Time, request: &Request) -> Option<u64> {
        let same = |other: &Request| {
            let keyed = !request.key.is_empty() && other.key == request.key;
            let alike = other.kind == request.kind && other.names == request.names && !matches!(request.kind, Kind::Restart | Kind::Roll);
            keyed || alike
        };
        if let Some(waiting) = self.waiting.iter().find(|w| same(&w.request)) {
            return Some(waiting.id);
        }
        let found = self.ops.iter().find(|o| same(&o.request) && !matches!(o.phase, Phase::Rollback)).map(|o| (o.id, o.kind()));
        if let Some((id, Kind::Stop)) = found {
            self.hurry(now, id, request.flags);
        }
        found.map(|(id, _)| id)
    }

    /// A stop of everything takes the place of all that runs or waits.
    fn clear_the_way(&mut self) {
        for op in self.ops.clone() {
            match op.phase {
                Phase::Rollback => self.close_op(op.id, op.end.code, op.end.message.clone()),
                _ => self.close_op(op.id, 7, "cancelled by stop".into()),
            }
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.never_begun(waiting.id, 7, "cancelled by stop".into());
        }
    }

    /// The last word counts: what waits to bring up what is to be stopped is not begun any more.
    fn outlive_waiting(&mut self, stop: &Request) {
        let Ok(targets) = self.resolve(&stop.names) else { return };
        let locks = locks(stop, &targets);
        let (gone, kept): (Vec<Waiting>, Vec<Waiting>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.request.kind != Kind::Stop && !w.locks.is_disjoint(&locks));
        self.waiting = kept.into();
        for waiting in gone {
            self.never_begun(waiting.id, 7, "cancelled by stop".into());
        }
    }

    fn never_begun(&mut self, id: u64, code: u32, message: String) {
        let end = End { code, message, timing: None, stops: Vec::new(), report: None, failed: None };
        self.out.push(Action::OpEnd(id, Box::new(end)));
    }

    /// Ends what gives way to the request; answers with what stays in its way.
    fn clear_conflicts(&mut self, now: Time, request: &Request, locks: &BTreeSet<Daemon>) -> Option<(u64, Kind)> {
        for op in self.ops.clone() {
            if op.locks().is_disjoint(locks) {
                continue;
            }
            match (request.kind, op.kind()) {
                (Kind::Stop, Kind::Start | Kind::Restart | Kind::Roll | Kind::Scale(..)) => {
                    // Refused: it goes down already, so it is waited for.
                    drop(self.cancel(now, op.id, "stop"));
                }
                (Kind::Scale(new, _), Kind::Scale(old, _)) if new == old => {
                    self.close_op(op.id, 7, "superseded by a later scale".into());
                }
                _ => {}
            }
        }
        let running = self.ops.iter().find(|o| blocks(o, request.kind) && !o.locks().is_disjoint(locks)).map(|o| (o.id, o.kind()));
        running.or_else(|| self.waiting.iter().find(|w| !w.locks.is_disjoint(locks)).map(|w| (w.id, w.request.kind)))
    }

    fn wait(&mut self, request: Request, locks: BTreeSet<Daemon>, (other, kind): (u64, Kind)) -> Result<u64, Refusal> {
        let text = format!("operation {other} ({}) is under way", kind.name());
        if request.flags.no_wait {
            return Err(Refusal::new(75, format!("{text}, try later")));
        }
        if self.waiting.len() >= OPS_WAITING_MAX {
            return Err(Refusal::new(75, format!("{text} and {OPS_WAITING_MAX} others wait, try later")));
        }
        let id = self.take_id();
        self.waiting.push_back(Waiting { id, request, locks });
        self.op_text(id, None, format!("waits: {text}"));
        Ok(id)
    }

    /// Begins what waited for an operation that has ended; true when one did.
    pub(super) fn begin_waiting(&mut self, now: Time) -> bool {
        let mut before: BTreeSet<Daemon> = BTreeSet::new();
        for index in 0..self.waiting.len() {
            let Some(next) = self.waiting.get(index).cloned() else { break };
            let running = self.ops.iter().any(|o| blocks(o, next.request.kind) && !o.locks().is_disjoint(&next.locks));
            if running || !before.is_disjoint(&next.locks) {
                before.extend(next.locks);
                continue;
            }
            self.waiting.remove(index);
            match self.validate(&next.request) {
                Ok(targets) => self.open(now, next.id, next.request, targets),
                Err(refusal) => self.never_begun(next.id, refusal.code, refusal.message),
            }
            return true;
        }
        false
    }

    /// Takes an operation back as far as that is possible. Returns what happens now.
    ///
    /// # Errors
    /// It does not exist (4) or has gone too far (64).
    pub fn cancel(&mut self, now: Time, id: u64, by: &str) -> Result<String, Refusal> {
        let message = format!("cancelled by {by}");
        if let Some(index) = self.waiting.iter().position(|w| w.id == id) {
            self.waiting.remove(index);
            self.never_begun(id, 7, message);
            return Ok("it had not begun".into());
        }
        let Some(op) = self.ops.iter().find(|o| o.id == id).cloned() else {
            return Err(Refusal::new(4, format!("operation {id} is not under way")));
        };
        match op.phase {
            Phase::Start { .. } => {
                self.fail_start(&op, None, 7, &message);
                let kept = op.request.flags.no_rollback;
                Ok(if kept { "what was started is left as it is" } else { "what it started goes down again" }.into())
            }
            Phase::Roll(_) | Phase::Scale => {
                self.close_op(id, 7, format!("{message}; what was begun is finished, the rest is left as it is"));
                Ok("what was begun is finished, the rest is left as it is".into())
            }
            Phase::Rollback => Err(Refusal::new(64, format!("operation {id} is being rolled back already"))),
            Phase::Quiesce { .. } | Phase::Drain { .. } => {
                Err(Refusal::new(64, format!("operation {id} ends processes already; `wkctl start` brings them back")))
            }
        }
        .inspect(|_| tracing::debug!(?now, id, by, "operation cancelled"))
    }

    /// What is needed for the named ones is started with them; what is ready stays.
    fn start_targets(&self, named: &BTreeSet<InstanceName>) -> BTreeSet<InstanceName> {
        let needed = |name: &InstanceName| named.iter().any(|n| self.spec.depends(n.daemon, name.daemon));
        let part = |n: &&InstanceName| named.contains(n) || (needed(n) && self.stopped.contains(n));
        let done = |n: &&InstanceName| self.wanted(**n) && self.instances.get(n).is_some_and(Instance::ready);
        self.instances.keys().filter(part).filter(|n| !done(n)).copied().collect()
    }

    fn want(&mut self, request: &Request, targets: &BTreeSet<InstanceName>) {
        // An operator who starts what runs says that its crashes are accounted for.
        let named = self.resolve(&request.names).unwrap_or_default();
        for instance in self.instances.values_mut().filter(|i| named.contains(&i.name) && i.ready()) {
            instance.clear();
        }
        for name in targets {
            self.stopped.remove(name);
            self.held.remove(name);
            if let Some(instance) = self.instances.get_mut(name) {
                instance.clear();
            }
        }
    }

    fn stop_targets(&self, request: &Request, mut targets: BTreeSet<InstanceName>) -> Result<BTreeSet<InstanceName>, Refusal> {
        if request.full() {
            return Ok(targets);
        }
        if let Some(name) = targets.iter().find(|n| self.held.contains(n)) {
            return Err(Refusal::new(64, format!("{name} is held; `wkctl unhold {name}` first")));
        }
        let whole = |daemon: Daemon| self.instances.keys().filter(|n| n.daemon == daemon && self.wanted(**n)).all(|n| targets.contains(n));
        let gone: Vec<Daemon> = self.spec.daemons.keys().copied().filter(|d| targets.iter().any(|n| n.daemon == *d) && whole(*d)).collect();
        let left: Vec<InstanceName> = self
            .instances
            .keys()
            .filter(|n| self.wanted(**n) && !targets.contains(n) && gone.iter().any(|d| self.spec.depends(n.daemon, *d)))
            .copied()
            .collect();
        if !left.is_empty() && !request.flags.cascade && !request.flags.force_alone {
            let list: Vec<String> = left.iter().map(ToString::to_string).collect();
            let text = format!("{} need it; --cascade stops them first, --force-alone leaves them running", list.join(", "));
            return Err(Refusal::new(64, text));
        }
        if request.flags.cascade {
            targets.extend(left);
        }
        Ok(targets)
    }

    fn check_scale(&self, daemon: Daemon, slots: u16) -> Result<(), Refusal> {
        if !matches!(daemon, Daemon::Worker(_)) {
            return Err(Refusal::new(64, format!("{daemon} cannot be scaled; worker.user, worker.channel and worker.push can")));
        }
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(Refusal::new(64, format!("{slots} slots are out of range, 1..={SLOTS_MAX}")));
        }
        if let Some(name) = self.held.iter().find(|n| n.daemon == daemon && n.slot >= slots) {
            return Err(Refusal::new(64, format!("{name} is held; `wkctl unhold {name}` first")));
        }
        Ok(())
    }

    /// Changes the number of slots that are wanted; returns the new ones. Buckets follow when these are ready ([`super::shares`]).
    pub(super) fn rescale(&mut self, daemon: Daemon, slots: u16) -> BTreeSet<InstanceName> {
        let down = self.instances.keys().filter(|n| n.daemon == daemon).all(|n| self.stopped.contains(n));
        self.slots.insert(daemon, slots);
        let before: BTreeSet<InstanceName> = self.instances.keys().copied().collect();
        self.add_slots();
        let added: BTreeSet<InstanceName> = self.instances.keys().filter(|n| !before.contains(n)).copied().collect();
        if down {
            self.stopped.extend(added.iter().copied());
        }
        added
    }
}

fn locks(request: &Request, targets: &BTreeSet<InstanceName>) -> BTreeSet<Daemon> {
    let scaled = match request.kind {
        Kind::Scale(daemon, _) => Some(daemon),
        _ => None,
    };
    targets.iter().map(|n| n.daemon).chain(scaled).collect()
}

/// An operation that overlaps with a request of this kind must end first.
fn blocks(op: &Op, kind: Kind) -> bool {
    let partial_roll = matches!(op.phase, Phase::Roll(_));
    !matches!((kind, op.kind()), (Kind::Scale(..), _) if partial_roll) && !matches!((kind, op.kind()), (Kind::Roll, Kind::Scale(..)))
}
