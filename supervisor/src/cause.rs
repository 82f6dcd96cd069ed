//! Why a generation ended, or never began.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

/// Exit codes after which a restart cannot help: usage, permission, configuration.
const PERMANENT_CODES: [i32; 3] = [64, 77, 78];

/// How a process ended, as the kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// `exit(code)`.
    Code(i32),
    /// Killed by a signal.
    Signal {
        /// Signal number.
        signal: i32,
        /// A core was written.
        core: bool,
    },
    /// Killed by the kernel because its control group had no memory left.
    OutOfMemory,
    /// Somebody else reaped it.
    Unknown,
}

/// Reason of a crash, of a failure, or of our own intervention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It ended by itself.
    Exit(Exit),
    /// It never came to life.
    Spawn {
        /// Path and errno in words.
        text: String,
        /// Trying again cannot help: the binary is missing or unusable.
        permanent: bool,
    },
    /// No health answer, or not Ready, in time.
    StartTimeout,
    /// Liveness checks or probes were not answered.
    Hang(Cow<'static, str>),
    /// The health socket was answered by somebody else.
    Identity(String),
    /// It ended well before it was ready and left a process behind.
    Daemonised,
    /// It said for longer than its policy allows that it cannot take work.
    Unready,
}

impl Cause {
    /// True when a restart cannot help.
    #[must_use]
    pub fn permanent(&self) -> bool {
        match self {
            Self::Exit(Exit::Code(code)) => PERMANENT_CODES.contains(code),
            Self::Spawn { permanent, .. } => *permanent,
            Self::Identity(_) | Self::Daemonised => true,
            Self::Exit(_) | Self::StartTimeout | Self::Hang(_) | Self::Unready => false,
        }
    }

    /// True when the backoff takes one more step.
    #[must_use]
    pub fn heavy(&self) -> bool {
        // A SIGKILL from outside may be anything, also an operator or a storm test: only what is known to be bad waits longer.
        matches!(self, Self::Hang(_) | Self::Exit(Exit::OutOfMemory))
    }

    /// Closed set, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Exit(Exit::Code(_)) => "exit",
            Self::Exit(Exit::Signal { .. }) => "signal",
            Self::Exit(Exit::OutOfMemory) => "oom",
            Self::Exit(Exit::Unknown) => "unknown",
            Self::Spawn { .. } => "spawn",
            Self::StartTimeout => "start-timeout",
            Self::Hang(_) => "hang",
            Self::Identity(_) => "identity",
            Self::Daemonised => "daemonised",
            Self::Unready => "unready",
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal { signal, core: status.core_dumped() },
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(64) => f.write_str("exit 64 (usage)"),
            Self::Code(75) => f.write_str("exit 75 (temporary failure)"),
            Self::Code(77) => f.write_str("exit 77 (permission denied)"),
            Self::Code(78) => f.write_str("exit 78 (configuration refused)"),
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal { signal, core } => {
                let name = signal_name(*signal);
                write!(f, "signal {signal}{name}{}", if *core { ", core dumped" } else { "" })
            }
            Self::OutOfMemory => f.write_str("killed by the kernel: out of memory"),
            Self::Unknown => f.write_str("gone, exit status unknown"),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (ILL)",
        6 => " (ABRT)",
        7 => " (BUS)",
        9 => " (KILL)",
        11 => " (SEGV)",
        15 => " (TERM)",
        _ => "",
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As a cause of a crash it cannot be a signal of ours.
            Self::Exit(Exit::Signal { signal: 9, .. }) => f.write_str("signal 9 (KILL, not ours, perhaps out of memory)"),
            Self::Exit(Exit::Signal { signal: 15, .. }) => f.write_str("signal 15 (TERM, not ours)"),
            Self::Exit(exit) => exit.fmt(f),
            Self::Spawn { text, .. } => f.write_str(text),
            Self::StartTimeout => f.write_str("not ready before the start timeout"),
            Self::Hang(how) => write!(f, "hang: {how}"),
            Self::Daemonised => f.write_str("exit 0, and left a process behind: must run in the foreground"),
            Self::Unready => f.write_str("said for too long that it cannot take work (unreadyRestart)"),
            Self::Identity(text) => write!(f, "health socket answered by another process: {text}"),
        }
    }
}
