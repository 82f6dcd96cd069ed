//! The control thread: `control.sock` for `wkctl`, `node.sock` for the daemons. Answers from snapshots; commands go through one queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request as Rq, Response, Status};
use wk_proto::lifecycle::v1::ComponentsRequest;
use wk_proto::lifecycle::v1::admin_client::AdminClient;
use wk_proto::node::v1 as node;
use wk_proto::node::v1::node_table_server::NodeTable;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_server::Supervisor;

use crate::config::Config;
use crate::engine::{Command, Snapshot};
use crate::limits::METRICS_TIMEOUT;
use crate::metrics::{Counters, merge};
use crate::process::usage;
use crate::table::{Flags, InstanceView, Kind, Refusal, Request, State};

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What both services answer from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Node.
    pub config: Arc<Config>,
    /// When the supervisor started.
    pub began: Instant,
    /// How processes are held together and bounded, in words.
    pub containment: String,
    /// Identity of this exec.
    pub exec: u64,
    /// Status.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Node table.
    pub nodes: watch::Receiver<Arc<node::Table>>,
    /// To the engine.
    pub commands: mpsc::Sender<Command>,
    /// Own metrics.
    pub counters: Arc<Counters>,
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    fn status(&self, snapshot: &Snapshot, names: &[String]) -> pb::Snapshot {
        let wanted = |v: &&InstanceView| names.is_empty() || names.iter().any(|n| names_instance(n, v));
        pb::Snapshot {
            node_id: self.config.node_id.into(),
            supervisor_pid: std::process::id(),
            overall: snapshot.overall.name().into(),
            admitted: snapshot.admitted,
            up_ms: millis(self.began.elapsed()),
            epoch: snapshot.epoch,
            config_hash: self.config.hash.clone(),
            instances: snapshot.instances.iter().filter(wanted).map(|v| instance_status(v, snapshot.taken.elapsed())).collect(),
            timing: snapshot.timing.clone(),
            addresses: snapshot.addresses.clone(),
            data_dir: self.config.data_dir.display().to_string(),
            runtime_dir: self.config.runtime_dir.display().to_string(),
            containment: self.containment.clone(),
        }
    }

    async fn add_components(&self, status: &mut pb::Snapshot) {
        for instance in status.instances.iter_mut().filter(|i| i.pid != 0) {
            let Ok(name) = instance.name.parse() else { continue };
            let (health, _) = self.config.sockets(name, instance.generation);
            let mut client = AdminClient::new(wk_rpc::dial_lazy(health));
            // A daemon that does not answer has no components to show; its state says why.
            if let Ok(Ok(reply)) = tokio::time::timeout(METRICS_TIMEOUT, client.components(ComponentsRequest {})).await {
                let list = reply.into_inner().components.into_iter();
                instance.components = list.map(|c| pb::Component { name: c.name, serving: c.serving }).collect();
            }
        }
    }

    async fn command(&self, request: Request, supervisor_too: bool) -> Result<Response<BoxStream<pb::OpEvent>>, Status> {
        let (answer, begun) = oneshot::channel();
        let command = Command::Op { request, supervisor_too, answer };
        self.commands.try_send(command).map_err(|_| Status::resource_exhausted("too many commands are waiting"))?;
        let begun = begun.await.map_err(|_| Status::unavailable("the supervisor is ending"))?;
        match begun {
            Ok(events) => Ok(Response::new(Box::pin(ReceiverStream::new(events).map(Ok)))),
            Err(refusal) => Ok(Response::new(Box::pin(tokio_stream::once(Ok(refused(refusal)))))),
        }
    }

    async fn op(&self, kind: Kind, request: pb::OpRequest) -> Result<Response<BoxStream<pb::OpEvent>>, Status> {
        if request.dry_run {
            return Err(Status::unimplemented("dry run"));
        }
        let flags = Flags {
            no_rollback: request.no_rollback,
            keep_going: request.keep_going,
            cascade: request.cascade,
            fast: request.fast,
            now: request.now,
        };
        self.command(Request { kind, names: request.names, key: request.idempotency_key, flags }, request.supervisor_too).await
    }

    async fn metrics_page(&self) -> String {
        let snapshot = self.snapshot.borrow().clone();
        let asks = snapshot.instances.iter().filter(|v| v.pid != 0).map(|v| async {
            let (health, _) = self.config.sockets(v.name, v.generation);
            let page = crate::calls::metrics(wk_rpc::dial_lazy(health), METRICS_TIMEOUT).await;
            page.ok().map(|text| (v.name.to_string(), text))
        });
        let mut pages: Vec<(String, String)> = vec![("supervisor".into(), self.counters.text())];
        pages.extend(snapshot.instances.iter().map(|v| (v.name.to_string(), instance_metrics(v))));
        pages.extend(futures_util::future::join_all(asks).await.into_iter().flatten());
        merge(&pages)
    }
}

