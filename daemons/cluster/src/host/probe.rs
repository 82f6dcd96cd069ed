//! Is a daemon that makes no progress alive? Two checks, as the supervisor makes them; one that answers none is killed and systemd starts
//! the next.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wk_types::InstanceName;

/// Deadline of one check. Source: architecture §5a.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Checks; one answer is enough.
const CHECKS: u32 = 2;
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
        if let Ok(Some(_)) = tokio::time::timeout(TIMEOUT, check).await {
            tracing::info!(%name, "answers, not killed");
            return;
        }
        // An error that comes at once is no reason to skip the wait.
        tokio::time::sleep_until(began + TIMEOUT).await;
    }
    let killed = pidfd.map(|fd| pidfd_send_signal(&fd, Signal::KILL));
    tracing::warn!(%name, pid, ?killed, "no answer to a probe: killed, systemd starts it again");
}
