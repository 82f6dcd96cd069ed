//! Membership in a node whose daemons systemd starts: the cluster daemon hosts the node table, we say who and how we are and hear what we
//! may do. What the supervisor tells a daemon by `Activate` and `Admit` follows here from our own row of the table.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wk_proto::node::v1 as pb;
use wk_proto::node::v1::node_table_client::NodeTableClient;
use wk_rpc::backoff::Backoff;
use wk_rpc::table::NODE_SOCKET;

use crate::context::Context;
use crate::launch::Launch;

/// Reports on their way to the host.
const REPORTS_MAX: usize = 16;

/// A place in the table, as long as it lives.
#[derive(Debug)]
pub(crate) struct Membership {
    node_sock: PathBuf,
    report: pb::JoinReport,
    reports: mpsc::Sender<pb::JoinReport>,
    tables: Streaming<pb::Table>,
    /// The table with our place.
    first: Option<pb::Table>,
}

impl Membership {
    /// Joins the node of a launch; waits until its host is there.
    pub(crate) async fn of(launch: &Launch) -> Self {
        let (health, link) = Launch::sockets(launch.instance, &launch.runtime_dir);
        let report = pb::JoinReport {
            instance: launch.instance.to_string(),
            incarnation: launch.incarnation,
            pid: std::process::id(),
            link_socket: link.display().to_string(),
            health_socket: health.display().to_string(),
            ..pb::JoinReport::default()
        };
        Self::join(launch.runtime_dir.join(NODE_SOCKET), || report.clone()).await
    }

    /// Spawn counter of our slot, given by the host.
    pub(crate) fn generation(&self) -> u64 {
        self.report.generation
    }

    async fn join(node_sock: PathBuf, report: impl Fn() -> pb::JoinReport) -> Self {
        let (mut backoff, mut told) = (Backoff::default(), false);
        loop {
            match Self::try_join(&node_sock, report()).await {
                Ok(membership) => return membership,
                Err(err) if told => tracing::debug!(err, "still no place in the node table"),
                Err(err) => tracing::info!(err, "waiting for the host of the node table"),
            }
            told = true;
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    async fn try_join(node_sock: &Path, mut report: pb::JoinReport) -> Result<Self, String> {
        let channel = wk_rpc::dial(node_sock).await.map_err(|e| e.to_string())?;
        let (reports, stream) = mpsc::channel(REPORTS_MAX);
        // The channel is new and has room.
        reports.try_send(report.clone()).map_err(|e| e.to_string())?;
        let joined = NodeTableClient::new(channel).join(ReceiverStream::new(stream)).await;
        let mut tables = joined.map_err(|e| e.message().to_owned())?.into_inner();
        while let Some(table) = tables.message().await.map_err(|e| e.message().to_owned())? {
            if let Some(row) = own_row(&table, &report) {
                report.generation = row.generation;
                return Ok(Self { node_sock: node_sock.to_owned(), report, reports, tables, first: Some(table) });
            }
        }
        Err("the host ended the stream".to_owned())
    }

    /// Keeps the place and does what the table says, for the life of the process. Never returns.
    pub(crate) async fn follow(mut self, context: Context) {
        let mut serving = context.inner.board.ready();
        let (shutdown, leaving) = (context.shutdown_token(), context.inner.leaving.clone());
        let hosted = &context.inner.hosted;
        let mut orders = Orders::new(context.clone());
        hosted.store(true, Ordering::Relaxed);
        loop {
            if let Some(table) = self.first.take() {
                orders.heed(&table, &self.report);
            }
            // Cancel-safe: the streams keep what was not taken, the others are states.
            tokio::select! {
                table = self.tables.message() => match table {
                    Ok(Some(table)) => orders.heed(&table, &self.report),
                    ended => {
                        tracing::info!(error = ended.err().map(|e| e.message().to_owned()), "host of the node table is gone");
                        hosted.store(false, Ordering::Relaxed);
                        if leaving.is_cancelled() {
                            // Nobody is there who could give our share to others; with our end it is theirs.
                            context.begin_drain();
                        }
                        let now = || pb::JoinReport {
                            serving: *serving.borrow(),
                            draining: shutdown.is_cancelled(),
                            leaving: leaving.is_cancelled(),
                            ..self.report.clone()
                        };
                        self = Self::join(self.node_sock.clone(), now).await;
                        hosted.store(true, Ordering::Relaxed);
                    }
                },
                // The sender lives as long as the context.
                Ok(()) = serving.changed() => {
                    let serving = *serving.borrow_and_update();
                    self.say(pb::JoinReport { serving, draining: shutdown.is_cancelled(), ..self.report.clone() }).await;
                }
                () = leaving.cancelled(), if !self.report.leaving => {
                    context.notifier().status("leaving: others take over what it owns");
                    self.say(pb::JoinReport { leaving: true, ..self.report.clone() }).await;
                }
                () = shutdown.cancelled(), if !self.report.draining => {
                    self.say(pb::JoinReport { serving: false, draining: true, ..self.report.clone() }).await;
                }
                Some(_) = orders.calls.join_next() => {}
            }
        }
    }

    async fn say(&mut self, report: pb::JoinReport) {
        self.report = report;
        // A host that is gone is noticed by its table stream, and hears the present state when we join again.
        self.reports.send(self.report.clone()).await.unwrap_or_default();
    }
}

fn own_row<'a>(table: &'a pb::Table, report: &pb::JoinReport) -> Option<&'a pb::Instance> {
    table.instances.iter().find(|row| row.name == report.instance && row.incarnation == report.incarnation)
}

/// What was done of what the table says. Each is done once.
struct Orders {
    context: Context,
    activated: bool,
    admitted: bool,
    /// Requests under way: they last as long as the daemon's handlers.
    calls: JoinSet<()>,
    state: pb::State,
}

impl Orders {
    fn new(context: Context) -> Self {
        Self { context, activated: false, admitted: false, calls: JoinSet::new(), state: pb::State::Unspecified }
    }

    fn heed(&mut self, table: &pb::Table, report: &pb::JoinReport) {
        let Some(row) = own_row(table, report) else { return };
        let state = row.state();
        if std::mem::replace(&mut self.state, state) != state {
            self.tell(state);
        }
        if state == pb::State::Draining && self.context.inner.leaving.is_cancelled() {
            self.context.begin_drain();
        }
        if state != pb::State::Waiting && !std::mem::replace(&mut self.activated, true) {
            let hook = self.context.inner.activate.clone();
            self.calls.spawn(async move { hook.request(None).await });
        }
        if table.admitted && state == pb::State::Ready && !std::mem::replace(&mut self.admitted, true) {
            let hook = self.context.inner.admit.clone();
            self.calls.spawn(async move { hook.request(None).await });
        }
    }

    fn tell(&self, state: pb::State) {
        self.context.notifier().status(match state {
            pb::State::Waiting => "waiting for the daemons it requires",
            pb::State::Ready => "ready",
            pb::State::Degraded => "says that it cannot take work",
            pb::State::Draining => "draining",
            _ => "starting",
        });
    }
}