fn names_instance(name: &str, view: &InstanceView) -> bool {
    let daemon = view.name.daemon.name();
    name == daemon || name == view.name.to_string() || (name == "worker" && daemon.starts_with("worker."))
}

fn refused(refusal: Refusal) -> pb::OpEvent {
    let end = pb::OpEnd { code: refusal.code, message: refusal.message.clone(), ..Default::default() };
    pb::OpEvent { text: refusal.message, end: Some(pb::op_event::End::Done(end)), ..Default::default() }
}

fn instance_status(view: &InstanceView, age: Duration) -> pb::InstanceStatus {
    let used = if view.pid == 0 { crate::process::Usage::default() } else { usage(view.pid) };
    pb::InstanceStatus {
        name: view.name.to_string(),
        state: view.state.to_proto().into(),
        pid: view.pid,
        generation: view.generation,
        up_ms: if view.pid == 0 { 0 } else { millis(view.up + age) },
        restarts: view.restarts,
        last_restart_ms_ago: view.last_restart.map_or(0, |d| millis(d + age)),
        why: view.why.clone(),
        cpu_ms: used.cpu_ms,
        memory_bytes: used.memory_bytes,
        open_fds: used.open_fds,
        components: Vec::new(),
        crash_loop: view.crash_loop,
        adopted: view.adopted,
    }
}

fn instance_metrics(view: &InstanceView) -> String {
    let used = usage(view.pid);
    let ready = u8::from(view.state == State::Ready);
    let gauge = |name: &str, help: &str, value: String| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    let mut page = gauge("wk_supervisor_instance_ready", "1 when the instance is Ready.", ready.to_string());
    page += &gauge("wk_supervisor_instance_restarts", "Crashes since the supervisor started.", view.restarts.to_string());
    if view.pid != 0 {
        let seconds = format!("{}.{:03}", used.cpu_ms / 1000, used.cpu_ms % 1000);
        page += &gauge("wk_supervisor_instance_cpu_seconds", "User and system time of this generation.", seconds);
        page += &gauge("wk_supervisor_instance_resident_bytes", "Resident memory.", used.memory_bytes.to_string());
        page += &gauge("wk_supervisor_instance_open_fds", "Open descriptors.", used.open_fds.to_string());
    }
    page
}

/// Service of `control.sock`.
#[derive(Debug)]
pub struct ControlService(pub Shared);

