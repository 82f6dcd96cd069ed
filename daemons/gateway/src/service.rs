//! Builds the gateway and owns its start, quiesce and drain.
//!
//! Start: reactors (their rings prove that the kernel has what is needed) and the link socket → activation → links to the workers, message
//! ids → ready → Admit arms accepting. Stop: quiesce (no accept, no SENDs; RECVACK, PING and handshakes go on) → SENDs under way are answered, and
//! whoever was accepted has his CONNACK or had 2 s for his CONNECT → once the workers have nothing more to send, every connection is half-closed after its last byte and closed → CLOSED items are settled while the user
//! workers still run (until then we count as busy, so the supervisor waits) → SIGTERM → exit. A SIGTERM without a quiesce does all of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use wk_lifecycle::{Context, Exit, Failure, Hook, InFlight, OrExit, Spec};
use wk_link::ring::Window;
use wk_link::{LinkHooks, LinkServer, LinkSet, LinkSetConfig, Quarantine};
use wk_rpc::clock::monotonic_ms;
use wk_rpc::{ClusterData, Table, TableWatch};
use wk_types::limits::SEND_DEADLINE;
use wk_types::{Daemon, IdRun, Pool};

use crate::config::Settings;
use crate::exchange::{Command, Event, Mailbox, Shared, Transport};
use crate::hub::{Hub, Parts};
use crate::limits::{
    CONGESTION_CHECK, DRAIN_SETTLE_TIMEOUT, HANDSHAKE_TIMEOUT, IDS_BLOCK, IDS_RETRY_PAUSE, LINGER_TIMEOUT, LINK_BYTES_MAX, LINK_ITEMS_MAX,
    QUIESCE_HANDSHAKE_TIMEOUT, QUIET_BEFORE_CLOSE,
};
use crate::metrics::Metrics;
use crate::reactor::{Common, Reactors};
use crate::uplink::{Downlink, Links, Snapshot, answers_logins};

/// What this program is.
pub const SPEC: Spec =
    Spec { daemon: Daemon::Gateway, components: &["wk.gateway.reactor", "wk.gateway.links", "wk.gateway.ids", "wk.gateway.accept"] };

const USER: Daemon = Daemon::Worker(Pool::User);
const PUSH: Daemon = Daemon::Worker(Pool::Push);

/// The running gateway.
struct Gateway {
    context: Context,
    hub: Arc<Mutex<Hub>>,
    /// Wakes the loop: events came, or commands are to be handed over.
    wake: Arc<Notify>,
    /// Wakes the fetcher of message ids.
    ids_low: Arc<Notify>,
    events: Arc<Mailbox<Event>>,
    shared: Arc<Shared>,
    metrics: Metrics,
    reactors: Reactors,
    table: TableWatch,
    stop_links: CancellationToken,
}

/// Runs the gateway until it has drained.
///
/// # Errors
/// A missing listener, a wrong setting, a kernel without a needed operation, a ring that failed while running.
pub async fn run(context: Context) -> Result<(), Failure> {
    let config = Arc::clone(context.config());
    let settings = Settings::from_config(&config, context.instance().slot, context.incarnation()).or_exit(Exit::BadConfig)?;
    let settings = Arc::new(settings);
    let listeners = listeners(&context)?;
    let metrics = Metrics::new(context.metrics());
    let shared = Arc::new(Shared::default());
    let wake = Arc::new(Notify::new());
    let waker = Arc::clone(&wake);
    let events = Arc::new(Mailbox::new(move || waker.notify_one()));
    let common =
        Common { settings: Arc::clone(&settings), shared: Arc::clone(&shared), metrics: metrics.clone(), hub: Arc::clone(&events) };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = u16::try_from(config.sub_reactors(cores)).unwrap_or(u16::MAX);
    let reactors = Reactors::start(count, listeners, &common).or_exit(Exit::Usage)?;
    context.component("wk.gateway.reactor").serving();
    let pulse = reactors.pulse.clone();
    context.set_live_source(move || {
        let pulse = pulse.clone();
        async move { pulse.felt().await }
    });
    let mut hub = Hub::new(Parts { settings, shared: Arc::clone(&shared), metrics: metrics.clone() });
    hub.attach_reactors(reactors.subs.clone());
    let gateway = Gateway {
        table: context.table(),
        hub: Arc::new(Mutex::new(hub)),
        ids_low: Arc::new(Notify::new()),
        stop_links: CancellationToken::new(),
        context,
        wake,
        events,
        shared,
        metrics,
        reactors,
    };
    gateway.live().await
}

