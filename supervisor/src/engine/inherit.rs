//! Beginning with the processes of a predecessor, and writing down ours for a successor.

use std::time::Instant;

use tokio::task::JoinSet;

use super::{Child, Engine, FactSender, act::ended};
use crate::adopt::Found;
use crate::events::Cause;
use crate::heritage::{configured, monotonic_ns};
use crate::ledger::NodeRecord;
use crate::limits::{ADOPT_HOLD, TIDY_DELAY};
use crate::notify::Passed;
use crate::rounds::Rounds;
use crate::table::{Fact, Flags, Kind, Request};
use crate::{calls, ready};

impl Engine {
    /// Takes over what was found, finishes what cannot be left, starts what was not started.
    pub(super) fn inherit(&mut self) {
        self.keep();
        if let Some(text) = self.config.refused.clone() {
            self.console.line(&format!("warning: {text}"));
            self.event(None, "supervisor", Cause::Reload, None, text);
        }
        let children = std::mem::take(&mut self.heritage.children);
        let taken = children.len();
        for found in children {
            self.take_over(found);
        }
        self.empty_leaves();
        for (name, exit) in std::mem::take(&mut self.heritage.dead) {
            let generation = self.table.instances().find(|i| i.name == name).map_or(0, |i| i.generation);
            let actions = self.table.step(self.now(), name, generation, Fact::Exited(exit));
            self.perform(actions);
        }
        if taken > 0 {
            self.hold_until = Some(Instant::now() + ADOPT_HOLD);
            self.tidy_at = Some(Instant::now() + TIDY_DELAY);
        }
        let adopted = self.table.instances().filter(|i| i.run.as_ref().is_some_and(|r| r.adopted && !r.bound)).count();
        if adopted > 0 {
            self.counters.adopted.inc_by(adopted as u64);
            self.console.line(&format!("adopted {adopted} processes of an earlier supervisor"));
        }
        self.listeners.each(|name, listener| self.notifier.store(&Passed::listener_name(name), listener));
        let away = self.listeners.away();
        if !away.is_empty() {
            self.console.line(&format!("warning: {} cannot be copied from the daemon, bound again when it ends", away.join(", ")));
        }
        if let Some(leaving) = self.heritage.leaving.take() {
            self.first = None;
            if let Err(refusal) = self.begin(leaving.request()) {
                tracing::error!(%refusal, "stop of a predecessor not finished");
            }
        } else if self.heritage.started {
            self.first = None;
            self.console.detached(0);
        } else {
            self.first_start();
        }
    }

    fn take_over(&mut self, found: Found) {
        let (name, generation) = (found.marker.name, found.marker.generation);
        let run = self.table.instances().find(|i| i.name == name).and_then(|i| i.run.as_ref());
        let (up, activated, admitted) =
            run.map_or((false, false, false), |r| (r.times.up.is_some(), r.times.activate.is_some(), r.admitted));
        self.renew_limits(name);
        self.watch_child(name, generation, found, up);
        self.with_child(name, generation, |c| {
            // The predecessor may have died before the daemon heard it; hearing it twice changes nothing.
            if activated {
                c.tasks.spawn(calls::activate(c.channel.clone()));
            }
            if admitted {
                c.tasks.spawn(calls::admit(c.channel.clone()));
            }
        });
        let facts = FactSender { tx: self.tx.clone(), name, generation };
        // One that hangs is found at once, not at its next liveness check. One that was never up is judged by the start timeout.
        if up {
            self.with_child(name, generation, |c| {
                c.tasks.spawn(ready::probe(c.channel.clone(), facts, c.process.number()));
            });
        }
    }

    /// Sets the limits of its control group where they were lost with our predecessor.
    fn renew_limits(&self, name: wk_types::InstanceName) {
        let (Some(cgroups), Some(spec)) = (&self.cgroups, self.config.spec.daemons.get(&name.daemon)) else { return };
        let leaf = cgroups.leaf(name);
        if let Some(Err(err)) = leaf.populated().then(|| cgroups.renew(&leaf, &spec.limits)) {
            tracing::warn!(%name, %err, "limits of an adopted process not set");
        }
    }

