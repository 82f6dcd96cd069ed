//! Start, drain and stop of the daemon.

use std::sync::Arc;

use wk_lifecycle::{Context, Exit, Failure, InFlight, OrExit, Spec};
use wk_types::Daemon;

use crate::config::Config;
use crate::engine::{Engine, OpenError, Stage};
use crate::host::Hosting;
use crate::metrics::Metrics;
use crate::node::IdentityError;

/// Health names.
const COMPONENTS: [&str; 6] =
    ["wk.cluster.store", "wk.cluster.node_raft", "wk.cluster.slot_raft", "wk.cluster.channel_raft", "wk.cluster.ids", "wk.cluster.ingress"];

/// What this program is.
pub const SPEC: Spec = Spec { daemon: Daemon::Cluster, components: &COMPONENTS };

/// Runs the daemon until it has drained.
///
/// # Errors
/// [`Failure`] with the exit code: 75 when the data folder is in use, 78 when configuration and data do not fit, else 1.
pub async fn run(context: Context) -> Result<(), Failure> {
    let write_delay = crate::fault::write_delay(context.config().mode, &wk_config::Env::process());
    let config = Config { write_delay, ..Config::from_file(context.config()) };
    if let Err(problems) = config.validate(context.config()) {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(Failure::new(Exit::BadConfig, text.join("; ")));
    }
    let metrics = Metrics::register(context.metrics());
    let reached = |stage: Stage| {
        let name = match stage {
            Stage::Store => COMPONENTS[0],
            Stage::NodeRaft => COMPONENTS[1],
            Stage::SlotRaft => COMPONENTS[2],
            Stage::ChannelRaft => COMPONENTS[3],
            Stage::Ids => COMPONENTS[4],
        };
        context.component(name).serving();
    };
    let engine = match Engine::open(&config, &metrics, reached).await {
        Ok(engine) => Arc::new(engine),
        Err(error) => return Err(Failure::new(exit_of(&error), error)),
    };
    let open = metrics.writes_open().clone();
    context.set_in_flight_source(move || InFlight { unsettled: u64::try_from(open.get()).unwrap_or(0), ..InFlight::default() });

    let shutdown = context.shutdown_token();
    let routes = engine.routes();
    let ending = {
        let (engine, shutdown) = (Arc::clone(&engine), shutdown.clone());
        async move {
            shutdown.cancelled().await;
            engine.stop_streams().await;
        }
    };
    // Below native systemd units nobody else hosts the table. The engine has the lock of the data folder, so we are the only one.
    let hosting = context.native().then(|| Hosting::open(&context)).transpose().or_exit(Exit::Temporary)?;
    let hosted = async {
        match hosting {
            Some(hosting) => hosting.serve(shutdown.clone()).await.or_exit(Exit::Failed),
            None => Ok(()),
        }
    };
    context.component(COMPONENTS[5]).serving();
    context.ready();
    let linked = async { context.serve_link(routes, ending).await.or_exit(Exit::Failed) };
    tokio::try_join!(linked, hosted)?;
    tracing::info!("neighbours are gone, closing the node");
    // What was acknowledged is written however long the disk takes.
    context.closing();
    match Arc::try_unwrap(engine) {
        Ok(engine) => engine.close().await.or_exit(Exit::Failed),
        // The server has ended and its future is dropped: nobody else holds the engine.
        Err(_) => Err(Failure::new(Exit::Bug, "node is still in use after the server has ended")),
    }
}

/// Exit code of a start that failed.
fn exit_of(error: &OpenError) -> Exit {
    match error {
        OpenError::Identity(IdentityError::Locked { .. }) => Exit::Temporary,
        OpenError::Identity(IdentityError::Foreign { .. } | IdentityError::Damaged { .. } | IdentityError::Missing { .. })
        | OpenError::SlotGroups { .. }
        | OpenError::Features { .. }
        | OpenError::MixedUp { .. } => Exit::BadConfig,
        _ => Exit::Failed,
    }
}
