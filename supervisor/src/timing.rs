//! The table of a start: who waited, who worked, which chain decided the total.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

use crate::backoff::Time;
use crate::spec::Spec;
use crate::table::{Times, name_text};

/// Phases of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    #[serde(with = "name_text")]
    pub name: InstanceName,
    /// Before its spawn, and up but waiting for edges.
    pub wait: Duration,
    /// Fork and exec.
    pub exec: Duration,
    /// Exec to the first health answer.
    pub init: Duration,
    /// Activation to SERVING.
    pub handshake: Duration,
    /// Since the start began.
    pub ready_at: Duration,
    /// On the chain that decided the total.
    pub critical: bool,
}

impl Row {
    /// Time it worked itself.
    #[must_use]
    pub fn own(&self) -> Duration {
        self.exec + self.init + self.handshake
    }
}

/// A completed start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// In order of becoming ready.
    pub rows: Vec<Row>,
    /// Until the required set was Ready.
    pub total: Duration,
    /// Part of it in which the deciding chain waited for us: until its first process was made and ran, and from each readiness that we
    /// knew of to the activation of who waited for it. `None`: written by a version that did not measure it.
    #[serde(default)]
    pub overhead: Option<Duration>,
}

impl Timing {
    /// Builds the table from the phase times of a start that began at `began`. Instances that are not
    /// Ready, or were before (adopted in the middle of a start), are left out.
    #[must_use]
    pub fn build(spec: &Spec, began: Time, times: &[(InstanceName, Times)]) -> Self {
        let mut rows: Vec<Row> = times.iter().filter_map(|(name, t)| row(*name, began, t)).collect();
        rows.sort_by_key(|r| (r.ready_at, r.name));
        let required = |r: &&Row| spec.daemons.get(&r.name.daemon).is_some_and(|d| d.required);
        // A start of optional ones alone is over with the last of these.
        let last = rows.iter().filter(required).max_by_key(|r| r.ready_at).or(rows.last()).cloned();
        let total = last.as_ref().map_or(Duration::ZERO, |r| r.ready_at);
        let mut next = last.map(|r| r.name);
        let mut overhead = Duration::ZERO;
        while let Some(name) = next {
            if let Some(row) = rows.iter_mut().find(|r| r.name == name) {
                row.critical = true;
            }
            next = decided_by(spec, &rows, times, name);
            overhead += waited_for_us(began, times, name, next);
        }
        Self { rows, total, overhead: Some(overhead) }
    }

    /// Sum of the own times: what a start without overlap would take.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.rows.iter().map(Row::own).sum()
    }

    /// For the control socket. The columns of a row add up to `ready_at_us` exactly: what the parts lose by rounding is in `wait_us`.
    #[must_use]
    pub fn to_proto(&self) -> pb::Timing {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let rows = self.rows.iter().map(|r| {
            let (exec_us, init_us, handshake_us) = (us(r.exec), us(r.init), us(r.handshake));
            let own_us = exec_us.saturating_add(init_us).saturating_add(handshake_us);
            let ready_at_us = us(r.ready_at);
            let wait_us = ready_at_us.saturating_sub(own_us);
            pb::TimingRow { name: r.name.to_string(), wait_us, exec_us, init_us, handshake_us, ready_at_us, own_us, critical: r.critical }
        });
        pb::Timing { rows: rows.collect(), total_us: us(self.total), sum_us: us(self.sum()), overhead_us: self.overhead.map(us) }
    }
}

/// Phases of [`phases`], as words.
pub const PHASES: [&str; 5] = ["exec", "init", "wait", "handshake", "total"];

/// How long each of [`PHASES`] took; `None`: it is not ready yet.
#[must_use]
pub fn phases(t: &Times) -> Option<[Duration; PHASES.len()]> {
    let row = row(InstanceName { daemon: wk_types::Daemon::Cluster, slot: 0 }, t.spawn, t)?;
    Some([row.exec, row.init, row.wait, row.handshake, row.ready_at])
}

