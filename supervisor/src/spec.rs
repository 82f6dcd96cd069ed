//! What a node consists of: daemons, their edges, deadlines and binaries.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use wk_node::graph;
use wk_types::{Daemon, Pool};

use crate::backoff;
use crate::cause::{Cause, Exit};
use crate::cgroup::Limits;
use crate::limits::{
    HARD_STOP, LIVE_EVERY, LIVE_MISSES, LIVE_TIMEOUT, START_TIMEOUT_MAX, STOP_TIMEOUT, TERM_DEADLINE, TERM_DEADLINE_CLUSTER,
    TERM_DEADLINE_GATEWAY,
};

/// One kind of daemon.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    /// Daemons that must be Ready before this one is activated, and that stop after it.
    pub requires: Vec<Daemon>,
    /// False: neither a start nor admission waits for it.
    pub required: bool,
    /// File name of the binary.
    pub binary: &'static str,
    /// Arguments after it.
    pub args: Vec<&'static str>,
    /// Daemons that live in its process: they have link sockets and rows in the node table, and no process of their own.
    pub hosts: Vec<Daemon>,
    /// Gets `Admit` and, at a stop, `Quiesce` before anything else.
    pub admits: bool,
    /// SIGTERM to exit.
    pub term_deadline: Duration,
    /// Spawn to first health answer, and activation to Ready, each.
    pub start_timeout: Duration,
    /// The same for one that is seen to work meanwhile.
    pub start_timeout_max: Duration,
    /// At the end of its start timeout it is sent SIGABRT, for a core, not SIGTERM.
    pub abort_on_timeout: bool,
    /// Set: not killed at its stop deadline as long as it is seen to work, but after this time.
    pub hard_stop: Option<Duration>,
    /// Which exits are followed by a restart.
    pub restart: RestartPolicy,
    /// Pauses between restarts.
    pub backoff: backoff::Policy,
    /// How it is asked whether it lives.
    pub liveness: Liveness,
    /// Restarts in a row, without a stable time in Ready between them, before it is given up; 0: never given up.
    pub max_restarts: u32,
    /// Set: ended and restarted when it has said for this long that it cannot take work.
    pub unready_restart: Option<Duration>,
    /// Set: a crash loop of it that lasts for this long ends the node.
    pub escalate_after: Option<Duration>,
    /// What becomes of it when we die.
    pub orphans: Orphans,
    /// Bounds by its control group, where there is one.
    pub limits: Limits,
    /// Limit of descriptors; not set: that of the supervisor.
    pub files_max: Option<u64>,
    /// `oom_score_adj`: who goes first when the machine has no memory left. Source: `design/supervisor.md` §4.13.
    pub oom_score: i16,
}

/// Which exits are followed by a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// All.
    Always,
    /// All but exit 0.
    OnFailure,
    /// None.
    Never,
}

/// How a daemon is asked whether it lives. Ranges and relations: `wk_config::LivenessPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// From one check to the next.
    pub period: Duration,
    /// Deadline of one, less than `period`.
    pub timeout: Duration,
    /// Missed in a row that make it hung.
    pub failures: u16,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { period: LIVE_EVERY, timeout: LIVE_TIMEOUT, failures: LIVE_MISSES }
    }
}

/// What becomes of a daemon when its supervisor dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// It goes on, the next supervisor takes it over.
    Adopt,
    /// The kernel sends it a SIGTERM, the next supervisor waits for its end.
    Kill,
}

impl DaemonSpec {
    /// No restart after this crash, the `crashes`th in a row, by the policy of the operator.
    #[must_use]
    pub fn gives_up(&self, crashes: u32) -> bool {
        self.restart == RestartPolicy::Never || (self.max_restarts > 0 && crashes > self.max_restarts)
    }

    /// By the policy of the operator this end is none of a failure: it is left as it is.
    #[must_use]
    pub fn ends_well(&self, cause: &Cause) -> bool {
        self.restart != RestartPolicy::Always && *cause == Cause::Exit(Exit::Code(0))
    }
}

/// All daemons of a node.
#[derive(Debug, Clone)]
pub struct Spec {
    /// By daemon, in start order of [`Daemon::ALL`].
    pub daemons: BTreeMap<Daemon, DaemonSpec>,
    /// A stop of everything that has taken this long goes on with [`crate::limits::FAST_DEADLINE`].
    pub stop_timeout: Duration,
    /// Processes that are on their way to ready at once; not set: all.
    pub parallel: Option<NonZeroU16>,
}

