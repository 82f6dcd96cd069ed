//! The plan of a roll or partial restart.

use std::collections::BTreeSet;
use std::time::Duration;

use wk_types::{Daemon, InstanceName};

use super::super::surge::added;
use super::super::{Instance, Pace, Request, Table};
use super::{Experience, Plan, Step, list};

/// Steps so far, and the clock.
struct Draft<'a> {
    plan: Plan,
    at: Option<Duration>,
    experience: &'a Experience,
    pace: Pace,
    /// What the next step waits for.
    before: String,
}

impl Draft<'_> {
    fn step(&mut self, action: String, because: &str) {
        let because = match (self.before.as_str(), because) {
            ("", "") => "first".to_owned(),
            ("", other) => other.to_owned(),
            (before, "") => before.to_owned(),
            (before, other) => format!("{before}; {other}"),
        };
        self.plan.steps.push(Step { at: self.at, action, because });
    }

    /// A step that ends when new processes are proved.
    fn prove(&mut self, action: String, who: &str, daemon: Daemon, because: &str) {
        self.step(action, because);
        let pause = self.pace.min_ready;
        self.before = if pause.is_zero() { format!("{who} ready") } else { format!("{who} ready for {pause:?}") };
        self.at = self.at.and_then(|at| Some(at + self.experience.ready_after(daemon, Duration::ZERO)? + pause));
    }
}

impl Table {
    /// In which order instances are replaced: with added slots those first that are not ready, since nothing can move to the added ones before.
    pub(in super::super) fn turn_order(&self, targets: &BTreeSet<InstanceName>, pace: Pace) -> Vec<InstanceName> {
        let mut queue: Vec<InstanceName> = targets.iter().copied().collect();
        if pace.surge > 0 {
            queue.sort_by_key(|n| (n.daemon, self.is_ready(*n)));
        }
        queue
    }

    fn is_ready(&self, name: InstanceName) -> bool {
        self.instances.get(&name).is_some_and(Instance::ready)
    }

    pub(super) fn plan_turns(&self, request: &Request, targets: &BTreeSet<InstanceName>, experience: &Experience) -> Plan {
        let pace = request.flags.roll;
        let mut names: Vec<InstanceName> = self.turn_order(targets, pace).into_iter().filter(|n| !self.held.contains(n)).collect();
        let kept = if pace.canary > 0 { names.split_off(names.len().min(pace.canary as usize)) } else { Vec::new() };
        let mut draft = Draft { plan: Plan::default(), at: Some(Duration::ZERO), experience, pace, before: String::new() };
        let surges = self.surge_slots(request, targets);
        while let Some(first) = names.first().copied() {
            let daemon = first.daemon;
            let count = names.iter().take_while(|n| n.daemon == daemon).count();
            let mut pool: Vec<InstanceName> = names.drain(..count).collect();
            let extra = surges.get(&daemon).map(|slots| added(daemon, self.slots(daemon), slots - self.slots(daemon)));
            let absent: Vec<InstanceName> = pool.extract_if(.., |n| extra.is_some() && !self.is_ready(*n)).collect();
            for name in absent {
                draft.prove(format!("replace {name}"), &name.to_string(), daemon, "it is not ready, so it is not missed");
            }
            if let Some(extra) = extra.as_ref().filter(|_| !pool.is_empty()) {
                draft.prove(format!("add {extra}"), extra, daemon, "");
            }
            let lifted = !pool.is_empty();
            let mut because = if extra.is_some() { "shares have moved to it" } else { "" };
            for batch in pool.chunks(pace.size() as usize) {
                let who = list(batch.iter().copied());
                draft.prove(format!("replace {who}"), &who, daemon, std::mem::take(&mut because));
            }
            if let Some(extra) = extra.filter(|_| lifted) {
                draft.step(format!("drain {extra}"), "its share goes back first");
                draft.before = format!("{extra} gone");
            }
        }
        let mut plan = Plan { total: draft.at, ..draft.plan };
        plan.summary = "stops at the first one that is bad; the rest stays as it is".into();
        if !surges.is_empty() {
            plan.summary = format!("never less ready than configured; {}", plan.summary);
        }
        if !kept.is_empty() {
            plan.summary = format!("canary: ends there; left as they are: {}", list(kept));
        }
        plan
    }
}
