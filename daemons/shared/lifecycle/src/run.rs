//! The `main` of every daemon.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook_tokio::SignalsInfo;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use wk_config::Env;
use wk_rpc::ServeOptions;
use wk_types::Daemon;

use crate::args::Args;
use crate::context::Context;
use crate::exit::{Exit, Failure, OrExit};
use crate::health::DRAIN;
use crate::launch::{Launch, note_end};
use crate::member::Membership;
use crate::{panic, rpc};

/// Period in which `wk.drain` is brought up to date while draining.
const DRAIN_TICK: Duration = Duration::from_millis(100);
/// Tasks that are still there after the service function returned get this long when the drain deadline has passed.
const JOIN_GRACE: Duration = Duration::from_millis(200);

/// A worker that was asked to stop waits this long until others have its share, then it drains all the same. Together with the drain below the
/// unit's `TimeoutStopSec=` (30 s).
const LEAVE_MAX: Duration = Duration::from_secs(10);

/// What a program is.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The daemon; must be the one the supervisor launched.
    pub daemon: Daemon,
    /// Health names of its parts, `wk.<daemon>.<part>`.
    pub components: &'static [&'static str],
}

/// Runs a daemon from its arguments to its exit code. `main` gets the context and returns when it has drained after
/// [`Context::shutdown_token`] was cancelled; it runs on a current-thread runtime inside a `LocalSet`, so `spawn_local` works.
pub fn run<F, Fut>(spec: Spec, args: &Args, main: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    match start(spec, args, main) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Before the subscriber exists there is only standard error.
            tracing::error!(err = failure.chain(), "{} failed", spec.daemon);
            if !tracing::enabled!(tracing::Level::ERROR) {
                say(&format!("{}: {}", spec.daemon, failure.chain()));
            }
            failure.exit.into()
        }
    }
}

fn start<F, Fut>(spec: Spec, args: &Args, main: F) -> Result<Exit, Failure>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let env = Env::process();
    if args.ended {
        return note_end(spec.daemon, args, &env).map(|()| Exit::Done).map_err(|e| Failure::new(e.exit(), e));
    }
    let launch = Launch::from_env(spec.daemon, args, &env).map_err(|e| Failure::new(e.exit(), e))?;
    if args.check_config {
        for warning in &launch.warnings {
            say(warning);
        }
        return Ok(Exit::Done);
    }
    let filter = env.get("WK_LOG").unwrap_or(launch.config.log_filter());
    let log = wk_telemetry::init(filter, wk_telemetry::Format::from_name(env.get("WK_LOG_FORMAT"))).or_exit(Exit::BadConfig)?;
    panic::install_hook();
    let last_end = launch.last_end;
    tracing::info!(instance = %launch.instance, generation = launch.generation, pid = std::process::id(), ?last_end, "starting");
    for warning in &launch.warnings {
        tracing::warn!(warning, "configuration");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(Exit::Temporary)?;
    let mut launch = launch;
    let own_sockets = launch.native.then(|| Launch::sockets(launch.instance, &launch.runtime_dir));
    // The cluster daemon hosts the table; everybody else gets the spawn counter with a place in it.
    let membership = (launch.native && spec.daemon != Daemon::Cluster).then(|| runtime.block_on(Membership::of(&launch)));
    if let Some(membership) = &membership {
        launch.generation = membership.generation();
    }
    let context = Context::new(launch, spec.components, Some(log));
    let outcome = LocalSet::new().block_on(&runtime, live(context, membership, main));
    // Blocking work that hangs must not hold the exit.
    runtime.shutdown_timeout(JOIN_GRACE);
    for path in own_sockets.into_iter().flat_map(|(health, link)| [health, link]) {
        // Nobody listens any more; a file that stays is replaced by the next life.
        drop(std::fs::remove_file(path));
    }
    outcome
}

