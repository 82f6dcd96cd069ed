//! The node table, where systemd supervises the daemons (`systemd/wukongim.target`): this daemon hosts it on `node.sock`.
//!
//! [`members`] is the pure part: who is here, who may work, who owns which share. This file keeps its times, its files and its streams: a
//! daemon joins with a stream whose end is its end. The epoch is durable before it is published. The last table lies in the runtime folder,
//! so that a new life of this daemon begins with the members of the old one instead of a node that looks empty.
//!
//! Absent on purpose: starting and stopping processes (systemd's), everything else the supervisor can do.

pub mod members;
mod probe;

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use wk_lifecycle::Context;
use wk_node::EpochFile;
use wk_proto::node::v1 as pb;
use wk_proto::node::v1::node_table_server::{NodeTable, NodeTableServer};
use wk_rpc::ServeOptions;
use wk_rpc::serve::ServeError;
use wk_rpc::table::NODE_SOCKET;
use wk_types::{Daemon, Incarnation, InstanceName, Pool};

use members::{Members, Refused, Seat};
use probe::Handle;

/// The last table, in the runtime folder.
const TABLE_FILE: &str = "node.table";

/// The table cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The epoch cannot be read or written.
    #[error("epoch {}", path.display())]
    Epoch {
        /// File.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("listen on {}", path.display())]
    Socket {
        /// Socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Serving ended.
    #[error("serve the node table")]
    Serve(#[from] ServeError),
}

/// The table of this node, ready to be served.
pub struct Hosting {
    host: Arc<Host>,
    context: Context,
    listener: UnixListener,
    path: PathBuf,
}

impl std::fmt::Debug for Hosting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosting").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Hosting {
    /// Begins a new epoch and listens. To be called with the lock of the data folder held. `context`: our own row and the configured slots.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn open(context: &Context) -> Result<Self, HostError> {
        let epoch = EpochFile::of(&context.config().data_path());
        let first = epoch.next().map_err(|source| HostError::Epoch { path: epoch.path().to_owned(), source })?;
        let path = context.runtime_dir().join(NODE_SOCKET);
        let listener = listen(&path).map_err(|source| HostError::Socket { path: path.clone(), source })?;
        Ok(Self { host: Host::new(context, epoch, first), context: context.clone(), listener, path })
    }

    /// Serves until `stop` is cancelled.
    ///
    /// # Errors
    /// [`HostError::Serve`].
    pub async fn serve(self, stop: CancellationToken) -> Result<(), HostError> {
        let Self { host, context, listener, path } = self;
        let tasks = TaskTracker::new();
        let service = Service { host: Arc::clone(&host), tasks: tasks.clone(), stop: stop.clone() };
        let routes = Routes::new(NodeTableServer::new(service));
        // Cancel-safe: the clock only waits and looks.
        let served = tokio::select! {
            served = wk_rpc::serve(listener, routes, ServeOptions::default(), stop.clone().cancelled_owned()) => served,
            () = clock(&host, &context) => Ok(()),
        };
        tasks.close();
        tasks.wait().await;
        host.lock().leave();
        // A file that stays is replaced by the next life.
        drop(fs::remove_file(path));
        served.map_err(HostError::Serve)
    }
}

/// Slots of each daemon as configured.
fn slots(config: &wk_config::Config) -> Vec<(Daemon, u16)> {
    let workers = &config.workers;
    let of = |daemon| match daemon {
        Daemon::Worker(Pool::User) => workers.user,
        Daemon::Worker(Pool::Channel) => workers.channel,
        Daemon::Worker(Pool::Push) => workers.push,
        _ => 1,
    };
    Daemon::ALL.into_iter().map(|daemon| (daemon, of(daemon))).collect()
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => UnixListener::bind(path),
    }
}

/// What `systemctl status` shows of the host. `missing`: configured and not here.
fn status_text(missing: &[InstanceName], admitted: bool) -> String {
    // Clients do not wait for what is not required.
    let counts = |name: &InstanceName| admitted || wk_node::graph::required(name.daemon);
    let units: Vec<String> = missing.iter().copied().filter(counts).map(unit).collect();
    let list = units.join(" ");
    match (units.is_empty(), admitted) {
        (true, _) => "ready".to_owned(),
        (false, true) => format!("ready without {list}: systemctl start {list}"),
        (false, false) => format!("ready, clients wait for {list}: systemctl start {list}"),
    }
}

