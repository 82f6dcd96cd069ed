//! Ends daemons that nobody supervises and nobody will: SIGTERM, a deadline, SIGKILL.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use wk_types::Daemon;

use crate::adopt::{Seen, kill_marked};
use crate::limits::{LEFTOVER_DEADLINE, LEFTOVER_DEADLINE_CLUSTER, WORK_EVERY};
use crate::process::{Process, work};
use crate::table::Progress;

/// How long a leftover may take.
#[expect(missing_debug_implementations, reason = "it holds a closure")]
pub struct Patience<'a> {
    /// After SIGTERM, for daemons that are not killed as long as they work.
    pub hard: BTreeMap<Daemon, Duration>,
    /// Told now and then while one is waited for that works.
    pub working: &'a dyn Fn(),
}

/// Workers first, the store last. What is no daemon (a plugin, a helper) is killed at once. Returns who was ended, in words.
pub(crate) fn end_all(left: Vec<(Seen, Process)>, patience: &Patience<'_>) -> Vec<String> {
    let text = left.iter().map(|(s, _)| format!("{} (pid {})", s.marker.name, s.pid)).collect();
    let (daemons, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|(s, _)| s.leads);
    for (seen, process) in &others {
        send(seen, process, Signal::KILL);
    }
    let (clusters, rest): (Vec<_>, Vec<_>) = daemons.into_iter().partition(|(s, _)| s.marker.name.daemon == Daemon::Cluster);
    end_within(&rest, LEFTOVER_DEADLINE, patience);
    end_within(&clusters, LEFTOVER_DEADLINE_CLUSTER, patience);
    text
}

fn end_within(left: &[(Seen, Process)], within: Duration, patience: &Patience<'_>) {
    let began = Instant::now();
    for (seen, process) in left {
        // CONT as well, so that a stopped one can act on TERM.
        send(seen, process, Signal::TERM);
        send(seen, process, Signal::CONT);
    }
    for (seen, process) in left {
        let hard = patience.hard.get(&seen.marker.name.daemon).copied();
        if !ends(process, began, within, hard, patience.working) {
            let killed = kill_marked(&seen.marker.identity());
            tracing::warn!(pid = seen.pid, killed, "leftover killed at its deadline");
            wait_gone(&process.pidfd(), LEFTOVER_DEADLINE);
        }
    }
}

/// Waits for its end: until the deadline, and as long as it is seen to work until `hard`.
fn ends(process: &Process, began: Instant, within: Duration, hard: Option<Duration>, working: &dyn Fn()) -> bool {
    let mut progress = Progress::new(Duration::ZERO);
    loop {
        let age = began.elapsed();
        let until = if progress.recent(age) { hard.unwrap_or(within).max(within) } else { within };
        if age >= until {
            return wait_gone(&process.pidfd(), Duration::ZERO);
        }
        if wait_gone(&process.pidfd(), WORK_EVERY.min(until.saturating_sub(age))) {
            return true;
        }
        if hard.is_some() {
            progress.look(began.elapsed(), work(process.number()));
            if progress.recent(began.elapsed()) {
                working();
            }
        }
    }
}

fn send(seen: &Seen, process: &Process, signal: Signal) {
    if let Err(err) = pidfd_send_signal(process.pidfd(), signal) {
        tracing::debug!(pid = seen.pid, %err, "leftover is gone");
    }
}

fn wait_gone(pidfd: &impl AsFd, within: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, timeout), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    /// A shell that does not hear SIGTERM.
    fn deaf(script: &str) -> (Child, Process) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("trap '' TERM; {script}")).stdout(Stdio::null()).process_group(0);
        let child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        (child, Process::new(pid, pidfd_open(pid, PidfdFlags::empty()).unwrap(), ""))
    }

    /// Catalogue row 23: what works is waited for beyond its deadline, what stands still is not.
    #[test]
    fn row_23_a_leftover_that_works_is_not_killed_at_its_deadline() {
        let (within, hard) = (Duration::from_secs(2), Some(Duration::from_secs(60)));
        let (mut child, process) = deaf("trap 'exit 0' USR1; while :; do :; done");
        let (began, pid) = (Instant::now(), child.id());
        let finish = || {
            if began.elapsed() > within * 2 {
                send_to(pid, nix::sys::signal::SIGUSR1);
            }
        };
        assert!(ends(&process, began, within, hard, &finish), "it ended by itself");
        assert!(began.elapsed() > within, "{:?}", began.elapsed());
        assert!(child.wait().unwrap().success());
        for (script, hard) in [("sleep 1000", hard), ("while :; do :; done", None)] {
            let (mut child, process) = deaf(script);
            assert!(!ends(&process, Instant::now(), within, hard, &|| {}), "{script}");
            send_to(child.id(), nix::sys::signal::SIGKILL);
            child.wait().unwrap();
        }
    }

    /// To its whole group.
    fn send_to(pid: u32, signal: nix::sys::signal::Signal) {
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }
}
