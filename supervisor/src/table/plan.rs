//! Dry runs: what an operation would do, in which order, and when by the experience of the last starts. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wk_types::{Daemon, InstanceName};

use super::{Instance, Kind, Refusal, Request, Table};
use crate::limits::{FAST_DEADLINE, QUIESCE_DEADLINE, TERM_DEADLINE};
use crate::timing::Timing;

mod turns;

/// First word of the first step of a start.
const SPAWN: &str = "spawn ";

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Since the operation began; `None`: no experience.
    pub at: Option<Duration>,
    /// What is done.
    pub action: String,
    /// Why not earlier.
    pub because: String,
}

/// What an operation would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Expected time until it is done.
    pub total: Option<Duration>,
    /// What decides that time, or what is to be known.
    pub summary: String,
}

/// What the last starts took: per daemon until its health socket answered, and from activation to Ready.
#[derive(Debug, Clone, Default)]
pub struct Experience(BTreeMap<Daemon, (Duration, Duration)>);

impl Experience {
    /// Medians of these starts.
    #[must_use]
    pub fn of(starts: &[Timing]) -> Self {
        let mut seen: BTreeMap<Daemon, (Vec<Duration>, Vec<Duration>)> = BTreeMap::new();
        for row in starts.iter().flat_map(|s| &s.rows) {
            let (ups, handshakes) = seen.entry(row.name.daemon).or_default();
            ups.push(row.exec + row.init);
            handshakes.push(row.handshake);
        }
        Self(seen.into_iter().map(|(daemon, (up, handshake))| (daemon, (median(up), median(handshake)))).collect())
    }