/// The life of the process inside the runtime.
async fn live<F, Fut>(context: Context, membership: Option<Membership>, main: F) -> Result<Exit, Failure>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGTERM, SIGINT]).or_exit(Exit::Bug)?;
    let health = context.listener("health").map(UnixListener::from);
    let health = health.ok_or_else(|| Failure::new(Exit::Usage, "descriptor health is missing"))?;
    let stopped = CancellationToken::new();
    let options = ServeOptions { identity: Some(context.identity().to_owned()) };
    let health = tokio::spawn(wk_rpc::serve(health, rpc::routes(&context), options, stopped.clone().cancelled_owned()));
    let watchdog = tokio::spawn(context.notifier().watchdog(context.inner.board.clone()));
    let membership = membership.map(|m| tokio::spawn(m.follow(context.clone())));
    if !context.supervised() && membership.is_none() {
        context.tasks().spawn({
            let context = context.clone();
            async move { context.activate_and_admit().await }
        });
    }
    let mut main = std::pin::pin!(main(context.clone()));
    let (mut leave_until, drain) = (None, context.shutdown_token());
    let outcome = loop {
        // Cancel-safe: signals are queued by the kernel side, the service future is polled in place, the others are timers.
        tokio::select! {
            ended = &mut main => break ended.map(|()| Exit::Done),
            Some(signal) = signals.next() => {
                let from = signal.process.as_ref().map(|p| (p.pid, p.uid));
                if context.drain_deadline().is_some() {
                    tracing::warn!(signal = signal.signal, ?from, "second signal: stopping at once");
                    break Ok(Exit::Failed);
                }
                if leave_until.is_none() && context.may_leave() {
                    tracing::info!(signal = signal.signal, ?from, "leaving");
                    context.inner.leaving.cancel();
                    leave_until = Some(tokio::time::Instant::now() + LEAVE_MAX);
                    continue;
                }
                tracing::info!(signal = signal.signal, ?from, "draining");
                context.begin_drain();
            }
            () = at(leave_until), if context.drain_deadline().is_none() => {
                tracing::warn!("nobody has taken the share over: draining");
                context.begin_drain();
            }
            // Begun by somebody else: from here on it has a deadline.
            () = drain.cancelled(), if context.drain_deadline().is_none() => {}
            () = at(context.drain_deadline()) => {
                let left = context.in_flight();
                let err = format!("drain deadline passed with {} unsettled, {} connections", left.unsettled, left.connections);
                break Err(Failure::new(Exit::Bug, err));
            }
            () = tokio::time::sleep(DRAIN_TICK), if context.drain_deadline().is_some() => {
                context.inner.board.set(DRAIN, context.in_flight() != crate::InFlight::default());
            }
        }
    };
    context.begin_drain();
    join(&context).await;
    watchdog.abort();
    // The end of the stream tells the host that we are gone.
    membership.iter().for_each(tokio::task::JoinHandle::abort);
    stopped.cancel();
    // Health watches of the supervisor have no end of their own: the exit ends them.
    health.abort();
    let left = context.in_flight();
    tracing::info!(unsettled = left.unsettled, retry_entries = left.retry_entries, clean = outcome.is_ok(), "stopped");
    outcome
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for the tracked tasks until the drain deadline, at least a moment.
async fn join(context: &Context) {
    context.tasks().close();
    let grace = tokio::time::Instant::now() + JOIN_GRACE;
    let until = context.drain_deadline().map_or(grace, |at| at.max(grace));
    if tokio::time::timeout_at(until, context.tasks().wait()).await.is_err() {
        tracing::warn!(tasks = context.tasks().len(), "tasks did not end in time");
    }
}

/// One line on standard error, for the time without a subscriber.
fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wk_config::Config;

    use super::*;
    use crate::launch::Launch;

    async fn drained(closes: bool, time: Duration) -> Result<Exit, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let policy = &mut config.supervisor.daemons.cluster;
        (policy.stop_timeout, policy.hard_stop_timeout) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(20)));
        let launch = Launch::in_dir("cluster@0".parse().unwrap(), Arc::new(config), dir.path()).unwrap();
        let context = Context::new(launch, &[], None);
        let main = |context: Context| async move {
            context.begin_drain();
            if closes {
                context.closing();
            }
            tokio::time::sleep(time).await;
            Ok(())
        };
        live(context, None, main).await
    }

    /// Catalogue row 23.
    #[tokio::test(start_paused = true)]
    async fn what_is_being_written_is_given_up_only_at_the_hard_limit() {
        assert_eq!(drained(true, Duration::from_secs(10)).await.unwrap(), Exit::Done);
        for (closes, time) in [(false, 10), (true, 30)] {
            let given_up = drained(closes, Duration::from_secs(time)).await.unwrap_err();
            assert!(given_up.source.to_string().contains("drain deadline passed"), "{given_up:?}");
        }
    }
}
