//! Message ids, fetched ahead in blocks, so that a send does not wait for the cluster.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_proto::cluster::v1::IdRun;
use wk_rpc::ClusterData;
use wk_rpc::backoff::Backoff;
use wk_types::MessageId;

use crate::limits::{ID_BLOCK, ID_LOW, SEND_DEADLINE};

/// Supply of message ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    runs: Mutex<Runs>,
    /// Wakes the fetcher.
    low: Notify,
    /// Wakes takers after a fetch.
    filled: Notify,
}

/// Unused ids, in the order they were allocated.
#[derive(Debug, Default)]
struct Runs {
    runs: VecDeque<IdRun>,
    left: u32,
}

impl Runs {
    fn take(&mut self) -> Option<MessageId> {
        let run = self.runs.front_mut()?;
        let id = run.first;
        run.first += 1;
        run.count -= 1;
        self.left -= 1;
        if run.count == 0 {
            self.runs.pop_front();
        }
        Some(id)
    }

    fn add(&mut self, runs: Vec<IdRun>) {
        for run in runs.into_iter().filter(|run| run.count > 0 && run.first > 0) {
            self.left = self.left.saturating_add(run.count);
            self.runs.push_back(run);
        }
    }
}

impl Ids {
    /// Starts to keep the supply filled until `stop`.
    #[must_use]
    pub fn start(data: ClusterData, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let ids = Self::default();
        let shared = Arc::clone(&ids.shared);
        tasks.spawn(async move {
            // Cancel-safe: a block that was fetched and not stored is a gap in the ids, which is allowed.
            tokio::select! {
                () = stop.cancelled() => {}
                () = keep_filled(&data, &shared) => {}
            }
        });
        ids
    }

    /// The next id; waits for a block while there is none, [`SEND_DEADLINE`] at most.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn take(&self) -> Option<MessageId> {
        let until = Instant::now() + SEND_DEADLINE;
        loop {
            let filled = self.shared.filled.notified();
            {
                let mut runs = self.shared.runs.lock();
                let id = runs.take();
                if runs.left < ID_LOW {
                    self.shared.low.notify_one();
                }
                if id.is_some() {
                    return id;
                }
            }
            timeout_at(until, filled).await.ok()?;
        }
    }

    /// Ids at hand.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.shared.runs.lock().left
    }
}

async fn keep_filled(data: &ClusterData, shared: &Shared) {
    let mut backoff = Backoff::default();
    loop {
        if shared.runs.lock().left >= ID_LOW {
            shared.low.notified().await;
            continue;
        }
        match data.alloc_ids(ID_BLOCK).await {
            Ok(runs) => {
                backoff.reset();
                shared.runs.lock().add(runs);
                shared.filled.notify_waiters();
            }
            Err(err) => {
                tracing::warn!(%err, "message ids were not fetched");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_runs_in_order() {
        let mut runs = Runs::default();
        runs.add(vec![IdRun { first: 10, count: 2 }, IdRun { first: 5, count: 0 }, IdRun { first: 30, count: 1 }]);
        assert_eq!(runs.left, 3);
        assert_eq!([runs.take(), runs.take(), runs.take(), runs.take()], [Some(10), Some(11), Some(30), None]);
        assert_eq!(runs.left, 0);
    }
}
