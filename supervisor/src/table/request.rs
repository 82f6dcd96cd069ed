//! What an operation is asked with and what it answers.

use std::time::Duration;

use wk_types::{Daemon, InstanceName};

use crate::cause::Exit;
use crate::timing::Timing;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Make the named instances wanted.
    Start,
    /// Make them unwanted.
    Stop,
    /// New generations, one after another; everything at once when nothing is named.
    Restart,
    /// New generations, a few at a time, each proved before the next.
    Roll,
    /// Another number of slots.
    Scale(Daemon, u16),
}

impl Kind {
    /// The command's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Roll => "roll",
            Self::Scale(..) => "scale",
        }
    }
}

/// Choices of the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// Start: leave what was started.
    pub no_rollback: bool,
    /// Start: go on with everything that can.
    pub keep_going: bool,
    /// Stop, restart: dependants first.
    pub cascade: bool,
    /// Stop: leave dependants running.
    pub force_alone: bool,
    /// Stop, restart: deadlines of one second.
    pub fast: bool,
    /// Stop, restart: SIGKILL.
    pub now: bool,
    /// Refuse instead of waiting for an operation in the way.
    pub no_wait: bool,
    /// Roll: how.
    pub roll: Pace,
}

/// How a roll proceeds. Zero means the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Instances of one daemon that are replaced at a time; 0: one, or as many as are added.
    pub max_unavailable: u32,
    /// Pause for good after so many; 0: none.
    pub canary: u32,
    /// Slots that are added for the time of the roll, so that never less than the configured number is ready; 0: none.
    pub surge: u32,
    /// Ready for this long before the next one.
    pub min_ready: Duration,
}

impl Pace {
    /// Instances that are replaced at a time.
    #[must_use]
    pub fn size(self) -> u32 {
        if self.max_unavailable > 0 { self.max_unavailable } else { self.surge.max(1) }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub kind: Kind,
    /// Daemons or instances; empty: everything.
    pub names: Vec<String>,
    /// Same key as an operation: joins it. Empty: none.
    pub key: String,
    /// How.
    pub flags: Flags,
}

impl Request {
    /// A request without a key.
    #[must_use]
    pub fn new(kind: Kind, names: Vec<String>, flags: Flags) -> Self {
        Self { kind, names, key: String::new(), flags }
    }

    /// Everything is down before anything comes up again; otherwise instances are restarted one after the other.
    #[must_use]
    pub fn restarts_together(&self) -> bool {
        self.kind == Kind::Restart && (self.full() || self.flags.cascade)
    }

    /// Everything, not some names.
    #[must_use]
    pub fn full(&self) -> bool {
        self.names.is_empty() && !matches!(self.kind, Kind::Scale(..))
    }
}

/// Why a command does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Exit code of `wkctl`.
    pub code: u32,
    /// For a person.
    pub message: String,
}

/// How an instance went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit 0 in answer to SIGTERM.
    Clean,
    /// Killed at its deadline.
    Forced,
    /// It ended by itself, or with an error.
    Gone,
}

impl Outcome {
    /// As the stop table says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Forced => "forced",
            Self::Gone => "gone",
        }
    }
}

/// One row of the stop table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Who.
    pub name: InstanceName,
    /// How.
    pub outcome: Outcome,
    /// SIGTERM to reaped.
    pub took: Duration,
    /// Kernel's word.
    pub exit: Exit,
}

/// Work under way, summed over the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Accepted and not settled.
    pub unsettled: u64,
    /// Resend timers.
    pub retry_entries: u64,
    /// Durable, wait for an outside party.
    pub pending_webhooks: u64,
    /// Client connections.
    pub connections: u64,
}

/// End of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Exit code of `wkctl`.
    pub code: u32,
    /// For a person.
    pub message: String,
    /// Of a start.
    pub timing: Option<Timing>,
    /// Of a stop or rollback, in order.
    pub stops: Vec<Stop>,
    /// Work under way at the last count; `None`: there was no count.
    pub report: Option<Report>,
    /// The component that made a start fail.
    pub failed: Option<InstanceName>,
}
