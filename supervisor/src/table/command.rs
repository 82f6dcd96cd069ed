//! From a command to an operation: names, conflicts, refusals.

use std::collections::BTreeSet;

use wk_types::{Daemon, InstanceName};

use super::{Kind, Refusal, Request, Table};
use crate::backoff::Time;
use crate::limits::SLOTS_MAX;

impl Refusal {
    /// A refusal with the exit code for `wkctl`.
    #[must_use]
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Table {
    /// Begins an operation, or joins the one that runs when it is the same. Returns its number.
    ///
    /// # Errors
    /// Unknown names (4), semantic misuse (64), another operation under way (75).
    pub fn begin(&mut self, now: Time, request: Request) -> Result<u64, Refusal> {
        let targets = self.resolve(&request.names)?;
        if let Some(id) = self.join_or_cancel(now, &request)? {
            return Ok(id);
        }
        match request.kind {
            Kind::Start => Ok(self.begin_start(now, request, targets)),
            Kind::Stop => self.begin_stop(now, request, targets),
            Kind::Restart => {
                for name in &targets {
                    if !self.wanted(*name) {
                        return Err(Refusal::new(64, format!("{name} is not running; use start")));
                    }
                }
                Ok(self.open_op(now, request, targets))
            }
            Kind::Scale(daemon, slots) => self.begin_scale(now, request, daemon, slots),
        }
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
                let all: Vec<&str> = self.spec.daemons.keys().map(|d| d.name()).collect();
                return Err(Refusal::new(4, format!("no daemon or instance {name:?}; there are {}", all.join(", "))));
            }
        }
        Ok(found)
    }

    fn join_or_cancel(&mut self, now: Time, request: &Request) -> Result<Option<u64>, Refusal> {
        let Some(op) = &self.op else { return Ok(None) };
        let id = op.id();
        if !request.key.is_empty() && op.key() == request.key {
            return Ok(Some(id));
        }
        let full_stop = request.kind == Kind::Stop && request.names.is_empty();
        if full_stop && op.full_stop() {
            self.hurry(now, request.flags);
            return Ok(Some(id));
        }
        if full_stop {
            self.cancel_op("stop");
            return Ok(None);
        }
        Err(Refusal::new(75, format!("operation {id} ({:?}) is under way, try later", op.kind())))
    }

    /// What is needed for the named ones is started with them.
    fn begin_start(&mut self, now: Time, request: Request, named: BTreeSet<InstanceName>) -> u64 {
        let needed = |name: &InstanceName| named.iter().any(|n| self.spec.depends(n.daemon, name.daemon));
        let mut targets: BTreeSet<InstanceName> =
            self.instances.keys().filter(|n| named.contains(n) || (needed(n) && self.stopped.contains(n))).copied().collect();
        // An operator who starts what runs says that its crashes are accounted for.
        for instance in self.instances.values_mut().filter(|i| named.contains(&i.name) && i.ready()) {
            instance.clear();
        }
        targets.retain(|n| !(self.wanted(*n) && self.instances.get(n).is_some_and(super::Instance::ready)));
        for name in &targets {
            self.stopped.remove(name);
            if let Some(instance) = self.instances.get_mut(name) {
                instance.clear();
            }
        }
        self.open_op(now, request, targets)
    }

    fn begin_stop(&mut self, now: Time, request: Request, mut targets: BTreeSet<InstanceName>) -> Result<u64, Refusal> {
        let whole = |daemon: Daemon| self.instances.keys().filter(|n| n.daemon == daemon && self.wanted(**n)).all(|n| targets.contains(n));
        let gone: Vec<Daemon> = self.spec.daemons.keys().copied().filter(|d| targets.iter().any(|n| n.daemon == *d) && whole(*d)).collect();
        let left: Vec<InstanceName> = self
            .instances
            .keys()
            .filter(|n| self.wanted(**n) && !targets.contains(n) && gone.iter().any(|d| self.spec.depends(n.daemon, *d)))
            .copied()
            .collect();
        if !left.is_empty() && !request.flags.cascade {
            let list: Vec<String> = left.iter().map(ToString::to_string).collect();
            return Err(Refusal::new(64, format!("{} need it; --cascade stops them first", list.join(", "))));
        }
        targets.extend(left);
        Ok(self.open_op(now, request, targets))
    }

    fn begin_scale(&mut self, now: Time, mut request: Request, daemon: Daemon, slots: u16) -> Result<u64, Refusal> {
        if !matches!(daemon, Daemon::Worker(_)) {
            return Err(Refusal::new(64, format!("{daemon} cannot be scaled; worker.user, worker.channel and worker.push can")));
        }
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(Refusal::new(64, format!("{slots} slots are out of range, 1..={SLOTS_MAX}")));
        }
        let down = self.instances.keys().filter(|n| n.daemon == daemon).all(|n| self.stopped.contains(n));
        if self.slots.insert(daemon, slots).unwrap_or(1) != slots {
            self.epoch += 1;
        }
        let before: BTreeSet<InstanceName> = self.instances.keys().copied().collect();
        self.add_slots();
        let targets: BTreeSet<InstanceName> = self.instances.keys().filter(|n| !before.contains(n)).copied().collect();
        if down {
            self.stopped.extend(targets.iter().copied());
        }
        request.names = vec![daemon.name().to_owned()];
        Ok(self.open_op(now, request, targets))
    }
}
