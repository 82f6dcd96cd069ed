//! Is a daemon that makes no progress alive? Two checks, as the supervisor makes them; one that answers none is ended and systemd starts
//! the next: by SIGABRT, which leaves a core file and says that it is to blame itself, and by SIGKILL when that is not enough.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wk_types::InstanceName;

/// Deadline of one check. Source: architecture §5a.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Checks; one answer is enough.
const CHECKS: u32 = 2;
/// From SIGABRT to SIGKILL: time for a core file. Longer than the supervisor's 1 s: one that holds SIGABRT back is replaced that much later.
const ABORT_GRACE: Duration = Duration::from_secs(5);
/// Answered by the executor that does the daemon's work.
const LIVE: &str = "wk.live";

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) name: InstanceName,
    pub(super) pid: u32,
    pub(super) health: PathBuf,
}

/// Asks, and kills who does not answer.
pub(super) async fn run(handle: Handle) {
    let Handle { name, pid, health } = handle;
    // Opened while its stream is there, so the number is still its own.
    let pidfd = i32::try_from(pid).ok().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    for _ in 0..CHECKS {
        let check = async {
            let channel = wk_rpc::dial(&health).await.ok()?;
            HealthClient::new(channel).check(HealthCheckRequest { service: LIVE.into() }).await.ok()
        };
        let began = tokio::time::Instant::now();
        if let Ok(Some(_)) = timeout(TIMEOUT, check).await {
            tracing::info!(%name, "answers, not killed");
            return;
        }
        // An error that comes at once is no reason to skip the wait.
        tokio::time::sleep_until(began + TIMEOUT).await;
    }
    let Some(pidfd) = pidfd else { return };
    // Waits for the end of the process: seconds, and rare.
    let ended = tokio::task::spawn_blocking(move || end(&pidfd)).await;
    tracing::warn!(%name, pid, ?ended, "no answer to a probe: ended, systemd starts it again");
}

/// Ends a process; returns the signal that did it.
fn end(pidfd: &OwnedFd) -> io::Result<Signal> {
    pidfd_send_signal(pidfd, Signal::ABORT)?;
    // One that was stopped takes no other signal.
    pidfd_send_signal(pidfd, Signal::CONT)?;
    // Readable: it has ended.
    let grace = PollTimeout::try_from(ABORT_GRACE).unwrap_or(PollTimeout::MAX);
    let ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], grace)?;
    if ended > 0 {
        return Ok(Signal::ABORT);
    }
    pidfd_send_signal(pidfd, Signal::KILL)?;
    Ok(Signal::KILL)
}
