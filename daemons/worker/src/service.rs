//! Start, drain and stop order of the worker's pools.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{join_all, select_all};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use wk_config::{Env, Mode};
use wk_lifecycle::{Context, Exit, Failure, Hook, InFlight, LastEnd, Spec};
use wk_link::ring::Window;
use wk_link::sender::{OnDone, OnPoison};
use wk_link::{BlackBox, LinkHooks, LinkServer, LinkSet, LinkSetConfig, Past, Quarantine};
use wk_proto::worker::v1::channel_admin_server::ChannelAdminServer;
use wk_proto::worker::v1::user_admin_server::UserAdminServer;
use wk_rpc::{ClusterData, ServeOptions, TableWatch};
use wk_types::{Daemon, Incarnation, InstanceName, Pool};

use crate::channel::events::ChannelPool;
use crate::channel::handle::Channels;
use crate::fault::{self, Bug, Fault};
use crate::inbox::{Event, Inbox};
use crate::limits::FAREWELL;
use crate::metrics::{ChannelMetrics, PushMetrics, UserMetrics};
use crate::peers::Peers;
use crate::push::events::PushPool;
use crate::push::handle::Push;
use crate::rpc::calls::Calls;
use crate::rpc::channel_admin::ChannelAdminService;
use crate::rpc::user_admin::UserAdminService;
use crate::state::State;
use crate::user::events::UserPool;
use crate::user::handle::Users;
use crate::{channel, config, push, user};

/// Health names of a pool: its links, and what it needs to be useful.
const USER: [&str; 2] = ["wk.worker.user.events", "wk.worker.user.presence"];
const CHANNEL: [&str; 2] = ["wk.worker.channel.events", "wk.worker.channel.cursors"];
const PUSH: [&str; 2] = ["wk.worker.push.events", "wk.worker.push.sessions"];
/// All of them: for a process with several pools.
const ALL: [&str; 6] = [USER[0], USER[1], CHANNEL[0], CHANNEL[1], PUSH[0], PUSH[1]];

/// What the process is: named after its first pool.
#[must_use]
pub fn spec(pools: &[Pool]) -> Spec {
    let first = pools.first().copied().unwrap_or(Pool::User);
    let components: &'static [&'static str] = match pools {
        [_] => components(first),
        _ => &ALL,
    };
    Spec { daemon: Daemon::Worker(first), components }
}

fn components(pool: Pool) -> &'static [&'static str; 2] {
    match pool {
        Pool::User => &USER,
        Pool::Channel => &CHANNEL,
        Pool::Push => &PUSH,
    }
}

/// The pools without repetition, in the given order.
#[must_use]
pub fn distinct(pools: &[Pool]) -> Vec<Pool> {
    let mut distinct = Vec::new();
    for pool in pools {
        if !distinct.contains(pool) {
            distinct.push(*pool);
        }
    }
    distinct
}

/// What every pool of the process is built from.
#[derive(Debug, Clone)]
pub struct Base {
    /// Identity of this life.
    pub incarnation: Incarnation,
    /// Spawn counter of the slot.
    pub generation: u64,
    /// Node table.
    pub table: TableWatch,
    /// The cluster daemon.
    pub cluster: ClusterData,
    /// Tasks of the links and pools.
    pub tasks: TaskTracker,
    /// Ends the links, after the pools.
    pub stop_links: CancellationToken,
    /// Ends the pools: they drain.
    pub stop: CancellationToken,
    /// Resolved configuration.
    pub config: Arc<wk_config::Config>,
    /// Credit of each outgoing link.
    pub window: Window,
    /// Folder of the black boxes; `None`: what ended a life is not noted.
    pub black_boxes: Option<PathBuf>,
    /// Value of [`fault::ENV`], when faults may be switched on.
    pub fault: Option<String>,
    /// A bug that is put back for tests.
    pub bug: Option<Bug>,
    /// Life of the process; `None` in tests of the pools alone.
    pub context: Option<Context>,
}

