//! Builds the parts; owns start, drain and stop order.
//!
//! Start: descriptors → links, ids, cluster stream → (activated) cluster answers → webhook cursors → manager port → ready → (admitted)
//! business port, webhooks. Stop: requests are refused → no accept is armed → requests under way end → webhooks stop at their cursors → links.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_lifecycle::{Context, Exit, Failure, InFlight, OrExit as _, Spec};
use wk_link::ring::Window;
use wk_link::{LinkHooks, LinkSet, LinkSetConfig, Quarantine};
use wk_proto::cluster::v1 as pb;
use wk_rpc::ClusterData;
use wk_rpc::backoff::Backoff;
use wk_telemetry::IntGauge;
use wk_types::{Daemon, Pool};

use crate::backend::Node;
use crate::config::Config;
use crate::ids::Ids;
use crate::limits::{LINK_RING_BYTES, LINK_RING_ITEMS};
use crate::listen;
use crate::metrics::ApiMetrics;
use crate::owners::Owners;
use crate::routes::before::Bounds;
use crate::routes::{self, Api};
use crate::status::Gate;
use crate::webhook::{self, Webhooks};

/// Health name of the business port.
const HTTP: &str = "wk.api.http";
/// Health name of the manager port.
const MANAGER: &str = "wk.api.manager";
/// Health name of the webhooks.
const WEBHOOK: &str = "wk.api.webhook";

/// What this program is.
pub const SPEC: Spec = Spec { daemon: Daemon::Api, components: &[HTTP, MANAGER, WEBHOOK] };

/// Runs the daemon until it has drained.
///
/// # Errors
/// [`Failure`] with the exit code.
pub async fn run(context: Context) -> Result<(), Failure> {
    let shutdown = context.shutdown_token();
    let parts = Parts::new(&context)?;
    let mut running = Running::default();
    // Cancel-safe: whatever was built when the stop comes is taken down below.
    let started = tokio::select! {
        started = start(&context, &parts, &mut running) => started,
        () = shutdown.cancelled() => Ok(()),
    };
    if started.is_ok() {
        serve(&context, &parts, &mut running).await?;
    }
    stop(&parts, running).await;
    started
}

/// Everything that lives as long as the process.
struct Parts {
    config: Arc<Config>,
    metrics: ApiMetrics,
    gate: Gate,
    bounds: Bounds,
    data: ClusterData,
    api: Api,
    http: TcpListener,
    manager: Option<TcpListener>,
    /// Ends links and ids, last of all.
    edges: CancellationToken,
    tasks: TaskTracker,
}

impl Parts {
    fn new(context: &Context) -> Result<Self, Failure> {
        let config = Arc::new(Config::new(context.config()).or_exit(Exit::BadConfig)?);
        let missing = || Failure::new(Exit::Usage, "the descriptor http was not passed");
        let http = TcpListener::from(context.listener("http").ok_or_else(missing)?);
        let manager = context.listener("manager").map(TcpListener::from);
        let metrics = ApiMetrics::new(context.metrics());
        let (edges, tasks) = (CancellationToken::new(), TaskTracker::new());
        let table = context.table();
        let data = context.cluster();
        let mut links = LinkSetConfig::new(Daemon::Worker(Pool::Channel), context.instance(), context.incarnation());
        (links.ring_items, links.ring_bytes) = (LINK_RING_ITEMS, LINK_RING_BYTES);
        links.window = Window::new(context.config().links.batches, context.config().links.batch_items);
        let poisoned =
            |p: wk_link::sender::Poisoned| tracing::error!(slot = p.slot, kind = ?p.kind, bytes = p.body.len(), "message was given up");
        let quarantine = Quarantine::new(&context.config().data_path(), context.instance());
        let links = LinkSet::start(
            links,
            table.clone(),
            LinkHooks {
                preamble: None,
                on_done: Arc::new(|_| {}),
                on_lost: None,
                quarantine: Some(quarantine),
                on_poison: Arc::new(poisoned),
            },
            &tasks,
            edges.clone(),
        );
        let (gate, bounds) = (Gate::default(), Bounds::default());
        context.set_in_flight_source({
            let (links, bounds, pending) = (links.clone(), bounds.clone(), metrics.webhook_pending.clone());
            move || InFlight {
                unsettled: links.unsettled() + u64::try_from(bounds.requests()).unwrap_or(0),
                pending_webhooks: u64::try_from(pending.get()).unwrap_or(0),
                ..InFlight::default()
            }
        });
        let owners = Owners::new(table.clone(), metrics.owner_retries.clone());
        let ids = Ids::start(data.clone(), &tasks, edges.clone());
        let api = Api {
            backend: Arc::new(Node { data: data.clone(), owners, ids, links }),
            config: Arc::clone(&config),
            gate: gate.clone(),
            table,
            metrics: metrics.clone(),
            registry: context.metrics().clone(),
            me: context.instance(),
            bounds: bounds.clone(),
        };
        Ok(Self { config, metrics, gate, bounds, data, api, http, manager, edges, tasks })
    }
}

