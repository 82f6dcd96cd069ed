//! The way to the supervisor: a call that is not answered in time fails. A stream has been answered when it begins.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, StdError, http};
use tonic::transport::Channel;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use super::{EXIT_UNREACHABLE, Failure};

/// A client of the control socket.
pub(super) type Client = SupervisorClient<Patient>;

/// Time to the answer of a supervisor that lives: it answers from a snapshot or within one turn of its engine, and asks daemons for 2 s at most.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A channel whose calls are given up after a while.
#[derive(Debug, Clone)]
pub(super) struct Patient {
    channel: Channel,
    within: Duration,
}

impl Patient {
    pub(super) fn new(channel: Channel, within: Duration) -> Self {
        Self { channel, within }
    }
}

impl Service<http::Request<Body>> for Patient {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, within) = (self.channel.call(request), self.within);
        Box::pin(async move {
            match tokio::time::timeout(within, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                // No supervisor sends this code itself.
                Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", within.as_secs_f64())).into()),
            }
        })
    }
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
