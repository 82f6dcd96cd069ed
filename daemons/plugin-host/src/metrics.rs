//! Metrics of the plugin host.

use wk_telemetry::{IntGauge, Metrics};

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct PluginMetrics {
    /// Plugins that are registered.
    pub(crate) registered: IntGauge,
}

impl PluginMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        Self { registered: metrics.gauge("wk_plugin_host_plugins", "Registered plugins.") }
    }
}
