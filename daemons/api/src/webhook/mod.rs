//! Webhooks from the journal: `msg.notify` (`spec/webhooks.md` §§1–3).
//!
//! Planes: [`queue`] decides what the next request holds and how far the cursor may move; [`sender`] is the HTTP client; [`feed`] runs one
//! group: journal → queue → sender, in commit order; [`cursors`] saves what was confirmed.
//!
//! Invariants
//! - At least once: a cursor moves only past messages that the backend answered with 200. Nothing is dropped, whatever the backend does.
//! - A group waits for nobody: each has its own task, and a request that fails gives its permit back before the pause.
//! - Without a target no cursor of ours stays behind, so the journal is not held.
//!
//! Deliberately absent: a queue of our own (the journal is it), `msg.offline`, `user.onlinestatus` and gRPC (a later issue).

mod cursors;
mod feed;
mod queue;
mod sender;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_proto::cluster::v1 as pb;
use wk_rpc::{CallError, ClusterData};

use crate::config::Webhook as Config;
use crate::limits::WEBHOOK_POSTS_MAX;
use crate::metrics::ApiMetrics;
use cursors::Cursors;
use feed::Feed;
pub use sender::SenderError;
use sender::{HttpSender, Sender};

/// Name of our cursors.
const CONSUMER: &str = "webhook";
/// Bucket of cursors that count per group.
const NO_BUCKET: u32 = 0xffff;

/// The journal, as this module needs it. A trait so that tests can make it fail.
#[tonic::async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Entries of a group after an index; waits for the first one.
    async fn read(&self, request: pb::JournalRequest) -> Result<pb::JournalReply, CallError>;
    /// Saves positions.
    async fn save(&self, cursors: Vec<pb::Cursor>) -> Result<(), CallError>;
    /// Our saved positions, and where each group is.
    async fn load(&self) -> Result<pb::LoadCursorsReply, CallError>;
}

#[tonic::async_trait]
impl Journal for ClusterData {
    async fn read(&self, request: pb::JournalRequest) -> Result<pb::JournalReply, CallError> {
        self.journal(request).await
    }

    async fn save(&self, cursors: Vec<pb::Cursor>) -> Result<(), CallError> {
        self.save_cursors(cursors).await
    }

    async fn load(&self) -> Result<pb::LoadCursorsReply, CallError> {
        self.load_cursors(CONSUMER).await
    }
}

/// Why webhooks cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Cursors could not be loaded or saved.
    #[error("webhook cursors")]
    Cursors(#[from] CallError),
    /// No HTTP client.
    #[error("webhook client")]
    Sender(#[from] SenderError),
}

/// Webhooks that are registered with the journal and ready to run.
pub struct Webhooks {
    journal: Arc<dyn Journal>,
    sender: Arc<dyn Sender>,
    config: Config,
    metrics: ApiMetrics,
    /// Where each group begins, by group number.
    starts: Vec<u64>,
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").field("config", &self.config).field("starts", &self.starts).finish_non_exhaustive()
    }
}

/// Registers the consumer with the journal of every group, or takes it away when webhooks are off (`None`).
///
/// # Errors
/// [`WebhookError`]; the caller tries again or fails the start.
pub async fn prepare(journal: Arc<dyn Journal>, config: &Config, metrics: &ApiMetrics) -> Result<Option<Webhooks>, WebhookError> {
    let loaded = journal.load().await?;
    let Some(target) = &config.target else {
        let ours = loaded.cursors.iter().map(|c| pb::Cursor { remove: true, ..c.clone() });
        let gone: Vec<_> = ours.collect();
        if !gone.is_empty() {
            tracing::info!(cursors = gone.len(), "webhooks are off: their cursors are removed");
            journal.save(gone).await?;
        }
        return Ok(None);
    };
    let sender: Arc<dyn Sender> = Arc::new(HttpSender::new(target)?);
    let (starts, fresh) = starts(&loaded);
    if !fresh.is_empty() {
        journal.save(fresh).await?;
    }
    Ok(Some(Webhooks { journal, sender, config: config.clone(), metrics: metrics.clone(), starts }))
}

/// Where each group begins: at its cursor, else where the group is now. Second: cursors of groups that had none.
fn starts(loaded: &pb::LoadCursorsReply) -> (Vec<u64>, Vec<pb::Cursor>) {
    let mut fresh = Vec::new();
    let starts = (0_u32..).zip(&loaded.applied).map(|(group, &applied)| match loaded.cursors.iter().find(|c| c.group == group) {
        Some(cursor) => cursor.index,
        None => {
            fresh.push(cursor(group, applied));
            applied
        }
    });
    (starts.collect(), fresh)
}

/// Our cursor of a group.
fn cursor(group: u32, index: u64) -> pb::Cursor {
    pb::Cursor { consumer: CONSUMER.into(), group, bucket: NO_BUCKET, index, remove: false }
}

impl Webhooks {
    /// Runs every group until `stop`; what is not confirmed then stays in the journal for the next life.
    pub fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        let permits = Arc::new(Semaphore::new(WEBHOOK_POSTS_MAX));
        let cursors = Cursors::default();
        let feeds = TaskTracker::new();
        for (group, start) in (0_u32..).zip(self.starts) {
            let feed = Feed {
                group,
                journal: Arc::clone(&self.journal),
                sender: Arc::clone(&self.sender),
                permits: Arc::clone(&permits),
                cursors: cursors.clone(),
                config: self.config.clone(),
                metrics: self.metrics.clone(),
                stop: stop.clone(),
            };
            feeds.spawn(feed.run(start));
        }
        feeds.close();
        let (journal, stop) = (self.journal, stop.clone());
        tasks.spawn(async move {
            // Cursors are saved until the last group has ended, and once more then.
            tokio::select! {
                () = cursors.keep_saving(&*journal) => {}
                () = async { stop.cancelled().await; feeds.wait().await } => {}
            }
            cursors.save(&*journal).await;
        });
    }
}

#[cfg(test)]
mod tests;
