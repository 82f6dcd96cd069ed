//! The group-commit thread of the log database (`design/cluster.md` §3.2).
//!
//! It takes everything queued, up to the batch limits, writes one batch with one sync and then runs the callbacks. There
//! is no timer for synced items: the sync of the batch in flight is the collection window. Lazy items wait for the next
//! synced one, at most [`WRITER_LAZY_MAX`].
//!
//! The queue is bounded in items and bytes. At the bound [`LogWriter::try_submit`] refuses and [`LogWriter::submit`]
//! waits; both leave the order of accepted items untouched. One item larger than the queue is accepted when the queue is
//! empty.
//!
//! Never do: block in a callback, or write to the log database around the writer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

use crate::error::StoreError;
use crate::limits::{WRITER_BATCH_BYTES_MAX, WRITER_BATCH_ITEMS_MAX, WRITER_LAZY_MAX, WRITER_QUEUE_BYTES_MAX, WRITER_QUEUE_ITEMS_MAX};
use crate::log::{Durability, LogBackend, LogItem, LogWrite};

/// Called once, on the writer thread, with the first failed write or sync. In production it ends the process.
pub type FatalHandler = Box<dyn FnOnce(&StoreError) + Send>;

/// Bounds and hooks of a writer.
pub struct WriterOptions {
    /// Items one batch takes.
    pub batch_items_max: usize,
    /// Bytes one batch takes; a larger item goes alone.
    pub batch_bytes_max: usize,
    /// Items that may wait.
    pub queue_items_max: usize,
    /// Bytes that may wait.
    pub queue_bytes_max: usize,
    /// How long a lazy item waits for a synced one.
    pub lazy_max: Duration,
    /// What to do about the first failed write or sync.
    pub fatal: FatalHandler,
}

impl Default for WriterOptions {
    /// The limits of [`crate::limits`]; a failure aborts the process.
    fn default() -> Self {
        Self {
            batch_items_max: WRITER_BATCH_ITEMS_MAX,
            batch_bytes_max: WRITER_BATCH_BYTES_MAX,
            queue_items_max: WRITER_QUEUE_ITEMS_MAX,
            queue_bytes_max: WRITER_QUEUE_BYTES_MAX,
            lazy_max: WRITER_LAZY_MAX,
            fatal: Box::new(abort_process),
        }
    }
}

impl std::fmt::Debug for WriterOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterOptions").field("batch_items_max", &self.batch_items_max).finish_non_exhaustive()
    }
}

/// Log the failure and abort: a failed sync may have dropped dirty pages, nothing after it can be trusted.
pub fn abort_process(error: &StoreError) {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(err = %error, cause = %source, "raft log write failed, aborting");
    std::process::abort();
}

/// An item was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full; the item comes back.
    #[error("log queue is full")]
    Full(Box<LogItem>),
    /// The writer stopped.
    #[error("log writer is stopped")]
    Stopped,
}

/// Counters of a writer, for metrics. All but the queue sizes only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Batches synced.
    pub syncs: u64,
    /// Items written.
    pub items: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Microseconds spent in synced writes.
    pub sync_micros: u64,
    /// Longest synced write, microseconds.
    pub sync_micros_max: u64,
    /// Items refused because the queue was full.
    pub refused: u64,
    /// Items waiting now.
    pub queue_items: u64,
    /// Bytes waiting now.
    pub queue_bytes: u64,
    /// Whether the thread runs with real-time priority.
    pub realtime: bool,
}

#[derive(Default)]
struct Counters {
    syncs: AtomicU64,
    items: AtomicU64,
    bytes: AtomicU64,
    sync_micros: AtomicU64,
    sync_micros_max: AtomicU64,
    refused: AtomicU64,
    realtime: AtomicU64,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<(LogItem, usize)>,
    bytes: usize,
    /// Items that need a sync.
    synced: usize,
    /// When the first waiting lazy item must be written.
    lazy_due: Option<Instant>,
    /// Callers of `submit` that found the queue full.
    waiting: Vec<Waker>,
    closing: bool,
    failed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when there is work for the thread.
    work: Condvar,
    counters: Counters,
    items_max: usize,
    bytes_max: usize,
    lazy_max: Duration,
}

