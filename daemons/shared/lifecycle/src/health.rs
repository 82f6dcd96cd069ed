//! The health service: a fixed set of names, all known before the first request.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// May receive work.
pub(crate) const READY: &str = "wk.ready";
/// Answered by the executor that does the work.
pub(crate) const LIVE: &str = "wk.live";
/// Serving while something is in flight.
pub(crate) const DRAIN: &str = "wk.drain";
/// Whole server, for outside tools; same as [`READY`].
const WHOLE: &str = "";

/// Makes a future that ends when the daemon's own threads have answered.
type LiveSource = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// All names with their state.
pub(crate) struct Board {
    names: BTreeMap<String, watch::Sender<bool>>,
    live: OnceLock<LiveSource>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Board {
    /// Registers the common names and `components`, all not serving except "live".
    pub(crate) fn new(components: &[&str]) -> Self {
        let common = [WHOLE, READY, LIVE, DRAIN];
        let names = common.iter().chain(components).map(|n| ((*n).to_owned(), watch::channel(*n == LIVE).0)).collect();
        Self { names, live: OnceLock::new() }
    }

    /// Whom [`LIVE`] asks as well. The first source stays.
    pub(crate) fn set_live_source(&self, source: LiveSource) {
        drop(self.live.set(source));
    }

    /// Returns when the daemon lives: at once when only this executor does its work, never when one of its threads stands still.
    pub(crate) async fn alive(&self) {
        if let Some(source) = self.live.get() {
            source().await;
        }
    }

    /// Sets a name's state; watchers hear only of changes.
    pub(crate) fn set(&self, name: &str, serving: bool) {
        if let Some(state) = self.names.get(name) {
            state.send_if_modified(|s| std::mem::replace(s, serving) != serving);
        }
        if name == READY {
            self.set(WHOLE, serving);
        }
    }

    /// State of a name; false for an unknown one.
    #[cfg(test)]
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|s| *s.borrow())
    }

    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// (name, serving) of the daemon's own components.
    pub(crate) fn components(&self) -> Vec<(String, bool)> {
        let own = |n: &str| ![WHOLE, READY, LIVE, DRAIN].contains(&n);
        self.names.iter().filter(|(n, _)| own(n)).map(|(n, s)| (n.clone(), *s.borrow())).collect()
    }

    /// Follows readiness.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.get(READY).unwrap_or_else(|| watch::channel(false).1)
    }

    fn get(&self, name: &str) -> Option<watch::Receiver<bool>> {
        self.names.get(name).map(watch::Sender::subscribe)
    }
}

/// A named part of the daemon, shown by `wkctl status --deep`. Starts as not serving.
#[derive(Clone)]
pub struct Component {
    board: Arc<Board>,
    name: Arc<str>,
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Component({})", self.name)
    }
}

impl Component {
    pub(crate) fn new(board: Arc<Board>, name: &str) -> Self {
        Self { board, name: name.into() }
    }

    /// It works.
    pub fn serving(&self) {
        tracing::info!(component = &*self.name, "component serving");
        self.board.set(&self.name, true);
    }

    /// It does not work (yet, or any more).
    pub fn not_serving(&self) {
        self.board.set(&self.name, false);
    }
}

/// gRPC side of the board.
pub(crate) struct HealthService(pub(crate) Arc<Board>);

fn answer(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let state = self.0.get(&request.get_ref().service).ok_or_else(|| Status::not_found("unknown health name"))?;
        if request.get_ref().service == LIVE {
            self.0.alive().await;
        }
        let serving = *state.borrow();
        Ok(Response::new(answer(serving)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let state = self.0.get(&request.get_ref().service).ok_or_else(|| Status::not_found("unknown health name"))?;
        Ok(Response::new(Box::pin(WatchStream::new(state).map(|s| Ok(answer(s))))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_whose_threads_do_not_answer_does_not_live() {
        let ask = |board: &Arc<Board>, name: &str| {
            let (service, request) = (HealthService(board.clone()), HealthCheckRequest { service: name.into() });
            async move { tokio::time::timeout(Duration::from_secs(2), service.check(Request::new(request))).await }
        };
        let serving = ServingStatus::Serving as i32;
        let board = Arc::new(Board::new(&[]));
        assert_eq!(ask(&board, LIVE).await.unwrap().unwrap().get_ref().status, serving);
        let (tell, told) = watch::channel(false);
        board.set_live_source(Box::new(move || {
            let mut told = told.clone();
            Box::pin(async move { drop(told.wait_for(|t| *t).await) })
        }));
        assert!(ask(&board, LIVE).await.is_err() && ask(&board, READY).await.is_ok());
        tell.send_replace(true);
        assert_eq!(ask(&board, LIVE).await.unwrap().unwrap().get_ref().status, serving);
    }
}