/// A running pool.
#[derive(Debug)]
pub struct Started {
    /// Its name.
    pub me: InstanceName,
    /// Its services for neighbours.
    pub routes: Routes,
    /// Its incoming links.
    pub links: LinkServer,
    /// Readiness and counts.
    pub state: Arc<State>,
    /// Completes when the pool has drained.
    pub task: tokio::task::JoinHandle<()>,
}

impl Base {
    /// Builds the base of a process.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        let config = Arc::clone(context.config());
        let env = Env::process();
        let switch = |name| env.get(name).filter(|_| config.mode == Mode::Test);
        let (fault, bug) = (switch(fault::ENV).map(str::to_owned), switch(fault::BUG_ENV).and_then(Bug::parse));
        Self {
            incarnation: context.incarnation(),
            generation: context.generation(),
            table: context.table(),
            cluster: context.cluster(),
            tasks: context.tasks().clone(),
            stop_links: CancellationToken::new(),
            stop: context.shutdown_token(),
            window: Window::new(config.links.batches, config.links.batch_items),
            config,
            fault,
            bug,
            black_boxes: Some(context.runtime_dir().join("boxes")),
            context: Some(context.clone()),
        }
    }

    fn fault(&self, pool: Pool) -> Fault {
        Fault::parse(self.fault.as_deref(), pool)
    }

    /// The black box of an instance, and how its life before this one ended.
    fn black_box(&self, me: InstanceName) -> (BlackBox, Past) {
        let opened = self.black_boxes.as_ref().map(|folder| BlackBox::open(&folder.join(me.to_string())));
        let opened = opened.transpose().inspect_err(|err| tracing::warn!(%err, "no black box: what ends this process must be guessed"));
        let (black_box, past) = opened.ok().flatten().unwrap_or_default();
        let killed = self.context.as_ref().is_some_and(|context| context.last_end() == LastEnd::Killed);
        (black_box, past.or_killed(killed))
    }

    /// Links of one pool to a kind of daemon; what is done and what is poisoned comes back through the pool's inbox.
    fn link<A: Send + 'static>(&self, me: InstanceName, target: Daemon, inbox: &Arc<Inbox<A>>) -> LinkSet {
        let config = LinkSetConfig { window: self.window, ..LinkSetConfig::new(target, me, self.incarnation) };
        let (done, lost, poisoned) = (Arc::clone(inbox), Arc::clone(inbox), Arc::clone(inbox));
        let on_done: OnDone = Arc::new(move |tokens| done.done(tokens));
        let on_lost: OnDone = Arc::new(move |tokens| lost.push(Event::Lost(tokens.to_vec())));
        let on_poison: OnPoison = Arc::new(move |item| poisoned.push(Event::Poisoned(item)));
        let quarantine = Some(Quarantine::new(&self.config.data_path(), me));
        let hooks = LinkHooks { preamble: None, on_done, on_lost: Some(on_lost), quarantine, on_poison };
        LinkSet::start(config, self.table.clone(), hooks, &self.tasks, self.stop_links.clone())
    }

    /// Starts the user pool.
    #[must_use]
    pub fn start_user(&self, me: InstanceName, metrics: &wk_telemetry::Metrics) -> Started {
        let inbox: Arc<Inbox<user::events::Ask>> = Arc::default();
        let state = Arc::new(State::default());
        let (black_box, past) = self.black_box(me);
        let channels = self.link(me, Daemon::Worker(Pool::Channel), &inbox);
        let gateways = self.link(me, Daemon::Gateway, &inbox);
        let calls = Calls::default();
        let pool = UserPool {
            me,
            part: self.table.part(),
            calls: calls.clone(),
            inbox: Arc::clone(&inbox),
            users: Users::new(config::user(&self.config)),
            links: user::out::Links::new(gateways, channels.clone(), Peers::new(black_box), self.fault(Pool::User)),
            cluster: self.cluster.clone(),
            table: self.table.clone(),
            state: Arc::clone(&state),
            metrics: UserMetrics::register(metrics),
            draining: None,
        };
        let admin =
            UserAdminService { me, inbox: Arc::clone(&inbox), cluster: self.cluster.clone(), table: self.table.clone(), channels, calls };
        let links = LinkServer::after(me, self.incarnation, inbox, past);
        let routes = Routes::new(links.clone().into_service()).add_service(UserAdminServer::new(admin));
        Started { me, routes, links, state, task: self.tasks.spawn(pool.run(self.stop.clone())) }
    }

    /// Starts the channel pool.
    #[must_use]
    pub fn start_channel(&self, me: InstanceName, metrics: &wk_telemetry::Metrics) -> Started {
        let inbox: Arc<Inbox<channel::events::Ask>> = Arc::default();
        let state = Arc::new(State::default());
        let (black_box, past) = self.black_box(me);
        let gateways = self.link(me, Daemon::Gateway, &inbox);
        let pushes = self.link(me, Daemon::Worker(Pool::Push), &inbox);
        let calls = Calls::default();
        let pool = ChannelPool {
            me,
            part: self.table.part(),
            changes: calls.clone(),
            generation: self.generation,
            incarnation: self.incarnation,
            inbox: Arc::clone(&inbox),
            channels: Channels::new(config::channel(&self.config)),
            links: channel::out::Links::new(gateways, pushes, Peers::new(black_box)),
            cluster: self.cluster.clone(),
            table: self.table.clone(),
            state: Arc::clone(&state),
            metrics: ChannelMetrics::register(metrics),
            fault: self.fault(Pool::Channel),
            bug: self.bug,
            run: channel::events::Run::default(),
        };
        let (cluster, table) = (self.cluster.clone(), self.table.clone());
        let admin = ChannelAdminService { me, inbox: Arc::clone(&inbox), cluster, table, calls };
        if let Some(context) = &self.context {
            self.tasks.spawn(save_on_quiesce(context.on_quiesce(), Arc::clone(&inbox), self.stop.clone()));
        }
        let links = LinkServer::after(me, self.incarnation, inbox, past);
        let routes = Routes::new(links.clone().into_service()).add_service(ChannelAdminServer::new(admin));
        Started { me, routes, links, state, task: self.tasks.spawn(pool.run(self.stop.clone())) }
    }

    /// Starts the push pool.
    #[must_use]
    pub fn start_push(&self, me: InstanceName, metrics: &wk_telemetry::Metrics) -> Started {
        let inbox: Arc<Inbox<()>> = Arc::default();
        let state = Arc::new(State::default());
        let (black_box, past) = self.black_box(me);
        let policy = config::push(&self.config);
        let first_scan_ms = wk_rpc::clock::monotonic_ms().saturating_add(policy.scan_ms);
        let pool = PushPool {
            me,
            part: self.table.part(),
            inbox: Arc::clone(&inbox),
            push: Push::new(policy, first_scan_ms),
            links: push::out::Links::new(self.link(me, Daemon::Gateway, &inbox), Peers::new(black_box)),
            table: self.table.clone(),
            policy,
            state: Arc::clone(&state),
            metrics: PushMetrics::register(metrics),
            fault: self.fault(Pool::Push),
            bug: self.bug,
            draining: None,
            ticks: 0,
        };
        let links = LinkServer::after(me, self.incarnation, inbox, past);
        let routes = Routes::new(links.clone().into_service());
        Started { me, routes, links, state, task: self.tasks.spawn(pool.run(self.stop.clone())) }
    }

    /// Starts one pool.
    #[must_use]
    pub fn start(&self, pool: Pool, me: InstanceName, metrics: &wk_telemetry::Metrics) -> Started {
        match pool {
            Pool::User => self.start_user(me, metrics),
            Pool::Channel => self.start_channel(me, metrics),
            Pool::Push => self.start_push(me, metrics),
        }
    }
}

