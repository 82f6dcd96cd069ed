//! From snapshots to messages.

use std::time::Duration;

use wk_proto::supervisor::v1 as pb;
use wk_types::Daemon;

use super::Shared;
use crate::cause::Exit;
use crate::engine::{Reloaded, Snapshot, Why};
use crate::names;
use crate::table::plan::Plan;
use crate::table::{InstanceView, LastEnd, Refusal, State};
use crate::timing::Timing;

/// Pauses shown of the sequence that lies ahead.
const PAUSES_SHOWN: u32 = 6;

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

impl Shared {
    /// The whole status; uses of processes are read now, or were a moment ago.
    pub(super) fn status(&self, snapshot: &Snapshot, names: &[String]) -> pb::Snapshot {
        let wanted = |v: &&InstanceView| names.is_empty() || names.iter().any(|n| names::means(n, &v.name.to_string()));
        let age = snapshot.taken.elapsed();
        let over = |(daemon, slots, configured): &(Daemon, u16, u16)| pb::Override {
            daemon: daemon.name().into(),
            slots: u32::from(*slots),
            configured: u32::from(*configured),
        };
        pb::Snapshot {
            node_id: self.config.node_id.into(),
            supervisor_pid: std::process::id(),
            overall: snapshot.overall.name().into(),
            admitted: snapshot.admitted,
            up_ms: millis(self.began.elapsed()),
            epoch: snapshot.epoch,
            config_hash: snapshot.config_hash.clone(),
            instances: snapshot.instances.iter().filter(wanted).map(|v| self.instance(snapshot, v, age)).collect(),
            timing: snapshot.timing.as_ref().map(Timing::to_proto),
            addresses: snapshot.addresses.clone(),
            data_dir: self.config.data_dir.display().to_string(),
            runtime_dir: self.config.runtime_dir.display().to_string(),
            ops: snapshot.ops.iter().filter(|o| o.state != "done").cloned().collect(),
            overrides: snapshot.overrides.iter().map(over).collect(),
            containment: self.containment.clone(),
            waiting_keys: snapshot.waiting_keys.clone(),
            config_refused: snapshot.refused.clone().unwrap_or_default(),
        }
    }

    pub(super) fn instance(&self, snapshot: &Snapshot, view: &InstanceView, age: Duration) -> pb::InstanceStatus {
        let sample = self.sampler.of(view.pid, view.incarnation, &self.config.exe(view.name.daemon));
        let mut pending_restart = Vec::new();
        if sample.binary_changed {
            pending_restart.push("binary".to_owned());
        }
        if snapshot.behind.contains(&view.name) {
            pending_restart.push("configuration".to_owned());
        }
        pb::InstanceStatus {
            name: view.name.to_string(),
            state: view.state.to_proto().into(),
            pid: view.pid,
            generation: view.generation,
            up_ms: if view.pid == 0 { 0 } else { millis(view.up + age) },
            restarts: view.restarts,
            last_restart_ms_ago: view.last_restart.map_or(0, |d| millis(d + age)),
            why: view.why.clone(),
            cpu_ms: sample.usage.cpu_ms,
            memory_bytes: sample.usage.memory_bytes,
            open_fds: sample.usage.open_fds,
            components: Vec::new(),
            crash_loop: view.crash_loop,
            held: view.held,
            pending_restart,
            wanted: view.wanted,
            fds_max: sample.fds_max,
            adopted: view.adopted,
        }
    }

    pub(super) fn why(&self, snapshot: &Snapshot, why: &Why) -> pb::WhyReply {
        let Some(view) = why.chain.first() else { return pb::WhyReply::default() };
        let link = |v: &InstanceView| pb::WhyLink { name: v.name.to_string(), state: v.state.name().into(), why: v.why.clone() };
        let next = view.crashes + 1;
        pb::WhyReply {
            code: 0,
            message: String::new(),
            instance: Some(self.instance(snapshot, view, Duration::ZERO)),
            chain: why.chain.iter().map(link).collect(),
            last_exit: view.last_end.map(|end| last_exit(end, why.last_end_ago.unwrap_or_default())),
            log_tail: crate::logs::tail(&self.config.log_path(view.name), why.log_from, &self.cuts),
            backoff_ms: (next..next + PAUSES_SHOWN).map(|n| millis(why.backoff.delay(n))).collect(),
            backoff_jitter: Some(why.backoff.jitter),
            backoff_reset_ms: Some(millis(why.backoff.reset_after)),
            crashes: view.crashes,
            next_attempt_ms: view.next_attempt.map(millis),
        }
    }

