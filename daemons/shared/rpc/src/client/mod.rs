//! Client of the cluster daemon's message path: `wk.cluster.v1.Data/Open`.
//!
//! One long-lived stream per client; requests carry correlation ids and are answered in any order. No task is started per call: a call is a
//! slot in a table and a oneshot. Guarantee: a call that was handed to a stream which then ends returns [`CallError::UnknownOutcome`], never
//! anything else; a call that returns [`CallError::NotSent`] was not handed over. What is deliberately absent: retries (but of
//! reads whose stream ended), batching over time, and ordering between calls (whoever needs one append in flight per channel keeps it so).

mod calls;
mod driver;
mod pending;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_types::{Daemon, InstanceName};

use crate::limits::CALLS_IN_FLIGHT_MAX;
use crate::table::TableWatch;
use pending::Pending;

pub use wk_proto::cluster::v1::reply::Result as ReplyResult;
pub use wk_proto::cluster::v1::request::Op;

/// Instance that serves the data stream.
pub const CLUSTER: InstanceName = InstanceName { daemon: Daemon::Cluster, slot: 0 };

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The deadline passed before the request was handed to a stream: it was certainly not done.
    #[error("cluster is out of reach")]
    NotSent,
    /// The request was handed over, then the stream ended or the deadline passed: it may or may not have been done.
    #[error("outcome is unknown")]
    UnknownOutcome,
    /// The cluster answered with an error.
    #[error("cluster refused: {code:?}: {detail}")]
    Refused {
        /// Closed set.
        code: Code,
        /// For the log, never for a client.
        detail: String,
        /// Pause before a retry; zero: none asked for.
        retry_after: Duration,
    },
    /// The answer is of another kind than the request: a bug of the cluster daemon.
    #[error("reply does not fit the request")]
    Mismatch,
}

impl CallError {
    /// The code for callers that pass it on.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotSent => Code::NotReady,
            Self::UnknownOutcome => Code::UnknownOutcome,
            Self::Refused { code, .. } => *code,
            Self::Mismatch => Code::Unspecified,
        }
    }

    /// True when the same request, unchanged, may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.code().retryable()
    }

    /// Pause the cluster asked for before a retry; zero when it did not.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        }
    }
}

impl From<pb::Error> for CallError {
    fn from(error: pb::Error) -> Self {
        let code = error.code();
        Self::Refused { code, detail: error.detail, retry_after: Duration::from_millis(error.retry_after_ms) }
    }
}

/// Client of the cluster daemon of this node. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct ClusterData {
    shared: Arc<Shared>,
    /// Ends the driver with the last clone; kept apart from `shared`, which the driver holds too.
    _driver: Arc<DriverGuard>,
}

impl fmt::Debug for ClusterData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterData").field("open", &self.in_flight()).finish_non_exhaustive()
    }
}

struct DriverGuard(JoinHandle<()>);

impl Drop for DriverGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What calls and the driver share.
struct Shared {
    /// Locked for a few instructions only, never across an await.
    state: Mutex<State>,
    /// One permit per open request.
    permits: Semaphore,
    /// True while there is a stream: wakes callers that wait for one.
    connected: watch::Sender<bool>,
}

/// Open requests and the way to the stream that carries them; changed together, so that no request is handed to a stream that has ended.
#[derive(Default)]
struct State {
    pending: Pending,
    /// Hand-over to the current stream; `None` while there is none.
    stream: Option<mpsc::Sender<pb::Request>>,
}

