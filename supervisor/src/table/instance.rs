//! One slot of a daemon and the generation that runs in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wk_proto::node::v1::State as ProtoState;
use wk_types::InstanceName;

use super::progress::Progress;
use crate::backoff::{Backoff, Time};
use crate::cause::{Cause, Exit};
use crate::spec::Spec;

/// State of an instance as shown, `design/supervisor.md` §4.2. It is derived from facts, never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Not wanted, nothing runs.
    #[default]
    Down,
    /// Spawned early; an edge is not satisfied.
    Waiting,
    /// A requirement failed for good.
    Blocked,
    /// Fork and exec under way.
    Spawning,
    /// Lives, on its way to Ready.
    Starting,
    /// May receive work.
    Ready,
    /// Was Ready, says it is not now.
    Degraded,
    /// Liveness missing.
    Suspect,
    /// SIGTERM sent, finishing work.
    Draining,
    /// Being killed.
    Stopping,
    /// Not killable.
    Stuck,
    /// Crashed, waits for its restart.
    Backoff,
    /// Crashed for a reason that a restart cannot cure.
    Failed,
    /// Ended with 0, and is to be left so by its policy.
    Exited,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Down,
        Self::Waiting,
        Self::Blocked,
        Self::Spawning,
        Self::Starting,
        Self::Ready,
        Self::Degraded,
        Self::Suspect,
        Self::Draining,
        Self::Stopping,
        Self::Stuck,
        Self::Backoff,
        Self::Failed,
        Self::Exited,
    ];

    /// Lower-case name for tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Spawning => "spawning",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Stuck => "stuck",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Exited => "exited",
        }
    }

    /// How much of an explanation it is for others that wait, larger is more.
    #[must_use]
    pub fn severity(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Waiting => 1,
            Self::Spawning | Self::Starting | Self::Suspect | Self::Degraded => 2,
            Self::Draining | Self::Stopping | Self::Down | Self::Exited => 3,
            Self::Blocked => 4,
            Self::Backoff => 5,
            Self::Stuck => 6,
            Self::Failed => 7,
        }
    }

    /// The same on the wire.
    #[must_use]
    pub fn to_proto(self) -> ProtoState {
        match self {
            Self::Down => ProtoState::Down,
            Self::Waiting => ProtoState::Waiting,
            Self::Blocked => ProtoState::Blocked,
            Self::Spawning => ProtoState::Spawning,
            Self::Starting => ProtoState::Starting,
            Self::Ready => ProtoState::Ready,
            Self::Degraded => ProtoState::Degraded,
            Self::Suspect => ProtoState::Suspect,
            Self::Draining => ProtoState::Draining,
            Self::Stopping => ProtoState::Stopping,
            Self::Stuck => ProtoState::Stuck,
            Self::Backoff => ProtoState::Backoff,
            Self::Failed => ProtoState::Failed,
            Self::Exited => ProtoState::Exited,
        }
    }
}

/// How far our own ending of a generation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndStep {
    /// SIGTERM, drain.
    Term,
    /// SIGABRT, for a core.
    Abort,
    /// SIGKILL to the group.
    Kill,
    /// The kernel does not let it go.
    Stuck,
}

/// A generation that we end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// `None`: planned (stop, restart, scale), not a crash.
    pub cause: Option<Cause>,
    /// Last step taken.
    pub step: EndStep,
    /// When the next step follows.
    pub deadline: Time,
    /// When it began.
    pub began: Time,
}

/// Phase times of a generation; the supervisor's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Fork began.
    pub spawn: Time,
    /// Fork to exec done.
    pub exec: Duration,
    /// First health answer.
    pub up: Option<Time>,
    /// Edges satisfied, `Activate` sent.
    pub activate: Option<Time>,
    /// First SERVING.
    pub ready: Option<Time>,
}

/// The live process of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Process id, unreaped.
    pub pid: u32,
    /// Random identity of the spawn.
    pub incarnation: u64,
    /// Says SERVING on `wk.ready`.
    pub serving: bool,
    /// `Admit` was sent to this generation.
    pub admitted: bool,
    /// Liveness checks missed in a row.
    pub misses: u8,
    /// A probe is under way.
    pub probing: bool,
    /// Somebody had stopped it when it did not answer.
    #[serde(default)]
    pub stopped: bool,
    /// We are ending it.
    pub ending: Option<Ending>,
    /// Phase times.
    pub times: Times,
    /// Begun by an earlier supervisor.
    pub adopted: bool,
    /// Adopted then, no health answer since.
    pub unconfirmed: Option<Time>,
    /// What it had started outlived it.
    pub left_behind: bool,
    /// Work seen while a deadline runs.
    pub progress: Progress,
    /// The kernel sends it a SIGTERM when the supervisor that started it dies.
    #[serde(default)]
    pub bound: bool,
    /// Fingerprint of all that it read of the configuration; `None`: nobody knows.
    #[serde(default)]
    pub reads: Option<u64>,
    /// It says since then that it cannot take work, and may be restarted for it.
    #[serde(default)]
    pub unready: Option<Time>,
    /// It was ready, and says since then that it cannot take work.
    #[serde(default)]
    pub lost: Option<Time>,
    /// Highest epoch of the node table that it has met; it says so again to a successor.
    #[serde(skip)]
    pub met: u64,
}

