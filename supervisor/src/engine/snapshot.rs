//! What is told to whoever asks: a copy of the table, made by the engine and read by others.

use std::sync::Arc;
use std::time::Instant;

use wk_proto::supervisor::v1 as pb;
use wk_types::{Daemon, InstanceName};

use crate::backoff::Time;
use crate::table::{InstanceView, Overall, Table};
use crate::timing::Timing;

/// What the control thread answers from.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: Instant,
    /// In one word.
    pub overall: Overall,
    /// Clients are admitted.
    pub admitted: bool,
    /// Of the node table.
    pub epoch: u64,
    /// All instances.
    pub instances: Vec<InstanceView>,
    /// Last completed start.
    pub timing: Option<Timing>,
    /// Public addresses.
    pub addresses: Vec<String>,
    /// Operations that run, wait or ended lately.
    pub ops: Vec<pb::OpSummary>,
    /// Slots that a command has set, with those of the configuration.
    pub overrides: Vec<(Daemon, u16, u16)>,
    /// Hash of the configuration.
    pub config_hash: String,
    /// Keys of the file that wait for the next start of the supervisor.
    pub waiting_keys: Vec<String>,
    /// Why the file does not hold, and what to do.
    pub refused: Option<String>,
    /// Instances that were started with another one.
    pub behind: Vec<InstanceName>,
    /// Timing of the last starts, latest first.
    pub starts: Arc<Vec<Timing>>,
}

impl Snapshot {
    /// What the table alone says.
    pub(crate) fn of(table: &Table, now: Time) -> Self {
        Self {
            taken: Instant::now(),
            overall: table.overall(),
            admitted: table.admitted(),
            epoch: table.epoch(),
            instances: table.views(now),
            timing: table.timing().cloned(),
            addresses: Vec::new(),
            ops: Vec::new(),
            overrides: Vec::new(),
            config_hash: String::new(),
            waiting_keys: Vec::new(),
            refused: None,
            behind: Vec::new(),
            starts: Arc::default(),
        }
    }
}
