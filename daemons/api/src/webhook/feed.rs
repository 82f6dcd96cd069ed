//! One group: reads its journal, sends batches in commit order, moves its cursor.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wk_proto::cluster::v1 as pb;
use wk_telemetry::RateLimited;

use super::cursors::Cursors;
use super::queue::{Batch, Queue};
use super::sender::Sender;
use super::{Journal, SenderError};
use crate::config::Webhook as Config;
use crate::limits::{JOURNAL_ENTRIES_MAX, JOURNAL_RETRY_PAUSE, JOURNAL_WAIT, WEBHOOK_RETRY_MAX, WEBHOOK_RETRY_MIN};
use crate::metrics::ApiMetrics;

/// A request under way when the stop comes gets this long to end; then it is given up and sent again by the next life.
const STOP_GRACE: Duration = Duration::from_secs(2);

static FAILURES: RateLimited = RateLimited::every(Duration::from_secs(5));

/// Everything one group needs.
pub(super) struct Feed {
    pub(super) group: u32,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) sender: Arc<dyn Sender>,
    /// Requests at a time, all groups together.
    pub(super) permits: Arc<Semaphore>,
    pub(super) cursors: Cursors,
    pub(super) config: Config,
    pub(super) metrics: ApiMetrics,
    pub(super) stop: CancellationToken,
}

impl Feed {
    /// Runs from `after` (exclusive) until the stop.
    pub(super) async fn run(self, mut after: u64) {
        let split_agents = self.config.target.as_ref().is_some_and(|target| target.agent_url.is_some());
        let mut queue = Queue::new(split_agents);
        while !self.stop.is_cancelled() {
            after = self.fill(&mut queue, after).await;
            while let Some(batch) = queue.batch(self.config.batch_messages) {
                if !self.deliver(&batch).await {
                    break;
                }
                self.metrics.webhook_messages.inc_by(u64::try_from(batch.messages).unwrap_or(0));
                self.pending(-i64::try_from(batch.messages).unwrap_or(0));
                let upto = queue.confirm(&batch);
                self.moved(upto);
                if queue.messages() < self.config.batch_messages {
                    break;
                }
            }
        }
        self.pending(-i64::try_from(queue.messages()).unwrap_or(0));
    }

    /// Reads until a batch is full, or the push interval after the first message is over, or the stop. Returns how far was read.
    async fn fill(&self, queue: &mut Queue, mut after: u64) -> u64 {
        let mut send_at = None;
        loop {
            if queue.messages() > 0 {
                send_at.get_or_insert_with(|| Instant::now() + self.config.push_interval);
            }
            let wait = send_at.map_or(JOURNAL_WAIT, |at: Instant| at.saturating_duration_since(Instant::now()));
            if wait.is_zero() || queue.messages() >= self.config.batch_messages {
                return after;
            }
            let request = pb::JournalRequest {
                group: self.group,
                after,
                limit: JOURNAL_ENTRIES_MAX,
                buckets: Vec::new(),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0).max(1),
                after_each: Vec::new(),
            };
            // Cancel-safe: a read that is given up has no effect.
            let reply = tokio::select! {
                () = self.stop.cancelled() => return after,
                reply = self.journal.read(request) => reply,
            };
            match reply {
                Ok(reply) => {
                    self.take(queue, &reply);
                    after = after.max(reply.upto);
                }
                Err(err) => {
                    tracing::debug!(group = self.group, %err, "journal was not read");
                    self.pause(JOURNAL_RETRY_PAUSE.min(wait)).await;
                }
            }
        }
    }

    fn take(&self, queue: &mut Queue, reply: &pb::JournalReply) {
        let before = queue.messages();
        for entry in &reply.entries {
            if !queue.push(entry) {
                tracing::error!(group = self.group, index = entry.index, "journal entry cannot be read and is passed over");
                self.metrics.webhook_poison.inc();
            }
        }
        self.pending(i64::try_from(queue.messages() - before).unwrap_or(0));
        let upto = queue.skip_empty();
        self.moved(upto);
    }

    /// Sends until the backend confirms, with growing pauses. False: the stop came first.
    async fn deliver(&self, batch: &Batch) -> bool {
        let mut pause = WEBHOOK_RETRY_MIN;
        loop {
            // Cancel-safe: a request that is given up is sent again by the next life.
            let sent = tokio::select! {
                sent = self.send(batch) => sent,
                () = async { self.stop.cancelled().await; sleep(STOP_GRACE).await } => return false,
            };
            match sent {
                Ok(()) => return true,
                Err(err) => {
                    self.metrics.webhook_failures.inc();
                    if let Some(suppressed) = FAILURES.pass() {
                        let cause = std::error::Error::source(&err).map(ToString::to_string);
                        tracing::warn!(group = self.group, messages = batch.messages, %err, cause, ?pause, suppressed, "webhook failed");
                    }
                }
            }
            if self.stop.is_cancelled() {
                return false;
            }
            self.pause(pause).await;
            pause = (pause * 2).min(WEBHOOK_RETRY_MAX);
        }
    }

    async fn send(&self, batch: &Batch) -> Result<(), SenderError> {
        // The semaphore is never closed; without a permit the request goes out all the same.
        let _permit = self.permits.acquire().await.ok();
        let started = Instant::now();
        let sent = self.sender.send(batch.body.clone(), batch.agent).await;
        self.metrics.webhook_seconds.observe(started.elapsed().as_secs_f64());
        sent
    }

    async fn pause(&self, time: Duration) {
        // Cancel-safe: both are waits only.
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(time) => {}
        }
    }

    fn moved(&self, upto: Option<u64>) {
        if let Some(index) = upto {
            self.cursors.moved(self.group, index);
        }
    }

    fn pending(&self, change: i64) {
        self.metrics.webhook_pending.add(change);
    }
}