    fn ready_after(&self, daemon: Daemon, activated: Duration) -> Option<Duration> {
        self.0.get(&daemon).map(|(up, handshake)| activated.max(*up) + *handshake)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn list(names: impl IntoIterator<Item = InstanceName>) -> String {
    names.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
}

impl Table {
    /// What the request would do now.
    ///
    /// # Errors
    /// It would be refused.
    pub fn plan(&self, request: &Request, experience: &Experience) -> Result<Plan, Refusal> {
        let targets = self.validate(request)?;
        let mut plan = match request.kind {
            Kind::Start => self.plan_start(&targets, experience, Duration::ZERO),
            Kind::Stop => self.plan_stop(request, &targets),
            Kind::Restart if request.restarts_together() => {
                let mut plan = self.plan_stop(request, &targets);
                let mut start = self.plan_start(&targets, experience, Duration::ZERO);
                if let Some(spawn) = start.steps.iter_mut().find(|s| s.action.starts_with(SPAWN)) {
                    spawn.action = format!("{SPAWN}{}", list(targets.iter().copied()));
                }
                let again = start.steps.into_iter().map(|s| Step { at: None, because: format!("all stopped; {}", s.because), ..s });
                plan.steps.extend(again);
                plan
            }
            Kind::Restart | Kind::Roll => self.plan_turns(request, &targets, experience),
            Kind::Scale(daemon, slots) => self.plan_scale(daemon, slots, experience),
        };
        let busy: Vec<String> = self.ops.iter().map(|o| format!("{} ({})", o.id(), o.kind().name())).collect();
        if !busy.is_empty() {
            plan.summary = format!("{}; under way now: operation {}", plan.summary, busy.join(", "));
        }
        Ok(plan)
    }

    fn plan_start(&self, targets: &BTreeSet<InstanceName>, experience: &Experience, began: Duration) -> Plan {
        if targets.is_empty() {
            return Plan { summary: "everything named is ready already".into(), total: Some(Duration::ZERO), ..Plan::default() };
        }
        let mut plan = Plan::default();
        let spawned = targets.iter().filter(|n| !self.instances.get(n).is_some_and(Instance::live)).copied();
        plan.steps.push(Step {
            at: Some(began),
            action: format!("{SPAWN}{}", list(spawned)),
            because: "no process needs another one to come up".into(),
        });
        let mut ready: BTreeMap<Daemon, Option<Duration>> = BTreeMap::new();
        let mut decided: BTreeMap<Daemon, Daemon> = BTreeMap::new();
        let mut left: BTreeSet<Daemon> = targets.iter().map(|n| n.daemon).collect();
        while let Some(next) = left.iter().copied().find(|d| self.spec.requires(*d).all(|r| !left.contains(&r))) {
            left.remove(&next);
            let edges: Vec<Daemon> = self.spec.requires(next).filter(|r| ready.contains_key(r)).collect();
            let slowest = edges.iter().copied().max_by_key(|r| ready.get(r).copied().flatten());
            let known = edges.iter().all(|r| ready.get(r).is_some_and(Option::is_some));
            let at = known.then(|| slowest.and_then(|s| ready.get(&s).copied().flatten()).unwrap_or(began));
            if let Some(slowest) = slowest {
                decided.insert(next, slowest);
            }
            ready.insert(next, at.and_then(|at| experience.ready_after(next, at)));
            let implied = |d: &Daemon| edges.iter().any(|other| self.spec.depends(*other, *d));
            let names: Vec<&str> = edges.iter().filter(|d| !implied(d)).map(|d| d.name()).collect();
            let because =
                if names.is_empty() { "requires nothing that is not ready".to_owned() } else { format!("{} ready", names.join(", ")) };
            let action = format!("activate {}", list(targets.iter().filter(|n| n.daemon == next).copied()));
            plan.steps.push(Step { at, action, because });
        }
        plan.steps.sort_by_key(|s| s.at.unwrap_or(Duration::MAX));
        let required = |d: &Daemon| self.spec.daemons.get(d).is_some_and(|s| s.required);
        let last = ready.iter().filter(|(d, _)| required(d)).max_by_key(|(_, at)| **at).map(|(d, _)| *d);
        let complete = ready.iter().filter(|(d, _)| required(d)).all(|(_, at)| at.is_some());
        plan.total = last.and_then(|d| ready.get(&d).copied().flatten()).filter(|_| complete);
        if !self.admitted {
            plan.steps.push(Step { at: plan.total, action: "admit clients".into(), because: "all required daemons ready".into() });
        }
        let mut path: Vec<&str> = Vec::new();
        let mut next = last;
        while let Some(daemon) = next {
            path.insert(0, daemon.name());
            next = decided.get(&daemon).copied();
        }
        plan.summary = match plan.total {
            Some(_) => format!("critical path: {}", path.join(" → ")),
            None => format!("longest chain: {}; no start was timed yet", path.join(" → ")),
        };
        plan
    }

    fn plan_stop(&self, request: &Request, targets: &BTreeSet<InstanceName>) -> Plan {
        let mut plan = Plan { summary: "times are upper bounds; most daemons end at once".into(), ..Plan::default() };
        let mut at = Duration::ZERO;
        let quiesce = if request.flags.fast { FAST_DEADLINE } else { QUIESCE_DEADLINE };
        if request.full() && self.serving() && !request.flags.now {
            let action = "quiesce: no new work, what was accepted is finished".into();
            plan.steps.push(Step { at: Some(at), action, because: format!("clients are admitted; at most {} s", quiesce.as_secs()) });
            at += quiesce;
        }
        let mut left: BTreeSet<InstanceName> =
            targets.iter().filter(|n| self.instances.get(n).is_some_and(Instance::live)).copied().collect();
        let mut before = String::new();
        while !left.is_empty() {
            let wave: BTreeSet<InstanceName> =
                left.iter().filter(|n| left.iter().all(|l| !self.spec.depends(l.daemon, n.daemon))).copied().collect();
            let time = wave.iter().filter_map(|n| self.spec.daemons.get(&n.daemon)).map(|s| s.term_deadline).max().unwrap_or(TERM_DEADLINE);
            let time = if request.flags.fast { FAST_DEADLINE } else { time };
            let because = if before.is_empty() { "nothing else that stays needs it".to_owned() } else { format!("{before} gone") };
            let bound = if request.flags.now { "killed at once".to_owned() } else { format!("killed after {} s", time.as_secs()) };
            plan.steps.push(Step {
                at: Some(at),
                action: format!("stop {}", list(wave.iter().copied())),
                because: format!("{because}; {bound}"),
            });
            at += time;
            before = list(wave.iter().copied());
            left.retain(|n| !wave.contains(n));
        }
        if plan.steps.is_empty() {
            plan.summary = "nothing of that runs".into();
        }
        plan
    }

    fn plan_scale(&self, daemon: Daemon, slots: u16, experience: &Experience) -> Plan {
        let now = self.slots(daemon);
        let names = |from: u16, to: u16| list((from..to).map(|slot| InstanceName { daemon, slot }));
        let mut plan = Plan { summary: format!("{daemon}: {now} → {slots}"), ..Plan::default() };
        let at = Some(Duration::ZERO);
        let deal = |at, who: &str| Step {
            at,
            action: format!(
                "deal the buckets of {daemon} to {slots} slots: new work is held back, the old owners finish, the new ones go on"
            ),
            because: format!("{who} ready; three steps, each when all processes have met the one before"),
        };
        if slots > now {
            let added = names(now, slots);
            let ready = experience.ready_after(daemon, Duration::ZERO);
            plan.steps.push(Step { at, action: format!("spawn and activate {added}"), because: "they own nothing yet".into() });
            plan.steps.push(deal(ready, &format!("all of {daemon}, {added} among them,")));
            plan.total = ready;
        } else if slots < now {
            let because = "its buckets have new owners, nothing is left to do for the old ones".to_owned();
            plan.steps.push(deal(at, &format!("all of {daemon}")));
            plan.steps.push(Step { at: None, action: format!("drain {}", names(slots, now)), because });
        } else {
            plan.total = at;
        }
        plan
    }
}
