//! The engine: facts in, orders out. Owns every child; runs on the main thread.

mod act;
mod end;
mod inherit;
mod replace;

use std::collections::BTreeMap;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use wk_proto::node::v1 as node;
use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

pub use replace::Sockets;

use crate::backoff::Time;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::console::Console;
use crate::heritage::Heritage;
use crate::ledger::Ledger;
use crate::limits::{FACTS_MAX, OP_EVENTS_MAX, SPARE_FDS};
use crate::listeners::Listeners;
use crate::metrics::Counters;
use crate::notify::{Notifier, Passed};
use crate::orphans;
use crate::process::Process;
use crate::runtime::Runtime;
use crate::table::{Fact, InstanceView, Kind, Overall, Refusal, Report, Request, State, Table};

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
    Tried(Result<(), String>),
}

/// From the control thread.
#[derive(Debug)]
pub enum Command {
    /// Begin or join an operation.
    Op {
        /// What.
        request: Request,
        /// End the supervisor when the stop is over.
        supervisor_too: bool,
        /// Events until the end, or why not.
        answer: oneshot::Sender<Result<mpsc::Receiver<pb::OpEvent>, Refusal>>,
    },
    /// A link makes no progress.
    Stall {
        /// The other end.
        name: InstanceName,
        /// Its life.
        incarnation: u64,
    },
    /// Put the binary that lies there now in our place; there is an answer only when that fails.
    Reexec(oneshot::Sender<Result<(), Refusal>>),
}

/// What the control thread answers from.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: Instant,
    /// In one word.
    pub overall: Overall,
    /// Clients are admitted.
    pub admitted: bool,
    /// Of the node table.
    pub epoch: u64,
    /// All instances.
    pub instances: Vec<InstanceView>,
    /// Last completed start.
    pub timing: Option<pb::Timing>,
    /// Public addresses.
    pub addresses: Vec<String>,
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

#[derive(Debug)]
struct Subscribers {
    began: Instant,
    list: Vec<mpsc::Sender<pb::OpEvent>>,
}

