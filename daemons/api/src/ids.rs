//! Message ids, fetched ahead in blocks, so that a send does not wait for the cluster.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_rpc::ClusterData;
use wk_rpc::backoff::Backoff;
use wk_types::{IdRun, IdStock, MessageId};

use crate::limits::{ID_BLOCK, ID_LOW, SEND_DEADLINE};

/// Supply of message ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stock: Mutex<IdStock>,
    /// Wakes the fetcher.
    low: Notify,
    /// Wakes takers after a fetch.
    filled: Notify,
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
                let mut stock = self.shared.stock.lock();
                let id = stock.take();
                if stock.len() < ID_LOW {
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
    pub fn left(&self) -> u64 {
        self.shared.stock.lock().len()
    }
}

async fn keep_filled(data: &ClusterData, shared: &Shared) {
    let mut backoff = Backoff::default();
    loop {
        if shared.stock.lock().len() >= ID_LOW {
            shared.low.notified().await;
            continue;
        }
        match data.alloc_ids(ID_BLOCK).await {
            Ok(runs) => {
                backoff.reset();
                shared.stock.lock().add(runs.into_iter().map(|run| IdRun { first: run.first, count: run.count }));
                shared.filled.notify_waiters();
            }
            Err(err) => {
                tracing::warn!(%err, "message ids were not fetched");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}
