//! One node, from its folders to its services: opened, kept, closed. Knows no sockets and no supervisor, so tests run it in process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use wk_proto::cluster::v1::admin_server::AdminServer;
use wk_proto::cluster::v1::data_server::DataServer;
use wk_proto::cluster::v1::lock_server::LockServer;
use wk_raft::{Groups, NoNetwork, ProposeError};
use wk_rpc::limits::MESSAGE_BYTES_MAX;
use wk_store::{DataDb, LogBackend, LogWriter, Options, RaftDb, StoreError, WriterOptions};

use crate::append::Front;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Refusal;
use crate::ids::{Ceiling, IdService};
use crate::limits::READERS;
use crate::metrics::Metrics;
use crate::node::shards::{GroupsError, Parts, open_group};
use crate::node::{DataLock, Identity, IdentityError, Layout, NODE_GROUP, NodeMachine, Shards};
use crate::readers::Readers;
use crate::rpc::admin::AdminService;
use crate::rpc::lock::LockService;
use crate::rpc::{DataService, Dispatch};
use crate::upkeep::{self, Upkeep};

/// Parts of a node. The store comes up first, then the node group, then slot and channel groups together; ids depend on the store alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Both databases are open.
    Store,
    /// The node group leads and its layout is known.
    NodeRaft,
    /// All slot groups have recovered and lead.
    SlotRaft,
    /// Channel groups with data have recovered and lead.
    ChannelRaft,
    /// Ids may be handed out.
    Ids,
}