/// The graph of requirements cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A cycle, printed whole.
    #[error("daemons require each other in a circle: {}", names(.0))]
    Cycle(Vec<Daemon>),
    /// An edge to a daemon that is not part of the node.
    #[error("{0} requires {1}, which is not part of this node")]
    Unknown(Daemon, Daemon),
}

fn names(path: &[Daemon]) -> String {
    path.iter().map(|d| d.name()).collect::<Vec<_>>().join(" → ")
}

impl Spec {
    /// Daemons that are not killed at a stop as long as they work, and how long that is.
    #[must_use]
    pub fn hard_stops(&self) -> BTreeMap<Daemon, Duration> {
        self.daemons.iter().filter_map(|(daemon, spec)| Some((*daemon, spec.hard_stop?))).collect()
    }

    /// Pauses between the restarts of a daemon.
    #[must_use]
    pub fn backoff(&self, daemon: Daemon) -> backoff::Policy {
        self.daemons.get(&daemon).map(|spec| spec.backoff).unwrap_or_default()
    }

    /// How each daemon is asked whether it lives.
    #[must_use]
    pub fn liveness(&self) -> BTreeMap<Daemon, Liveness> {
        self.daemons.iter().map(|(daemon, spec)| (*daemon, spec.liveness)).collect()
    }

    /// The graph of `architecture.md` §3.
    #[must_use]
    pub fn standard(start_timeout: Duration) -> Self {
        use Daemon::{Api, Cluster, Gateway, PluginHost, Worker};
        let plain = |binary, daemon| DaemonSpec {
            requires: graph::requires(daemon).to_vec(),
            required: graph::required(daemon),
            binary,
            args: Vec::new(),
            hosts: Vec::new(),
            admits: graph::admits(daemon),
            term_deadline: TERM_DEADLINE,
            start_timeout,
            start_timeout_max: start_timeout.max(START_TIMEOUT_MAX),
            abort_on_timeout: false,
            hard_stop: None,
            restart: RestartPolicy::Always,
            backoff: backoff::Policy::default(),
            liveness: Liveness::default(),
            max_restarts: 0,
            unready_restart: None,
            escalate_after: None,
            orphans: Orphans::Adopt,
            limits: Limits::default(),
            files_max: None,
            oom_score: 200,
        };
        let worker = |pool: Pool| DaemonSpec { args: vec!["--pool", pool.name()], oom_score: 500, ..plain("wk-worker", Worker(pool)) };
        let daemons = BTreeMap::from([
            (
                Cluster,
                DaemonSpec {
                    term_deadline: TERM_DEADLINE_CLUSTER,
                    hard_stop: Some(HARD_STOP),
                    oom_score: 0,
                    ..plain("wk-cluster", Cluster)
                },
            ),
            (Gateway, DaemonSpec { term_deadline: TERM_DEADLINE_GATEWAY, ..plain("wk-gateway", Gateway) }),
            (Api, plain("wk-api", Api)),
            (Worker(Pool::User), worker(Pool::User)),
            (Worker(Pool::Channel), worker(Pool::Channel)),
            (Worker(Pool::Push), worker(Pool::Push)),
            (PluginHost, DaemonSpec { oom_score: 900, ..plain("wk-plugin-host", PluginHost) }),
        ]);
        Self { daemons, stop_timeout: STOP_TIMEOUT, parallel: None }
    }

    /// The same node with all pools in the process of the user pool: fewer hops, and they die together.
    #[must_use]
    pub fn pools_together(mut self) -> Self {
        let host = Daemon::Worker(Pool::User);
        let others = [Daemon::Worker(Pool::Channel), Daemon::Worker(Pool::Push)];
        self.daemons.retain(|daemon, _| !others.contains(daemon));
        for spec in self.daemons.values_mut() {
            spec.requires.retain(|daemon| !others.contains(daemon));
        }
        if let Some(spec) = self.daemons.get_mut(&host) {
            spec.args = vec!["--pool", "user,channel,push"];
            spec.hosts = others.to_vec();
        }
        self
    }

    /// The daemon in whose process this one lives: itself, or its host.
    #[must_use]
    pub fn host(&self, daemon: Daemon) -> Daemon {
        self.daemons.iter().find(|(_, spec)| spec.hosts.contains(&daemon)).map_or(daemon, |(host, _)| *host)
    }