fn row(name: InstanceName, began: Time, t: &Times) -> Option<Row> {
    let (up, ready) = (t.up?, t.ready.filter(|ready| *ready >= began)?);
    let active = t.activate.unwrap_or(up).max(up);
    Some(Row {
        name,
        wait: t.spawn.saturating_sub(began) + active.saturating_sub(up),
        exec: t.exec,
        init: up.saturating_sub(t.spawn + t.exec),
        handshake: ready.saturating_sub(active),
        ready_at: ready.saturating_sub(began),
        critical: false,
    })
}

/// The requirement whose readiness released `name`; `None` when it did not wait for one.
fn decided_by(spec: &Spec, rows: &[Row], times: &[(InstanceName, Times)], name: InstanceName) -> Option<InstanceName> {
    let (_, t) = times.iter().find(|(n, _)| *n == name)?;
    if t.activate? <= t.up? {
        return None;
    }
    let edges: Vec<_> = spec.requires(name.daemon).collect();
    rows.iter().filter(|r| edges.contains(&r.name.daemon)).max_by_key(|r| r.ready_at).map(|r| r.name)
}

/// From what we knew to what we did for `name`: the readiness of `decider` and its activation; at the head of the chain, the begin of the
/// start and its running program.
fn waited_for_us(began: Time, times: &[(InstanceName, Times)], name: InstanceName, decider: Option<InstanceName>) -> Duration {
    let of = |name: InstanceName| times.iter().find(|(n, _)| *n == name).map(|(_, t)| t);
    let Some(t) = of(name) else { return Duration::ZERO };
    match decider {
        Some(decider) => {
            let known = of(decider).and_then(|d| d.ready);
            t.activate.zip(known).map_or(Duration::ZERO, |(did, knew)| did.saturating_sub(knew))
        }
        None => t.spawn.saturating_sub(began) + t.exec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Daemon;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn times(spawn: u64, up: u64, activate: u64, ready: u64) -> Times {
        Times { spawn: ms(spawn), exec: ms(1), up: Some(ms(up)), activate: Some(ms(activate)), ready: Some(ms(ready)) }
    }

    #[test]
    fn marks_the_chain_and_sums_to_ready_at() {
        let spec = Spec::standard(ms(60_000));
        let at = |daemon| InstanceName { daemon, slot: 0 };
        let input = [
            (at(Daemon::Cluster), times(100, 110, 105, 500)),
            (at(Daemon::Gateway), times(101, 120, 500, 550)),
            (at(Daemon::Api), times(101, 600, 550, 610)),
        ];
        let timing = Timing::build(&spec, ms(100), &input);
        assert_eq!(timing.total, ms(510));
        for row in &timing.rows {
            assert_eq!(row.wait + row.own(), row.ready_at, "{row:?}");
        }
        let critical: Vec<_> = timing.rows.iter().filter(|r| r.critical).map(|r| r.name.daemon).collect();
        assert_eq!(critical, [Daemon::Api], "api was still initialising when its edges were ready");
    }

    #[test]
    fn follows_edges_that_made_it_wait() {
        let spec = Spec::standard(ms(60_000));
        let at = |daemon| InstanceName { daemon, slot: 0 };
        let input = [(at(Daemon::Cluster), times(2, 10, 0, 400)), (at(Daemon::Gateway), times(0, 20, 403, 450))];
        let timing = Timing::build(&spec, ms(0), &input);
        assert_eq!(timing.overhead, Some(ms(2 + 1 + 3)), "the first fork, its exec, and the pause between ready and activated");
        assert!(timing.rows.iter().all(|r| r.critical));
        assert_eq!(timing.sum(), ms(398 + 20 + 47));
    }

    #[test]
    fn a_start_of_an_optional_part_alone_has_a_total() {
        let name = InstanceName { daemon: Daemon::PluginHost, slot: 0 };
        let timing = Timing::build(&Spec::standard(ms(60_000)), ms(0), &[(name, times(0, 20, 0, 40))]);
        assert_eq!(timing.total, ms(40));
    }
}