#[tonic::async_trait]
impl Supervisor for ControlService {
    async fn hello(&self, _: Rq<pb::HelloRequest>) -> Result<Response<pb::HelloReply>, Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let node_id = self.0.config.node_id.into();
        Ok(Response::new(pb::HelloReply { version, pid: std::process::id(), node_id, exec: self.0.exec }))
    }

    async fn status(&self, request: Rq<pb::StatusRequest>) -> Result<Response<pb::Snapshot>, Status> {
        let snapshot = self.0.snapshot.borrow().clone();
        let request = request.into_inner();
        let mut status = self.0.status(&snapshot, &request.names);
        if request.deep {
            self.0.add_components(&mut status).await;
        }
        Ok(Response::new(status))
    }

    type WatchStatusStream = BoxStream<pb::Snapshot>;

    async fn watch_status(&self, request: Rq<pb::StatusRequest>) -> Result<Response<Self::WatchStatusStream>, Status> {
        let (shared, names) = (self.0.clone(), request.into_inner().names);
        let stream = WatchStream::new(self.0.snapshot.clone()).map(move |s| Ok(shared.status(&s, &names)));
        Ok(Response::new(Box::pin(stream)))
    }

    type StartStream = BoxStream<pb::OpEvent>;

    async fn start(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::StartStream>, Status> {
        self.0.op(Kind::Start, request.into_inner()).await
    }

    type StopStream = BoxStream<pb::OpEvent>;

    async fn stop(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::StopStream>, Status> {
        self.0.op(Kind::Stop, request.into_inner()).await
    }

    type RestartStream = BoxStream<pb::OpEvent>;

    async fn restart(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::RestartStream>, Status> {
        self.0.op(Kind::Restart, request.into_inner()).await
    }

    type ScaleStream = BoxStream<pb::OpEvent>;

    async fn scale(&self, request: Rq<pb::ScaleRequest>) -> Result<Response<Self::ScaleStream>, Status> {
        let request = request.into_inner();
        let Ok(daemon) = request.daemon.parse() else {
            let refusal = Refusal::new(4, format!("no daemon {:?}", request.daemon));
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(refused(refusal))))));
        };
        let slots = u16::try_from(request.replicas).unwrap_or(u16::MAX);
        let kind = Kind::Scale(daemon, slots);
        self.0.command(Request { kind, names: Vec::new(), key: request.idempotency_key, flags: Flags::default() }, false).await
    }

    async fn reexec(&self, _: Rq<pb::ReexecRequest>) -> Result<Response<pb::ReexecReply>, Status> {
        let (answer, failed) = oneshot::channel();
        self.0.commands.try_send(Command::Reexec(answer)).map_err(|_| Status::resource_exhausted("too many commands are waiting"))?;
        let refusal = failed.await.map_err(|_| Status::unavailable("the supervisor is ending"))?;
        let (code, message) = refusal.map_or_else(|r| (r.code, r.message), |()| (0, String::new()));
        Ok(Response::new(pb::ReexecReply { code, message }))
    }

    async fn metrics(&self, _: Rq<pb::MetricsRequest>) -> Result<Response<pb::MetricsReply>, Status> {
        Ok(Response::new(pb::MetricsReply { text: self.0.metrics_page().await }))
    }
}

/// Service of `node.sock`.
#[derive(Debug)]
pub struct NodeService(pub Shared);

#[tonic::async_trait]
impl NodeTable for NodeService {
    type WatchStream = BoxStream<node::Table>;

    async fn watch(&self, request: Rq<node::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        tracing::debug!(instance = request.get_ref().instance, "node table watched");
        // Before the first turn of the engine the table is empty (epoch 0): nobody may act on that.
        let stream = WatchStream::new(self.0.nodes.clone()).filter(|t| t.epoch > 0).map(|t| Ok((*t).clone()));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn report_stall(&self, request: Rq<node::StallReport>) -> Result<Response<node::StallReply>, Status> {
        let report = request.into_inner();
        let name = report.instance.parse().map_err(|_| Status::invalid_argument("unknown instance"))?;
        tracing::warn!(reporter = report.reporter, %name, stalled_ms = report.stalled_ms, "link without progress reported");
        let command = Command::Stall { name, incarnation: report.incarnation };
        self.0.commands.try_send(command).map_err(|_| Status::resource_exhausted("too many commands are waiting"))?;
        Ok(Response::new(node::StallReply {}))
    }
}