/// Why a node did not start. The text names the step, its source the reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Lock or identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A database.
    #[error("open a database")]
    Store(#[source] wk_store::OpenError),
    /// A read during recovery.
    #[error("read the node's stored state")]
    Read(#[source] StoreError),
    /// A thread was refused.
    #[error("start threads")]
    Threads(#[source] std::io::Error),
    /// A blocking step ended without a result.
    #[error("open the databases")]
    Join(#[source] JoinError),
    /// Consensus refused its options.
    #[error("start consensus")]
    Raft(#[source] wk_raft::OpenError),
    /// A group.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// The first command of the node group failed.
    #[error("bootstrap the cluster")]
    Bootstrap(#[source] ProposeError),
    /// The number of slot groups cannot change after bootstrap.
    #[error("cluster.slotGroupCount is {wanted}, but the data in {} was made with {found}: it is fixed at bootstrap, set it back to {found}", folder.display())]
    SlotGroups {
        /// Value of the configuration.
        wanted: u16,
        /// Value of the data.
        found: u16,
        /// The folder.
        folder: PathBuf,
    },
    /// The data belong to a newer program.
    #[error("the cluster uses features of version {found}, this program knows {known}: upgrade the node")]
    Features {
        /// In use.
        found: u32,
        /// Known.
        known: u32,
    },
    /// The identity file and the databases come from different clusters.
    #[error("identity file says cluster {file}, the databases say {state}: a folder was mixed up")]
    MixedUp {
        /// In the identity file.
        file: String,
        /// In the node group.
        state: String,
    },
    /// Ids could not be handed out.
    #[error("start the id generator")]
    Ids(#[source] Refusal),
}

/// A running node.
#[derive(Debug)]
pub struct Engine {
    dispatch: Arc<Dispatch>,
    groups: Groups,
    db: DataDb,
    writer: LogWriter,
    log: RaftDb,
    /// Streams and other work that must end before the groups do.
    streams: TaskTracker,
    streams_stop: CancellationToken,
    /// Channel group tasks and upkeep.
    tasks: TaskTracker,
    stop: CancellationToken,
    _lock: DataLock,
}

/// What the first steps of an open leave.
struct Opened {
    lock: DataLock,
    identity: Identity,
    db: DataDb,
    log: RaftDb,
}

impl Engine {
    /// Opens a node (`design/cluster.md` §8.6). `reached` hears of each stage.
    ///
    /// # Errors
    /// [`OpenError`]; nothing keeps running then.
    pub async fn open(config: &Config, metrics: &Metrics, reached: impl Fn(Stage)) -> Result<Self, OpenError> {
        let settings = config.clone();
        let opened = spawn_blocking(move || open_databases(&settings)).await.map_err(OpenError::Join)??;
        let backend: Arc<dyn LogBackend> = Arc::new(opened.log.clone());
        let writer = LogWriter::start(Arc::clone(&backend), WriterOptions::default()).map_err(OpenError::Threads)?;
        reached(Stage::Store);

        let groups =
            Groups::new(config.node, Arc::clone(&backend), writer.clone(), Arc::new(NoNetwork), &config.raft).map_err(OpenError::Raft)?;
        let clock = Clock::anchored();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts {
            groups: groups.clone(),
            db: opened.db.clone(),
            members: vec![config.node],
            clock,
            metrics: metrics.clone(),
            cache_rows: (config.channel_rows / usize::from(config.slot_groups.max(1))).max(64),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let with_data = opened.log.groups().map_err(OpenError::Read)?;
        let ids = IdService::open(config.node, Ceiling::new(writer.clone(), backend), clock).map_err(OpenError::Read)?;
        // What does not need another's outcome waits for the device at the same time: one sync carries what is there.
        let grouped = async {
            let layout = node_group(config, &parts, &opened.identity).await?;
            reached(Stage::NodeRaft);
            let shards = Shards::new(parts, layout);
            let slots = async { shards.open_slots().await.map(|()| reached(Stage::SlotRaft)) };
            let channels = async { shards.open_channels(&with_data).await.map(|()| reached(Stage::ChannelRaft)) };
            tokio::try_join!(slots, channels)?;
            Ok::<_, OpenError>(shards)
        };
        let issuing = async { ids.start().await.map(|()| reached(Stage::Ids)).map_err(OpenError::Ids) };
        let (shards, ()) = tokio::try_join!(grouped, issuing)?;

        let disk_full = Arc::new(AtomicBool::new(false));
        let front = Front::new(shards.clone(), Arc::clone(&disk_full), metrics.clone());
        let readers = Readers::start(READERS).map_err(OpenError::Threads)?;
        let dispatch = Arc::new(Dispatch { shards, front, ids, readers, clock, metrics: metrics.clone() });
        let upkeep = Upkeep {
            dispatch: Arc::clone(&dispatch),
            writer: writer.clone(),
            log: opened.log.clone(),
            folder: config.folder.clone(),
            disk_reserve_bytes: config.disk_reserve_bytes,
            disk_full,
        };
        tasks.spawn(upkeep.run(stop.clone()));
        tasks.spawn(upkeep::flush_loop(groups.clone(), opened.db.clone(), config.flush_every, metrics.clone(), stop.clone()));
        tracing::info!(node = %config.node, cluster = opened.identity.cluster, slot_groups = config.slot_groups, groups = with_data.len(), "node is open");
        Ok(Self {
            dispatch,
            groups,
            db: opened.db,
            writer,
            log: opened.log,
            streams: TaskTracker::new(),
            streams_stop: CancellationToken::new(),
            tasks,
            stop,
            _lock: opened.lock,
        })
    }

    /// What requests are carried out with.
    #[must_use]
    pub fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// State machine database.
    #[must_use]
    pub fn db(&self) -> &DataDb {
        &self.db
    }

    /// The services for neighbours.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let data = DataService::new(Arc::clone(&self.dispatch), self.streams.clone(), self.streams_stop.clone());
        let data = DataServer::new(data).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        Routes::new(data)
            .add_service(LockServer::new(LockService::new(Arc::clone(&self.dispatch))))
            .add_service(AdminServer::new(AdminService::new(Arc::clone(&self.dispatch))))
    }

    /// Stops reading from streams; what they carry is still answered. Returns when no stream reads any more.
    pub async fn stop_streams(&self) {
        self.streams_stop.cancel();
        self.streams.close();
        self.streams.wait().await;
    }

    /// Ends in order: streams, queued appends, groups, log, flush. Everything acknowledged is in files afterwards and no replay is needed.
    ///
    /// # Errors
    /// The last flush failed; the log still has everything.
    pub async fn close(self) -> Result<(), StoreError> {
        self.stop_streams().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(refusal) = self.dispatch.ids.stop().await {
            tracing::warn!(err = %refusal, "id ceiling was not lowered");
        }
        let db = self.db.clone();
        let flushed = self.groups.flush_and_purge_last(async || blocking_flush(&db).await).await;
        self.groups.shutdown().await;
        let writer = self.writer.clone();
        if spawn_blocking(move || writer.stop()).await.is_err() {
            tracing::error!("log writer did not stop");
        }
        flushed?;
        // What is left of the log goes into files: replaying it costs the next start far more than this.
        let log = self.log;
        spawn_blocking(move || log.flush()).await.unwrap_or(Err(StoreError::Stopped))
    }
}

/// Flushes on a blocking thread.
pub(crate) async fn blocking_flush(db: &DataDb) -> Result<(), StoreError> {
    let db = db.clone();
    spawn_blocking(move || db.flush()).await.unwrap_or(Err(StoreError::Stopped))
}

/// Lock, identity, both databases at once. Blocking.
fn open_databases(config: &Config) -> Result<Opened, OpenError> {
    let lock = DataLock::take(&config.folder)?;
    let data_folder = config.folder.join("data");
    let has_data = [&data_folder, &config.raft_folder].into_iter().any(|folder| folder.join("CURRENT").exists());
    let identity = Identity::load_or_create(&config.folder, config.node, has_data)?;
    let options = Options::new(config.cache_bytes).with_faults(crate::fault::faults(config.write_delay));
    let (log, db) = std::thread::scope(|scope| {
        let log = scope.spawn(|| RaftDb::open(&config.raft_folder, &options));
        let db = DataDb::open(&data_folder, &options);
        (log.join(), db)
    });
    let log = log.map_err(|_| OpenError::Threads(std::io::Error::other("a thread that opened a database panicked")))?;
    Ok(Opened { lock, identity, db: db.map_err(OpenError::Store)?, log: log.map_err(OpenError::Store)? })
}

/// Opens the node group and agrees on the layout.
async fn node_group(config: &Config, parts: &Parts, identity: &Identity) -> Result<Layout, OpenError> {
    let shared = crate::node::machine::SharedLayout::default();
    let machine = NodeMachine::new(parts.db.clone(), Arc::clone(&shared));
    let group = open_group(parts, NODE_GROUP, Box::new(machine)).await?;
    if shared.read().is_none() {
        let fresh = Layout::fresh(&identity.cluster, config.slot_groups);
        group.propose(fresh.bootstrap()).await.map_err(OpenError::Bootstrap)?;
    }
    let layout = shared.read().clone().ok_or(OpenError::Bootstrap(ProposeError::UnknownOutcome))?;
    if *layout.cluster != *identity.cluster {
        return Err(OpenError::MixedUp { file: identity.cluster.clone(), state: layout.cluster.into() });
    }
    if layout.features > crate::node::machine::FEATURE_VERSION {
        return Err(OpenError::Features { found: layout.features, known: crate::node::machine::FEATURE_VERSION });
    }
    if layout.shards != config.slot_groups {
        return Err(OpenError::SlotGroups { wanted: config.slot_groups, found: layout.shards, folder: config.folder.clone() });
    }
    Ok(layout)
}
