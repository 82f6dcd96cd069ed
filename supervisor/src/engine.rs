//! The engine: facts in, orders out. Owns every child; runs on the main thread.

mod act;
mod book;
mod command;
mod end;
mod escalate;
mod first;
mod graves;
mod inherit;
#[cfg(test)]
mod late;
mod reload;
mod replace;
mod signal;
mod snapshot;
mod tell;

use std::collections::BTreeMap;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use wk_proto::node::v1 as node;
use wk_proto::supervisor::v1 as pb;
use wk_types::{Daemon, InstanceName};

pub use replace::Sockets;
pub use snapshot::Snapshot;

use crate::backoff::Time;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::console::Console;
use crate::heritage::Heritage;
use crate::ledger::Ledger;
use crate::limits::{CHILDREN_DELAY, FACTS_MAX, GATHER, SPARE_FDS};
use crate::listeners::Listeners;
use crate::logs::Cuts;
use crate::metrics::Counters;
use crate::notify::{Notifier, Passed};
use crate::overrides::Overrides;
use crate::process::Process;
use crate::rounds::Rounds;
use crate::runtime::Runtime;
use crate::table::{Fact, Refusal, Report, State, Table};
use crate::timing::Timing;

use book::Book;
pub use command::{Command, Done, Mark, Why};
use first::First;
use graves::Graves;
pub use reload::{Reloaded, refused};
use tell::Hush;

/// How often the texts that contain a time are renewed while something is under way.
const REFRESH: Duration = Duration::from_secs(1);

/// Facts of one generation on their way to the engine.
#[derive(Debug, Clone)]
pub(crate) struct FactSender {
    tx: mpsc::Sender<Msg>,
    name: InstanceName,
    generation: u64,
}

impl FactSender {
    pub(crate) async fn send(&self, fact: Fact) {
        // An engine that is gone needs no facts.
        self.tx.send(Msg::Fact(self.name, self.generation, fact)).await.unwrap_or_default();
    }
}

/// Counts of a quiesce on their way to the engine.
#[derive(Debug, Clone)]
pub(crate) struct ReportSender {
    tx: mpsc::Sender<Msg>,
    op: u64,
}

impl ReportSender {
    pub(crate) async fn send(&self, report: Report, done: bool) {
        self.tx.send(Msg::Quiesced(self.op, report, done)).await.unwrap_or_default();
    }
}

#[derive(Debug)]
enum Msg {
    Fact(InstanceName, u64, Fact),
    Ended(InstanceName, u64),
    Quiesced(u64, Report, bool),
    Tried(Result<(), Refusal>),
    CallerLeft(u64),
    Loaded(Result<Box<Config>, String>),
}

/// A child and all that watches it: dropped together.
#[derive(Debug)]
struct Child {
    generation: u64,
    process: Process,
    start_time: u64,
    channel: Channel,
    tasks: JoinSet<()>,
    /// When its end was seen, while what it left behind is being killed.
    ended: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    /// What the generations read of it; made when the first one needs it.
    sealed: Option<Arc<OwnedFd>>,
    runtime: Runtime,
    table: Table,
    listeners: Listeners,
    children: BTreeMap<InstanceName, Child>,
    graves: Graves,
    /// Where the lines of each generation begin, counted from the first byte of its log ever.
    log_offsets: BTreeMap<InstanceName, u64>,
    cuts: Arc<Cuts>,
    tx: mpsc::Sender<Msg>,
    rx: mpsc::Receiver<Msg>,
    commands: mpsc::Receiver<Command>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    nodes: watch::Sender<Arc<node::Table>>,
    book: Book,
    events: mpsc::Sender<pb::Event>,
    /// Timing of the last full starts, latest first.
    starts: Arc<Vec<Timing>>,
    /// File of the slots that commands have set.
    overrides: Overrides,
    /// What each daemon reads of the configuration, and what each generation was started with.
    fingerprints: BTreeMap<Daemon, u64>,
    /// When all are asked whether they live; begun with the first child.
    rounds: Option<Rounds>,
    quiesce: JoinSet<()>,
    /// Waits for callers that their operations are not to outlive.
    watchers: JoinSet<()>,
    began: Instant,
    epoch: u64,
    heritage: Heritage,
    ledger: Ledger,
    zero_ns: Option<u64>,
    hold_until: Option<Instant>,
    /// Children have changed: when to look which.
    look_at: Option<Instant>,
    /// An operation is over: when to give back what it needed.
    tidy_at: Option<Instant>,
    sockets: Option<Sockets>,
    cgroups: Option<Cgroups>,
    spare: Vec<OwnedFd>,
    trial: Option<(u32, replace::Waiter)>,
    tries: JoinSet<()>,
    counters: Arc<Counters>,
    console: Console,
    notifier: Notifier,
    passed: Passed,
    first: Option<First>,
    leave: bool,
    /// A crash loop is why it leaves.
    escalated: bool,
    stop_signals: u32,
    exit: Option<u8>,
    hush: Hush,
}