/// Handle of the group-commit thread. Clones share it; it stops with [`LogWriter::stop`] or the last clone.
#[derive(Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

/// Stops and joins the thread when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    fn stop(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("log writer thread panicked");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LogWriter {
    /// Start the thread over `backend`.
    ///
    /// # Errors
    /// The kernel refused a thread.
    pub fn start(backend: Arc<dyn LogBackend>, options: WriterOptions) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            counters: Counters::default(),
            items_max: options.queue_items_max,
            bytes_max: options.queue_bytes_max,
            lazy_max: options.lazy_max,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            backend,
            items_max: options.batch_items_max,
            bytes_max: options.batch_bytes_max,
            fatal: Some(options.fatal),
        };
        let thread = std::thread::Builder::new().name("wk-log-writer".into()).spawn(move || worker.run())?;
        let owner = Owner { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) };
        Ok(Self { shared, owner: Arc::new(owner) })
    }

    /// Queue an item, or give it back when the queue is full.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn try_submit(&self, item: LogItem) -> Result<(), SubmitError> {
        let result = self.shared.push(item, None);
        if matches!(result, Err(SubmitError::Full(_))) {
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Queue an item, waiting for room.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the item was not queued and its callback never runs.
    pub async fn submit(&self, item: LogItem) -> Result<(), SubmitError> {
        let mut item = Some(item);
        poll_fn(move |context| {
            let Some(next) = item.take() else {
                return Poll::Ready(Err(SubmitError::Stopped));
            };
            match self.shared.push(next, Some(context.waker())) {
                Err(SubmitError::Full(back)) => {
                    item = Some(*back);
                    Poll::Pending
                }
                done => Poll::Ready(done),
            }
        })
        .await
    }

    /// Write what is queued, then end the thread. Later submissions are refused. Blocks for the last sync.
    pub fn stop(&self) {
        self.owner.stop();
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> WriterStats {
        let (queue_items, queue_bytes) = {
            let queue = self.shared.queue.lock();
            (queue.items.len() as u64, queue.bytes as u64)
        };
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriterStats {
            syncs: get(&counters.syncs),
            items: get(&counters.items),
            bytes: get(&counters.bytes),
            sync_micros: get(&counters.sync_micros),
            sync_micros_max: get(&counters.sync_micros_max),
            refused: get(&counters.refused),
            queue_items,
            queue_bytes,
            realtime: get(&counters.realtime) != 0,
        }
    }
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("stats", &self.stats()).finish()
    }
}

impl Shared {
    fn push(&self, item: LogItem, waker: Option<&Waker>) -> Result<(), SubmitError> {
        let bytes = item.write.bytes();
        let mut queue = self.queue.lock();
        if queue.closing || queue.failed {
            return Err(SubmitError::Stopped);
        }
        let full = queue.items.len() >= self.items_max || queue.bytes + bytes > self.bytes_max;
        if full && !queue.items.is_empty() {
            if let Some(waker) = waker {
                queue.waiting.push(waker.clone());
            }
            return Err(SubmitError::Full(Box::new(item)));
        }
        let notify = match item.write.durability {
            Durability::Synced => {
                queue.synced += 1;
                queue.synced == 1
            }
            Durability::Lazy if queue.lazy_due.is_none() => {
                queue.lazy_due = Some(Instant::now() + self.lazy_max);
                true
            }
            Durability::Lazy => false,
        };
        queue.bytes += bytes;
        queue.items.push_back((item, bytes));
        // A queue full of lazy items must not wait for the timer.
        let notify = notify || queue.items.len() >= self.items_max || queue.bytes >= self.bytes_max;
        drop(queue);
        if notify {
            self.work.notify_one();
        }
        Ok(())
    }
}

