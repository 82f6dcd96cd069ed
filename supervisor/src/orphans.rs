//! Processes whose parent has died become ours (`PR_SET_CHILD_SUBREAPER`): what a daemon leaves behind is found among our children.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use crate::process::state_and_session;
use crate::{adopt, proc};

/// Makes this process the parent of orphans below it.
///
/// # Errors
/// The kernel refuses.
pub fn become_parent() -> std::io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(Into::into)
}

/// Our children that `known` does not know.
pub fn strangers(known: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let list = proc::from(&format!("{}/children", thread.path().display())).unwrap_or_default();
        let list = String::from_utf8(list).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|n| n.parse::<u32>().ok()).filter(|pid| !known(*pid)));
    }
    found
}

/// Those of `strangers` that a daemon with this number and marker left behind: of its session, or with its marker. They are our children and
/// unreaped, so their numbers are their own.
#[must_use]
pub fn left_by(leader: u32, identity: &str, strangers: &[u32]) -> Vec<u32> {
    let left = |pid: &u32| match state_and_session(*pid) {
        Some(('Z' | 'X', _)) | None => false,
        Some((_, session)) => session == leader || adopt::carries(*pid, identity),
    };
    strangers.iter().copied().filter(left).collect()
}

/// SIGKILL to each.
pub fn kill(orphans: &[u32]) {
    for pid in orphans {
        let sent = handle(*pid).map(|fd| pidfd_send_signal(&fd, Signal::KILL));
        tracing::info!(pid, sent = ?sent, "orphan killed");
    }
}

fn handle(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

/// Reaps dead children that nobody knows. Nobody's exit status is taken from those who watch it.
pub fn reap(known: impl Fn(u32) -> bool) -> usize {
    let dead = |pid: &u32| matches!(state_and_session(*pid), Some(('Z', _)));
    let reaped = strangers(known).into_iter().filter(dead).filter(|pid| {
        let Some(raw) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { return false };
        let done = waitid(WaitId::Pid(raw), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        tracing::debug!(pid, ?done, "orphan reaped");
        matches!(done, Ok(Some(_)))
    });
    reaped.count()
}

/// Somebody's orphan lives with us.
pub fn any(known: impl Fn(u32) -> bool) -> bool {
    strangers(known).into_iter().any(|pid| !matches!(state_and_session(pid), Some(('Z' | 'X', _)) | None))
}
