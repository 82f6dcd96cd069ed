//! The node table as a value, and a watch that keeps it current.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use wk_proto::node::v1 as pb;
use wk_proto::node::v1::node_table_client::NodeTableClient;
use wk_types::{Bucket, Daemon, Incarnation, InstanceName, NodeId, owner_slot};

use crate::backoff::Backoff;
use crate::dial::dial;
use crate::epochs::{Epochs, Part, Reporter};
use crate::limits::CONTROL_DEADLINE;

pub use wk_proto::node::v1::State as RowState;

/// Name of the table's socket inside the runtime folder.
pub const NODE_SOCKET: &str = "node.sock";

/// Which processes run on this node, where they listen and who owns which share. A snapshot; the next one replaces it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Grows with each change of the pools' slots; 0: no table was received yet.
    pub epoch: u64,
    /// This node; 0 before the first table.
    pub node_id: NodeId,
    /// Client traffic is admitted.
    pub admitted: bool,
    /// A stop is under way.
    pub quiescing: bool,
    instances: BTreeMap<InstanceName, Row>,
    pools: HashMap<Daemon, Share>,
}

/// The slots of a pool, and those it is to have after a move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Share {
    slots: Box<[u16]>,
    next: Box<[u16]>,
    held: bool,
}

/// One instance, from its spawn on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: InstanceName,
    /// Spawn counter of the slot, from 1.
    pub generation: u64,
    /// Identity of this life of the process; changes with the generation.
    pub incarnation: Incarnation,
    /// State as the supervisor sees it.
    pub state: RowState,
    /// Socket with the services for neighbours.
    pub link_socket: PathBuf,
    /// Socket with health, lifecycle and admin services.
    pub health_socket: PathBuf,
    /// Process id; 0 when there is none.
    pub pid: u32,
}

impl Row {
    /// True when the process may be dialled: it was spawned and its exit has not been seen.
    #[must_use]
    pub fn dialable(&self) -> bool {
        self.incarnation != 0
            && !self.link_socket.as_os_str().is_empty()
            && !matches!(
                self.state,
                RowState::Unspecified
                    | RowState::Down
                    | RowState::Waiting
                    | RowState::Blocked
                    | RowState::Exited
                    | RowState::Backoff
                    | RowState::Failed
                    | RowState::Done
            )
    }
}

impl Table {
    /// Wanted slots of a pool, running or not; empty before the first table.
    #[must_use]
    pub fn pool_slots(&self, daemon: Daemon) -> &[u16] {
        self.pools.get(&daemon).map_or(&[], |share| &share.slots)
    }

    /// Slots the pool has after the move that is under way; empty: none is.
    #[must_use]
    pub fn next_slots(&self, daemon: Daemon) -> &[u16] {
        self.pools.get(&daemon).map_or(&[], |share| &share.next)
    }

    /// Second step of a move: nobody sends items of the moving buckets any more.
    #[must_use]
    pub fn held(&self, daemon: Daemon) -> bool {
        self.pools.get(&daemon).is_some_and(|share| share.held && !share.next.is_empty())
    }

    /// True when `bucket` is about to get another owner in the pool of `daemon`.
    #[must_use]
    pub fn moves(&self, daemon: Daemon, bucket: Bucket) -> bool {
        let next = self.next_slots(daemon);
        !next.is_empty() && owner_slot(bucket, next) != owner_slot(bucket, self.pool_slots(daemon))
    }

    /// The instance that owns `bucket` in the pool of `daemon`, running or not; `None` for an empty pool.
    #[must_use]
    pub fn owner(&self, daemon: Daemon, bucket: Bucket) -> Option<InstanceName> {
        owner_slot(bucket, self.pool_slots(daemon)).map(|slot| InstanceName { daemon, slot })
    }

    /// The row of an instance, if it is wanted.
    #[must_use]
    pub fn instance(&self, name: InstanceName) -> Option<&Row> {
        self.instances.get(&name)
    }

    /// All rows, sorted by name.
    pub fn instances(&self) -> impl Iterator<Item = &Row> {
        self.instances.values()
    }

    /// Rows of one daemon in the order of their slots.
    pub fn instances_of(&self, daemon: Daemon) -> impl Iterator<Item = &Row> {
        self.instances.values().filter(move |row| row.name.daemon == daemon)
    }
}

impl From<pb::Table> for Table {
    /// Rows and pools with names this build does not know are left out.
    fn from(table: pb::Table) -> Self {
        let instances = table.instances.into_iter().filter_map(row).map(|row| (row.name, row)).collect();
        let pools = table
            .pools
            .into_iter()
            .filter_map(|pool| {
                let slots = |list: Vec<u32>| list.into_iter().filter_map(|s| u16::try_from(s).ok()).collect();
                Some((pool.daemon.parse().ok()?, Share { slots: slots(pool.slots), next: slots(pool.next), held: pool.held }))
            })
            .collect();
        Self {
            epoch: table.epoch,
            node_id: NodeId(u16::try_from(table.node_id).unwrap_or(0)),
            admitted: table.admitted,
            quiescing: table.quiescing,
            instances,
            pools,
        }
    }
}

fn row(row: pb::Instance) -> Option<Row> {
    let state = row.state();
    Some(Row {
        name: row.name.parse().ok()?,
        generation: row.generation,
        incarnation: row.incarnation,
        state,
        link_socket: row.link_socket.into(),
        health_socket: row.health_socket.into(),
        pid: row.pid,
    })
}

