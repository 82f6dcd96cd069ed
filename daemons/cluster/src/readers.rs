//! Threads for reads that may touch many rows, so that they never hold up consensus on the runtime thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::error::Refusal;
use crate::limits::READER_QUEUE_MAX;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when there is a job or the end.
    work: Condvar,
}

/// Handle to the reader threads. They end, after the jobs that wait, with the last handle.
#[derive(Clone)]
pub struct Readers {
    shared: Arc<Shared>,
    _threads: Arc<Threads>,
}

struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_all();
        for handle in self.handles.drain(..) {
            if handle.thread().id() != std::thread::current().id() && handle.join().is_err() {
                tracing::error!("reader thread panicked");
            }
        }
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("waiting", &self.shared.queue.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl Readers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The kernel refused a thread.
    pub fn start(count: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut threads = Threads { shared: Arc::clone(&shared), handles: Vec::with_capacity(count) };
        for n in 0..count {
            let own = Arc::clone(&shared);
            threads.handles.push(std::thread::Builder::new().name(format!("wk-reader-{n}")).spawn(move || own.run())?);
        }
        Ok(Self { shared, _threads: Arc::new(threads) })
    }

    /// Queues a job.
    ///
    /// # Errors
    /// The queue is full: nothing was queued.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let mut queue = self.shared.queue.lock();
        if queue.jobs.len() >= READER_QUEUE_MAX || queue.closing {
            return Err(Refusal::overloaded("too many reads wait"));
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Runs a read and waits for its result.
    ///
    /// # Errors
    /// The queue is full, or the read's own refusal.
    ///
    /// # Cancel safety
    /// Safe; the read may still run.
    pub async fn read<T: Send + 'static>(&self, read: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
        let (done, result) = oneshot::channel();
        self.submit(move || {
            // The asker may be gone.
            drop(done.send(read()));
        })?;
        result.await.unwrap_or_else(|_| Err(Refusal::not_ready("reader ended")))
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut queue = self.queue.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closing {
                    return;
                }
                self.work.wait(&mut queue);
            };
            drop(queue);
            job();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_reads_and_refuses_over_the_bound() {
        let readers = Readers::start(1).unwrap();
        assert_eq!(readers.read(|| Ok(7)).await, Ok(7));
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock();
        let blocked = Arc::clone(&gate);
        readers.submit(move || drop(blocked.lock())).unwrap();
        let mut refused = false;
        for _ in 0..=READER_QUEUE_MAX {
            refused |= readers.submit(|| {}).is_err();
        }
        assert!(refused);
        drop(held);
        while readers.read(|| Ok(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}