/// Runs the pools until the shutdown token is cancelled and they have drained.
///
/// # Errors
/// [`Failure`] when a socket for neighbours cannot be served.
pub async fn run(context: Context, pools: Vec<Pool>) -> Result<(), Failure> {
    let base = Base::new(&context);
    let (mut serving, mut drained, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    for pool in &pools {
        let me = InstanceName { daemon: Daemon::Worker(*pool), slot: context.instance().slot };
        let started = base.start(*pool, me, context.metrics());
        let listener = listener(&context, *pool, pools.len())?;
        let identity = format!("{me}/{}/{:016x}", context.generation(), context.incarnation());
        let options = ServeOptions { identity: Some(identity) };
        // Its end is the end of the process: by then the links of our senders are closed.
        serving.push(Box::pin(wk_rpc::serve(listener, started.routes.clone(), options, std::future::pending())));
        context.component(components(*pool)[0]).serving();
        counted.push((started.links.clone(), Arc::clone(&started.state)));
        drained.push(started.task);
    }
    let links: Vec<LinkServer> = counted.iter().map(|(links, _)| links.clone()).collect();
    let states: Vec<_> = counted.iter().map(|(_, state)| Arc::clone(state)).collect();
    context.set_in_flight_source(move || in_flight(&counted));
    let readiness = say_ready(&context, &pools, states);
    let life = async {
        // Ready is said once; afterwards only the end of the pools counts.
        let ((), ended) = tokio::join!(readiness, join_all(drained));
        // What the drain has settled is heard of, so that nothing of it is done again by the next life.
        join_all(links.iter().map(|l| l.close(FAREWELL))).await;
        ended
    };
    // Cancel safe: the servers are dropped on purpose once the pools have drained.
    let outcome = tokio::select! {
        (served, ..) = select_all(serving) => match served {
            Ok(()) => Err(Failure::new(Exit::Bug, "the socket for neighbours was closed")),
            Err(err) => Err(Failure::new(Exit::Temporary, err)),
        },
        ended = life => match ended.into_iter().find_map(Result::err) {
            Some(err) => Err(Failure::new(Exit::Bug, err)),
            None => Ok(()),
        },
    };
    base.stop_links.cancel();
    outcome
}

/// First phase of a stop: the supervisor asks when nothing is in flight any more; the answer means that the cursors are stored.
async fn save_on_quiesce(mut hook: Hook, inbox: Arc<Inbox<channel::events::Ask>>, stop: CancellationToken) {
    // Cancel safe: a quiesce that comes after the drain began has nothing to wait for, the drain saves the cursors itself.
    tokio::select! {
        _ = hook.requested() => {}
        () = stop.cancelled() => return,
    }
    let (reply, saved) = tokio::sync::oneshot::channel();
    inbox.push(Event::Ask(channel::events::Ask::SaveCursors(reply)));
    tokio::select! {
        outcome = saved => if outcome.is_err() {
            tracing::debug!("the pool has ended before the save");
        },
        () = stop.cancelled() => {}
    }
    hook.done();
}

/// Listener of a pool: `link`, or `link.<pool>` where a process has several.
fn listener(context: &Context, pool: Pool, pools: usize) -> Result<UnixListener, Failure> {
    let own = context.listener(&format!("link.{}", pool.name()));
    let fd = own.or_else(|| (pools == 1).then(|| context.listener("link")).flatten());
    fd.map(UnixListener::from)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("the descriptor for the links of pool {} is missing", pool.name())))
}

/// Says ready when every pool is, once the daemons we require are.
async fn say_ready(context: &Context, pools: &[Pool], states: Vec<Arc<State>>) {
    let all = async {
        context.activated().await;
        for (pool, state) in pools.iter().zip(&states) {
            // The state lives as long as its pool; when that ends, nobody waits for readiness any more.
            if state.ready().wait_for(|r| *r).await.is_ok() {
                context.component(components(*pool)[1]).serving();
            }
        }
        context.ready();
    };
    let shutdown = context.shutdown_token();
    // Cancel safe: nothing said so far needs undoing when the process stops before it was ready.
    tokio::select! {
        () = all => {}
        () = shutdown.cancelled() => {}
    }
}

fn in_flight(counted: &[(LinkServer, Arc<State>)]) -> InFlight {
    let mut all = InFlight::default();
    for (links, state) in counted {
        // A message of an api or user worker is both an unsettled item and work of the pool: the larger number is the truth.
        all.unsettled += links.unsettled().max(state.unsettled.load(Ordering::Relaxed));
        all.retry_entries += state.retry_entries.load(Ordering::Relaxed);
        all.connections += state.connections.load(Ordering::Relaxed);
    }
    all
}
