//! What a daemon's service function works with.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use wk_config::Config;
use wk_proto::lifecycle::v1::InFlightReply;
use wk_rpc::serve::ServeError;
use wk_rpc::{ClusterData, ServeOptions, TableWatch};
use wk_telemetry::{LogHandle, Metrics};
use wk_types::{Daemon, Incarnation, InstanceName};

use crate::health::{Board, Component, DRAIN, READY};
use crate::hooks::{Hook, HookState};
use crate::last_end::LastEnd;
use crate::launch::{Launch, hard_stop_timeout, stop_timeout};
use crate::notify::Notifier;

/// Work under way: `wk.lifecycle.v1.InFlightReply`.
pub type InFlight = InFlightReply;

/// Phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Said to be ready.
    Ready,
    /// Asked to stop.
    Draining,
}

/// Handle to the life of the process. Cheap to clone; all clones are the same process.
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

type InFlightSource = Box<dyn Fn() -> InFlight + Send + Sync>;

pub(crate) struct Inner {
    /// Descriptors are taken out of it; the rest never changes.
    launch: Mutex<Launch>,
    instance: InstanceName,
    identity: String,
    incarnation: Incarnation,
    generation: u64,
    config: Arc<Config>,
    runtime_dir: std::path::PathBuf,
    slots: Vec<u16>,
    supervised: bool,
    native: bool,
    last_end: LastEnd,
    pub(crate) board: Arc<Board>,
    pub(crate) activate: Arc<HookState>,
    pub(crate) admit: Arc<HookState>,
    pub(crate) stop_accept: Arc<HookState>,
    pub(crate) quiesce: Arc<HookState>,
    in_flight: OnceLock<InFlightSource>,
    /// Asked to stop, and at work until others have what is ours.
    pub(crate) leaving: CancellationToken,
    /// The host of the node table hears us.
    pub(crate) hosted: AtomicBool,
    shutdown: CancellationToken,
    /// When the drain began.
    drain_began: OnceLock<Instant>,
    /// What is left is written; nothing is waited for any more.
    closing: AtomicBool,
    phase: watch::Sender<Phase>,
    tasks: TaskTracker,
    metrics: Metrics,
    pub(crate) log: Option<LogHandle>,
    notifier: Notifier,
    table: OnceLock<TableWatch>,
}

impl Context {
    /// A context over a launch: what [`crate::run()`] does, for tests of a service function. `components` are the daemon's health names; `log`
    /// is the handle behind `SetLogFilter`.
    #[must_use]
    pub fn new(launch: Launch, components: &[&str], log: Option<LogHandle>) -> Self {
        let notifier = Notifier::new(&wk_config::Env::process(), launch.supervised);
        Self {
            inner: Arc::new(Inner {
                instance: launch.instance,
                identity: launch.identity(),
                incarnation: launch.incarnation,
                generation: launch.generation,
                config: Arc::clone(&launch.config),
                runtime_dir: launch.runtime_dir.clone(),
                slots: launch.slots.clone(),
                supervised: launch.supervised,
                native: launch.native,
                last_end: launch.last_end,
                launch: Mutex::new(launch),
                board: Arc::new(Board::new(components)),
                activate: Arc::default(),
                admit: Arc::default(),
                stop_accept: Arc::default(),
                quiesce: Arc::default(),
                in_flight: OnceLock::new(),
                leaving: CancellationToken::new(),
                hosted: AtomicBool::new(false),
                shutdown: CancellationToken::new(),
                drain_began: OnceLock::new(),
                closing: AtomicBool::new(false),
                phase: watch::channel(Phase::Starting).0,
                tasks: TaskTracker::new(),
                metrics: Metrics::new(),
                log,
                notifier,
                table: OnceLock::new(),
            }),
        }
    }

    /// Name of this instance.
    #[must_use]
    pub fn instance(&self) -> InstanceName {
        self.inner.instance
    }

