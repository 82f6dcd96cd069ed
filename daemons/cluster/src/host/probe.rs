//! Is a daemon that makes no progress alive? It is asked and judged as the supervisor does it ([`wk_node::probe`]); one that answers none is
//! ended and systemd starts the next: by SIGABRT, which leaves a core file and says that it is to blame itself, and by SIGKILL when that is not
//! enough.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wk_node::probe::{ABORT_GRACE, CHECK_TIMEOUT, Misses, Verdict};
use wk_types::InstanceName;

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
    match ask(|| check(&health)).await {
        Answer::Came => return tracing::info!(%name, "answers, not killed"),
        Answer::None(Verdict::Unknown) => return tracing::warn!(%name, "no answer to a probe that we were late for ourselves, not killed"),
        Answer::None(Verdict::Silent) => {}
    }
    let Some(pidfd) = pidfd else { return };
    // Waits for the end of the process: a second, and rare.
    let ended = tokio::task::spawn_blocking(move || end(&pidfd)).await;
    tracing::warn!(%name, pid, ?ended, "no answer to a probe: ended, systemd starts it again");
}

/// What a probe has found.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Came,
    None(Verdict),
}

/// Makes the checks of one probe. `check`: true when it was answered.
async fn ask<F: Future<Output = bool>>(check: impl Fn() -> F) -> Answer {
    let mut misses = Misses::default();
    loop {
        let began = Instant::now();
        if timeout(CHECK_TIMEOUT, check()).await == Ok(true) {
            return Answer::Came;
        }
        // An error that comes at once is no reason to skip the wait.
        sleep(CHECK_TIMEOUT.saturating_sub(began.elapsed())).await;
        if let Some(verdict) = misses.one(began.elapsed()) {
            return Answer::None(verdict);
        }
    }
}

/// One check. A daemon that does not know the name yet has answered.
async fn check(health: &Path) -> bool {
    let Ok(channel) = wk_rpc::dial(health).await else { return false };
    match HealthClient::new(channel).check(HealthCheckRequest { service: LIVE.into() }).await {
        Ok(_) => true,
        Err(status) => status.code() == Code::NotFound,
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use tokio::time::advance;
    use wk_node::probe::{CHECKS, LAG_MAX, ROUNDS_MAX};

    use super::*;

    /// Asks a daemon whose first `lost` checks are not answered, on a host that stands still for `stall` in each of the first `stalls`. Returns what was
    /// found, and the checks.
    async fn asked(stalls: u8, lost: u8) -> (Answer, u8) {
        let checks = std::cell::Cell::new(0);
        let answer = ask(|| {
            checks.set(checks.get() + 1);
            let at = checks.get();
            async move {
                if at <= stalls {
                    advance(CHECK_TIMEOUT + LAG_MAX * 2).await;
                }
                if at <= lost { std::future::pending().await } else { true }
            }
        });
        (answer.await, checks.get())
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_is_enough() {
        assert_eq!(asked(0, 0).await, (Answer::Came, 1));
        assert_eq!(asked(0, 1).await, (Answer::Came, 2));
        assert_eq!(asked(0, u8::MAX).await, (Answer::None(Verdict::Silent), CHECKS));
    }

    #[tokio::test(start_paused = true)]
    async fn row_14_checks_that_we_were_late_for_do_not_count() {
        assert_eq!(asked(3, u8::MAX).await, (Answer::None(Verdict::Silent), 3 + CHECKS), "in time again, nobody answers");
        assert_eq!(asked(3, 4).await, (Answer::Came, 5));
        assert_eq!(asked(u8::MAX, u8::MAX).await, (Answer::None(Verdict::Unknown), ROUNDS_MAX));
    }

    /// A process that nobody answers for is ended, though it was stopped.
    #[tokio::test(start_paused = true)]
    async fn the_silent_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::Signal::SIGSTOP).unwrap();
        let name = "api@0".parse().unwrap();
        run(Handle { name, pid, health: dir.path().join("nobody.sock") }).await;
        let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
    }
}