/// Unit of an instance (`systemd/`).
fn unit(name: InstanceName) -> String {
    match name.daemon {
        Daemon::Worker(_) => format!("wk-{}@{}", name.daemon.file_name(), name.slot),
        daemon => format!("wk-{}", daemon.file_name()),
    }
}

/// Acts at the deadlines of the members, and says who is missing. Never returns.
async fn clock(host: &Arc<Host>, context: &Context) {
    let mut said = String::new();
    loop {
        let (next, text) = {
            let state = host.lock();
            (state.next_deadline(), status_text(&state.members.missing(), state.members.admitted()))
        };
        if text != said {
            context.status_text(&text);
            said = text;
        }
        tokio::select! {
            () = host.changed.notified() => {}
            () = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            } => host.lock().tick(),
        }
    }
}

struct Host {
    state: Mutex<State>,
    changed: Notify,
}

impl Host {
    fn new(context: &Context, epoch: EpochFile, first: u64) -> Arc<Self> {
        let mut members = Members::new(context.config().cluster.node_id.into(), first, slots(context.config()));
        let file = context.runtime_dir().join(TABLE_FILE);
        let last = fs::read(&file).ok().and_then(|bytes| pb::Table::decode(bytes.as_slice()).ok());
        let restored = last.map_or(0, |table| members.restore(Duration::ZERO, table, |row| answers(&row.health_socket)));
        let (health, link) = wk_lifecycle::Launch::sockets(context.instance(), context.runtime_dir());
        members.host(
            Duration::ZERO,
            pb::JoinReport {
                instance: context.instance().to_string(),
                incarnation: context.incarnation(),
                pid: std::process::id(),
                health_socket: health.display().to_string(),
                link_socket: link.display().to_string(),
                ..pb::JoinReport::default()
            },
        );
        tracing::info!(epoch = first, restored, "hosting the node table");
        let state = State { members, epoch, saved: first, file, began: Instant::now(), tables: watch::channel(Arc::default()).0 };
        state.publish();
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes a report of the holder of a seat.
    fn report(&self, seat: Seat, report: &pb::JoinReport) {
        let mut state = self.lock();
        let now = state.began.elapsed();
        if state.members.report(now, seat, report) {
            state.changed();
        }
        drop(state);
        self.changed.notify_one();
    }

    fn join(&self, report: &pb::JoinReport) -> Result<Seat, Refused> {
        let mut state = self.lock();
        let now = state.began.elapsed();
        let seat = state.members.join(now, report)?;
        tracing::info!(instance = report.instance, generation = seat.generation, pid = report.pid, "joined");
        state.changed();
        drop(state);
        self.changed.notify_one();
        Ok(seat)
    }

    fn met(&self, name: InstanceName, incarnation: Incarnation, epoch: u64) {
        let mut state = self.lock();
        let now = state.began.elapsed();
        state.members.met(now, name, incarnation, epoch);
        state.changed();
        drop(state);
        self.changed.notify_one();
    }

    fn gone(&self, seat: Seat) {
        let mut state = self.lock();
        let now = state.began.elapsed();
        state.members.gone(now, seat);
        tracing::info!(instance = %seat.name, generation = seat.generation, "gone");
        state.changed();
        drop(state);
        self.changed.notify_one();
    }
}

/// True when somebody listens on a socket: a process that ended took its listener with it.
fn answers(socket: &str) -> bool {
    UnixStream::connect(socket).is_ok()
}

struct State {
    members: Members,
    epoch: EpochFile,
    /// The durable epoch.
    saved: u64,
    file: PathBuf,
    began: Instant,
    tables: watch::Sender<Arc<pb::Table>>,
}

impl State {
    fn next_deadline(&self) -> Option<Instant> {
        self.members.next_deadline().map(|at| self.began + at)
    }

    fn tick(&mut self) {
        self.members.tick(self.began.elapsed());
        self.changed();
    }