    /// A daemon and those that live in its process.
    pub fn housed(&self, daemon: Daemon) -> impl Iterator<Item = Daemon> + '_ {
        std::iter::once(daemon).chain(self.daemons.get(&daemon).into_iter().flat_map(|spec| spec.hosts.iter().copied()))
    }

    /// The chain of stops that takes longest, first to go first, and the sum of its deadlines.
    #[must_use]
    pub fn longest_stop(&self) -> (Duration, Vec<Daemon>) {
        self.daemons.keys().map(|d| self.longest_stop_from(*d)).max_by_key(|(time, _)| *time).unwrap_or_default()
    }

    fn longest_stop_from(&self, from: Daemon) -> (Duration, Vec<Daemon>) {
        let own = self.daemons.get(&from).map_or(Duration::ZERO, |s| s.term_deadline);
        let below = self.requires(from).map(|d| self.longest_stop_from(d)).max_by_key(|(time, _)| *time);
        let (time, mut path) = below.unwrap_or_default();
        path.insert(0, from);
        (own + time, path)
    }

    /// Refuses cycles and unknown names.
    ///
    /// # Errors
    /// The first problem found, with the whole cycle.
    pub fn check(&self) -> Result<(), SpecError> {
        let mut done = Vec::new();
        for daemon in self.daemons.keys() {
            self.visit(*daemon, &mut Vec::new(), &mut done)?;
        }
        Ok(())
    }

    fn visit(&self, daemon: Daemon, path: &mut Vec<Daemon>, done: &mut Vec<Daemon>) -> Result<(), SpecError> {
        if done.contains(&daemon) {
            return Ok(());
        }
        if let Some(start) = path.iter().position(|d| *d == daemon) {
            let mut cycle = path.split_off(start);
            cycle.push(daemon);
            return Err(SpecError::Cycle(cycle));
        }
        let from = path.last().copied().unwrap_or(daemon);
        let spec = self.daemons.get(&daemon).ok_or(SpecError::Unknown(from, daemon))?;
        path.push(daemon);
        for next in &spec.requires {
            self.visit(*next, path, done)?;
        }
        path.pop();
        done.push(daemon);
        Ok(())
    }

    /// Edges of a daemon; empty for one that is not part of the node.
    pub fn requires(&self, daemon: Daemon) -> impl Iterator<Item = Daemon> + '_ {
        self.daemons.get(&daemon).into_iter().flat_map(|s| s.requires.iter().copied())
    }

    /// Daemons that require this one directly.
    pub fn dependants(&self, daemon: Daemon) -> impl Iterator<Item = Daemon> + '_ {
        self.daemons.iter().filter(move |(_, s)| s.requires.contains(&daemon)).map(|(d, _)| *d)
    }

    /// True when `later` requires `earlier`, directly or through others.
    #[must_use]
    pub fn depends(&self, later: Daemon, earlier: Daemon) -> bool {
        self.requires(later).any(|d| d == earlier || self.depends(d, earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_graph_is_sound() {
        let spec = Spec::standard(Duration::from_secs(60));
        spec.check().unwrap();
        assert_eq!(spec.daemons.len(), Daemon::ALL.len());
        assert!(spec.depends(Daemon::PluginHost, Daemon::Cluster));
        assert!(!spec.depends(Daemon::Cluster, Daemon::PluginHost));
        assert_eq!(spec.dependants(Daemon::Worker(Pool::Channel)).collect::<Vec<_>>(), [Daemon::Worker(Pool::Push), Daemon::PluginHost]);
    }

    #[test]
    fn pools_together_are_one_process_and_the_graph_stays_sound() {
        let spec = Spec::standard(Duration::from_secs(60)).pools_together();
        spec.check().unwrap();
        let (user, push) = (Daemon::Worker(Pool::User), Daemon::Worker(Pool::Push));
        assert!(!spec.daemons.contains_key(&push));
        assert_eq!((spec.host(push), spec.host(user), spec.host(Daemon::Api)), (user, user, Daemon::Api));
        assert_eq!(spec.housed(user).count(), 3);
        assert!(spec.depends(Daemon::PluginHost, user));
    }

    #[test]
    fn row_72_a_cycle_is_refused_and_printed() {
        let mut spec = Spec::standard(Duration::from_secs(60));
        spec.daemons.get_mut(&Daemon::Cluster).unwrap().requires.push(Daemon::Api);
        let error = spec.check().unwrap_err();
        assert_eq!(error.to_string(), "daemons require each other in a circle: cluster → api → cluster");
    }

    #[test]
    fn row_72_an_edge_out_of_the_node_is_refused() {
        let mut spec = Spec::standard(Duration::from_secs(60));
        spec.daemons.remove(&Daemon::Cluster);
        assert!(matches!(spec.check(), Err(SpecError::Unknown(_, Daemon::Cluster))));
    }
}