    /// What a dead daemon left in its control group is found nowhere else when it has taken the marker off its environment.
    fn empty_leaves(&mut self) {
        let leaves = self.cgroups.as_ref().map_or_else(Vec::new, crate::cgroup::Cgroups::leaves).into_iter();
        for (name, leaf) in leaves {
            if self.children.contains_key(&name) {
                continue;
            }
            match leaf.empty() {
                Ok(true) => self.console.line(&format!("ended what was left in the control group of {name}")),
                Ok(false) => {}
                Err(err) => tracing::error!(%name, %err, "control group of a dead daemon not emptied"),
            }
        }
    }

    /// Keeps the configuration for a successor that finds a bad one.
    pub(super) fn keep(&self) {
        if let Err(err) = crate::kept::keep(&self.config) {
            tracing::error!(%err, "configuration not kept for a successor");
        }
    }

    /// Everything that watches a process of ours. `up`: it has answered before.
    pub(super) fn watch_child(&mut self, name: wk_types::InstanceName, generation: u64, found: Found, up: bool) {
        let (health, _) = self.config.sockets(name, generation);
        let channel = wk_rpc::dial::dial_lazy_with(health, ready::DIAL);
        let facts = FactSender { tx: self.tx.clone(), name, generation };
        let identity = found.marker.identity();
        let Found { pid, start_time, process, .. } = found;
        let leaf = self.cgroups.as_ref().map(|c| c.leaf(name)).filter(|leaf| leaf.holds(pid));
        let process = process.within(leaf);
        let mut tasks = JoinSet::new();
        tasks.spawn(ready::watch(channel.clone(), identity, facts.clone(), up));
        let rounds = self.rounds.get_or_insert_with(|| Rounds::new(self.began.into(), self.config.spec.liveness())).of(name.daemon);
        tasks.spawn(ready::live(channel.clone(), facts, pid, rounds, self.counters.clone()));
        tasks.spawn(ended(process.clone(), self.tx.clone(), name, generation));
        self.notifier.store(&Passed::child_name(name), process.pidfd());
        self.children.insert(name, Child { generation, process, start_time, channel, tasks, ended: None });
    }

    /// Node table and snapshot of a predecessor stand until the health of its processes is known: to the daemons nothing has happened.
    pub(super) fn holds_table(&mut self) -> bool {
        if self.hold_until.is_some_and(|until| until <= Instant::now() || !self.table.is_confirming()) {
            self.hold_until = None;
        }
        self.hold_until.is_some()
    }

    /// Writes down what a successor needs.
    pub(super) fn record(&mut self) {
        let age = u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX);
        // Two clocks read one after the other: the zero is computed once.
        let zero_ns = *self.zero_ns.get_or_insert_with(|| monotonic_ns().saturating_sub(age));
        let node = NodeRecord {
            zero_ns,
            config_hash: self.config.hash.clone(),
            configured: configured(&self.config),
            desired: self.table.desired(),
            started: self.first.is_none(),
            listeners: self.listeners.records(),
        };
        // Asked for here, not between two births. A process that has ended meanwhile still tells: it is not reaped.
        for child in self.children.values_mut().filter(|c| c.start_time == 0) {
            child.start_time = crate::process::start_time(child.process.number()).unwrap_or(0);
        }
        let children = &self.children;
        let rows = self.table.instances().map(|i| (i, children.get(&i.name).map_or(0, |c| c.start_time)));
        if let Err(err) = self.ledger.save(node, rows) {
            tracing::error!(%err, "record of the children not saved");
        }
    }

    /// The start of what was wanted: everything, unless a predecessor knew better.
    pub(super) fn start_request(&self) -> Request {
        let wanted: Vec<String> = self.table.instances().filter(|i| self.table.wanted(i.name)).map(|i| i.name.to_string()).collect();
        let all = wanted.is_empty() || wanted.len() == self.table.instances().count();
        Request::new(Kind::Start, if all { Vec::new() } else { wanted }, Flags::default())
    }
}