    fn changed(&mut self) {
        let epoch = self.members.epoch();
        if epoch != self.saved {
            match self.epoch.save(epoch) {
                Ok(()) => self.saved = epoch,
                // Published it must not be before it is durable: watchers keep the old table until this works.
                Err(err) => {
                    tracing::error!(%err, epoch, "epoch not saved, node table held back");
                    return;
                }
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let table = self.members.table();
        let changed = self.tables.send_if_modified(|old| {
            let changed = **old != table;
            if changed {
                *old = Arc::new(table);
            }
            changed
        });
        if changed && let Err(err) = save(&self.file, &self.tables.borrow().encode_to_vec()) {
            tracing::warn!(%err, path = %self.file.display(), "table not kept for a next life");
        }
    }

    /// A node that ends as a whole leaves nothing; one whose other daemons go on is told to our next life.
    fn leave(&self) {
        if self.members.alone() {
            // It may never have been written.
            drop(fs::remove_file(&self.file));
        }
    }
}

fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("new");
    fs::write(&next, bytes)?;
    fs::rename(next, path)
}

type Tables = std::pin::Pin<Box<dyn Stream<Item = Result<pb::Table, Status>> + Send>>;

struct Service {
    host: Arc<Host>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Service {
    fn tables(&self) -> Tables {
        let tables = WatchStream::new(self.host.lock().tables.subscribe()).map(|table| Ok((*table).clone()));
        Box::pin(tables.take_until(self.stop.clone().cancelled_owned()))
    }
}

#[tonic::async_trait]
impl NodeTable for Service {
    type WatchStream = Tables;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Tables>, Status> {
        tracing::debug!(instance = request.get_ref().instance, "node table watched");
        Ok(Response::new(self.tables()))
    }

    type JoinStream = Tables;

    async fn join(&self, request: Request<Streaming<pb::JoinReport>>) -> Result<Response<Tables>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.ok_or_else(|| Status::invalid_argument("no report"))?;
        let seat = self.host.join(&first).map_err(|refused| match refused {
            Refused::Taken { .. } => Status::already_exists(refused.to_string()),
            Refused::Name(_) => Status::invalid_argument(refused.to_string()),
        })?;
        let (host, stop) = (Arc::clone(&self.host), self.stop.clone());
        self.tasks.spawn(async move {
            // Cancel-safe: a report that is not taken any more matters to nobody.
            loop {
                tokio::select! {
                    report = reports.message() => match report {
                        Ok(Some(report)) => host.report(seat, &report),
                        _ => return host.gone(seat),
                    },
                    // The others go on without us: they are no more gone than before.
                    () = stop.cancelled() => return,
                }
            }
        });
        Ok(Response::new(self.tables()))
    }

    async fn report_epoch(&self, request: Request<pb::EpochReport>) -> Result<Response<pb::EpochReply>, Status> {
        let report = request.into_inner();
        let name: InstanceName = report.instance.parse().map_err(|_| Status::invalid_argument("unknown instance"))?;
        self.host.met(name, report.incarnation, report.epoch);
        Ok(Response::new(pb::EpochReply {}))
    }

    async fn report_stall(&self, request: Request<pb::StallReport>) -> Result<Response<pb::StallReply>, Status> {
        let report = request.into_inner();
        let name: InstanceName = report.instance.parse().map_err(|_| Status::invalid_argument("unknown instance"))?;
        tracing::warn!(reporter = report.reporter, %name, stalled_ms = report.stalled_ms, "link without progress reported");
        if let Some((pid, health)) = self.host.probing(name, report.incarnation) {
            let host = Arc::clone(&self.host);
            self.tasks.spawn(async move {
                probe::run(Handle { name, pid, health }).await;
                host.probed(name, report.incarnation);
            });
        }
        Ok(Response::new(pb::StallReply {}))
    }
}

impl Host {
    /// Process and health socket of an instance that is to be probed, unless it is being probed or the report is about another life.
    fn probing(&self, name: InstanceName, incarnation: Incarnation) -> Option<(u32, PathBuf)> {
        self.lock().members.probing(name, incarnation)
    }

    fn probed(&self, name: InstanceName, incarnation: Incarnation) {
        self.lock().members.probed(name, incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_the_units_that_are_missing_and_the_command() {
        let missing = ["worker.channel@1", "plugin-host@0", "api@0"].map(|n| n.parse::<InstanceName>().unwrap());
        assert_eq!(status_text(&[], false), "ready");
        let waiting = status_text(&missing, false);
        assert!(waiting.ends_with("systemctl start wk-worker-channel@1 wk-api"), "{waiting}");
        assert_eq!(status_text(&missing[1..], true), "ready without wk-plugin-host wk-api: systemctl start wk-plugin-host wk-api");
    }
}
