//! The control thread: `control.sock` for `wkctl`, `node.sock` for the daemons. Answers from snapshots; commands go through one queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request as Rq, Response, Status};
use wk_proto::lifecycle::v1::ComponentsRequest;
use wk_proto::lifecycle::v1::admin_client::AdminClient;
use wk_proto::node::v1 as node;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_server::Supervisor;
use wk_types::{Daemon, Pool};

use crate::config::Config;
use crate::engine::{Command, Mark, Snapshot};
use crate::events::Hub;
use crate::limits::{METRICS_TIMEOUT, MIN_READY, STREAM_QUEUE};
use crate::logs::Cuts;
use crate::metrics::Counters;
use crate::names;
use crate::roles::Actor;
use crate::sample::Sampler;
use crate::table::{Flags, InstanceView, Kind, Pace, Refusal, Request};

mod answers;
mod node_service;
mod page;
mod peer;
mod streams;

pub(crate) use answers::plan as plan_reply;
pub use node_service::NodeService;
pub use peer::{Conn, Guard, accepted};

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What both services answer from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Node, as it was at the start: folders and places, nothing that a reload changes.
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
    /// What happened.
    pub events: Hub,
    /// What was taken from the heads of logs.
    pub cuts: Arc<Cuts>,
    /// What processes use.
    pub sampler: Arc<Sampler>,
}

impl Shared {
    async fn add_components(&self, status: &mut pb::Snapshot) {
        // All at once: those that do not answer cost one deadline together.
        let asked = status.instances.iter_mut().filter(|i| i.pid != 0).map(|instance| async {
            let Ok(name) = instance.name.parse() else { return };
            let (health, _) = self.config.sockets(name, instance.generation);
            let mut client = AdminClient::new(wk_rpc::dial_lazy(health));
            // A daemon that does not answer has no components to show; its state says why.
            if let Ok(Ok(reply)) = tokio::time::timeout(METRICS_TIMEOUT, client.components(ComponentsRequest {})).await {
                let list = reply.into_inner().components.into_iter();
                instance.components = list.map(|c| pb::Component { name: c.name, serving: c.serving }).collect();
            }
        });
        futures_util::future::join_all(asked).await;
    }

    /// Asks the engine; it answers within one turn.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Status> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(command(answer)).map_err(|_| Status::resource_exhausted("too many commands are waiting"))?;
        answered.await.map_err(|_| Status::unavailable("the supervisor is ending"))
    }

    async fn op(&self, kind: Kind, request: Rq<pb::OpRequest>) -> Result<Response<BoxStream<pb::OpEvent>>, Status> {
        let actor = peer::actor(&request);
        let request = request.into_inner();
        let (supervisor_too, cancel_on_disconnect) = (request.supervisor_too, request.cancel_on_disconnect);
        let request = op_request(kind, request);
        let begun = self.ask(|answer| Command::Op { request, supervisor_too, cancel_on_disconnect, actor, answer }).await?;
        Ok(op_stream(begun))
    }

    async fn mark(&self, mark: Mark, names: Vec<String>, actor: Actor) -> Result<Response<pb::CommandReply>, Status> {
        Ok(Response::new(answers::done(self.ask(|answer| Command::Mark { mark, names, actor, answer }).await?)))
    }
}

fn op_request(kind: Kind, request: pb::OpRequest) -> Request {
    let roll = Pace {
        max_unavailable: request.max_unavailable,
        canary: request.canary,
        surge: request.surge,
        min_ready: if request.min_ready_ms == 0 { MIN_READY } else { Duration::from_millis(request.min_ready_ms) },
    };
    let flags = Flags {
        no_rollback: request.no_rollback,
        keep_going: request.keep_going,
        cascade: request.cascade,
        force_alone: request.force_alone,
        fast: request.fast,
        now: request.now,
        no_wait: request.no_wait,
        roll,
    };
    Request { kind, names: request.names, key: request.idempotency_key, flags }
}

/// The request of a scale.
fn scale_request(request: pb::ScaleRequest) -> Result<Request, Refusal> {
    let pools = || Pool::ALL.map(|p| Daemon::Worker(p).name().to_owned());
    let daemon = request.daemon.parse().map_err(|_| Refusal::new(4, names::unknown(&request.daemon, &pools())))?;
    let kind = Kind::Scale(daemon, u16::try_from(request.replicas).unwrap_or(u16::MAX));
    let flags = Flags { no_wait: request.no_wait, ..Flags::default() };
    Ok(Request { kind, names: Vec::new(), key: request.idempotency_key, flags })
}

