//! What the sources, the sink and the driver of a storm share: the clock, the phase, the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::plan::Plan;
use crate::record::{Answer, Got, Notified, Sent, Source};

/// What the sources do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Send and receive.
    Send,
    /// Receive, and wait for the answers that are open.
    Drain,
    /// End.
    Stop,
}

/// Shared by all tasks of one storm.
#[derive(Debug)]
pub(crate) struct Field {
    pub plan: Plan,
    began: Instant,
    phase: AtomicU8,
    /// By source number; written by the source's own task, read by the driver.
    sources: Vec<Mutex<Source>>,
    sink: Mutex<Vec<Notified>>,
    /// When the youngest acknowledged message of each source was sent. Unit: µs of the run, 0: none yet.
    fresh: Vec<AtomicU64>,
    /// Number of answers so far: wakes who waits for progress.
    answers: watch::Sender<u64>,
}

impl Field {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let count = plan.sources();
        Arc::new(Self {
            plan,
            began: Instant::now(),
            phase: AtomicU8::new(Phase::Send as u8),
            sources: (0..count).map(|_| Mutex::default()).collect(),
            sink: Mutex::default(),
            fresh: (0..count).map(|_| AtomicU64::new(0)).collect(),
            answers: watch::Sender::new(0),
        })
    }

    /// µs since the run began.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Send,
            1 => Phase::Drain,
            _ => Phase::Stop,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Notes that a source is about to send; returns the message's number.
    pub(crate) fn sending(&self, source: usize, channel: usize) -> u32 {
        let at_us = self.now_us();
        let mut record = self.sources[source].lock();
        record.sent.push(Sent { channel, at_us, answers: Vec::new() });
        u32::try_from(record.sent.len() - 1).unwrap_or(u32::MAX)
    }

    /// Notes an answer to a message (`None`: it answers nothing that was sent).
    pub(crate) fn answered(&self, source: usize, number: Option<u32>, reason: u8, id: i64, seq: u64) {
        let at_us = self.now_us();
        let mut record = self.sources[source].lock();
        let sent = number.and_then(|n| record.sent.get_mut(usize::try_from(n).ok()?));
        let Some(sent) = sent else {
            record.strange_answers += 1;
            return;
        };
        let answer = Answer { reason, id, seq, at_us };
        sent.answers.push(answer);
        if answer.success() {
            self.fresh[source].fetch_max(sent.at_us, Ordering::Relaxed);
        }
        drop(record);
        self.answers.send_modify(|n| *n += 1);
    }

    pub(crate) fn got(&self, source: usize, got: Got) {
        self.sources[source].lock().got.push(got);
    }

    pub(crate) fn ended(&self, source: usize, why: String) {
        self.sources[source].lock().ended = Some(why);
    }

    pub(crate) fn notified(&self, notified: impl IntoIterator<Item = Notified>) {
        self.sink.lock().extend(notified);
    }

    /// A copy of all records.
    pub(crate) fn records(&self) -> (Vec<Source>, Vec<Notified>) {
        (self.sources.iter().map(|s| s.lock().clone()).collect(), self.sink.lock().clone())
    }

    /// Number of records of any kind: grows while anything moves.
    pub(crate) fn volume(&self) -> u64 {
        let sources: u64 = self.sources.iter().map(|s| s.lock().got.len() as u64).sum();
        sources + self.sink.lock().len() as u64 + *self.answers.borrow()
    }

    /// Waits until every source that still sends has an acknowledgement for something it sent after `since_us`.
    ///
    /// # Errors
    /// Names the sources that have none within `limit`.
    pub(crate) async fn flowing(&self, since_us: u64, limit: Duration) -> Result<(), Vec<usize>> {
        let behind = || -> Vec<usize> {
            (0..self.fresh.len())
                .filter(|&s| !self.plan.conns.get(s).is_some_and(|c| c.stuck))
                .filter(|&s| self.fresh[s].load(Ordering::Relaxed) <= since_us && self.sources[s].lock().ended.is_none())
                .collect()
        };
        self.progress(limit, || behind().is_empty()).await.then_some(()).ok_or_else(behind)
    }

    /// Waits until every send is answered, or its source has ended; false when some are still open after `limit`.
    pub(crate) async fn all_answered(&self, limit: Duration) -> bool {
        let open = |s: &Mutex<Source>| {
            let record = s.lock();
            record.ended.is_none() && record.sent.iter().rev().take(64).any(|m| m.answers.is_empty())
        };
        self.progress(limit, || !self.sources.iter().any(open)).await
    }

    /// Waits, with each answer that comes, for a condition.
    async fn progress(&self, limit: Duration, ready: impl Fn() -> bool) -> bool {
        let mut answers = self.answers.subscribe();
        let wait = async {
            while !ready() {
                answers.borrow_and_update();
                // Also without answers: a source may end.
                drop(tokio::time::timeout(Duration::from_millis(100), answers.changed()).await);
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}
