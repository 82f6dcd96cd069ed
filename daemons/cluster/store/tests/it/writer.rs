use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use wk_store::{
    Durability, GroupId, LogBackend, LogBounds, LogItem, LogWrite, LogWriter, MemoryLog, MetaTag, StoreError, SubmitError, WriterOptions,
};

const DEADLINE: Duration = Duration::from_secs(10);

fn item(index: u64, durability: Durability, done: Option<mpsc::SyncSender<u64>>) -> LogItem {
    let mut write = LogWrite::new(GroupId(1), durability);
    write.entries.push((index, Bytes::from_static(b"0123456789")));
    let done = done.map(|done| {
        Box::new(move |result: Result<(), StoreError>| {
            if result.is_ok() {
                done.send(index).ok();
            }
        }) as wk_store::LogDone
    });
    LogItem { write, done }
}

/// A log whose writes wait for a permission.
#[derive(Debug)]
struct Gate {
    log: MemoryLog,
    open: Mutex<mpsc::Receiver<()>>,
    batches: Mutex<Vec<usize>>,
}

impl LogBackend for Gate {
    fn write(&self, writes: &[&LogWrite], durability: Durability) -> Result<(), StoreError> {
        // A closed gate opens for good.
        self.open.lock().recv().ok();
        self.batches.lock().push(writes.len());
        self.log.write(writes, durability)
    }

    fn entries(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.log.entries(group, from, to, bytes_max)
    }

    fn bounds(&self, group: GroupId, from: u64) -> Result<Option<LogBounds>, StoreError> {
        self.log.bounds(group, from)
    }

    fn meta(&self, group: GroupId, tag: MetaTag) -> Result<Option<Bytes>, StoreError> {
        self.log.meta(group, tag)
    }
}

fn gate() -> (Arc<Gate>, mpsc::SyncSender<()>) {
    let (permit, open) = mpsc::sync_channel(1024);
    (Arc::new(Gate { log: MemoryLog::default(), open: Mutex::new(open), batches: Mutex::default() }), permit)
}

#[test]
fn one_sync_takes_everything_queued_in_order() {
    let (gate, permit) = gate();
    let writer = LogWriter::start(gate.clone(), WriterOptions::default()).unwrap();
    let (done, seen) = mpsc::sync_channel(1024);
    for index in 0..100 {
        writer.try_submit(item(index, Durability::Synced, Some(done.clone()))).unwrap();
    }
    drop(permit);
    let order: Vec<u64> = (0..100).map(|_| seen.recv_timeout(DEADLINE).unwrap()).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
    let batches = gate.batches.lock().clone();
    assert!(batches.len() <= 2, "the first item alone at most, then the rest: {batches:?}");
    assert_eq!(writer.stats().items, 100);
}

#[test]
fn full_queue_refuses_and_waiting_callers_get_in() {
    let (gate, permit) = gate();
    let options = WriterOptions { queue_items_max: 2, batch_items_max: 2, ..WriterOptions::default() };
    let writer = LogWriter::start(gate, options).unwrap();
    let (done, seen) = mpsc::sync_channel(1024);
    // At most one batch of two is in the writer's hands and two wait: the fifth item never fits.
    let refused =
        (0..5).filter(|index| matches!(writer.try_submit(item(*index, Durability::Synced, Some(done.clone()))), Err(SubmitError::Full(_))));
    assert!(refused.count() >= 1);
    assert!(writer.stats().refused >= 1);
    let waiting = writer.clone();
    let late = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(waiting.submit(item(99, Durability::Synced, Some(done)))).unwrap();
    });
    drop(permit);
    late.join().unwrap();
    assert!(seen.iter().any(|index| index == 99), "the waiting item was written");
}

#[test]
fn lazy_items_ride_with_the_next_synced_one() {
    let log = MemoryLog::default();
    let options = WriterOptions { lazy_max: Duration::from_secs(3600), ..WriterOptions::default() };
    let writer = LogWriter::start(Arc::new(log.clone()), options).unwrap();
    let (done, seen) = mpsc::sync_channel(1024);
    writer.try_submit(item(0, Durability::Lazy, Some(done.clone()))).unwrap();
    writer.try_submit(item(1, Durability::Synced, Some(done))).unwrap();
    assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), 0);
    assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), 1);
    assert_eq!((log.syncs(), log.unsynced()), (1, 0));
}

#[test]
fn lazy_items_do_not_wait_for_ever() {
    let log = MemoryLog::default();
    let options = WriterOptions { lazy_max: Duration::from_millis(5), ..WriterOptions::default() };
    let writer = LogWriter::start(Arc::new(log.clone()), options).unwrap();
    let (done, seen) = mpsc::sync_channel(1024);
    writer.try_submit(item(0, Durability::Lazy, Some(done))).unwrap();
    assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), 0);
    assert_eq!((log.syncs(), log.unsynced()), (0, 1), "written, not synced");
}

#[test]
fn stop_writes_what_is_queued_and_refuses_the_rest() {
    let log = MemoryLog::default();
    let writer = LogWriter::start(Arc::new(log.clone()), WriterOptions::default()).unwrap();
    for index in 0..10 {
        writer.try_submit(item(index, Durability::Lazy, None)).unwrap();
    }
    writer.stop();
    assert_eq!(log.bounds(GroupId(1), 0).unwrap(), Some(LogBounds { first: 0, last: 9 }));
    assert!(matches!(writer.try_submit(item(10, Durability::Synced, None)), Err(SubmitError::Stopped)));
}
