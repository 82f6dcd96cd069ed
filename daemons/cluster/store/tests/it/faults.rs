//! Each I/O call of the durable path fails at least once.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use parking_lot::Mutex;
use wk_store::{
    Batch, Cf, DataDb, Direction, Durability, Faults, GroupId, IoPoint, LogBackend, LogItem, LogWrite, LogWriter, MemoryLog, MetaTag,
    Options, RaftDb, StoreError, WriterOptions,
};

/// Fails the next call of one point.
#[derive(Debug, Default)]
pub(crate) struct FailNext(Mutex<Option<IoPoint>>);

impl FailNext {
    pub(crate) fn arm(&self, point: IoPoint) {
        *self.0.lock() = Some(point);
    }
}

impl Faults for FailNext {
    fn check(&self, point: IoPoint) -> io::Result<()> {
        let mut armed = self.0.lock();
        if *armed == Some(point) {
            *armed = None;
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }
}

#[test]
fn data_calls_report_failures_and_recover() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(FailNext::default());
    let db = DataDb::open(dir.path(), &Options::default().with_faults(faults.clone())).unwrap();
    let mut batch = Batch::new();
    batch.put(Cf::Meta, b"k", b"v");
    faults.arm(IoPoint::DataWrite);
    assert!(matches!(db.write(&batch), Err(StoreError::Write(_))));
    assert_eq!(db.get(Cf::Meta, b"k").unwrap(), None, "a failed batch leaves nothing");
    db.write(&batch).unwrap();
    faults.arm(IoPoint::DataFlush);
    assert!(matches!(db.flush(), Err(StoreError::Flush(_))));
    assert!(db.unflushed_bytes() > 0, "a failed flush made nothing durable");
    db.flush().unwrap();
    faults.arm(IoPoint::Read);
    assert!(matches!(db.get(Cf::Meta, b"k"), Err(StoreError::Read(_))));
    faults.arm(IoPoint::Read);
    assert!(matches!(db.multi_get(Cf::Meta, &[b"k"]), Err(StoreError::Read(_))));
    faults.arm(IoPoint::Read);
    assert!(matches!(db.range(Cf::Meta, b"", b"z", Direction::Forward, 1), Err(StoreError::Read(_))));
}

#[test]
fn log_reads_report_failures() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(FailNext::default());
    let db = RaftDb::open(dir.path(), &Options::default().with_faults(faults.clone())).unwrap();
    let group = GroupId(1);
    faults.arm(IoPoint::Read);
    assert!(db.entries(group, 0, 1, 1).is_err());
    faults.arm(IoPoint::Read);
    assert!(db.bounds(group, 0).is_err());
    faults.arm(IoPoint::Read);
    assert!(db.meta(group, MetaTag::Vote).is_err());
}

/// A failed write or sync calls the fatal handler before anybody hears of it, and stops the writer.
fn fails_fatally(backend: Arc<dyn LogBackend>, faults: &FailNext, point: IoPoint) {
    let (events, seen) = mpsc::sync_channel(1024);
    let fatal_events = events.clone();
    let options = WriterOptions { fatal: Box::new(move |_| assert!(fatal_events.send("fatal").is_ok())), ..WriterOptions::default() };
    let writer = LogWriter::start(backend, options).unwrap();
    faults.arm(point);
    let mut write = LogWrite::new(GroupId(1), Durability::Synced);
    write.entries.push((0, Bytes::from_static(b"x")));
    let done = Box::new(move |result: Result<(), StoreError>| assert!(events.send(if result.is_ok() { "ok" } else { "failed" }).is_ok()));
    writer.try_submit(LogItem { write: write.clone(), done: Some(done) }).unwrap();
    assert_eq!(seen.recv().unwrap(), "fatal");
    assert_eq!(seen.recv().unwrap(), "failed");
    assert!(writer.try_submit(LogItem { write, done: None }).is_err(), "nothing is written after a failure");
}

#[test]
fn failed_log_write_or_sync_is_fatal() {
    for point in [IoPoint::LogWrite, IoPoint::LogSync] {
        let faults = Arc::new(FailNext::default());
        fails_fatally(Arc::new(MemoryLog::new(faults.clone())), &faults, point);
        let dir = tempfile::tempdir().unwrap();
        let db = RaftDb::open(dir.path(), &Options::default().with_faults(faults.clone())).unwrap();
        fails_fatally(Arc::new(db), &faults, point);
    }
}

#[test]
fn crash_keeps_a_prefix_of_what_was_not_synced() {
    let log = MemoryLog::default();
    let group = GroupId(4);
    let write = |index: u64, durability| {
        let mut write = LogWrite::new(group, durability);
        write.entries.push((index, Bytes::from_static(b"x")));
        log.write(&[&write], durability).unwrap();
    };
    write(0, Durability::Synced);
    write(1, Durability::Lazy);
    write(2, Durability::Lazy);
    assert_eq!(log.unsynced(), 2);
    let last = |keep| log.crash(keep).bounds(group, 0).unwrap().unwrap().last;
    assert_eq!([last(0), last(1), last(2)], [0, 1, 2]);
}