/// The current table of the node. Cheap to clone; each clone has its own "seen" mark. The watch ends with its last clone.
#[derive(Debug, Clone)]
pub struct TableWatch {
    table: watch::Receiver<Arc<Table>>,
    source: Arc<Source>,
}

#[derive(Debug)]
struct Source {
    node_sock: PathBuf,
    instance: String,
    epochs: Arc<Epochs>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Source {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts to follow the table that is served on `node_sock`; `instance` and `incarnation` are our own. Incarnation 0: somebody who only
/// looks, and has no part in moves of shares.
///
/// The watch reconnects by itself and keeps the last table meanwhile. Must be called inside a tokio runtime.
#[must_use]
pub fn watch(node_sock: impl Into<PathBuf>, instance: &str, incarnation: Incarnation) -> TableWatch {
    let node_sock = node_sock.into();
    let (sender, table) = watch::channel(Arc::new(Table::default()));
    let epochs = Arc::new(Epochs::default());
    let reporter = Reporter {
        node_sock: node_sock.clone(),
        instance: instance.to_owned(),
        incarnation,
        epochs: Arc::clone(&epochs),
        table: table.clone(),
    };
    let mut tasks = vec![tokio::spawn(follow(node_sock.clone(), instance.to_owned(), sender, Arc::clone(&epochs)))];
    if incarnation != 0 {
        tasks.push(tokio::spawn(reporter.run()));
    }
    let source = Source { node_sock, instance: instance.to_owned(), epochs, tasks };
    TableWatch { table, source: Arc::new(source) }
}

impl TableWatch {
    /// A watch over tables that the caller publishes: for tests and for processes without a supervisor.
    #[must_use]
    pub fn from_channel(table: watch::Receiver<Arc<Table>>) -> Self {
        let source = Source { node_sock: PathBuf::new(), instance: String::new(), epochs: Arc::default(), tasks: Vec::new() };
        Self { table, source: Arc::new(source) }
    }

    /// The current table, without marking it as seen. Before the first one: an empty table with epoch 0.
    #[must_use]
    pub fn get(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    /// Waits for a table this clone has not seen, and returns it. Pends for ever when nothing follows the table any more.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn changed(&mut self) -> Arc<Table> {
        if self.table.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.table.borrow_and_update())
    }

    /// Waits until `f` gives a value for the current table.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn wait_for<T>(&mut self, mut f: impl FnMut(&Table) -> Option<T>) -> T {
        loop {
            let seen = f(&self.table.borrow_and_update());
            match seen {
                Some(value) => return value,
                None => drop(self.changed().await),
            }
        }
    }

    /// A part of the process that has to do something about moves of shares: the process reports an epoch when all its parts have met it.
    #[must_use]
    pub fn part(&self) -> Part {
        self.source.epochs.part()
    }

    /// Lowest epoch that all parts have met; `None` without parts.
    #[must_use]
    pub fn met(&self) -> Option<u64> {
        self.source.epochs.met()
    }

    /// Reports to the supervisor that a link to `stalled` makes no progress. Best effort: failures are logged only.
    pub async fn report_stall(&self, stalled: InstanceName, incarnation: Incarnation, for_time: std::time::Duration) {
        if let Err(err) = self.try_report_stall(stalled, incarnation, for_time).await {
            tracing::warn!(instance = %stalled, %err, "stall was not reported");
        }
    }

    async fn try_report_stall(&self, stalled: InstanceName, incarnation: Incarnation, time: std::time::Duration) -> Result<(), String> {
        let report = pb::StallReport {
            reporter: self.source.instance.clone(),
            instance: stalled.to_string(),
            incarnation,
            stalled_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        let call = async {
            let channel = dial(self.source.node_sock.clone()).await.map_err(|e| e.to_string())?;
            NodeTableClient::new(channel).report_stall(report).await.map_err(|e| e.to_string())
        };
        tokio::time::timeout(CONTROL_DEADLINE, call).await.map_err(|_| "deadline passed".to_owned())??;
        Ok(())
    }
}

/// Follows the table until nobody holds a receiver.
async fn follow(node_sock: PathBuf, instance: String, sender: watch::Sender<Arc<Table>>, epochs: Arc<Epochs>) {
    let mut backoff = Backoff::default();
    while !sender.is_closed() {
        match follow_once(&node_sock, &instance, &sender, &epochs, &mut backoff).await {
            Ok(()) => tracing::debug!("node table stream ended"),
            Err(err) => tracing::debug!(err, "node table is out of reach"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn follow_once(
    path: &Path,
    instance: &str,
    sender: &watch::Sender<Arc<Table>>,
    epochs: &Epochs,
    backoff: &mut Backoff,
) -> Result<(), String> {
    let channel = dial(path).await.map_err(|e| e.to_string())?;
    let request = pb::WatchRequest { instance: instance.to_owned() };
    let mut tables = NodeTableClient::new(channel).watch(request).await.map_err(|e| e.to_string())?.into_inner();
    // Perhaps another supervisor, which has not heard us.
    epochs.forget();
    while let Some(table) = tables.message().await.map_err(|e| e.to_string())? {
        backoff.reset();
        let table = Arc::new(Table::from(table));
        sender.send_if_modified(|current| {
            let differs = **current != *table;
            *current = table;
            differs
        });
    }
    Ok(())
}