/// The ends of the control thread's queues.
#[derive(Debug)]
pub struct Ports {
    /// What clients ask for.
    pub commands: mpsc::Receiver<Command>,
    /// What happened.
    pub events: mpsc::Sender<pb::Event>,
}

/// The ends of the engine that the control thread holds.
#[derive(Debug)]
pub struct Published {
    /// Status.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Node table.
    pub nodes: watch::Receiver<Arc<node::Table>>,
}

impl Engine {
    /// Builds an engine for a node that is down, or for what a predecessor left.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        runtime: Runtime,
        mut heritage: Heritage,
        ports: Ports,
        counters: Arc<Counters>,
        console: Console,
    ) -> (Self, Published) {
        let (tx, rx) = mpsc::channel(FACTS_MAX);
        let spare = Table::new(config.spec.clone(), BTreeMap::new(), 0, 1);
        let table = std::mem::replace(&mut heritage.table, spare);
        let listeners = std::mem::take(&mut heritage.listeners);
        let (began, epoch) = (heritage.zero, heritage.epoch);
        let ledger = Ledger::new(runtime.ledger(), std::mem::take(&mut heritage.said));
        let overrides = Overrides::open(&config);
        let (nodes, nodes_out) = watch::channel(Arc::new(node::Table::default()));
        let (snapshot, snapshot_out) = watch::channel(Arc::new(Snapshot::of(&table, Duration::ZERO)));
        let engine = Self {
            runtime,
            table,
            listeners,
            children: BTreeMap::new(),
            graves: Graves::default(),
            log_offsets: BTreeMap::new(),
            cuts: Arc::default(),
            tx,
            rx,
            commands: ports.commands,
            snapshot,
            nodes,
            book: Book::default(),
            events: ports.events,
            starts: Arc::new(crate::starts::load(&config.starts_path())),
            overrides,
            fingerprints: crate::reload::fingerprints(&config.json),
            config,
            sealed: None,
            rounds: None,
            quiesce: JoinSet::new(),
            watchers: JoinSet::new(),
            began,
            epoch,
            heritage,
            ledger,
            zero_ns: None,
            hold_until: None,
            look_at: None,
            tidy_at: None,
            sockets: None,
            cgroups: None,
            spare: spare_fds(SPARE_FDS),
            trial: None,
            tries: JoinSet::new(),
            counters,
            console,
            notifier: Notifier::default(),
            passed: Passed::default(),
            first: None,
            leave: false,
            escalated: false,
            stop_signals: 0,
            exit: None,
            hush: Hush::new(Instant::now()),
        };
        (engine, Published { snapshot: snapshot_out, nodes: nodes_out })
    }

    /// With systemd as the one above us: whom to tell, and what it passed.
    #[must_use]
    pub fn with_systemd(self, notifier: Notifier, passed: Passed) -> Self {
        Self { notifier, passed, ..self }
    }

    /// Able to put another binary in its place.
    #[must_use]
    pub fn with_sockets(self, sockets: Sockets) -> Self {
        Self { sockets: Some(sockets), ..self }
    }

    /// With a control group for each instance.
    #[must_use]
    pub fn with_cgroups(self, cgroups: Option<Cgroups>) -> Self {
        Self { cgroups, ..self }
    }

    /// What is taken from the heads of logs, which another thread does.
    #[must_use]
    pub fn with_cuts(self, cuts: Arc<Cuts>) -> Self {
        Self { cuts, ..self }
    }

    /// Starts the node and serves until it is told to end. Returns the exit code, and the locks, which are to be held until nothing is left.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub async fn run(mut self) -> std::io::Result<(u8, Runtime)> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD])?;
        crate::reexec::unblock_signals()?;
        self.first = Some(First::new(self.config.start_retries));
        self.inherit();
        loop {
            self.turn();
            if let Some(code) = self.exit {
                // After an orderly end, whatever made it end, there is nothing to be taken over.
                if (code == 0 || self.escalated)
                    && let Err(err) = self.ledger.remove().and_then(|()| crate::kept::forget(self.runtime.dir()))
                {
                    tracing::warn!(%err, "record of the children not removed");
                }
                self.graves.bury();
                self.end_orphans();
                self.console.detached(code);
                return Ok((code, self.runtime));
            }
            self.next(&mut signals).await;
        }
    }

    /// Takes what comes next. Children that change are looked at a little later, once for all.
    async fn next(&mut self, signals: &mut Signals) {
        loop {
            let wake = self.wake();
            // All branches are cancel-safe: channel receives, a signal stream, a timer.
            tokio::select! {
                Some(msg) = self.rx.recv() => return self.gather(msg).await,
                Some(command) = self.commands.recv() => {
                    self.hush.lift();
                    return self.on_command(command);
                }
                Some(signal) = signals.next() => match signal {
                    SIGCHLD => self.look_at.get_or_insert_with(|| Instant::now() + CHILDREN_DELAY),
                    signal => return self.on_signal(signal),
                },
                () = sleep_until(wake) => return,
            };
        }
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    /// One comparison of desired and actual, all that follows from it, and its publication.
    fn turn(&mut self) {
        if self.look_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.look_after_children();
        }
        if self.graves.due().is_some_and(|at| at <= Instant::now()) {
            self.graves.bury();
        }
        if self.tidy_at.take_if(|at| *at <= Instant::now()).is_some() {
            crate::sys::give_back();
        }
        let actions = self.table.tick(self.now());
        self.perform(actions);
        if self.table.is_down() && !self.listeners.is_closed() {
            self.close_listeners();
        }
        if self.first.as_ref().is_some_and(|f| f.again_at.is_some_and(|at| at <= Instant::now())) {
            self.first_start();
            let actions = self.table.tick(self.now());
            self.perform(actions);
        }
        if !self.hush.tells(Instant::now()) && self.exit.is_none() {
            return;
        }
        self.publish();
        let snapshot = self.snapshot.borrow().clone();
        self.notifier.turn(&snapshot, self.table.next_deadline().is_some());
        self.record();
    }

    fn wake(&self) -> Option<Instant> {
        let steady = |s: State| matches!(s, State::Ready | State::Down | State::Failed | State::Exited);
        let moving = self.snapshot.borrow().instances.iter().any(|i| !steady(i.state)) || !self.table.ops().is_empty();
        let refresh = moving.then(|| Instant::now() + REFRESH);
        let due = self.table.next_deadline().map(|at| self.began + at);
        let again = self.first.as_ref().and_then(|f| f.again_at);
        [refresh, due, again, self.look_at, self.graves.due(), self.tidy_at, self.hold_until, self.hush.due(), self.notifier.next()]
            .into_iter()
            .flatten()
            .min()
    }

    fn publish(&mut self) {
        let epoch = self.table.epoch();
        if epoch != self.epoch {
            // Who owns what must not be told before a successor would know it.
            self.record();
            match self.runtime.save_epoch(epoch) {
                Ok(()) => self.epoch = epoch,
                // Published it must not be before it is durable: watchers keep the old table until this works.
                Err(err) => {
                    tracing::error!(err = &err as &dyn std::error::Error, epoch, "epoch not saved, node table held back");
                    return;
                }
            }
        }
        let now = self.now();
        let show = |path: std::path::PathBuf| path.display().to_string();
        let table = self.table.node_table(now, u32::from(self.config.node_id), |name, generation| {
            let (health, link) = self.config.sockets(name, generation);
            (show(link), show(health))
        });
        let held = self.holds_table();
        self.nodes.send_if_modified(|old| {
            if held {
                return false;
            }
            let changed = **old != table;
            if changed {
                *old = Arc::new(table);
            }
            changed
        });
        let overridden = self.table.overridden();
        // What commands have set survives us. A file that cannot be written is tried again with the next turn.
        if let Err(err) = self.overrides.save(&overridden, &self.config.slots) {
            tracing::error!(%err, "overrides not saved");
        }
        let configured = |d: &Daemon| self.config.slots.get(d).copied().unwrap_or(1);
        let snapshot = Snapshot {
            addresses: self.listeners.addresses(),
            ops: self.op_list(now),
            starts: self.starts.clone(),
            overrides: overridden.iter().map(|(d, n)| (*d, *n, configured(d))).collect(),
            config_hash: self.config.hash.clone(),
            waiting_keys: self.config.waiting.clone(),
            refused: self.config.refused.clone(),
            behind: self.behind(&self.fingerprints),
            ..Snapshot::of(&self.table, now)
        };
        self.snapshot.send_replace(Arc::new(snapshot));
        for op in self.table.ops() {
            self.book.progress(op.id(), || self.table.held_up_by(now, op));
        }
    }

    /// What comes within [`GATHER`] is published and written down once: a hundred ends cost one look at the whole, not a hundred.
    async fn gather(&mut self, first: Msg) {
        let (began, mut next) = (Instant::now(), Some(first));
        while let Some(msg) = next.take() {
            self.on_messages(msg);
            // The first turn of the others finds what the kernel has to say, the second takes it to us.
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            next = if began.elapsed() < GATHER { self.rx.try_recv().ok() } else { None };
        }
        self.hush.burst();
    }

    fn on_messages(&mut self, first: Msg) {
        let mut ended = Vec::new();
        let more = std::iter::from_fn(|| self.rx.try_recv().ok()).take(FACTS_MAX);
        for msg in std::iter::once(first).chain(more).collect::<Vec<_>>() {
            self.on_message(msg, &mut ended);
        }
        self.on_ends(ended);
        // What follows from an end is due now, before anything is told or written down about it.
        let actions = self.table.tick(self.now());
        self.perform(actions);
    }

    /// Ends are put together: one look at what they left serves them all.
    fn on_message(&mut self, msg: Msg, ended: &mut Vec<(InstanceName, u64)>) {
        match msg {
            Msg::Fact(name, generation, fact) => self.table.hear(self.now(), name, generation, fact),
            Msg::Tried(outcome) => self.tried(outcome),
            Msg::Quiesced(op, report, done) => self.table.quiesced(self.now(), op, report, done),
            Msg::Ended(name, generation) => ended.push((name, generation)),
            Msg::Loaded(loaded) => self.loaded(loaded),
            Msg::CallerLeft(op) => self.caller_left(op),
        }
    }

    /// Nobody is queued for a node that is down, not even by systemd's copies.
    fn close_listeners(&mut self) {
        self.listeners.each(|name, _| self.notifier.forget(&Passed::listener_name(name)));
        self.listeners.close();
    }
}

/// Descriptors that are given up when there are no others.
fn spare_fds(count: usize) -> Vec<OwnedFd> {
    let null = || std::fs::File::open("/dev/null").map(OwnedFd::from);
    (0..count).map_while(|_| null().ok()).collect()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
