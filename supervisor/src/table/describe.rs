//! What the table looks like from outside: states with their reasons, node table, snapshot.

use std::time::Duration;

use wk_proto::node::v1 as node;
use wk_types::{Daemon, InstanceName};

use super::{EndStep, Instance, Kind, Op, Rest, Run, State, Table};
use crate::backoff::Time;
use crate::spec::Spec;
use crate::timing::Timing;

/// One instance as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Which.
    pub name: InstanceName,
    /// Derived state.
    pub state: State,
    /// Process, 0: none.
    pub pid: u32,
    /// Spawn counter.
    pub generation: u64,
    /// Identity of the present or last generation.
    pub incarnation: u64,
    /// Since the spawn.
    pub up: Duration,
    /// Crashes.
    pub restarts: u32,
    /// Since the last crash.
    pub last_restart: Option<Duration>,
    /// Empty only when Ready.
    pub why: String,
    /// Five crashes within a minute.
    pub crash_loop: bool,
    /// Part of the desired set.
    pub wanted: bool,
    /// Begun by an earlier supervisor.
    pub adopted: bool,
}

/// The node in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overall {
    /// Nothing runs and nothing is wanted.
    Down,
    /// On the way to the first admission.
    Starting,
    /// All that is wanted is Ready.
    Ready,
    /// Something wanted is not.
    Degraded,
    /// Going down.
    Stopping,
}

impl Overall {
    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
        }
    }
}

