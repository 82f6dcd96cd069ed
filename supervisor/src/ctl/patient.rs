//! Patience with the supervisor: a call that is not answered in time fails. A stream has been answered when it begins.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Status, TimeoutExpired};
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use super::{EXIT_UNREACHABLE, Failure};

/// A client of the control socket.
pub(super) type Client = SupervisorClient<Channel>;

/// Time to the answer of a supervisor that lives: it answers from a snapshot or within one turn of its engine, and asks daemons for 2 s at most.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The channel gave the call up. Its code is that of a call which was cancelled, by whomever: only the cause tells.
pub(super) fn gave_up(status: &Status) -> bool {
    std::iter::successors(status.source(), |error: &&(dyn Error + 'static)| (*error).source()).any(|error| error.is::<TimeoutExpired>())
}

/// What to look at when the supervisor of a node is there and does not answer.
pub(super) fn silent(dir: &Path, text: &str) -> Failure {
    // Readable by its own user and root; others get the same words without the number.
    let lock = std::fs::read_to_string(dir.join("lock")).unwrap_or_default();
    let pid: Option<u32> = lock.trim().strip_prefix("pid ").and_then(|pid| pid.parse().ok());
    let state = pid.and_then(crate::process::state_and_session).map(|(state, _)| state);
    let (who, next) = match (pid, state) {
        (Some(pid), Some('T' | 't')) => {
            (format!(" (pid {pid})"), format!("it is stopped (SIGSTOP, or a debugger); `kill -CONT {pid}` lets it go on"))
        }
        (Some(pid), _) => (
            format!(" (pid {pid})"),
            format!(
                "look at `ps -o stat,wchan,time,args -p {pid}` and at its supervisor.log; the daemons do not need it, and the next one adopts them"
            ),
        ),
        _ => (String::new(), "look at its process and at its supervisor.log".to_owned()),
    };
    Failure::new(EXIT_UNREACHABLE, format!("the supervisor{who} gives {text}: {next}"))
}