/// The passed listeners.
fn listeners(context: &Context) -> Result<Vec<(Transport, TcpListener)>, Failure> {
    let mut listeners = Vec::new();
    for (name, transport) in [("tcp", Transport::Tcp), ("ws", Transport::Ws)] {
        let fd = context.listener(name).ok_or_else(|| Failure::new(Exit::Usage, format!("descriptor {name} is missing")))?;
        listeners.push((transport, TcpListener::from(fd)));
    }
    if context.listener("wss").is_some() {
        tracing::warn!("wss is not served by this build: the listener is closed");
    }
    Ok(listeners)
}

impl Gateway {
    async fn live(self) -> Result<(), Failure> {
        let link_server = self.serve_links();
        let mut activate = self.context.on_activate();
        // Cancel-safe: both only wait.
        tokio::select! {
            _ = activate.requested() => {}
            () = cancelled(&self.context) => return self.end(link_server),
        }
        let cluster = self.context.cluster();
        self.start_links();
        let (hub, context) = (Arc::clone(&self.hub), self.context.clone());
        let source = move || in_flight(&hub, &context);
        self.context.set_in_flight_source(source);
        let fetcher = self.context.tasks().spawn(fetch_ids(self.fetcher(cluster)));
        let follower = self.context.tasks().spawn(follow_away(self.table.clone(), Arc::clone(&self.shared)));
        activate.done();
        self.context.ready();
        let outcome = self.serve().await;
        fetcher.abort();
        follower.abort();
        match outcome {
            Ok(()) => self.end(link_server),
            Err(failure) => {
                self.stop_links.cancel();
                link_server.abort();
                Err(failure)
            }
        }
    }

    /// The socket on which workers reach us. Open before activation: workers dial as soon as our row exists.
    fn serve_links(&self) -> tokio::task::JoinHandle<()> {
        let handler = Arc::new(Downlink { hub: Arc::clone(&self.hub), wake: Arc::clone(&self.wake) });
        let server = LinkServer::new(self.context.instance(), self.context.incarnation(), handler);
        let (context, stop) = (self.context.clone(), self.stop_links.clone());
        self.context.tasks().spawn(async move {
            if let Err(err) = context.serve_link(Routes::new(server.into_service()), stop.cancelled_owned()).await {
                tracing::error!(%err, "link socket failed");
            }
        })
    }

    fn start_links(&self) {
        let hub = &self.hub;
        let (done_hub, done_wake) = (Arc::clone(hub), Arc::clone(&self.wake));
        let push_done = Arc::new(move |tokens: &[u64]| {
            done_hub.lock().on_push_done(tokens);
            done_wake.notify_one();
        });
        let done_hub = Arc::clone(hub);
        let user_done = Arc::new(move |tokens: &[u64]| done_hub.lock().on_user_done(tokens));
        let links = Links { user: self.link(USER, user_done), push: self.link(PUSH, push_done) };
        hub.lock().attach_uplink(Box::new(links));
        self.context.component("wk.gateway.links").serving();
    }

    fn link(&self, target: Daemon, on_done: wk_link::sender::OnDone) -> LinkSet {
        let pool = if target == USER { Pool::User } else { Pool::Push };
        let links = &self.context.config().links;
        let config = LinkSetConfig {
            ring_items: LINK_ITEMS_MAX,
            ring_bytes: LINK_BYTES_MAX,
            window: Window::new(links.batches, links.batch_items),
            ..LinkSetConfig::new(target, self.context.instance(), self.context.incarnation())
        };
        let snapshot = Snapshot { hub: Arc::clone(&self.hub), pool, table: self.table.clone() };
        let (hub, wake) = (Arc::clone(&self.hub), Arc::clone(&self.wake));
        let on_poison = Arc::new(move |item| {
            hub.lock().on_poison(&item);
            wake.notify_one();
        });
        let (tasks, stop) = (self.context.tasks(), self.stop_links.clone());
        let quarantine = Quarantine::new(&self.context.config().data_path(), self.context.instance());
        let hooks = LinkHooks { preamble: Some(Arc::new(snapshot)), on_done, on_lost: None, quarantine: Some(quarantine), on_poison };
        LinkSet::start(config, self.table.clone(), hooks, tasks, stop)
    }

    fn fetcher(&self, cluster: ClusterData) -> Fetcher {
        Fetcher {
            cluster,
            hub: Arc::clone(&self.hub),
            low: Arc::clone(&self.ids_low),
            wake: Arc::clone(&self.wake),
            metrics: self.metrics.clone(),
            component: self.context.component("wk.gateway.ids"),
        }
    }

