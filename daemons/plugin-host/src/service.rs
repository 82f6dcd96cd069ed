//! Start, drain and stop order of the plugin host.

use tonic::service::Routes;
use wk_lifecycle::{Context, Failure, Spec};
use wk_types::Daemon;

use crate::metrics::PluginMetrics;

/// Health name of the registry.
const REGISTRY: &str = "wk.plugin-host.registry";

/// What this program is.
pub const SPEC: Spec = Spec { daemon: Daemon::PluginHost, components: &[REGISTRY] };

/// Runs until the shutdown token is cancelled.
///
/// # Errors
/// [`Failure`] when the socket for neighbours cannot be served.
pub async fn run(context: Context) -> Result<(), Failure> {
    let registry = context.component(REGISTRY);
    let metrics = PluginMetrics::register(context.metrics());
    let shutdown = context.shutdown_token();
    for url in &context.config().plugin.install {
        tracing::warn!(url, "plugin is not started: this version has no plugin processes");
    }
    // No service for neighbours yet: whoever dials gets UNIMPLEMENTED instead of silence.
    let link = context.serve_link(Routes::default(), shutdown.clone().cancelled_owned());
    let start = async {
        context.activated().await;
        metrics.registered.set(0);
        registry.serving();
        context.ready();
        shutdown.cancelled().await;
        registry.not_serving();
    };
    // Both end by the shutdown token; nothing is in flight in between.
    let (served, ()) = tokio::join!(link, start_or_stop(start, &shutdown));
    served?;
    Ok(())
}

/// Runs `start` but does not wait for an activation that never comes once the token is cancelled.
async fn start_or_stop(start: impl Future<Output = ()>, shutdown: &tokio_util::sync::CancellationToken) {
    // Cancel-safe: what `start` has done so far needs no undoing at the end of the process.
    tokio::select! {
        biased;
        () = start => {}
        () = shutdown.cancelled() => {}
    }
}