struct Worker {
    shared: Arc<Shared>,
    backend: Arc<dyn LogBackend>,
    items_max: usize,
    bytes_max: usize,
    fatal: Option<FatalHandler>,
}

impl Worker {
    fn run(mut self) {
        self.shared.counters.realtime.store(u64::from(raise_priority()), Ordering::Relaxed);
        while let Some(items) = self.take() {
            if let Err((error, items)) = self.write(items) {
                self.fail(&error, items);
                return;
            }
        }
    }

    /// Wait for work; the next batch, or nothing when the writer shall end.
    fn take(&self) -> Option<Vec<LogItem>> {
        let mut queue = self.shared.queue.lock();
        loop {
            let full = queue.items.len() >= self.shared.items_max || queue.bytes >= self.shared.bytes_max;
            let due = queue.lazy_due.is_some_and(|due| due <= Instant::now());
            if queue.synced > 0 || (full || due || queue.closing || !queue.waiting.is_empty()) && !queue.items.is_empty() {
                break;
            }
            if queue.closing {
                return None;
            }
            match queue.lazy_due {
                Some(due) => {
                    self.shared.work.wait_until(&mut queue, due);
                }
                None => self.shared.work.wait(&mut queue),
            }
        }
        let mut items = Vec::with_capacity(queue.items.len().min(self.items_max));
        let mut bytes = 0;
        while let Some((_, next)) = queue.items.front()
            && items.len() < self.items_max
            && (items.is_empty() || bytes + next <= self.bytes_max)
        {
            let Some((item, size)) = queue.items.pop_front() else { break };
            bytes += size;
            queue.bytes -= size;
            if item.write.durability == Durability::Synced {
                queue.synced -= 1;
            }
            items.push(item);
        }
        if queue.items.is_empty() {
            queue.lazy_due = None;
        }
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
        Some(items)
    }

    /// One batch. On failure the items come back: their callbacks must not run before the fatal handler.
    fn write(&self, items: Vec<LogItem>) -> Result<(), (StoreError, Vec<LogItem>)> {
        let synced = items.iter().any(|item| item.write.durability == Durability::Synced);
        let durability = if synced { Durability::Synced } else { Durability::Lazy };
        let writes: Vec<&LogWrite> = items.iter().map(|item| &item.write).collect();
        let bytes: usize = writes.iter().map(|write| write.bytes()).sum();
        let start = Instant::now();
        if let Err(error) = self.backend.write(&writes, durability) {
            return Err((error, items));
        }
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let counters = &self.shared.counters;
        if synced {
            counters.syncs.fetch_add(1, Ordering::Relaxed);
            counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
            counters.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
        }
        counters.items.fetch_add(items.len() as u64, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        for done in items.into_iter().filter_map(|item| item.done) {
            done(Ok(()));
        }
        Ok(())
    }

    /// Refuse everything from now on, call the fatal handler, and only if it returns (in tests) tell the callers.
    fn fail(&mut self, error: &StoreError, failed: Vec<LogItem>) {
        let (queued, waiting) = {
            let mut queue = self.shared.queue.lock();
            queue.failed = true;
            queue.bytes = 0;
            queue.synced = 0;
            (std::mem::take(&mut queue.items), std::mem::take(&mut queue.waiting))
        };
        if let Some(fatal) = self.fatal.take() {
            fatal(error);
        }
        waiting.into_iter().for_each(Waker::wake);
        let queued = queued.into_iter().map(|(item, _)| item);
        for done in failed.into_iter().chain(queued).filter_map(|item| item.done) {
            done(Err(StoreError::Stopped));
        }
    }
}

/// Ask for SCHED_RR priority 1, so that a busy core does not delay the sync every waiting client depends on. Needs
/// CAP_SYS_NICE or an rtprio limit; without it the thread runs as it is.
fn raise_priority() -> bool {
    let Ok(value) = ThreadPriorityValue::try_from(1) else {
        return false;
    };
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Crossplatform(value),
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin),
    )
    .is_ok()
}
