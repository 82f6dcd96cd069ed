//! Which epoch of the node table this process has met: everything that the table asks of it about a move of shares is done.
//!
//! A process has several *parts* (its links, its pools); it reports an epoch when all of them have met it. A process without parts has nothing
//! to do and meets every epoch as it hears of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use wk_proto::node::v1 as pb;
use wk_proto::node::v1::node_table_client::NodeTableClient;
use wk_types::Incarnation;

use crate::dial::dial;
use crate::limits::CONTROL_DEADLINE;
use crate::table::Table;

/// Pause before a report that did not get through is repeated.
const REPORT_PAUSE: Duration = Duration::from_millis(20);

/// What the parts of this process have met.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<u64, u64>,
    next: u64,
    /// Highest epoch that the supervisor has heard of us.
    reported: u64,
    /// Counts the supervisors met: a report to an earlier one says nothing to this one.
    servers: u64,
}

impl State {
    fn met(&self) -> Option<u64> {
        self.parts.values().copied().min()
    }
}

impl Epochs {
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.parts.insert(id, 0);
        Part { id, epochs: Arc::clone(self) }
    }

    pub(crate) fn met(&self) -> Option<u64> {
        self.state.lock().met()
    }

    /// A server was reached that may not have heard us.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        state.reported = 0;
        state.servers += 1;
        drop(state);
        self.wake.notify_one();
    }
}

/// A part of a process, see [`crate::TableWatch::part`]. Dropped, it has nothing to do any more.
#[derive(Debug)]
pub struct Part {
    id: u64,
    epochs: Arc<Epochs>,
}

impl Part {
    /// What the table of this epoch asks is done.
    pub fn meet(&self, epoch: u64) {
        let mut state = self.epochs.state.lock();
        let before = state.met();
        if let Some(met) = state.parts.get_mut(&self.id) {
            *met = (*met).max(epoch);
        }
        let changed = state.met() != before;
        drop(state);
        if changed {
            self.epochs.wake.notify_one();
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.epochs.state.lock().parts.remove(&self.id);
        self.epochs.wake.notify_one();
    }
}

/// Tells the supervisor.
pub(crate) struct Reporter {
    pub(crate) node_sock: PathBuf,
    pub(crate) instance: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) table: watch::Receiver<Arc<Table>>,
}

impl Reporter {
    /// Reports until the table has no source any more.
    pub(crate) async fn run(mut self) {
        loop {
            let heard = self.table.borrow_and_update().epoch;
            let (due, servers) = {
                let state = self.epochs.state.lock();
                let met = state.met().unwrap_or(heard);
                ((met > state.reported).then_some(met), state.servers)
            };
            let Some(epoch) = due else {
                tokio::select! {
                    () = self.epochs.wake.notified() => {}
                    changed = self.table.changed() => if changed.is_err() {
                        return;
                    },
                }
                continue;
            };
            match tokio::time::timeout(CONTROL_DEADLINE, self.report(epoch)).await {
                Ok(Ok(())) => {
                    let mut state = self.epochs.state.lock();
                    if state.servers == servers {
                        state.reported = state.reported.max(epoch);
                    }
                }
                failed => {
                    tracing::debug!(?failed, epoch, "epoch was not reported");
                    tokio::time::sleep(REPORT_PAUSE).await;
                }
            }
        }
    }

    async fn report(&self, epoch: u64) -> Result<(), String> {
        let report = pb::EpochReport { instance: self.instance.clone(), incarnation: self.incarnation, epoch };
        let channel = dial(self.node_sock.clone()).await.map_err(|e| e.to_string())?;
        NodeTableClient::new(channel).report_epoch(report).await.map_err(|e| e.to_string())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_part_counts_and_one_that_left_does_not() {
        let epochs: Arc<Epochs> = Arc::default();
        assert_eq!(epochs.met(), None);
        let (a, b) = (epochs.part(), epochs.part());
        a.meet(5);
        assert_eq!(epochs.met(), Some(0));
        b.meet(4);
        b.meet(3);
        assert_eq!(epochs.met(), Some(4), "never back");
        drop(b);
        assert_eq!(epochs.met(), Some(5));
    }
}
