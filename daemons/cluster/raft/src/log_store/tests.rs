use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use proptest::prelude::*;
use wk_store::{MemoryLog, Options, RaftDb, WriterOptions};

use super::*;
use crate::adapter::{Adapter, Progress};
use crate::machine::{ApplyContext, Entry, MachineError, StateMachine};
use crate::types::Command;

/// Remembers its record in memory; its snapshot is the record.
#[derive(Default)]
struct RecordOnly(Option<Bytes>);

impl StateMachine for RecordOnly {
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError> {
        Ok(self.0.clone())
    }

    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError> {
        self.0 = Some(context.record.clone());
        Ok(entries.iter().map(|_| Bytes::new()).collect())
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    fn install(&mut self, context: &ApplyContext, _snapshot: Bytes) -> Result<(), MachineError> {
        self.0 = Some(context.record.clone());
        Ok(())
    }
}

fn writer(backend: &Arc<dyn LogBackend>) -> LogWriter {
    LogWriter::start(Arc::clone(backend), WriterOptions::default()).unwrap()
}

fn parts(backend: Arc<dyn LogBackend>) -> (GroupLog, Adapter) {
    let writer = writer(&backend);
    let log = GroupLog::open(GroupId(1), backend, writer).unwrap();
    // The suite purges what nobody applied.
    log.set_flushed(u64::MAX);
    let progress = Progress { running: AtomicBool::new(true), ..Progress::default() };
    let adapter = Adapter {
        group: GroupId(1),
        machine: Mutex::new(Box::new(RecordOnly::default())),
        progress: Arc::new(progress),
        log: log.clone(),
        fatal: Arc::new(|_, _| ()),
        trust_applied: true,
    };
    (log, adapter)
}

struct OnDisk;

impl StoreBuilder<Types, GroupLog, Adapter, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, GroupLog, Adapter), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, adapter) = parts(Arc::new(RaftDb::open(dir.path(), &Options::new(1 << 20)).unwrap()));
        Ok((dir, log, adapter))
    }
}

struct InMemory;

impl StoreBuilder<Types, GroupLog, Adapter, ()> for InMemory {
    async fn build(&self) -> Result<((), GroupLog, Adapter), StorageError<Types>> {
        let (log, adapter) = parts(Arc::new(MemoryLog::default()));
        Ok(((), log, adapter))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn openraft_suite_passes_on_rocksdb() {
    block_on(Suite::test_all(OnDisk)).unwrap();
}

#[test]
fn openraft_suite_passes_on_the_memory_twin() {
    block_on(Suite::test_all(InMemory)).unwrap();
}

fn entry(index: u64, byte: u8) -> RawEntry {
    let command = Command(Bytes::from(vec![byte; 8]));
    RawEntry { log_id: codec::log_id(1, index), payload: EntryPayload::Normal(command) }
}

#[test]
fn purge_past_the_flush_is_refused() {
    block_on(async {
        let backend: Arc<dyn LogBackend> = Arc::new(MemoryLog::default());
        let mut log = GroupLog::open(GroupId(1), Arc::clone(&backend), writer(&backend)).unwrap();
        log.blocking_append((0..10).map(|index| entry(index, 0))).await.unwrap();
        assert!(log.purge(codec::log_id(1, 3)).await.is_err(), "nothing is flushed");
        log.set_flushed(5);
        log.purge(codec::log_id(1, 5)).await.unwrap();
        assert!(log.purge(codec::log_id(1, 6)).await.is_err());
        assert_eq!(log.purged(), Some(5));
    });
}

#[test]
fn append_with_a_hole_is_refused() {
    block_on(async {
        let backend: Arc<dyn LogBackend> = Arc::new(MemoryLog::default());
        let mut log = GroupLog::open(GroupId(1), Arc::clone(&backend), writer(&backend)).unwrap();
        log.blocking_append([entry(0, 0)]).await.unwrap();
        assert!(log.blocking_append([entry(2, 0)]).await.is_err());
    });
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Truncate(u8),
    Purge(u8),
    Apply,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u8..200).prop_map(Step::Append),
        2 => (0_u8..40).prop_map(Step::Truncate),
        2 => (0_u8..40).prop_map(Step::Purge),
        1 => Just(Step::Apply),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..24)
}