impl Table {
    /// Epoch of the node table.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Clients are admitted.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.admitted
    }

    /// Last completed start.
    #[must_use]
    pub fn timing(&self) -> Option<&Timing> {
        self.timing.as_ref()
    }

    /// The graph.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The running operation.
    #[must_use]
    pub fn op(&self) -> Option<&Op> {
        self.op.as_ref()
    }

    /// Wanted slots of a daemon.
    #[must_use]
    pub fn slots(&self, daemon: Daemon) -> u16 {
        self.slots.get(&daemon).copied().unwrap_or(1)
    }

    /// Nothing is wanted, nothing runs, nothing is under way.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.op.is_none() && self.instances.values().all(|i| !i.live() && !self.wanted(i.name))
    }

    /// The node in one word.
    #[must_use]
    pub fn overall(&self) -> Overall {
        let leaving = self.op.as_ref().is_some_and(Op::leaves);
        let starting = self.op.as_ref().is_some_and(|op| op.kind() == Kind::Start);
        if leaving {
            Overall::Stopping
        } else if self.instances.values().all(|i| !i.live() && !self.wanted(i.name)) {
            Overall::Down
        } else if starting && !self.admitted {
            Overall::Starting
        } else if self.admitted && self.instances.values().filter(|i| self.wanted(i.name)).all(Instance::ready) {
            Overall::Ready
        } else {
            Overall::Degraded
        }
    }

    /// All instances, sorted by name.
    #[must_use]
    pub fn views(&self, now: Time) -> Vec<InstanceView> {
        self.instances.keys().filter_map(|n| self.view(now, *n)).collect()
    }

    /// One instance.
    #[must_use]
    pub fn view(&self, now: Time, name: InstanceName) -> Option<InstanceView> {
        let instance = self.instances.get(&name)?;
        let (state, why) = self.describe(now, instance);
        let run = instance.run.as_ref();
        Some(InstanceView {
            name,
            state,
            pid: run.map_or(0, |r| r.pid),
            generation: instance.generation,
            incarnation: run.map_or(instance.last_incarnation, |r| r.incarnation),
            up: run.map_or(Duration::ZERO, |r| now.saturating_sub(r.times.spawn)),
            restarts: instance.restarts,
            last_restart: instance.last_restart.map(|at| now.saturating_sub(at)),
            why,
            crash_loop: instance.backoff.crash_loop(now),
            wanted: self.wanted(name),
            adopted: run.is_some_and(|r| r.adopted),
        })
    }

    fn describe(&self, now: Time, instance: &Instance) -> (State, String) {
        if let Some(run) = &instance.run {
            return self.describe_run(now, instance.name, run);
        }
        match &instance.rest {
            Rest::Spawning => (State::Spawning, "fork and exec under way".into()),
            _ if !self.wanted(instance.name) => {
                let last = instance.last_exit.map_or(String::new(), |exit| format!(", last {exit}"));
                (State::Down, format!("not wanted{last}"))
            }
            Rest::Idle => (State::Spawning, "about to be started".into()),
            Rest::Backoff { until, cause } => {
                let wait = until.saturating_sub(now).as_secs_f64();
                let flag = if instance.backoff.crash_loop(now) { "; crash loop" } else { "" };
                (State::Backoff, format!("{cause}; next try in {wait:.1} s{flag}"))
            }
            Rest::Failed(cause) => (State::Failed, format!("{cause}; not restarted, `wkctl start` tries again")),
        }
    }

    fn describe_run(&self, now: Time, name: InstanceName, run: &Run) -> (State, String) {
        if let Some(ending) = &run.ending {
            let since = now.saturating_sub(ending.began).as_secs_f64();
            let left = ending.deadline.saturating_sub(now).as_secs_f64();
            let why = ending.cause.as_ref().map_or_else(|| "stopping".to_owned(), ToString::to_string);
            return match ending.step {
                EndStep::Term => (State::Draining, format!("{why}; SIGTERM {since:.1} s ago, killed in {left:.1} s")),
                EndStep::Abort | EndStep::Kill => (State::Stopping, format!("{why}; being killed for {since:.1} s")),
                EndStep::Stuck => (State::Stuck, format!("{why}; not gone {since:.1} s after the first signal")),
            };
        }
        if run.times.activate.is_none() {
            return self.describe_waiting(name);
        }
        if let Some(since) = run.unconfirmed {
            return (State::Starting, format!("adopted {:.1} s ago, no health answer yet", now.saturating_sub(since).as_secs_f64()));
        }
        match (run.times.ready.is_some(), run.serving) {
            (_, true) if run.misses > 0 => (State::Suspect, format!("{} liveness checks missed", run.misses)),
            (_, true) => (State::Ready, String::new()),
            (true, false) => (State::Degraded, "says it cannot take work".into()),
            (false, false) if run.times.up.is_none() => (State::Starting, "no health answer yet".into()),
            (false, false) => {
                let since = now.saturating_sub(run.times.activate.unwrap_or(now)).as_secs_f64();
                (State::Starting, format!("activated {since:.1} s ago, not ready yet"))
            }
        }
    }

    fn describe_waiting(&self, name: InstanceName) -> (State, String) {
        let missing: Vec<&Instance> = self
            .spec
            .requires(name.daemon)
            .flat_map(|d| self.instances.values().filter(move |i| i.name.daemon == d))
            .filter(|i| !i.ready())
            .collect();
        if let Some((failed, cause)) = missing.iter().find_map(|i| match &i.rest {
            Rest::Failed(cause) => Some((i.name, cause)),
            _ => None,
        }) {
            return (State::Blocked, format!("{failed} failed: {cause}"));
        }
        let list: Vec<String> = missing.iter().map(|i| i.name.to_string()).collect();
        (State::Waiting, format!("waits for {}", if list.is_empty() { "its turn".into() } else { list.join(", ") }))
    }

    /// The table for [`node::node_table_server::NodeTable`]; `socket` names the sockets of a generation.
    pub fn node_table(&self, now: Time, node_id: u32, socket: impl Fn(InstanceName, u64) -> (String, String)) -> node::Table {
        let socket = &socket;
        let views = self.views(now).into_iter().filter(|v| v.generation > 0 && (v.wanted || v.pid != 0));
        let rows = views.flat_map(|v| {
            let (_, health_socket) = socket(v.name, v.generation);
            self.spec.housed(v.name.daemon).map(move |daemon| {
                let name = InstanceName { daemon, ..v.name };
                let (link_socket, _) = socket(name, v.generation);
                node::Instance {
                    name: name.to_string(),
                    generation: v.generation,
                    incarnation: v.incarnation,
                    state: v.state.to_proto().into(),
                    link_socket,
                    health_socket: health_socket.clone(),
                    pid: v.pid,
                }
            })
        });
        let mut instances: Vec<node::Instance> = rows.collect();
        instances.sort_by(|a, b| a.name.cmp(&b.name));
        let pools = self.spec.daemons.keys().flat_map(|host| {
            let slots = (0..self.slots(*host)).map(u32::from);
            self.spec.housed(*host).map(move |daemon| node::PoolSlots { daemon: daemon.name().into(), slots: slots.clone().collect() })
        });
        node::Table {
            epoch: self.epoch,
            node_id,
            admitted: self.admitted,
            quiescing: self.op.as_ref().is_some_and(Op::quiescing),
            instances,
            pools: pools.collect(),
        }
    }
}
