//! First phase of a stop on a node of systemd units: what the supervisor does before it sends the first SIGTERM. `wk-quiesce.service` is stopped
//! before all daemons and runs this then.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::Channel;
use wk_config::{Config, Env, runtime_bases};
use wk_rpc::table::NODE_SOCKET;
use wk_rpc::{RowState, Table};
use wk_types::InstanceName;

use super::super::Failure;
use crate::calls;
use crate::limits::QUIESCE_DEADLINE;
use crate::table::Report;

/// A host that lives answers at once, on a machine that has time; with the deadlines that follow it stays below the unit's `TimeoutStopSec=` of 30 s.
const TABLE_DEADLINE: Duration = Duration::from_secs(8);

/// Quiesces the nodes of this machine's native units. Never fails a stop: a node that cannot be asked is left as it is.
pub(in super::super) async fn run(runtime: Option<&Path>, env: &Env) -> Result<u8, Failure> {
    for socket in sockets(runtime, env) {
        let mut table = wk_rpc::table::watch(&socket, "wkctl", 0);
        let first = tokio::time::timeout(TABLE_DEADLINE, table.wait_for(|t| (t.epoch > 0).then(|| t.clone()))).await;
        let Ok(table) = first else {
            writeln!(io::stdout(), "{}: no table, nothing was quiesced", socket.display())?;
            continue;
        };
        let last = std::cell::Cell::new(Report::default());
        calls::quiesce(channels(&table), QUIESCE_DEADLINE, |report, _| {
            last.set(report);
            std::future::ready(())
        })
        .await;
        let left = last.get();
        let (unsettled, retries, hooks) = (left.unsettled, left.retry_entries, left.pending_webhooks);
        writeln!(
            io::stdout(),
            "quiesced: lost {unsettled} · retry entries {retries} · pending webhooks {hooks} · connections {}",
            left.connections
        )?;
    }
    Ok(0)
}

/// Processes that can be asked.
fn channels(table: &Table) -> Vec<(InstanceName, Channel)> {
    let live = table.instances().filter(|row| matches!(row.state, RowState::Ready | RowState::Degraded | RowState::Starting));
    live.map(|row| (row.name, wk_rpc::dial_lazy(row.health_socket.clone()))).collect()
}

/// Table sockets: of the folder given, or one level below the runtime folders.
fn sockets(runtime: Option<&Path>, env: &Env) -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let bases = runtime.map_or_else(|| runtime_bases(&Config::default(), env, uid), |dir| vec![dir.to_path_buf()]);
    let below = bases.iter().filter_map(|b| fs::read_dir(b).ok()).flat_map(|entries| entries.flatten().map(|e| e.path()));
    let all = bases.iter().cloned().chain(below).map(|dir| dir.join(NODE_SOCKET));
    all.filter(|socket| socket.exists()).collect()
}
