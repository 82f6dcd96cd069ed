//! Readiness and liveness of one generation, over its health socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wk_node::probe::{CHECK_TIMEOUT, LAG_MAX, Misses, Verdict};
use wk_rpc::dial::DialOptions;
use wk_rpc::serve::INSTANCE_HEADER;

use crate::engine::FactSender;
use crate::limits::{HEALTH_GRACE, HEALTH_RETRY};
use crate::metrics::Counters;
use crate::process::state_and_session;
use crate::rounds::Round;
use crate::table::{Fact, Probe};

/// Says when a daemon may receive work.
const READY: &str = "wk.ready";
/// Answered by the executor that does the daemon's work.
const LIVE: &str = "wk.live";
/// The one connection to a daemon: HTTP/2 pings, also while idle. Source: `design/supervisor.md` §4.5.
pub(crate) const DIAL: DialOptions =
    DialOptions { keep_alive: Some((Duration::from_secs(5), Duration::from_secs(5))), answer_within: None };

/// Follows `wk.ready` for the life of a generation; `up`: it has answered before, so that silence is a loss. Never returns; the owner drops
/// it when the process has ended.
pub(crate) async fn watch(channel: Channel, identity: String, facts: FactSender, mut up: bool) {
    let mut lost_since: Option<Instant> = None;
    loop {
        let end = watch_once(&channel, &identity, &facts, &mut up, &mut lost_since).await;
        if let Err(WatchEnd::Stranger(text)) = &end {
            facts.send(Fact::Identity(text.clone())).await;
            return std::future::pending().await;
        }
        // Before the first answer the start timeout is the judge: the process may still be reading its files.
        if up {
            let since = *lost_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= HEALTH_GRACE {
                facts.send(Fact::HealthLost).await;
                return std::future::pending().await;
            }
        }
        sleep(HEALTH_RETRY).await;
    }
}

enum WatchEnd {
    /// Connection or stream ended.
    Lost,
    /// Somebody else answers.
    Stranger(String),
}

async fn watch_once(
    channel: &Channel,
    identity: &str,
    facts: &FactSender,
    up: &mut bool,
    lost_since: &mut Option<Instant>,
) -> Result<(), WatchEnd> {
    let mut client = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: READY.into() };
    let response =
        if *up { timeout(HEALTH_GRACE, client.watch(request)).await.map_err(|_| WatchEnd::Lost)? } else { client.watch(request).await };
    // NOT_FOUND comes from a daemon that has not registered its names yet: it lives, it is not ready, it is asked again.
    let response = response.map_err(|_| WatchEnd::Lost)?;
    let answered = response.metadata().get(INSTANCE_HEADER).and_then(|v| v.to_str().ok()).unwrap_or("nobody");
    if answered != identity {
        return Err(WatchEnd::Stranger(format!("expected {identity}, answered by {answered}")));
    }
    let mut stream = response.into_inner();
    while let Some(message) = stream.next().await {
        let message = message.map_err(|_| WatchEnd::Lost)?;
        if !*up {
            *up = true;
            facts.send(Fact::HealthUp).await;
        }
        *lost_since = None;
        facts.send(Fact::Serving(message.status() == ServingStatus::Serving)).await;
    }
    Ok(())
}

/// Asks `wk.live` in each round and tells of each miss, and of the first answer after one. Never returns.
pub(crate) async fn live(channel: Channel, facts: FactSender, pid: u32, mut rounds: watch::Receiver<Round>, counters: Arc<Counters>) {
    let began = Instant::now();
    // A predecessor may have counted some.
    let mut missed = true;
    while rounds.changed().await.is_ok() {
        let Round { due, how } = *rounds.borrow_and_update();
        // Who has just begun is asked after a whole period at the earliest.
        if due < began + how.period {
            continue;
        }
        let lag = due.elapsed();
        counters.engine_lag.observe(lag.as_secs_f64());
        let asked = Instant::now();
        let alive = check(&channel, how.timeout).await;
        if alive {
            counters.health_rtt.observe(asked.elapsed().as_secs_f64());
        }
        // We were late ourselves (host stalled, machine suspended), to ask or to hear: a miss would say nothing about the daemon.
        let late = lag > how.timeout || asked.elapsed() > how.timeout + LAG_MAX;
        let outcome = if alive { Probe::Answered } else { silent(pid) };
        if if alive { missed } else { !late && outcome != Probe::Answered } {
            missed = !alive;
            facts.send(Fact::Alive(outcome)).await;
        }
    }
    std::future::pending().await
}

/// Two checks of one second each; one answer is enough.
pub(crate) async fn probe(channel: Channel, facts: FactSender, pid: u32) {
    let mut misses = Misses::default();
    loop {
        let began = Instant::now();
        if check(&channel, CHECK_TIMEOUT).await {
            return facts.send(Fact::Probed(Probe::Answered)).await;
        }
        // An error that comes at once is no reason to skip the wait.
        sleep(CHECK_TIMEOUT.saturating_sub(began.elapsed())).await;
        match misses.one(began.elapsed()) {
            // That it did not answer says nothing.
            Some(Verdict::Unknown) => return facts.send(Fact::Probed(Probe::Answered)).await,
            Some(Verdict::Silent) => break,
            None => {}
        }
    }
    facts.send(Fact::Probed(silent(pid))).await;
}

/// What it says about a process that it does not answer.
fn silent(pid: u32) -> Probe {
    match state_and_session(pid).map(|(state, _)| state) {
        // A debugger holds it: it says nothing.
        Some('t') => Probe::Answered,
        Some('T') => Probe::Stopped,
        _ => Probe::Silent,
    }
}

async fn check(channel: &Channel, within: Duration) -> bool {
    let mut client = HealthClient::new(channel.clone());
    let asked = timeout(within, client.check(HealthCheckRequest { service: LIVE.into() })).await;
    match asked {
        Ok(Ok(reply)) => reply.into_inner().status() == ServingStatus::Serving,
        // It answered: the name is missing, the executor is not.
        Ok(Err(status)) => status.code() == Code::NotFound,
        Err(_) => false,
    }
}