    pub(super) fn graph(&self, snapshot: &Snapshot) -> pb::GraphReply {
        let nodes = self.config.spec.daemons.iter().map(|(daemon, spec)| {
            let slots: Vec<&InstanceView> = snapshot.instances.iter().filter(|v| v.name.daemon == *daemon).collect();
            let ready = slots.iter().filter(|v| v.state == State::Ready).count();
            let worst = slots.iter().max_by_key(|v| v.state.severity()).map_or("down", |v| v.state.name());
            pb::GraphNode {
                daemon: daemon.name().into(),
                requires: spec.requires.iter().map(|d| d.name().to_owned()).collect(),
                required: spec.required,
                slots: u32::try_from(slots.len()).unwrap_or(u32::MAX),
                ready: u32::try_from(ready).unwrap_or(u32::MAX),
                state: worst.into(),
            }
        });
        pb::GraphReply { nodes: nodes.collect() }
    }
}

/// The last start, and the full ones that were kept, latest first.
pub(super) fn starts(snapshot: &Snapshot) -> Vec<pb::Timing> {
    let mut starts: Vec<pb::Timing> = snapshot.starts.iter().map(Timing::to_proto).collect();
    // One of single daemons is not among them; before the first one of this supervisor there are those of its predecessors.
    if let Some(last) = snapshot.timing.as_ref().map(Timing::to_proto).filter(|last| starts.first() != Some(last)) {
        starts.insert(0, last);
    }
    starts
}

fn last_exit(end: LastEnd, ago: Duration) -> pb::LastExit {
    let (code, signal, core) = match end.exit {
        Exit::Code(code) => (Some(code), None, false),
        Exit::Signal { signal, core } => (None, Some(signal), core),
        Exit::OutOfMemory => (None, Some(9), false),
        Exit::Unknown => (None, None, false),
    };
    let (up_ms, ago_ms) = (millis(end.up), millis(ago));
    pb::LastExit { generation: end.generation, code, signal, core, up_ms, ago_ms, text: end.text() }
}

pub(crate) fn plan(planned: Result<Plan, Refusal>) -> pb::PlanReply {
    match planned {
        Err(refusal) => pb::PlanReply { code: refusal.code, message: refusal.message, ..Default::default() },
        Ok(plan) => {
            let step = |s: crate::table::plan::Step| pb::PlanStep { at_us: s.at.map(micros), action: s.action, because: s.because };
            let (total_us, summary) = (plan.total.map(micros), plan.summary);
            pb::PlanReply { steps: plan.steps.into_iter().map(step).collect(), total_us, summary, ..Default::default() }
        }
    }
}

pub(super) fn done(answer: Result<String, Refusal>) -> pb::CommandReply {
    match answer {
        Ok(message) => pb::CommandReply { code: 0, message },
        Err(refusal) => pb::CommandReply { code: refusal.code, message: refusal.message },
    }
}

pub(super) fn reloaded(answer: Result<Reloaded, Refusal>) -> pb::ReloadReply {
    match answer {
        Err(refusal) => pb::ReloadReply { code: refusal.code, message: refusal.message, ..Default::default() },
        Ok(done) => {
            let change = |c: crate::reload::Change| pb::ConfigChange {
                key: c.key,
                effect: c.effect.name().into(),
                daemons: c.daemons.iter().map(|d| d.name().to_owned()).collect(),
            };
            pb::ReloadReply { code: 0, message: done.message, changes: done.changes.into_iter().map(change).collect(), op: done.op }
        }
    }
}

pub(super) fn refused(refusal: Refusal) -> pb::OpEvent {
    let end = pb::OpEnd { code: refusal.code, message: refusal.message.clone(), ..Default::default() };
    pb::OpEvent { text: refusal.message, end: Some(pb::op_event::End::Done(end)), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::spec::Spec;
    use crate::table::Table;

    #[test]
    fn no_start_is_lost_behind_a_newer_one_of_single_daemons() {
        let start = |ms| Timing { total: Duration::from_millis(ms), ..Timing::default() };
        let table = Table::new(Spec::standard(Duration::from_secs(1)), BTreeMap::new(), 0, 1);
        let snapshot = |last: Option<u64>, kept: &[u64]| Snapshot {
            timing: last.map(start),
            starts: Arc::new(kept.iter().map(|ms| start(*ms)).collect()),
            ..Snapshot::of(&table, Duration::ZERO)
        };
        let shown = |last, kept: &[u64]| starts(&snapshot(last, kept)).iter().map(|t| t.total_us / 1000).collect::<Vec<_>>();
        assert_eq!(shown(Some(9), &[9, 8, 7]), [9, 8, 7], "the last one was full");
        assert_eq!(shown(Some(2), &[9, 8, 7]), [2, 9, 8, 7], "it was not");
        assert_eq!(shown(None, &[9, 8]), [9, 8], "none of this supervisor is over yet");
        assert_eq!(shown(Some(2), &[]), [2]);
    }
}
