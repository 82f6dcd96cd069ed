//! What the supervisor asks of a daemon: activation, admission, quiesce, work in flight, metrics.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use wk_proto::lifecycle::v1::admin_client::AdminClient;
use wk_proto::lifecycle::v1::lifecycle_client::LifecycleClient;
use wk_proto::lifecycle::v1::{ActivateRequest, AdmitRequest, InFlightRequest, MetricsRequest, QuiesceRequest};
use wk_types::{Daemon, InstanceName};

use crate::limits::{CALL_TIMEOUT, CLOSE_DEADLINE, HEALTH_RETRY, INFLIGHT_EVERY};
use crate::table::Report;

/// Tells the daemon that its requirements are Ready; repeats until it has heard it. The owner drops this when the process ends.
pub(crate) async fn activate(channel: Channel) {
    let mut client = LifecycleClient::new(channel);
    loop {
        // The first answer may take as long as the daemon needs to come up: the start timeout judges that.
        match client.activate(ActivateRequest {}).await {
            Ok(_) => return,
            Err(status) => tracing::debug!(%status, "activate not taken, repeated"),
        }
        sleep(HEALTH_RETRY).await;
    }
}

/// Tells the daemon that clients are admitted; repeats until it has heard it.
pub(crate) async fn admit(channel: Channel) {
    let mut client = LifecycleClient::new(channel);
    loop {
        match timeout(CALL_TIMEOUT, client.admit(AdmitRequest {})).await {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => tracing::debug!(%status, "admit not taken, repeated"),
            Err(_) => tracing::debug!("admit not answered, repeated"),
        }
        sleep(HEALTH_RETRY).await;
    }
}

/// Metrics page of a daemon.
///
/// # Errors
/// Not answered in time, or refused.
pub(crate) async fn metrics(channel: Channel, within: Duration) -> Result<String, tonic::Status> {
    let call = timeout(within, AdminClient::new(channel).metrics(MetricsRequest {})).await;
    let reply = call.map_err(|_| tonic::Status::deadline_exceeded("no answer"))??;
    Ok(reply.into_inner().text)
}

/// First phase of a stop (architecture §8a): the edge takes nothing new, what was accepted runs dry, cursors are flushed, connections close.
///
/// Counts go to `tell_counts` as they change; the last one says that nothing is left to wait for. The table holds the deadline and drops this.
pub(crate) async fn quiesce<F>(daemons: Vec<(InstanceName, Channel)>, deadline: Duration, tell_counts: impl Fn(Report, bool) -> F)
where
    F: Future<Output = ()>,
{
    let until = Instant::now() + deadline;
    let edge = |name: &InstanceName| matches!(name.daemon, Daemon::Gateway | Daemon::Api);
    let (report, ()) = tokio::join!(in_flight(&daemons), tell(daemons.iter().filter(|(n, _)| edge(n)), deadline));
    tell_counts(report, false).await;
    // Work may be between two counters for a moment: only the second zero in a row counts.
    let mut zeros = 0;
    while zeros < 2 && Instant::now() < until {
        let report = in_flight(&daemons).await;
        zeros = if report.unsettled == 0 { zeros + 1 } else { 0 };
        tell_counts(report, false).await;
        if zeros < 2 {
            sleep(INFLIGHT_EVERY).await;
        }
    }
    let workers = daemons.iter().filter(|(n, _)| matches!(n.daemon, Daemon::Worker(_)));
    tell(workers, until.saturating_duration_since(Instant::now())).await;
    // No time left (0) tells the gateway that everything is settled: it closes its connections now, so that their owners still hear of it.
    tell(daemons.iter().filter(|(n, _)| n.daemon == Daemon::Gateway), Duration::ZERO).await;
    let report = closed(&daemons).await;
    tell_counts(report, true).await;
}

/// Waits for the connections to go, as long as they go.
async fn closed(daemons: &[(InstanceName, Channel)]) -> Report {
    let until = Instant::now() + CLOSE_DEADLINE;
    let mut report = in_flight(daemons).await;
    let mut progress = Instant::now();
    while (report.connections > 0 || report.unsettled > 0) && Instant::now() < until && progress.elapsed() < CLOSE_DEADLINE / 3 {
        sleep(INFLIGHT_EVERY).await;
        let next = in_flight(daemons).await;
        if next.connections < report.connections || next.unsettled < report.unsettled {
            progress = Instant::now();
        }
        report = next;
    }
    report
}

async fn tell(daemons: impl Iterator<Item = &(InstanceName, Channel)>, left: Duration) {
    let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let calls = daemons.map(|(name, channel)| async move {
        let call = timeout(CALL_TIMEOUT, LifecycleClient::new(channel.clone()).quiesce(QuiesceRequest { deadline_ms })).await;
        if !matches!(call, Ok(Ok(_))) {
            tracing::warn!(%name, "quiesce not taken");
        }
    });
    futures_util::future::join_all(calls).await;
}

/// Sum over all daemons. One that does not answer counts as nothing: it is being replaced, and its senders still hold its items.
async fn in_flight(daemons: &[(InstanceName, Channel)]) -> Report {
    let calls = daemons.iter().map(|(_, channel)| async move {
        let mut client = LifecycleClient::new(channel.clone());
        timeout(CALL_TIMEOUT, client.in_flight(InFlightRequest {})).await.ok()?.ok().map(tonic::Response::into_inner)
    });
    let mut sum = Report::default();
    for reply in futures_util::future::join_all(calls).await.into_iter().flatten() {
        sum.unsettled += reply.unsettled;
        sum.retry_entries += reply.retry_entries;
        sum.pending_webhooks += reply.pending_webhooks;
        sum.connections += reply.connections;
    }
    sum
}
