//! A node: the table, the played neighbours, and the pools, which may die and come back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_link::ring::Window;
use wk_proto::node::v1 as pb;
use wk_rpc::{ClusterData, Table, TableWatch};
use wk_types::{Daemon, InstanceName, Pool};
use wk_worker::service::{Base, Started};

use crate::cluster::Cluster;
use crate::gateway::Gateway;

/// Longest wait for anything.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running worker.
struct Worker {
    started: Started,
    server: JoinHandle<()>,
    stop: CancellationToken,
    stop_links: CancellationToken,
}

pub(crate) struct Node {
    dir: tempfile::TempDir,
    pub(crate) cluster: Cluster,
    pub(crate) gateway: Gateway,
    config: Arc<wk_config::Config>,
    window: Window,
    rows: BTreeMap<String, (u64, PathBuf)>,
    table: watch::Sender<Arc<Table>>,
    workers: BTreeMap<Pool, Worker>,
}

pub(crate) fn name(daemon: Daemon) -> InstanceName {
    InstanceName { daemon, slot: 0 }
}

impl Node {
    pub(crate) async fn start(window: Window, configure: impl FnOnce(&mut wk_config::Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = wk_config::Config { data_dir: dir.path().join("data").display().to_string(), ..wk_config::Config::default() };
        configure(&mut config);
        let table = watch::channel(Arc::new(Table::default())).0;
        let watch = TableWatch::from_channel(table.subscribe());
        let cluster = Cluster::default();
        let gateway = Gateway::start(watch, 77, &dir.path().join("gateway.sock"), window);
        let mut node =
            Self { cluster, gateway, config: Arc::new(config), window, rows: BTreeMap::new(), table, workers: BTreeMap::new(), dir };
        node.cluster.serve(&node.dir.path().join("cluster.sock"));
        node.rows.insert("cluster@0".into(), (1, node.dir.path().join("cluster.sock")));
        node.rows.insert("gateway@0".into(), (77, node.dir.path().join("gateway.sock")));
        for pool in Pool::ALL {
            node.spawn(pool);
        }
        for pool in Pool::ALL {
            node.ready(pool).await;
        }
        node
    }

    /// Starts the next life of a pool.
    pub(crate) fn spawn(&mut self, pool: Pool) {
        let me = name(Daemon::Worker(pool));
        let life = self.rows.get(&me.to_string()).map_or(100, |r| r.0) + 1;
        let socket = self.dir.path().join(format!("{}.{life}.sock", pool.name()));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let watch = TableWatch::from_channel(self.table.subscribe());
        let base = Base {
            incarnation: life,
            generation: life,
            cluster: ClusterData::connect(watch.clone()),
            table: watch,
            tasks: TaskTracker::new(),
            stop_links: CancellationToken::new(),
            stop: CancellationToken::new(),
            config: Arc::clone(&self.config),
            window: self.window,
            fault: None,
            bug: None,
            black_boxes: Some(self.dir.path().join("boxes")),
            context: None,
        };
        let started = base.start(pool, me, &wk_telemetry::Metrics::new());
        let routes = started.routes.clone();
        let server = tokio::spawn(async move {
            drop(wk_rpc::serve(listener, routes, wk_rpc::ServeOptions::default(), std::future::pending()).await);
        });
        self.rows.insert(me.to_string(), (life, socket));
        self.workers.insert(pool, Worker { started, server, stop: base.stop.clone(), stop_links: base.stop_links.clone() });
        self.publish();
    }

    pub(crate) async fn ready(&self, pool: Pool) {
        let mut ready = self.workers[&pool].started.state.ready();
        tokio::time::timeout(SOON, ready.wait_for(|r| *r)).await.expect("ready in time").unwrap();
    }

    /// A crash: everything the pool holds is gone; its links end.
    pub(crate) fn kill(&mut self, pool: Pool) {
        let worker = self.workers.remove(&pool).unwrap();
        worker.started.task.abort();
        worker.stop_links.cancel();
        worker.server.abort();
    }

    /// A stop: the pool drains.
    pub(crate) async fn stop(&mut self, pool: Pool) {
        let worker = self.workers.remove(&pool).unwrap();
        worker.stop.cancel();
        tokio::time::timeout(SOON, worker.started.task).await.expect("drains in time").unwrap();
        worker.stop_links.cancel();
        worker.server.abort();
    }

    /// Items of a pool that are received and not settled.
    pub(crate) fn unsettled(&self, pool: Pool) -> u64 {
        self.workers[&pool].started.links.unsettled()
    }

    pub(crate) fn socket(&self, pool: Pool) -> PathBuf {
        self.rows[&name(Daemon::Worker(pool)).to_string()].1.clone()
    }

    fn publish(&self) {
        let instances = self.rows.iter().map(|(name, (incarnation, socket))| pb::Instance {
            name: name.clone(),
            generation: *incarnation,
            incarnation: *incarnation,
            state: pb::State::Ready.into(),
            link_socket: socket.display().to_string(),
            health_socket: String::new(),
            pid: 1,
        });
        let daemons =
            [Daemon::Cluster, Daemon::Gateway, Daemon::Worker(Pool::User), Daemon::Worker(Pool::Channel), Daemon::Worker(Pool::Push)];
        let pools = daemons.iter().map(|d| pb::PoolSlots { daemon: d.to_string(), slots: vec![0], ..Default::default() });
        let table =
            pb::Table { epoch: 1, node_id: 1, admitted: true, quiescing: false, instances: instances.collect(), pools: pools.collect() };
        self.table.send_replace(Arc::new(Table::from(table)));
    }
}

/// Waits until `f` gives a value.
pub(crate) async fn eventually<T>(mut f: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(value) = f() {
            return value;
        }
        assert!(tokio::time::Instant::now() < until, "condition was not met in time");
        // The condition is fed by other tasks of this runtime; a moment later it may hold.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