fn op_stream(begun: Result<mpsc::Receiver<pb::OpEvent>, Refusal>) -> Response<BoxStream<pb::OpEvent>> {
    match begun {
        Ok(events) => Response::new(Box::pin(ReceiverStream::new(events).map(Ok))),
        Err(refusal) => Response::new(Box::pin(tokio_stream::once(Ok(answers::refused(refusal))))),
    }
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
        let stream = streams::pictures(self.0.snapshot.clone()).map(move |s| Ok(shared.status(&s, &names)));
        Ok(Response::new(Box::pin(stream)))
    }

    type StartStream = BoxStream<pb::OpEvent>;

    async fn start(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::StartStream>, Status> {
        self.0.op(Kind::Start, request).await
    }

    type StopStream = BoxStream<pb::OpEvent>;

    async fn stop(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::StopStream>, Status> {
        self.0.op(Kind::Stop, request).await
    }

    type RestartStream = BoxStream<pb::OpEvent>;

    async fn restart(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::RestartStream>, Status> {
        self.0.op(Kind::Restart, request).await
    }

    type RollStream = BoxStream<pb::OpEvent>;

    async fn roll(&self, request: Rq<pb::OpRequest>) -> Result<Response<Self::RollStream>, Status> {
        self.0.op(Kind::Roll, request).await
    }

    type ScaleStream = BoxStream<pb::OpEvent>;

    async fn scale(&self, request: Rq<pb::ScaleRequest>) -> Result<Response<Self::ScaleStream>, Status> {
        let actor = peer::actor(&request);
        let request = request.into_inner();
        let cancel_on_disconnect = request.cancel_on_disconnect;
        match scale_request(request) {
            Err(refusal) => Ok(op_stream(Err(refusal))),
            Ok(request) => {
                let begun =
                    self.0.ask(|answer| Command::Op { request, supervisor_too: false, cancel_on_disconnect, actor, answer }).await?;
                Ok(op_stream(begun))
            }
        }
    }

    async fn plan(&self, request: Rq<pb::PlanRequest>) -> Result<Response<pb::PlanReply>, Status> {
        let pb::PlanRequest { kind, op, scale } = request.into_inner();
        let op = op.unwrap_or_default();
        let request = match kind.as_str() {
            "start" => Ok(op_request(Kind::Start, op)),
            "stop" => Ok(op_request(Kind::Stop, op)),
            "restart" => Ok(op_request(Kind::Restart, op)),
            "roll" => Ok(op_request(Kind::Roll, op)),
            "scale" => scale_request(scale.unwrap_or_default()),
            _ => return Err(Status::invalid_argument("kind is none of start, stop, restart, roll, scale")),
        };
        let planned = match request {
            Err(refusal) => Err(refusal),
            Ok(request) => self.0.ask(|answer| Command::Plan { request, answer }).await?,
        };
        Ok(Response::new(answers::plan(planned)))
    }

    async fn ops(&self, _: Rq<pb::OpsRequest>) -> Result<Response<pb::OpsReply>, Status> {
        Ok(Response::new(pb::OpsReply { ops: self.0.snapshot.borrow().ops.clone() }))
    }

    type WaitOpStream = BoxStream<pb::OpEvent>;

    async fn wait_op(&self, request: Rq<pb::OpId>) -> Result<Response<Self::WaitOpStream>, Status> {
        let op = request.into_inner().op;
        Ok(op_stream(self.0.ask(|answer| Command::WaitOp { op, answer }).await?))
    }

    async fn cancel_op(&self, request: Rq<pb::OpId>) -> Result<Response<pb::CommandReply>, Status> {
        let actor = peer::actor(&request);
        let op = request.into_inner().op;
        Ok(Response::new(answers::done(self.0.ask(|answer| Command::CancelOp { op, actor, answer }).await?)))
    }

    async fn why(&self, request: Rq<pb::WhyRequest>) -> Result<Response<pb::WhyReply>, Status> {
        let wanted = request.into_inner().name;
        let snapshot = self.0.snapshot.borrow().clone();
        // A daemon's name means the slot that needs an explanation most.
        let named = snapshot.instances.iter().filter(|v| names::means(&wanted, &v.name.to_string()));
        let Some(name) = named.max_by_key(|v| (v.state.severity(), std::cmp::Reverse(v.name))).map(|v| v.name) else {
            let message = names::unknown(&wanted, &names::known(snapshot.instances.iter().map(|v| v.name)));
            return Ok(Response::new(pb::WhyReply { code: 4, message, ..Default::default() }));
        };
        let why = self.0.ask(|answer| Command::Why { name, answer }).await?;
        Ok(Response::new(why.map_or_else(pb::WhyReply::default, |why| self.0.why(&snapshot, &why))))
    }

    async fn hold(&self, request: Rq<pb::HoldRequest>) -> Result<Response<pb::CommandReply>, Status> {
        let actor = peer::actor(&request);
        let request = request.into_inner();
        self.0.mark(if request.on { Mark::Hold } else { Mark::Unhold }, request.names, actor).await
    }

    async fn reset(&self, request: Rq<pb::NamesRequest>) -> Result<Response<pb::CommandReply>, Status> {
        let actor = peer::actor(&request);
        self.0.mark(Mark::Reset, request.into_inner().names, actor).await
    }

    async fn signal(&self, request: Rq<pb::SignalRequest>) -> Result<Response<pb::CommandReply>, Status> {
        let actor = peer::actor(&request);
        let request = request.into_inner();
        self.0.mark(Mark::Signal(request.signal), request.names, actor).await
    }

    async fn reload(&self, request: Rq<pb::ReloadRequest>) -> Result<Response<pb::ReloadReply>, Status> {
        let actor = peer::actor(&request);
        let pb::ReloadRequest { apply, dry_run } = request.into_inner();
        // Read here, so that a slow disk cannot hold the engine up.
        let done = match self.0.config.again() {
            Err(error) => Err(crate::engine::refused(&error)),
            Ok(config) => {
                let config = Box::new(config);
                self.0.ask(|answer| Command::Reload { config, apply, dry_run, actor, answer }).await?
            }
        };
        Ok(Response::new(answers::reloaded(done)))
    }

    type EventsStream = BoxStream<pb::Event>;

    async fn events(&self, request: Rq<pb::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let (out, events) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(streams::events(self.0.events.clone(), request.into_inner(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    type LogsStream = BoxStream<pb::LogLine>;

    async fn logs(&self, request: Rq<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let snapshot = self.0.snapshot.borrow().clone();
        let means = |name: &String, v: &InstanceView| names::means(name, &v.name.to_string());
        let nobody = |name: &&String| *name != "supervisor" && !snapshot.instances.iter().any(|v| means(name, v));
        if let Some(name) = request.names.iter().find(nobody) {
            let known = names::known(snapshot.instances.iter().map(|v| v.name));
            return Err(Status::not_found(names::unknown(name, &known)));
        }
        let named = |v: &&InstanceView| request.names.is_empty() || request.names.iter().any(|n| means(n, v));
        let mut logs: Vec<_> =
            snapshot.instances.iter().filter(named).map(|v| (v.name.to_string(), self.0.config.log_path(v.name))).collect();
        if request.names.iter().any(|n| n == "supervisor") {
            logs.push(("supervisor".into(), self.0.config.logs_dir.join("supervisor.log")));
        }
        let (out, lines) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(streams::logs(logs, request.lines as usize, request.follow.then(|| self.0.cuts.clone()), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(lines))))
    }

    async fn graph(&self, _: Rq<pb::GraphRequest>) -> Result<Response<pb::GraphReply>, Status> {
        let snapshot = self.0.snapshot.borrow().clone();
        Ok(Response::new(self.0.graph(&snapshot)))
    }

    async fn analyze(&self, _: Rq<pb::AnalyzeRequest>) -> Result<Response<pb::AnalyzeReply>, Status> {
        let snapshot = self.0.snapshot.borrow().clone();
        Ok(Response::new(pb::AnalyzeReply { starts: answers::starts(&snapshot) }))
    }

    async fn reexec(&self, request: Rq<pb::ReexecRequest>) -> Result<Response<pb::ReexecReply>, Status> {
        let actor = peer::actor(&request);
        let refusal = self.0.ask(|answer| Command::Reexec { actor, answer }).await?;
        let (code, message) = refusal.map_or_else(|r| (r.code, r.message), |()| (0, String::new()));
        Ok(Response::new(pb::ReexecReply { code, message }))
    }

    async fn metrics(&self, _: Rq<pb::MetricsRequest>) -> Result<Response<pb::MetricsReply>, Status> {
        Ok(Response::new(pb::MetricsReply { text: self.0.metrics_page().await }))
    }
}