    /// Serves until SIGTERM, then drains.
    async fn serve(&self) -> Result<(), Failure> {
        let mut hooks =
            Hooks { admit: self.context.on_admit(), stop_accept: self.context.on_stop_accept(), quiesce: self.context.on_quiesce() };
        let mut state = Serving::default();
        let shutdown = self.context.shutdown_token();
        while !shutdown.is_cancelled() {
            self.round(&mut state)?;
            self.close_when_quiet(&mut state);
            // Cancel-safe: everything here only waits; what it waits for is state.
            tokio::select! {
                () = self.idle(), if !state.waits_for_quiet() => {}
                () = self.short_idle(), if state.waits_for_quiet() => {}
                _ = hooks.admit.requested() => {
                    self.reactors.main.post_one(Command::Admit);
                    self.context.component("wk.gateway.accept").serving();
                    tracing::info!("accepting clients");
                    hooks.admit.done();
                }
                _ = hooks.stop_accept.requested(), if !state.stopping_accept => {
                    state.stopping_accept = true;
                    self.reactors.main.post_one(Command::StopAccept);
                }
                _ = hooks.quiesce.requested() => {
                    self.quiesce(&mut state);
                    hooks.quiesce.done();
                }
                () = shutdown.cancelled() => {}
            }
            if state.stopping_accept && self.hub.lock().reports.accept_stopped > 0 {
                hooks.stop_accept.done();
            }
        }
        self.drain(&mut state).await
    }

    /// Takes what reactors have sent, and hands over what is for them.
    fn round(&self, state: &mut Serving) -> Result<(), Failure> {
        self.events.take(&mut state.events);
        let mut hub = self.hub.lock();
        self.metrics.events.set(i64::try_from(state.events.len()).unwrap_or(i64::MAX));
        for event in state.events.drain(..) {
            hub.on_event(event);
        }
        hub.expire(monotonic_ms());
        hub.flush();
        if hub.wants_ids() {
            self.ids_low.notify_one();
        }
        match hub.reports.failed.take() {
            Some(text) => Err(Failure::new(Exit::Bug, text)),
            None => Ok(()),
        }
    }

    /// Waits until there may be something to do.
    async fn idle(&self) {
        let (due_ms, holding) = {
            let hub = self.hub.lock();
            (hub.next_due_ms(), hub.is_holding())
        };
        let mut pause = due_ms.map(|due| Duration::from_millis(due.saturating_sub(monotonic_ms()).max(1)));
        if holding {
            pause = Some(pause.map_or(CONGESTION_CHECK, |p| p.min(CONGESTION_CHECK)));
        }
        if !self.events.may_sleep() {
            return;
        }
        // Cancel-safe: a wake-up that is not awaited stays stored in the notify.
        match pause {
            Some(pause) => tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(pause) => {}
            },
            None => self.wake.notified().await,
        }
        self.events.awake();
    }

    fn quiesce(&self, state: &mut Serving) {
        if state.greeting.is_some() {
            return;
        }
        state.greeting = Some(Instant::now() + QUIESCE_HANDSHAKE_TIMEOUT);
        tracing::info!("quiescing: no new connections, no new sends");
        self.context.component("wk.gateway.accept").not_serving();
        // Its answer comes after the last accepted connection was counted.
        self.hub.lock().reports.accept_stopped = 0;
        self.reactors.main.post_one(Command::StopAccept);
        for reactor in &self.reactors.subs {
            reactor.post_one(Command::Quiesce);
        }
    }

    /// After a quiesce: ends the connections as soon as nobody has anything to say to them, so that the workers still hear of it.
    fn close_when_quiet(&self, state: &mut Serving) {
        let quiet_ms = u64::try_from(QUIET_BEFORE_CLOSE.as_millis()).unwrap_or(0);
        let hub = self.hub.lock();
        if state.waits_for_quiet() && greeted(&hub, state.greeting) && hub.is_quiet(monotonic_ms(), quiet_ms) {
            state.closing = true;
            self.reactors.drain();
        }
    }

    /// Answers what is under way, then ends every connection.
    async fn drain(&self, state: &mut Serving) -> Result<(), Failure> {
        self.quiesce(state);
        let now = Instant::now();
        let deadline = self.context.drain_deadline().unwrap_or(now + SEND_DEADLINE);
        let greeting = state.greeting;
        let answered = move |hub: &Hub| hub.open_work() == 0 && greeted(hub, greeting);
        self.until(state, deadline.min(now + SEND_DEADLINE + Duration::from_millis(500)), answered).await?;
        if !std::mem::replace(&mut state.closing, true) {
            self.reactors.drain();
        }
        let count = u32::try_from(self.reactors.len()).unwrap_or(u32::MAX);
        let patience = Instant::now() + HANDSHAKE_TIMEOUT + LINGER_TIMEOUT + Duration::from_secs(1);
        self.until(state, deadline.min(patience), |hub| hub.reports.drained >= count).await?;
        let settle = deadline.min(Instant::now() + DRAIN_SETTLE_TIMEOUT);
        let table = self.table.clone();
        self.until(state, settle, move |hub| !any_alive(&table.get(), USER) || hub.unsettled() == 0).await?;
        let hub = self.hub.lock();
        tracing::info!(connections = hub.sessions(), open = hub.open_work(), unsettled = hub.unsettled(), "drained");
        Ok(())
    }

    /// Goes on with the rounds until the condition holds or the time is over.
    async fn until(&self, state: &mut Serving, deadline: Instant, done: impl Fn(&Hub) -> bool) -> Result<(), Failure> {
        loop {
            self.round(state)?;
            if done(&self.hub.lock()) || timeout_at(deadline, self.short_idle()).await.is_err() {
                return Ok(());
            }
        }
    }

    /// As [`Gateway::idle`], but looks again after a moment: while draining, settlements and the table are watched too.
    async fn short_idle(&self) {
        tokio::select! {
            () = self.idle() => {}
            () = sleep_until(Instant::now() + CONGESTION_CHECK) => {}
        }
    }

    fn end(self, link_server: tokio::task::JoinHandle<()>) -> Result<(), Failure> {
        self.stop_links.cancel();
        link_server.abort();
        if self.hub.lock().reports.drained == 0 {
            self.reactors.drain();
        }
        self.reactors.join();
        Ok(())
    }
}