/// The first start, with its retries.
#[derive(Debug)]
struct First {
    op: u64,
    retries: u16,
    pause: Duration,
    again_at: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    runtime: Runtime,
    table: Table,
    listeners: Listeners,
    children: BTreeMap<InstanceName, Child>,
    log_offsets: BTreeMap<InstanceName, u64>,
    tx: mpsc::Sender<Msg>,
    rx: mpsc::Receiver<Msg>,
    commands: mpsc::Receiver<Command>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    nodes: watch::Sender<Arc<node::Table>>,
    subscribers: BTreeMap<u64, Subscribers>,
    quiesce: JoinSet<()>,
    began: Instant,
    epoch: u64,
    heritage: Heritage,
    ledger: Ledger,
    zero_ns: Option<u64>,
    hold_until: Option<Instant>,
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
    stop_signals: u32,
    exit: Option<u8>,
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
        commands: mpsc::Receiver<Command>,
        counters: Arc<Counters>,
        console: Console,
    ) -> (Self, Published) {
        let (tx, rx) = mpsc::channel(FACTS_MAX);
        let spare = Table::new(config.spec.clone(), BTreeMap::new(), 0, 1);
        let table = std::mem::replace(&mut heritage.table, spare);
        let listeners = std::mem::take(&mut heritage.listeners);
        let (began, epoch) = (heritage.zero, heritage.epoch);
        let ledger = Ledger::new(runtime.ledger());
        let (nodes, nodes_out) = watch::channel(Arc::new(node::Table::default()));
        let (snapshot, snapshot_out) = watch::channel(Arc::new(take(&table, Duration::ZERO, &Listeners::default())));
        let engine = Self {
            config,
            runtime,
            table,
            listeners,
            children: BTreeMap::new(),
            log_offsets: BTreeMap::new(),
            tx,
            rx,
            commands,
            snapshot,
            nodes,
            subscribers: BTreeMap::new(),
            quiesce: JoinSet::new(),
            began,
            epoch,
            heritage,
            ledger,
            zero_ns: None,
            hold_until: None,
            sockets: None,
            cgroups: None,
            spare: spare_fds(),
            trial: None,
            tries: JoinSet::new(),
            counters,
            console,
            notifier: Notifier::default(),
            passed: Passed::default(),
            first: None,
            leave: false,
            stop_signals: 0,
            exit: None,
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

    /// Starts the node and serves until it is told to end. Returns the exit code, and the locks, which are to be held until nothing is left.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub async fn run(mut self) -> std::io::Result<(u8, Runtime)> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2, SIGCHLD])?;
        crate::reexec::unblock_signals()?;
        self.first = Some(First { op: 0, retries: self.config.start_retries, pause: REFRESH, again_at: None });
        self.inherit();
        loop {
            self.turn();
            if let Some(code) = self.exit {
                if code == 0
                    && let Err(err) = self.ledger.remove()
                {
                    tracing::warn!(%err, "record of the children not removed");
                }
                self.end_orphans();
                self.console.detached(code);
                return Ok((code, self.runtime));
            }
            let wake = self.wake();
            // All branches are cancel-safe: channel receives, a signal stream, a timer.
            tokio::select! {
                Some(msg) = self.rx.recv() => self.on_message(msg),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(signal) = signals.next() => self.on_signal(signal),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    /// One comparison of desired and actual, all that follows from it, and its publication.
    fn turn(&mut self) {
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
        self.publish();
        let snapshot = self.snapshot.borrow().clone();
        self.notifier.turn(&snapshot, self.table.next_deadline().is_some());
        self.record();
    }

    fn wake(&self) -> Option<Instant> {
        let steady = |s: State| matches!(s, State::Ready | State::Down | State::Failed);
        let refresh = self.snapshot.borrow().instances.iter().any(|i| !steady(i.state)).then(|| Instant::now() + REFRESH);
        let due = self.table.next_deadline().map(|at| self.began + at);
        let again = self.first.as_ref().and_then(|f| f.again_at);
        [refresh, due, again, self.hold_until, self.notifier.next()].into_iter().flatten().min()
    }

    fn publish(&mut self) {
        let epoch = self.table.epoch();
        if epoch != self.epoch {
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
        self.snapshot.send_replace(Arc::new(take(&self.table, now, &self.listeners)));
    }

    fn on_message(&mut self, msg: Msg) {
        let now = self.now();
        let actions = match msg {
            Msg::Fact(name, generation, fact) => self.table.step(now, name, generation, fact),
            Msg::Tried(outcome) => {
                self.tried(outcome);
                Vec::new()
            }
            Msg::Quiesced(op, report, done) => {
                self.table.quiesced(now, op, report, done);
                Vec::new()
            }
            Msg::Ended(name, generation) => self.on_end(name, generation),
        };
        self.perform(actions);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Stall { name, incarnation } => {
                self.counters.stalls.inc();
                self.table.stall(name, incarnation);
            }
            Command::Reexec(answer) => self.reexec(Some(answer)),
            Command::Op { request, supervisor_too, answer } => {
                let begun = self.begin(request).map(|id| {
                    self.leave |= supervisor_too;
                    let (tx, rx) = mpsc::channel(OP_EVENTS_MAX);
                    self.subscribers.entry(id).or_insert_with(|| Subscribers { began: Instant::now(), list: Vec::new() }).list.push(tx);
                    rx
                });
                // A caller that left meanwhile does not stop the operation.
                if answer.send(begun).is_err() {
                    tracing::debug!("caller left before its answer");
                }
            }
        }
    }

    fn begin(&mut self, request: Request) -> Result<u64, Refusal> {
        if let Kind::Scale(daemon, slots) = request.kind {
            self.afford(daemon, slots)?;
        }
        if request.kind == Kind::Start && self.listeners.is_closed() {
            let opened = Listeners::open(&self.config.public, &mut self.passed);
            self.listeners = opened.map_err(|e| Refusal::new(6, format!("start failed: {e}; nothing was started")))?;
            self.listeners.each(|name, listener| self.notifier.store(&Passed::listener_name(name), listener));
        }
        self.table.begin(self.now(), request)
    }

    /// Nobody is queued for a node that is down, not even by systemd's copies.
    fn close_listeners(&mut self) {
        self.listeners.each(|name, _| self.notifier.forget(&Passed::listener_name(name)));
        self.listeners.close();
    }

    fn first_start(&mut self) {
        let begun = self.begin(self.start_request());
        let Some(first) = &mut self.first else { return };
        first.again_at = None;
        match begun {
            Ok(id) => first.op = id,
            Err(refusal) => {
                self.console.failed(&refusal.message, &[]);
                self.retry_or_leave();
            }
        }
    }

    fn retry_or_leave(&mut self) {
        let Some(first) = &mut self.first else { return };
        if first.retries == 0 {
            self.exit = Some(crate::service::EXIT_START_FAILED);
            return;
        }
        first.retries -= 1;
        first.again_at = Some(Instant::now() + first.pause);
        self.console.line(&format!("next attempt in {:.0} s, {} left after it", first.pause.as_secs_f64(), first.retries));
        first.pause = (first.pause * 2).min(crate::limits::BACKOFF_CAP);
    }

    fn on_signal(&mut self, signal: i32) {
        match signal {
            SIGCHLD => {
                orphans::reap(|pid| self.knows(pid));
                let halted: Vec<(InstanceName, u64)> =
                    self.children.iter().filter(|(_, c)| c.process.halted()).map(|(n, c)| (*n, c.generation)).collect();
                for (name, generation) in halted {
                    tracing::warn!(%name, "process was stopped by a signal, probing it");
                    let actions = self.table.step(self.now(), name, generation, Fact::Halted);
                    self.perform(actions);
                }
            }
            SIGUSR2 => self.reexec(None),
            SIGQUIT => tracing::info!(table = ?self.table, "state on request"),
            SIGHUP if !self.console.is_terminal() => tracing::info!("SIGHUP: reload is not supported, restart to read the configuration"),
            _ => self.stop_signal(),
        }
    }

    /// First: drain. Second: one second. Third: kill.
    fn stop_signal(&mut self) {
        self.stop_signals += 1;
        self.leave = true;
        self.first = None;
        self.notifier.stopping();
        if self.table.is_down() {
            self.exit = Some(0);
            return;
        }
        let flags = crate::table::Flags { fast: self.stop_signals == 2, now: self.stop_signals > 2, ..Default::default() };
        self.console.line(match self.stop_signals {
            1 => "stopping: again for deadlines of 1 s",
            2 => "stopping fast: again to kill",
            _ => "killing",
        });
        let request = Request { kind: Kind::Stop, names: Vec::new(), key: String::new(), flags };
        if let Err(refusal) = self.begin(request) {
            tracing::error!(%refusal, "stop refused");
        }
    }
}

/// Descriptors that are given up when there are no others.
fn spare_fds() -> Vec<OwnedFd> {
    let null = || std::fs::File::open("/dev/null").map(OwnedFd::from);
    (0..SPARE_FDS).map_while(|_| null().ok()).collect()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn take(table: &Table, now: Time, listeners: &Listeners) -> Snapshot {
    Snapshot {
        taken: Instant::now(),
        overall: table.overall(),
        admitted: table.admitted(),
        epoch: table.epoch(),
        instances: table.views(now),
        timing: table.timing().map(crate::timing::Timing::to_proto),
        addresses: listeners.addresses(),
    }
}