impl ClusterData {
    /// Follows `table` to the cluster daemon and keeps one stream to it. Must be called inside a tokio runtime.
    #[must_use]
    pub fn connect(table: TableWatch) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            permits: Semaphore::new(CALLS_IN_FLIGHT_MAX),
            connected: watch::channel(false).0,
        });
        let task = tokio::spawn(driver::run(table, Arc::clone(&shared)));
        Self { shared, _driver: Arc::new(DriverGuard(task)) }
    }

    /// Sends one request and waits for its answer, both within `deadline` from now. Waits for the connection when there is none.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::UnknownOutcome`] a write is retried unchanged or looked up, never changed.
    ///
    /// # Cancel safety
    /// A cancelled call frees its slot; the request may still be carried out.
    pub async fn call(&self, op: Op, deadline: Duration) -> Result<ReplyResult, CallError> {
        let until = Instant::now() + deadline;
        let shared = &*self.shared;
        let _permit = match shared.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => timeout_at(until, shared.permits.acquire()).await.ok().and_then(Result::ok).ok_or(CallError::NotSent)?,
        };
        let (answer, answered) = oneshot::channel();
        let id = shared.hand_over(op, answer, until).await.ok_or(CallError::NotSent)?;
        let _open = OpenCall { shared, id };
        match timeout_at(until, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(CallError::UnknownOutcome),
        }
    }

    /// Waits until a stream to the cluster is open.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn ready(&self) {
        let mut connected = self.shared.connected.subscribe();
        // The sender lives in `shared`, so the wait ends only with a value.
        if connected.wait_for(|c| *c).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Requests that are open now: `0..=`[`CALLS_IN_FLIGHT_MAX`].
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.state.lock().pending.len()
    }
}

impl Shared {
    /// Registers `answer` and gives the request to the stream, waiting for one until `until`. Returns the request's id.
    async fn hand_over(&self, op: Op, answer: oneshot::Sender<pending::Answer>, until: Instant) -> Option<u64> {
        let mut given = Some((op, answer));
        loop {
            let tried = self.try_hand_over(&mut given);
            if let HandOver::Done(id) = tried {
                return Some(id);
            }
            let wait = async {
                match tried {
                    HandOver::Done(_) | HandOver::Closed => {}
                    // A stream that ends while we wait for room is seen in the next round.
                    HandOver::Full(stream) => drop(stream.reserve().await),
                    HandOver::NoStream => drop(self.connected.subscribe().wait_for(|c| *c).await),
                }
            };
            timeout_at(until, wait).await.ok()?;
        }
    }

    /// Opens the way to a stream.
    fn open(&self, stream: mpsc::Sender<pb::Request>) {
        let mut state = self.state.lock();
        state.stream = Some(stream);
        self.connected.send_replace(true);
    }

    /// The stream has ended: whatever it carried has an unknown outcome.
    fn close(&self) {
        let mut state = self.state.lock();
        self.connected.send_replace(false);
        state.stream = None;
        state.pending.clear();
    }

    /// Takes the request out of `given` when the stream has room for it.
    fn try_hand_over(&self, given: &mut Option<(Op, oneshot::Sender<pending::Answer>)>) -> HandOver {
        let mut state = self.state.lock();
        let Some(stream) = state.stream.clone() else { return HandOver::NoStream };
        let slot = match stream.try_reserve() {
            Ok(slot) => slot,
            // Cancelled calls give their permit back while their request still waits in the channel.
            Err(TrySendError::Full(())) => return HandOver::Full(stream.clone()),
            Err(TrySendError::Closed(())) => {
                state.stream = None;
                self.connected.send_replace(false);
                return HandOver::Closed;
            }
        };
        let (op, answer) = given.take().expect("the loop ends with the hand-over");
        let id = state.pending.insert(answer);
        slot.send(pb::Request { id, op: Some(op) });
        HandOver::Done(id)
    }
}

/// Result of one attempt to give a request to the stream.
enum HandOver {
    /// It has this id.
    Done(u64),
    /// No room at the moment.
    Full(mpsc::Sender<pb::Request>),
    /// The stream has ended and the driver has not noticed yet.
    Closed,
    /// There is none.
    NoStream,
}

/// Frees the slot of a call that ends without an answer.
struct OpenCall<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().pending.take(self.id);
    }
}