    /// Identity of this life, never 0.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.inner.incarnation
    }

    /// Spawn counter of the slot, from 1; 0 without a supervisor.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// `<instance>/<generation>/<nonce>`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.inner.identity
    }

    /// Resolved configuration, fixed for this life.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.inner.config
    }

    /// Slots of the pool when this process was spawned; the table has the current ones.
    #[must_use]
    pub fn slots(&self) -> &[u16] {
        &self.inner.slots
    }

    /// Runtime folder of the node.
    #[must_use]
    pub fn runtime_dir(&self) -> &Path {
        &self.inner.runtime_dir
    }

    /// True when a supervisor started us.
    #[must_use]
    pub fn supervised(&self) -> bool {
        self.inner.supervised
    }

    /// True when systemd (or a person) started us as a member of a node whose table the cluster daemon hosts.
    #[must_use]
    pub fn native(&self) -> bool {
        self.inner.native
    }

    /// How the life of this instance before this one ended.
    #[must_use]
    pub fn last_end(&self) -> LastEnd {
        self.inner.last_end
    }

    /// Takes a passed descriptor, for example the listeners `tcp` and `ws`. `None` when there is none or it was taken before.
    /// `std::net::TcpListener::from(fd)` makes a listener of it.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<OwnedFd> {
        self.inner.launch.lock().fds.take(name)
    }

    /// Takes the listener of the services for neighbours.
    #[must_use]
    pub fn link_listener(&self) -> Option<UnixListener> {
        self.listener("link").map(UnixListener::from)
    }

    /// Serves `routes` on the listener for neighbours until `shutdown` completes and the calls under way have ended.
    ///
    /// # Errors
    /// [`ServeError`]; also when the listener was taken before.
    pub async fn serve_link(&self, routes: Routes, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let missing = || ServeError::Listener(std::io::Error::other("the descriptor link was not passed or is taken"));
        let listener = self.link_listener().ok_or_else(missing)?;
        wk_rpc::serve(listener, routes, ServeOptions { identity: Some(self.inner.identity.clone()) }, shutdown).await
    }

    /// The node table; the watch starts with the first call and is shared. Must be called inside the runtime.
    #[must_use]
    pub fn table(&self) -> TableWatch {
        let start = || {
            let socket = self.inner.runtime_dir.join(wk_rpc::table::NODE_SOCKET);
            wk_rpc::table::watch(socket, &self.inner.instance.to_string(), self.incarnation())
        };
        self.inner.table.get_or_init(start).clone()
    }

    /// A new client of the cluster daemon (one stream). Make one per process and clone it.
    #[must_use]
    pub fn cluster(&self) -> ClusterData {
        ClusterData::connect(self.table())
    }

    /// A named part of this daemon. The name must be in [`crate::Spec::components`].
    ///
    /// # Panics
    /// When it is not: a mistake of the program.
    #[must_use]
    pub fn component(&self, name: &str) -> Component {
        assert!(self.inner.board.knows(name), "component {name} is not in the daemon's list");
        Component::new(Arc::clone(&self.inner.board), name)
    }

    /// Says that this process may receive work. Later calls, and calls while draining, do nothing.
    pub fn ready(&self) {
        let first = self.inner.phase.send_if_modified(|p| {
            let first = *p == Phase::Starting;
            if first {
                *p = Phase::Ready;
            }
            first
        });
        if first {
            self.inner.board.set(READY, true);
            self.inner.notifier.ready();
            tracing::info!("ready");
        }
    }

    /// One line for people about a ready daemon, shown by the service manager that started it.
    pub fn status_text(&self, text: &str) {
        if self.phase() == Phase::Ready {
            self.inner.notifier.status(text);
        }
    }

    /// Takes readiness back (degraded), or gives it again. Only between [`Context::ready`] and the drain.
    pub fn set_degraded(&self, degraded: bool) {
        if self.phase() == Phase::Ready {
            self.inner.board.set(READY, !degraded);
        }
    }

    /// Current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    /// Completes when every daemon this one requires is Ready; at once without a supervisor.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn activated(&self) {
        self.inner.activate.seen().await;
    }

    /// Completes when the whole required set is Ready and client traffic is admitted; at once without a supervisor.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn admitted(&self) {
        self.inner.admit.seen().await;
    }

    /// Registers a handler of `Activate`: the call is answered after [`Hook::done`].
    #[must_use]
    pub fn on_activate(&self) -> Hook {
        Hook::register(Arc::clone(&self.inner.activate))
    }

    /// Registers a handler of `Admit`.
    #[must_use]
    pub fn on_admit(&self) -> Hook {
        Hook::register(Arc::clone(&self.inner.admit))
    }

    /// Registers a handler of `StopAccept`: acknowledge when no accept is armed any more.
    #[must_use]
    pub fn on_stop_accept(&self) -> Hook {
        Hook::register(Arc::clone(&self.inner.stop_accept))
    }

    /// Registers a handler of `Quiesce`: acknowledge when no new work is taken any more.
    #[must_use]
    pub fn on_quiesce(&self) -> Hook {
        Hook::register(Arc::clone(&self.inner.quiesce))
    }

    /// True once a quiesce was asked for.
    #[must_use]
    pub fn quiescing(&self) -> bool {
        self.inner.quiesce.requested()
    }

    /// Says how work under way is counted: called for each `InFlight` question, must be cheap. The first source stays.
    pub fn set_in_flight_source(&self, source: impl Fn() -> InFlight + Send + Sync + 'static) {
        drop(self.inner.in_flight.set(Box::new(source)));
    }

    /// For a daemon whose work is done by threads of its own: what `source` makes ends when all of them have answered, and never while one stands
    /// still. `wk.live` and the keep-alives to systemd wait for it. The first source stays.
    pub fn set_live_source<F: Future<Output = ()> + Send + 'static>(&self, source: impl Fn() -> F + Send + Sync + 'static) {
        self.inner.board.set_live_source(Box::new(move || Box::pin(source())));
    }

    /// Work under way now; zeros without a source.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.inner.in_flight.get().map(|count| count()).unwrap_or_default()
    }

    /// Cancelled by SIGTERM or SIGINT: take no new work, finish, flush, return from the service function.
    #[must_use]
    pub fn shutdown_token(&self) -> CancellationToken {
        self.inner.shutdown.clone()
    }

    /// When the drain must be over; `None` before it began.
    #[must_use]
    pub fn drain_deadline(&self) -> Option<Instant> {
        let began = self.inner.drain_began.get()?;
        let (config, daemon) = (&self.inner.config, self.inner.instance.daemon);
        let closing = self.inner.closing.load(Ordering::Relaxed);
        let time = if closing { hard_stop_timeout(config, daemon) } else { stop_timeout(config, daemon) };
        // A tenth of the time is left for joining tasks and for the exit itself.
        Some(*began + time * 9 / 10)
    }

    /// Says that nothing is waited for any more and what is left is written to disk: from here on only `hardStopTimeout` bounds the drain. Who
    /// watches from outside sees the work and waits as long.
    pub fn closing(&self) {
        self.inner.closing.store(true, Ordering::Relaxed);
    }

    /// Tasks of this process: spawn through it, they are joined after the service function has returned.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Metrics of this process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Begins the drain: readiness is taken back, the deadline starts, the token is cancelled. For [`crate::run()`] and tests; idempotent.
    pub fn begin_drain(&self) {
        if self.inner.phase.send_replace(Phase::Draining) == Phase::Draining {
            return;
        }
        self.inner.drain_began.get_or_init(Instant::now);
        self.inner.board.set(READY, false);
        self.inner.board.set(DRAIN, true);
        self.inner.notifier.stopping();
        self.inner.shutdown.cancel();
    }

    /// A worker of a node that has a host: others take over what it owns before it drains. The membership begins the drain then.
    pub(crate) fn may_leave(&self) -> bool {
        matches!(self.instance().daemon, Daemon::Worker(_)) && self.inner.hosted.load(Ordering::Relaxed)
    }

    pub(crate) fn notifier(&self) -> Notifier {
        self.inner.notifier.clone()
    }

    /// Requests that a supervisor would make.
    pub(crate) async fn activate_and_admit(&self) {
        self.inner.activate.request(None).await;
        self.inner.admit.request(None).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(dir: &Path) -> Context {
        let launch = Launch::in_dir("api@0".parse().unwrap(), Arc::new(Config::default()), dir).unwrap();
        Context::new(launch, &["wk.api.http"], None)
    }

    #[tokio::test]
    async fn readiness_is_said_once_and_taken_back_by_the_drain() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        assert_eq!(context.phase(), Phase::Starting);
        context.set_degraded(false);
        assert!(!context.inner.board.serves(READY), "degraded or not means nothing before ready");
        context.ready();
        assert!(context.inner.board.serves(READY));
        context.set_degraded(true);
        assert!(!context.inner.board.serves(READY) && context.phase() == Phase::Ready);
        context.set_degraded(false);
        assert!(context.drain_deadline().is_none());
        context.begin_drain();
        let deadline = context.drain_deadline();
        context.begin_drain();
        context.ready();
        assert!(context.shutdown_token().is_cancelled() && !context.inner.board.serves(READY));
        assert_eq!((context.phase(), context.drain_deadline()), (Phase::Draining, deadline));
    }

    #[tokio::test]
    async fn descriptors_have_one_owner_and_in_flight_is_asked_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        assert!(context.link_listener().is_some() && context.link_listener().is_none());
        assert!(context.listener("tcp").is_none());
        assert_eq!(context.in_flight(), InFlight::default());
        context.set_in_flight_source(|| InFlight { unsettled: 3, ..InFlight::default() });
        assert_eq!(context.in_flight().unsettled, 3);
        context.component("wk.api.http").serving();
        assert_eq!(context.inner.board.components(), [("wk.api.http".to_owned(), true)]);
        context.activate_and_admit().await;
        context.activated().await;
        context.admitted().await;
    }
}
