use std::sync::Arc;

use bytes::Bytes;
use wk_store::{Durability, GroupId, LogBackend, LogBounds, LogWrite, MemoryLog, MetaTag, Options, RaftDb};

fn fill(log: &dyn LogBackend, group: GroupId, range: std::ops::Range<u64>) {
    let mut write = LogWrite::new(group, Durability::Synced);
    write.entries = range.map(|index| (index, Bytes::from(vec![0; 10]))).collect();
    write.meta.push((MetaTag::Vote, Bytes::from_static(b"vote")));
    log.write(&[&write], Durability::Synced).unwrap();
}

fn remove(log: &dyn LogBackend, group: GroupId, range: std::ops::Range<u64>) {
    let mut write = LogWrite::new(group, Durability::Lazy);
    write.remove = Some(range);
    log.write(&[&write], Durability::Lazy).unwrap();
}

fn behaves(log: &dyn LogBackend) {
    let group = GroupId(7);
    fill(log, GroupId(6), 0..3);
    fill(log, group, 0..100);
    fill(log, GroupId(8), 0..3);
    assert_eq!(log.bounds(group, 0).unwrap(), Some(LogBounds { first: 0, last: 99 }));
    assert_eq!(log.entries(group, 10, 20, usize::MAX).unwrap().len(), 10);
    assert_eq!(log.entries(group, 10, 20, 25).unwrap().len(), 2, "cut by bytes");
    assert_eq!(log.entries(group, 10, 20, 1).unwrap().len(), 1, "at least one");
    assert_eq!(log.entries(group, 20, 10, 1).unwrap().len(), 0);
    remove(log, group, 90..u64::MAX);
    remove(log, group, 0..40);
    assert_eq!(log.bounds(group, 40).unwrap(), Some(LogBounds { first: 40, last: 89 }));
    assert_eq!(log.bounds(GroupId(6), 0).unwrap(), Some(LogBounds { first: 0, last: 2 }), "other groups are untouched");
    assert_eq!(log.meta(group, MetaTag::Vote).unwrap().as_deref(), Some(b"vote".as_slice()));
    assert_eq!(log.meta(group, MetaTag::Purged).unwrap(), None);
    assert_eq!(log.bounds(GroupId(9), 0).unwrap(), None);
}

#[test]
fn both_backends_keep_entries_alike() {
    let dir = tempfile::tempdir().unwrap();
    behaves(&MemoryLog::default());
    let db = RaftDb::open(dir.path(), &Options::default()).unwrap();
    behaves(&db);
    assert_eq!(db.groups().unwrap(), [GroupId(6), GroupId(7), GroupId(8)]);
}

#[test]
fn log_survives_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let group = GroupId(1);
    fill(&RaftDb::open(dir.path(), &Options::default()).unwrap(), group, 0..5);
    let db: Arc<dyn LogBackend> = Arc::new(RaftDb::open(dir.path(), &Options::default()).unwrap());
    assert_eq!(db.bounds(group, 0).unwrap(), Some(LogBounds { first: 0, last: 4 }));
}