impl Run {
    /// Fresh from exec.
    #[must_use]
    pub fn new(pid: u32, incarnation: u64, spawn: Time, exec: Duration) -> Self {
        Self {
            pid,
            incarnation,
            serving: false,
            admitted: false,
            misses: 0,
            probing: false,
            stopped: false,
            ending: None,
            times: Times { spawn, exec, ..Times::default() },
            adopted: false,
            unconfirmed: None,
            left_behind: false,
            progress: Progress::new(spawn),
            bound: false,
            reads: None,
            unready: None,
            lost: None,
            met: 0,
        }
    }

    /// Taken over at `now`: what only its own words can tell is asked again.
    pub(super) fn adopt(&mut self, now: Time) {
        (self.serving, self.misses, self.probing) = (false, 0, false);
        (self.adopted, self.unconfirmed) = (true, Some(now));
    }

    /// Activated, serving and not being ended.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.serving && self.times.activate.is_some() && self.ending.is_none()
    }

    /// As [`Self::start_deadline`], before it was moved.
    pub(super) fn first_start_deadline(&self, timeout: Duration) -> Option<Time> {
        if let Some(adopted) = self.unconfirmed {
            return Some(adopted + timeout);
        }
        match (self.times.up, self.times.activate, self.times.ready) {
            (None, _, _) => Some(self.times.spawn + timeout),
            (Some(up), Some(activate), None) => Some(up.max(activate) + timeout),
            _ => None,
        }
    }
}

/// What a slot without a process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// Nothing: to be spawned when it is wanted.
    Idle,
    /// `Action::Spawn` was given out, its answer is not here yet.
    Spawning,
    /// Waiting for its restart.
    Backoff {
        /// When.
        until: Time,
        /// Of the crash.
        cause: Cause,
    },
    /// No restart.
    Failed(Cause),
    /// No restart, and nothing is wrong: it ended with 0 and its policy leaves it so.
    Exited,
}

/// End of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// Which.
    pub generation: u64,
    /// Kernel's word.
    pub exit: Exit,
    /// When.
    pub at: Time,
    /// It lived this long.
    pub up: Duration,
    /// We had asked for it.
    #[serde(default)]
    pub planned: bool,
    /// It is not to blame for it.
    #[serde(default)]
    pub killed: bool,
}

impl LastEnd {
    /// In words; a signal that was not ours is called so.
    #[must_use]
    pub fn text(&self) -> String {
        if self.planned { self.exit.to_string() } else { Cause::Exit(self.exit).to_string() }
    }
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Which.
    #[serde(with = "name_text")]
    pub name: InstanceName,
    /// Spawn counter, from 1; 0 before the first.
    pub generation: u64,
    /// Live process.
    pub run: Option<Run>,
    /// Without one.
    pub rest: Rest,
    /// Crash history.
    pub backoff: Backoff,
    /// Crashes before Ready in the running start transaction.
    pub start_crashes: u32,
    /// Crashes since the supervisor started.
    pub restarts: u32,
    /// Time of the last of them.
    pub last_restart: Option<Time>,
    /// How the last generation ended.
    pub last_end: Option<LastEnd>,
    /// State that was last reported; not written down.
    #[serde(skip)]
    pub seen: State,
    /// Identity of the last generation, for the node table while nothing runs.
    pub last_incarnation: u64,
}

impl Instance {
    /// An empty slot.
    #[must_use]
    pub fn new(name: InstanceName) -> Self {
        Self {
            name,
            generation: 0,
            run: None,
            rest: Rest::Idle,
            backoff: Backoff::default(),
            start_crashes: 0,
            restarts: 0,
            last_restart: None,
            last_end: None,
            seen: State::Down,
            last_incarnation: 0,
        }
    }

    /// Ready and not being ended.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.run.as_ref().is_some_and(Run::ready)
    }

    /// When its crash loop is over, as things are.
    pub(super) fn crash_loop_end(&self, spec: &Spec) -> Option<Time> {
        self.backoff.crash_loop_end(self.run.as_ref().and_then(|r| r.times.ready), &spec.backoff(self.name.daemon))
    }

    /// A process exists or is being made.
    #[must_use]
    pub fn live(&self) -> bool {
        self.run.is_some() || matches!(self.rest, Rest::Spawning)
    }

    /// The cause, and how the process ended for it when we had to end it.
    #[must_use]
    pub fn ended_for(&self, cause: &Cause) -> String {
        let ours = matches!(cause, Cause::Hang(_) | Cause::StartTimeout | Cause::Unready | Cause::Identity(_));
        match self.last_end.filter(|_| ours) {
            Some(end) => format!("{cause}, ended by {}", end.exit),
            None => cause.to_string(),
        }
    }

    /// Operator's word: no more waiting, no more counting.
    pub fn clear(&mut self) {
        self.backoff.clear();
        self.start_crashes = 0;
        if matches!(self.rest, Rest::Backoff { .. } | Rest::Failed(_) | Rest::Exited) {
            self.rest = Rest::Idle;
        }
    }
}

pub(crate) mod name_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use wk_types::InstanceName;

    pub(crate) fn serialize<S: Serializer>(name: &InstanceName, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(name)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<InstanceName, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
