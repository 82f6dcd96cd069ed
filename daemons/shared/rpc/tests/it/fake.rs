//! Servers of the node table and of the cluster's data stream, under the test's control.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use wk_proto::cluster::v1 as cluster;
use wk_proto::cluster::v1::data_server::{Data, DataServer};
use wk_proto::node::v1 as node;
use wk_proto::node::v1::node_table_server::{NodeTable, NodeTableServer};
use wk_rpc::{ServeOptions, serve};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A table with one cluster process.
pub(crate) fn table(incarnation: u64, link_socket: &Path) -> node::Table {
    node::Table {
        epoch: incarnation,
        node_id: 7,
        instances: vec![node::Instance {
            name: "cluster@0".into(),
            generation: incarnation,
            incarnation,
            state: node::State::Ready.into(),
            link_socket: link_socket.display().to_string(),
            ..node::Instance::default()
        }],
        pools: vec![node::PoolSlots { daemon: "worker.user".into(), slots: vec![0, 1], ..node::PoolSlots::default() }],
        ..node::Table::default()
    }
}

/// Serves the node table.
pub(crate) struct TableServer {
    pub(crate) tables: watch::Sender<node::Table>,
    pub(crate) stalls: Arc<Mutex<Vec<node::StallReport>>>,
    pub(crate) epochs: watch::Sender<Vec<(String, u64, u64)>>,
    path: PathBuf,
    task: Option<JoinHandle<()>>,
}

impl TableServer {
    pub(crate) fn start(path: &Path, first: node::Table) -> Self {
        let mut server = Self {
            tables: watch::channel(first).0,
            stalls: Arc::default(),
            epochs: watch::Sender::default(),
            path: path.into(),
            task: None,
        };
        server.up();
        server
    }

    pub(crate) fn up(&mut self) {
        let service = NodeTableServer::new(TableService {
            tables: self.tables.subscribe(),
            stalls: Arc::clone(&self.stalls),
            epochs: self.epochs.clone(),
        });
        self.task = Some(spawn(&self.path, Routes::new(service)));
    }

    pub(crate) async fn down(&mut self) {
        stop(self.task.take(), &self.path).await;
    }

    /// Waits for reported epochs.
    pub(crate) async fn heard(&self, ready: impl Fn(&[(String, u64, u64)]) -> bool) {
        let mut epochs = self.epochs.subscribe();
        let wait = epochs.wait_for(|e| ready(e));
        tokio::time::timeout(DEADLINE, wait).await.expect("reported in time").expect("the sender is our own");
    }
}

struct TableService {
    tables: watch::Receiver<node::Table>,
    stalls: Arc<Mutex<Vec<node::StallReport>>>,
    epochs: watch::Sender<Vec<(String, u64, u64)>>,
}

#[tonic::async_trait]
impl NodeTable for TableService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<node::Table, Status>> + Send>>;

    async fn watch(&self, _: Request<node::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.tables.clone()).map(Ok))))
    }

    type JoinStream = Pin<Box<dyn Stream<Item = Result<node::Table, Status>> + Send>>;

    async fn join(&self, _: Request<tonic::Streaming<node::JoinReport>>) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("fixed members"))
    }

    async fn report_epoch(&self, request: Request<node::EpochReport>) -> Result<Response<node::EpochReply>, Status> {
        let r = request.into_inner();
        self.epochs.send_modify(|epochs| epochs.push((r.instance, r.incarnation, r.epoch)));
        Ok(Response::new(node::EpochReply {}))
    }

    async fn report_stall(&self, request: Request<node::StallReport>) -> Result<Response<node::StallReply>, Status> {
        self.stalls.lock().unwrap().push(request.into_inner());
        Ok(Response::new(node::StallReply {}))
    }
}

/// Serves the data stream: `AllocIds` with an even count is answered, `count == 13` refused, other requests are swallowed and counted.
/// A `Read` is answered after the first thing that was swallowed, which it may be itself.
pub(crate) struct ClusterServer {
    pub(crate) swallowed: watch::Sender<u32>,
    path: PathBuf,
    task: Option<JoinHandle<()>>,
}

impl ClusterServer {
    pub(crate) fn start(path: &Path) -> Self {
        let swallowed = watch::channel(0).0;
        let task = spawn(path, Routes::new(DataServer::new(DataService { swallowed: swallowed.clone() })));
        Self { swallowed, path: path.into(), task: Some(task) }
    }

    pub(crate) async fn down(&mut self) {
        stop(self.task.take(), &self.path).await;
    }

    /// Waits until that many requests were swallowed.
    pub(crate) async fn swallowed(&self, count: u32) {
        let mut seen = self.swallowed.subscribe();
        tokio::time::timeout(DEADLINE, seen.wait_for(|n| *n >= count)).await.unwrap().unwrap();
    }
}

struct DataService {
    swallowed: watch::Sender<u32>,
}

#[tonic::async_trait]
impl Data for DataService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<cluster::Reply, Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<cluster::Request>>) -> Result<Response<Self::OpenStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, replies) = mpsc::channel(64);
        let swallowed = self.swallowed.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let mut reply = cluster::Reply { id: request.id, ..cluster::Reply::default() };
                let count = match request.op {
                    Some(cluster::request::Op::AllocIds(alloc)) => alloc.count,
                    Some(cluster::request::Op::Read(_)) if *swallowed.borrow() > 0 => {
                        reply.result = Some(cluster::reply::Result::Read(cluster::ReadReply::default()));
                        0
                    }
                    _ => 1,
                };
                match count {
                    0 => {}
                    13 => {
                        let code = cluster::Code::Overloaded.into();
                        reply.error = Some(cluster::Error { code, detail: "unlucky".into(), retry_after_ms: 5 });
                    }
                    n if n % 2 == 0 => {
                        let runs = vec![cluster::IdRun { first: i64::from(n), count: n }];
                        reply.result = Some(cluster::reply::Result::AllocIds(cluster::AllocIdsReply { runs }));
                    }
                    _ => {
                        swallowed.send_modify(|n| *n += 1);
                        continue;
                    }
                }
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

fn spawn(path: &Path, routes: Routes) -> JoinHandle<()> {
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move { serve(listener, routes, ServeOptions::default(), std::future::pending()).await.unwrap() })
}

/// Ends the accept loop; tonic's connection tasks are separate, so the socket file is removed too and streams are cut by their owners.
async fn stop(task: Option<JoinHandle<()>>, path: &Path) {
    if let Some(task) = task {
        task.abort();
        drop(task.await);
    }
    drop(std::fs::remove_file(path));
}