/// What was started and has to be stopped.
#[derive(Default)]
struct Running {
    manager: Option<Port>,
    http: Option<Port>,
    /// Prepared at the start, taken at admission.
    webhooks: Option<Webhooks>,
    webhooks_stop: CancellationToken,
    webhooks_tasks: TaskTracker,
}

/// A port that is being served.
struct Port {
    stop: CancellationToken,
    tasks: TaskTracker,
    ending: listen::Ending,
}

impl Port {
    fn serve(listener: &TcpListener, router: Router, connections: IntGauge) -> std::io::Result<Self> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (serving, ending) = listen::serve(listener, router, connections, stop.clone())?;
        tasks.spawn(async move {
            if let Err(err) = serving.await {
                tracing::error!(%err, "http server ended");
            }
        });
        tasks.close();
        Ok(Self { stop, tasks, ending })
    }

    /// Ends accepting; returns when no accept is armed any more.
    async fn disarm(&mut self) {
        self.stop.cancel();
        self.ending.disarmed().await;
    }
}

async fn start(context: &Context, parts: &Parts, running: &mut Running) -> Result<(), Failure> {
    context.activated().await;
    cluster_answers(&parts.data).await;
    running.webhooks = prepare_webhooks(parts).await?;
    context.component(WEBHOOK).serving();
    if let Some(listener) = &parts.manager {
        running.manager = Some(Port::serve(listener, routes::manager(parts.api.clone()), parts.metrics.connections.clone())?);
    }
    context.component(MANAGER).serving();
    context.component(HTTP).serving();
    context.ready();
    Ok(())
}

/// Waits until the cluster answers a lookup.
async fn cluster_answers(data: &ClusterData) {
    let mut backoff = Backoff::default();
    loop {
        let row = pb::RowKey { table: pb::Table::System.into(), id: "health".into(), sub: 0 };
        let query = pb::Query { of: Some(pb::query::Of::Row(row)) };
        match data.lookup(vec![query]).await {
            Ok(answers) if answers.iter().all(|answer| answer.error.is_none()) => return,
            Ok(_) => tracing::info!("cluster is not ready yet"),
            Err(err) => tracing::info!(%err, "cluster does not answer yet"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Registers the webhooks. A cluster that is busy is asked again; a client that cannot be made fails the start.
async fn prepare_webhooks(parts: &Parts) -> Result<Option<Webhooks>, Failure> {
    let mut backoff = Backoff::default();
    loop {
        match webhook::prepare(Arc::new(parts.data.clone()), &parts.config.webhook, &parts.metrics).await {
            Ok(webhooks) => return Ok(webhooks),
            Err(webhook::WebhookError::Cursors(err)) => tracing::warn!(%err, "webhook cursors are out of reach"),
            Err(err) => return Err(Failure::new(Exit::BadConfig, err)),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Follows the supervisor's requests until the drain begins.
async fn serve(context: &Context, parts: &Parts, running: &mut Running) -> Result<(), Failure> {
    let shutdown = context.shutdown_token();
    let (mut admit, mut stop_accept, mut quiesce) = (context.on_admit(), context.on_stop_accept(), context.on_quiesce());
    loop {
        // Cancel-safe: all branches only wait.
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = quiesce.requested() => {
                parts.gate.quiesce();
                quiesce.done();
            }
            _ = stop_accept.requested() => {
                disarm(running).await;
                stop_accept.done();
            }
            _ = admit.requested() => {
                parts.gate.open();
                if let Some(webhooks) = running.webhooks.take() {
                    webhooks.start(&running.webhooks_tasks, &running.webhooks_stop);
                }
                let router = routes::business(parts.api.clone());
                running.http = Some(Port::serve(&parts.http, router, parts.metrics.connections.clone())?);
                admit.done();
                tracing::info!("admitted");
            }
        }
    }
}

/// Ends accepting on all ports, and the webhooks: the next generation goes on at their cursors.
async fn disarm(running: &mut Running) {
    running.webhooks_stop.cancel();
    for port in [&mut running.http, &mut running.manager].into_iter().flatten() {
        port.disarm().await;
    }
}

/// The drain, in its order.
async fn stop(parts: &Parts, mut running: Running) {
    disarm(&mut running).await;
    // Who was accepted is answered; only then may a request be refused.
    for port in [&mut running.http, &mut running.manager].into_iter().flatten() {
        port.ending.heard_all().await;
    }
    parts.gate.quiesce();
    for port in [running.http, running.manager].into_iter().flatten() {
        port.tasks.wait().await;
    }
    running.webhooks_tasks.close();
    running.webhooks_tasks.wait().await;
    tracing::debug!(requests = parts.bounds.requests(), "requests are finished");
    parts.edges.cancel();
    parts.tasks.close();
    parts.tasks.wait().await;
}
