//! A state machine for tests: one row per command, in the data database.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use wk_raft::{ApplyContext, Entry, GroupId, Groups, MachineError, Network, NoNetwork, RaftOptions, StateMachine};
use wk_store::keys::{self, SysKind};
use wk_store::{Batch, Cf, DataDb, Direction, LogWriter, Options, RaftDb, WriterOptions};
use wk_types::NodeId;

pub(crate) struct Rows {
    pub(crate) db: DataDb,
    pub(crate) group: GroupId,
}

impl Rows {
    pub(crate) fn boxed(db: &DataDb, group: GroupId) -> Box<dyn StateMachine> {
        Box::new(Self { db: db.clone(), group })
    }
}

fn failed(what: &'static str) -> impl Fn(wk_store::StoreError) -> MachineError {
    move |error| MachineError::new(what, error)
}

impl StateMachine for Rows {
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError> {
        self.db.get(Cf::Sys, keys::sys(SysKind::Applied, self.group)).map_err(failed("read applied record"))
    }

    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError> {
        let mut batch = Batch::new();
        for entry in &entries {
            batch.put(Cf::Jrnl, keys::jrnl(self.group, entry.index), &entry.command);
        }
        batch.put(Cf::Sys, keys::sys(SysKind::Applied, self.group), &context.record);
        self.db.write(&batch).map_err(failed("write rows"))?;
        Ok(entries.into_iter().map(|entry| entry.command).collect())
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineError> {
        let mut out = BytesMut::new();
        for (key, value) in rows(&self.db, self.group) {
            out.put_u32(u32::try_from(value.len()).unwrap());
            out.put_slice(&key);
            out.put_slice(&value);
        }
        Ok(out.freeze())
    }

    fn install(&mut self, context: &ApplyContext, mut snapshot: Bytes) -> Result<(), MachineError> {
        let mut batch = Batch::new();
        batch.delete_range(Cf::Jrnl, keys::jrnl(self.group, 0), keys::jrnl(self.group, u64::MAX));
        while !snapshot.is_empty() {
            let length = u32::from_be_bytes(snapshot.split_to(4).as_ref().try_into().unwrap());
            let key = snapshot.split_to(12);
            batch.put(Cf::Jrnl, key, snapshot.split_to(usize::try_from(length).unwrap()));
        }
        batch.put(Cf::Sys, keys::sys(SysKind::Applied, self.group), &context.record);
        self.db.write(&batch).map_err(failed("write snapshot"))?;
        self.db.flush().map_err(failed("flush snapshot"))
    }
}

pub(crate) fn rows(db: &DataDb, group: GroupId) -> Vec<(Bytes, Bytes)> {
    db.range(Cf::Jrnl, keys::jrnl(group, 0), keys::jrnl(group, u64::MAX), Direction::Forward, usize::MAX).unwrap()
}

pub(crate) fn commands(db: &DataDb, group: GroupId) -> Vec<Bytes> {
    rows(db, group).into_iter().map(|(_, value)| value).collect()
}

/// Both databases and the groups of one node.
pub(crate) struct Node {
    pub(crate) data: DataDb,
    pub(crate) writer: LogWriter,
    pub(crate) groups: Groups,
}

impl Node {
    pub(crate) fn open(path: &std::path::Path, node: u16, network: Arc<dyn Network>, options: &RaftOptions) -> Self {
        let stores = Options::new(8 << 20);
        let data = DataDb::open(&path.join("data"), &stores).unwrap();
        let log = Arc::new(RaftDb::open(&path.join("raft"), &stores).unwrap());
        let writer = LogWriter::start(log.clone(), WriterOptions::default()).unwrap();
        let groups = Groups::new(NodeId(node), log, writer.clone(), network, options).unwrap();
        Self { data, writer, groups }
    }

    pub(crate) fn alone(path: &std::path::Path) -> Self {
        let options = RaftOptions { purge_step_entries: 64, ..RaftOptions::default() };
        Self::open(path, 1, Arc::new(NoNetwork), &options)
    }

    pub(crate) async fn flush(&self) {
        self.groups.flush_and_purge(|| async { self.data.flush() }).await.unwrap();
    }

    pub(crate) async fn close(self) {
        self.groups.shutdown().await;
        self.writer.stop();
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
