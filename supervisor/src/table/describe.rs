//! What the table looks like from outside: states with their reasons, node table, snapshot.

use std::time::Duration;

use wk_node::table::Head;
use wk_proto::node::v1 as node;
use wk_types::{Daemon, InstanceName};

use super::{EndStep, Instance, Kind, LastEnd, Op, Rest, Run, State, Table, Waiting};
use crate::backoff::Time;
use crate::spec::Spec;
use crate::timing::Timing;

/// Requirements that are named when they are away.
const AWAY_SHOWN: usize = 3;

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
    /// In a crash loop.
    pub crash_loop: bool,
    /// Part of the desired set.
    pub wanted: bool,
    /// Begun by an earlier supervisor.
    pub adopted: bool,
    /// Left alone by order of an operator.
    pub held: bool,
    /// How the last generation ended.
    pub last_end: Option<LastEnd>,
    /// Crashes that count for the pauses.
    pub crashes: u32,
    /// Until the next attempt.
    pub next_attempt: Option<Duration>,
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

    /// The last generation is not to blame for its end: it was killed or stopped from outside, for want of memory, or at the deadline of a stop.
    #[must_use]
    pub fn was_killed(&self, name: InstanceName) -> bool {
        self.instances.get(&name).and_then(|i| i.last_end).is_some_and(|end| end.killed)
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

    /// The running operations.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Requests that wait for an operation in their way.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    /// Wanted slots of a daemon.
    #[must_use]
    pub fn slots(&self, daemon: Daemon) -> u16 {
        self.slots.get(&daemon).copied().unwrap_or(1)
    }

    /// Nothing is wanted, nothing runs, nothing is under way.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.ops.is_empty() && self.waiting.is_empty() && self.instances.values().all(|i| !i.live() && !self.wanted(i.name))
    }

    /// The node in one word.
    #[must_use]
    pub fn overall(&self) -> Overall {
        let leaving = self.ops.iter().any(Op::leaves);
        let starting = self.ops.iter().any(|op| op.kind() == Kind::Start);
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
            crash_loop: instance.backoff.crash_loop().is_some() && self.wanted(name),
            wanted: self.wanted(name),
            adopted: run.is_some_and(|r| r.adopted),
            held: self.held.contains(&name),
            last_end: instance.last_end,
            crashes: instance.backoff.crashes(),
            next_attempt: match &instance.rest {
                Rest::Backoff { until, .. } if !self.held.contains(&name) => Some(until.saturating_sub(now)),
                _ => None,
            },
        })
    }

    /// State of an instance; cheap.
    pub(super) fn state(&self, now: Time, instance: &Instance) -> State {
        let Some(run) = &instance.run else {
            return match &instance.rest {
                Rest::Spawning => State::Spawning,
                _ if !self.wanted(instance.name) => State::Down,
                _ if self.held.contains(&instance.name) => State::Down,
                Rest::Idle => State::Spawning,
                Rest::Backoff { .. } => State::Backoff,
                Rest::Failed(_) => State::Failed,
                Rest::Exited => State::Exited,
            };
        };
        if let Some(ending) = &run.ending {
            return match ending.step {
                EndStep::Term => State::Draining,
                EndStep::Abort | EndStep::Kill => State::Stopping,
                EndStep::Stuck => State::Stuck,
            };
        }
        if run.times.activate.is_none() {
            let failed = self.missing(now, instance.name).any(|i| matches!(i.rest, Rest::Failed(_)));
            return if failed { State::Blocked } else { State::Waiting };
        }
        if run.unconfirmed.is_some() {
            return State::Starting;
        }
        match (run.times.ready.is_some(), run.serving) {
            (_, true) if run.misses > 0 => State::Suspect,
            (_, true) if self.lacks(instance.name, run) => State::Degraded,
            (_, true) => State::Ready,
            (true, false) => State::Degraded,
            (false, false) => State::Starting,
        }
    }

    /// It runs, and what it requires is away. All edges are `notify`: it stays, and is called degraded (§4.2, rows 75 and 76).
    fn lacks(&self, name: InstanceName, run: &Run) -> bool {
        run.times.ready.is_some() && !self.requires_ready(name.daemon)
    }

    /// Requirements that are not ready.
    fn missing(&self, _now: Time, name: InstanceName) -> impl Iterator<Item = &Instance> {
        self.spec.requires(name.daemon).flat_map(|daemon| self.of(daemon)).filter(|i| !i.ready())
    }

    fn describe(&self, now: Time, instance: &Instance) -> (State, String) {
        let state = self.state(now, instance);
        let mut why = match &instance.run {
            Some(run) => self.why_run(now, instance.name, run, state),
            None => self.why_rest(now, instance),
        };
        if self.held.contains(&instance.name) {
            let sep = if why.is_empty() { "" } else { "; " };
            why = format!("held by an operator{sep}{why}");
        }
        (state, why)
    }

    fn why_rest(&self, now: Time, instance: &Instance) -> String {
        let held = self.held.contains(&instance.name);
        match &instance.rest {
            Rest::Spawning => "fork and exec under way".into(),
            _ if !self.wanted(instance.name) => {
                let last = instance.last_end.map_or(String::new(), |end| format!(", last {}", end.text()));
                format!("not wanted{last}")
            }
            Rest::Idle if held => instance.last_end.map_or_else(|| "not started".into(), |end| end.text()),
            Rest::Idle => "about to be started".into(),
            Rest::Backoff { cause, .. } if held => format!("{cause}; `wkctl unhold` starts it"),
            Rest::Backoff { until, cause } => {
                let wait = until.saturating_sub(now).as_secs_f64();
                let flag = if instance.backoff.crash_loop().is_some() { "; crash loop" } else { "" };
                format!("{}; next try in {wait:.1} s{flag}", instance.ended_for(cause))
            }
            Rest::Exited => "exit 0; its policy (restart) leaves it so, `wkctl start` starts it".into(),
            Rest::Failed(cause) => format!("{}; not restarted, `wkctl start` tries again", instance.ended_for(cause)),
        }
    }

    fn why_run(&self, now: Time, name: InstanceName, run: &Run, state: State) -> String {
        if let Some(ending) = &run.ending {
            let since = now.saturating_sub(ending.began).as_secs_f64();
            let left = ending.deadline.saturating_sub(now).as_secs_f64();
            let why = ending.cause.as_ref().map_or_else(|| "stopping".to_owned(), ToString::to_string);
            return match ending.step {
                EndStep::Term if run.progress.recent(now) => format!("{why}; SIGTERM {since:.1} s ago, still working"),
                EndStep::Term => format!("{why}; SIGTERM {since:.1} s ago, killed in {left:.1} s"),
                EndStep::Abort | EndStep::Kill => format!("{why}; being killed for {since:.1} s"),
                EndStep::Stuck => format!("{why}; not gone {since:.1} s after the first signal"),
            };
        }
        if let Some(since) = run.unconfirmed.filter(|_| run.times.activate.is_some()) {
            return format!("adopted {:.1} s ago, no health answer yet", now.saturating_sub(since).as_secs_f64());
        }
        match state {
            State::Suspect => {
                let failures = self.spec.daemons.get(&name.daemon).map(|s| s.liveness).unwrap_or_default().failures;
                format!("{} of {failures} liveness checks missed", run.misses)
            }
            State::Ready => String::new(),
            State::Degraded => self.why_degraded(now, name, run.serving),
            State::Starting if run.progress.recent(now) => {
                format!("not ready {:.1} s after its start, still working", now.saturating_sub(run.times.spawn).as_secs_f64())
            }
            State::Starting if run.times.up.is_none() => "no health answer yet".into(),
            State::Starting => {
                let since = now.saturating_sub(run.times.activate.unwrap_or(now)).as_secs_f64();
                format!("activated {since:.1} s ago, not ready yet")
            }
            _ => self.why_waiting(now, name),
        }
    }

    /// With whom it needs and who is away: a daemon says that it cannot take work also because of others, or goes on without them.
    fn why_degraded(&self, now: Time, name: InstanceName, serving: bool) -> String {
        let away = self.missing(now, name).filter(|i| self.wanted(i.name)).take(AWAY_SHOWN);
        let list: Vec<String> = away.map(|i| format!("{} is {}", i.name, self.state(now, i).name())).collect();
        let sep = if list.is_empty() { "" } else { ": " };
        format!("{}{sep}{}", if serving { "what it needs is away" } else { "says it cannot take work" }, list.join(", "))
    }

    fn why_waiting(&self, now: Time, name: InstanceName) -> String {
        let (mut list, mut more) = (Vec::new(), 0);
        for instance in self.missing(now, name) {
            match &instance.rest {
                Rest::Failed(cause) => return format!("{} failed: {cause}", instance.name),
                _ if list.len() < AWAY_SHOWN => list.push(instance.name.to_string()),
                _ => more += 1,
            }
        }
        match more {
            _ if list.is_empty() => "waits for its turn".into(),
            0 => format!("waits for {}", list.join(", ")),
            _ => format!("waits for {} and {more} more", list.join(", ")),
        }
    }

    /// From an instance down to what is at fault, each with its reason.
    #[must_use]
    pub fn chain(&self, now: Time, name: InstanceName) -> Vec<InstanceView> {
        let mut chain: Vec<InstanceView> = self.view(now, name).into_iter().collect();
        while let Some(last) = chain.last().filter(|v| matches!(v.state, State::Waiting | State::Blocked | State::Degraded)) {
            let missing: Vec<InstanceName> = self.missing(now, last.name).map(|i| i.name).collect();
            // What failed explains more than what waits itself.
            let worst = missing.into_iter().filter_map(|n| self.view(now, n)).max_by_key(|v| v.state.severity());
            match worst.filter(|v| chain.iter().all(|c| c.name != v.name)) {
                Some(view) => chain.push(view),
                None => break,
            }
        }
        chain
    }

    /// The table for [`node::node_table_server::NodeTable`]; `socket` names the sockets of a generation.
    pub fn node_table(&self, now: Time, node_id: u32, socket: impl Fn(InstanceName, u64) -> (String, String)) -> node::Table {
        let socket = &socket;
        let shown = |i: &&Instance| i.generation > 0 && (i.run.is_some() || self.wanted(i.name));
        let rows = self.instances.values().filter(shown).flat_map(|i| {
            // Neighbours hear its own word: that something else is away they see in that one's row.
            let state = match self.state(now, i) {
                State::Degraded if i.ready() => State::Ready,
                state => state,
            };
            let (pid, incarnation) = i.run.as_ref().map_or((0, i.last_incarnation), |r| (r.pid, r.incarnation));
            let (link_socket, health_socket) = socket(i.name, i.generation);
            self.spec.housed(i.name.daemon).map(move |daemon| {
                let name = InstanceName { daemon, ..i.name };
                node::Instance {
                    name: name.to_string(),
                    generation: i.generation,
                    incarnation,
                    state: state.to_proto().into(),
                    link_socket: if name == i.name { link_socket.clone() } else { socket(name, i.generation).0 },
                    health_socket: health_socket.clone(),
                    pid,
                }
            })
        });
        let pools = self.spec.daemons.keys().flat_map(|host| {
            self.spec.housed(*host).map(|daemon| {
                let (next, held) = self.shares.next(daemon).map_or((0, false), |(slots, held)| (*slots, held));
                wk_node::table::Share { daemon, slots: (0..self.share(daemon)).collect(), next: (0..next).collect(), held }
            })
        });
        let head = Head { epoch: self.epoch, node_id, admitted: self.admitted, quiescing: self.ops.iter().any(Op::quiescing) };
        wk_node::table::build(head, rows, pools)
    }
}