/// State of the loop.
#[derive(Debug, Default)]
struct Serving {
    events: Vec<Event>,
    /// `StopAccept` was asked for.
    stopping_accept: bool,
    /// Set by the quiesce (no new connections, no new SENDs): until when those that were accepted before may log in.
    greeting: Option<Instant>,
    /// The reactors were told to end their connections.
    closing: bool,
}

impl Serving {
    /// Quiesced, and the connections are still open.
    fn waits_for_quiet(&self) -> bool {
        self.greeting.is_some() && !self.closing
    }
}

/// Everybody who was accepted has sent his CONNECT (who connects from now on is somebody else's), or had the time to.
fn greeted(hub: &Hub, until: Option<Instant>) -> bool {
    let all = hub.reports.accept_stopped > 0 && hub.newcomers() == 0;
    all || until.is_some_and(|until| Instant::now() >= until)
}

/// Requests of the supervisor.
struct Hooks {
    admit: Hook,
    stop_accept: Hook,
    quiesce: Hook,
}

async fn cancelled(context: &Context) {
    context.shutdown_token().cancelled().await;
}

/// Work under way. A quiesced gateway is busy until its connections are closed and the workers know it; once the workers are being stopped,
/// CLOSED items that nobody takes any more are not lost work.
fn in_flight(hub: &Mutex<Hub>, context: &Context) -> InFlight {
    let hub = hub.lock();
    let draining = context.drain_deadline().is_some();
    let connections = u64::try_from(hub.sessions()).unwrap_or(u64::MAX);
    let closing = if context.quiescing() { connections + hub.newcomers() } else { 0 };
    let unsettled = if draining { hub.open_work() } else { hub.unsettled().max(hub.open_work()).max(closing) };
    InFlight { unsettled, connections, ..InFlight::default() }
}

fn any_alive(table: &Table, daemon: Daemon) -> bool {
    table.instances_of(daemon).any(|row| row.dialable())
}

/// Keeps the flags of absent workers current.
async fn follow_away(mut table: TableWatch, shared: Arc<Shared>) {
    loop {
        let now = table.get();
        shared.set_away(|bucket| !answers_logins(&now, bucket));
        table.changed().await;
    }
}

/// What the fetcher of message ids works with.
struct Fetcher {
    cluster: ClusterData,
    hub: Arc<Mutex<Hub>>,
    low: Arc<Notify>,
    wake: Arc<Notify>,
    metrics: Metrics,
    component: wk_lifecycle::Component,
}

/// Fetches message ids ahead, for ever.
async fn fetch_ids(fetcher: Fetcher) {
    loop {
        if !fetcher.hub.lock().wants_ids() {
            fetcher.low.notified().await;
            continue;
        }
        match fetcher.cluster.alloc_ids(IDS_BLOCK).await {
            Ok(runs) => {
                let runs = runs.into_iter().map(|run| IdRun { first: run.first, count: run.count });
                fetcher.hub.lock().add_ids(runs);
                fetcher.component.serving();
                fetcher.wake.notify_one();
            }
            Err(err) => {
                fetcher.metrics.id_errors.inc();
                tracing::debug!(%err, "message ids were not fetched");
                sleep(IDS_RETRY_PAUSE).await;
            }
        }
    }
}