/// What the log must hold: the entries by index and the purge mark.
#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, u8>,
    purged: Option<u64>,
}

impl Model {
    fn end(&self) -> u64 {
        self.entries.last_key_value().map(|(index, _)| index + 1).or(self.purged.map(|index| index + 1)).unwrap_or(0)
    }

    fn start(&self) -> u64 {
        self.purged.map_or(0, |index| index + 1)
    }
}

async fn run(backend: Arc<dyn LogBackend>, steps: Vec<Step>) {
    let mut writer_now = writer(&backend);
    let mut log = GroupLog::open(GroupId(1), Arc::clone(&backend), writer_now.clone()).unwrap();
    log.set_flushed(u64::MAX);
    let mut model = Model::default();
    for (round, step) in (0_u8..).zip(steps) {
        match step {
            Step::Append(count) => {
                let range = model.end()..model.end() + u64::from(count);
                log.blocking_append(range.clone().map(|index| entry(index, round))).await.unwrap();
                model.entries.extend(range.map(|index| (index, round)));
            }
            Step::Truncate(back) => {
                let end = model.end().saturating_sub(u64::from(back)).max(model.start());
                log.truncate_after(end.checked_sub(1).map(|last| codec::log_id(1, last))).await.unwrap();
                model.entries.split_off(&end);
            }
            Step::Purge(count) => {
                let upto = model.start() + u64::from(count);
                if upto < model.end() {
                    log.purge(codec::log_id(1, upto)).await.unwrap();
                    model.purged = Some(upto);
                    model.entries = model.entries.split_off(&(upto + 1));
                }
            }
            Step::Apply => {
                if let Some(last) = model.end().checked_sub(1) {
                    log.set_applied(last);
                }
            }
            Step::Reopen => {
                writer_now.stop();
                writer_now = writer(&backend);
                log = GroupLog::open(GroupId(1), Arc::clone(&backend), writer_now.clone()).unwrap();
                log.set_flushed(u64::MAX);
            }
        }
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id.map(|id| id.index), model.purged);
        assert_eq!(next_index(state.last_log_id.as_ref()), model.end());
        let found = log.try_get_log_entries(..).await.unwrap();
        let expected: Vec<RawEntry> = model.entries.iter().map(|(index, byte)| entry(*index, *byte)).collect();
        assert_eq!(found, expected);
        let middle = model.start() + (model.end() - model.start()) / 2;
        let part = log.limited_get_log_entries(middle, middle + 3).await.unwrap();
        assert_eq!(part, expected.iter().filter(|e| (middle..middle + 3).contains(&e.log_id.index)).cloned().collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn log_matches_a_model_in_memory(steps in steps()) {
        block_on(run(Arc::new(MemoryLog::default()), steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn log_matches_a_model_on_rocksdb(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        block_on(run(Arc::new(RaftDb::open(dir.path(), &Options::new(1 << 20)).unwrap()), steps));
    }

    /// A crash at any boundary leaves every acknowledged entry and a log without holes.
    #[test]
    fn crash_keeps_acknowledged_entries(counts in proptest::collection::vec(1_u8..20, 1..10), keep in 0_usize..4) {
        block_on(async {
            let memory = MemoryLog::default();
            let backend: Arc<dyn LogBackend> = Arc::new(memory.clone());
            let mut log = GroupLog::open(GroupId(1), Arc::clone(&backend), writer(&backend)).unwrap();
            let mut end = 0;
            for count in counts {
                let next = end + u64::from(count);
                log.blocking_append((end..next).map(|index| entry(index, 1))).await.unwrap();
                end = next;
            }
            log.set_flushed(end - 1);
            log.purge(codec::log_id(1, end / 2)).await.unwrap();
            let crashed: Arc<dyn LogBackend> = Arc::new(memory.crash(keep));
            let mut again = GroupLog::open(GroupId(1), Arc::clone(&crashed), writer(&crashed)).unwrap();
            let state = again.get_log_state().await.unwrap();
            assert_eq!(next_index(state.last_log_id.as_ref()), end);
            let entries = again.try_get_log_entries(..).await.unwrap();
            assert!(entries.windows(2).all(|pair| pair[0].log_id.index + 1 == pair[1].log_id.index));
        });
    }
}
