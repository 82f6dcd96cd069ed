//! The node group's state: what every node of the cluster agrees on.
//!
//! Small and rarely written. Now: cluster id, number of slot groups, feature version, table epoch. Members, tasks and slot moves join it with
//! the work on several nodes.

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::RwLock;
use std::sync::Arc;
use wk_link::codec::{DecodeError, Reader, put_text};
use wk_raft::{ApplyContext, Entry, MachineError, StateMachine};
use wk_store::keys::{SysKind, sys};
use wk_store::{Batch, Cf, DataDb};
use wk_types::BUCKETS;

use super::NODE_GROUP;

const VERSION: u8 = 1;
const KIND_BOOTSTRAP: u8 = 1;

/// Features this program knows; a cluster uses those that all its nodes know.
pub const FEATURE_VERSION: u32 = 1;

/// Layout of a cluster, fixed at bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Cluster id of the identity files.
    pub cluster: Box<str>,
    /// Number of slots: always [`BUCKETS`].
    pub slots: u16,
    /// Number of shards; slot `s` belongs to shard `s % shards`.
    pub shards: u16,
    /// Features in use.
    pub features: u32,
    /// Grows with each change of the slot table.
    pub epoch: u64,
}

impl Layout {
    /// The layout of a new cluster.
    #[must_use]
    pub fn fresh(cluster: &str, shards: u16) -> Self {
        Self { cluster: cluster.into(), slots: BUCKETS, shards, features: FEATURE_VERSION, epoch: 1 }
    }

    /// Shard of a slot.
    #[must_use]
    pub fn shard_of(&self, slot: u16) -> u16 {
        slot % self.shards
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        put_text(out, &self.cluster);
        out.put_u16_le(self.slots);
        out.put_u16_le(self.shards);
        out.put_u32_le(self.features);
        out.put_u64_le(self.epoch);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.u8("version")? != VERSION {
            return Err(DecodeError::Range("version"));
        }
        let layout = Self {
            cluster: r.text("cluster")?.into(),
            slots: r.u16("slots")?,
            shards: r.u16("shards")?,
            features: r.u32("features")?,
            epoch: r.u64("epoch")?,
        };
        let sane = layout.slots == BUCKETS && (1..=BUCKETS).contains(&layout.shards) && r.is_empty();
        if sane { Ok(layout) } else { Err(DecodeError::Range("layout")) }
    }

    /// The command that gives a fresh cluster this layout. A cluster that has one keeps it.
    #[must_use]
    pub fn bootstrap(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u8(KIND_BOOTSTRAP);
        self.put(&mut out);
        out.freeze()
    }
}

/// What the node group has agreed on, as the rest of the daemon sees it.
pub type SharedLayout = Arc<RwLock<Option<Layout>>>;

/// State machine of the node group.
#[derive(Debug)]
pub struct NodeMachine {
    db: DataDb,
    layout: SharedLayout,
}

impl NodeMachine {
    /// A machine over `db` that publishes into `layout`.
    #[must_use]
    pub fn new(db: DataDb, layout: SharedLayout) -> Self {
        Self { db, layout }
    }

    fn one(&self, command: &[u8], batch: &mut Batch) -> Result<bool, MachineError> {
        let mut r = Reader::new(command);
        if r.u8("version").is_ok_and(|version| version != VERSION) {
            return Err(MachineError { what: "command of a newer version: this node must be upgraded", source: None });
        }
        let Ok(KIND_BOOTSTRAP) = r.u8("kind") else { return Ok(false) };
        let mut current = self.layout.write();
        let (None, Ok(layout)) = (current.as_ref(), Layout::read(&mut r)) else { return Ok(false) };
        let mut row = BytesMut::new();
        layout.put(&mut row);
        batch.put(Cf::Sys, sys(SysKind::Identity, NODE_GROUP), &row);
        *current = Some(layout);
        Ok(true)
    }
}

impl StateMachine for NodeMachine {
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError> {
        let failed = |error| MachineError::new("read the state of the node group", error);
        if let Some(row) = self.db.get(Cf::Sys, sys(SysKind::Identity, NODE_GROUP)).map_err(failed)? {
            let layout =
                Layout::read(&mut Reader::new(&row)).map_err(|error| MachineError::new("read the layout of the cluster", error))?;
            *self.layout.write() = Some(layout);
        }
        self.db.get(Cf::Sys, sys(SysKind::Applied, NODE_GROUP)).map_err(failed)
    }

    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError> {
        let mut batch = Batch::new();
        let mut answers = Vec::with_capacity(entries.len());
        for entry in &entries {
            let accepted = self.one(&entry.command, &mut batch)?;
            answers.push(Bytes::from_static(if accepted { b"1" } else { b"0" }));
        }
        batch.put(Cf::Sys, sys(SysKind::Applied, NODE_GROUP), &context.record);
        self.db.write(&batch).map_err(|error| MachineError::new("write the batch of the node group", error))?;
        Ok(answers)
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineError> {
        let mut out = BytesMut::new();
        if let Some(layout) = self.layout.read().as_ref() {
            layout.put(&mut out);
        }
        Ok(out.freeze())
    }

    fn install(&mut self, context: &ApplyContext, snapshot: Bytes) -> Result<(), MachineError> {
        let mut batch = Batch::new();
        batch.put(Cf::Sys, sys(SysKind::Applied, NODE_GROUP), &context.record);
        if !snapshot.is_empty() {
            let layout = Layout::read(&mut Reader::new(&snapshot))
                .map_err(|error| MachineError::new("read the snapshot of the node group", error))?;
            batch.put(Cf::Sys, sys(SysKind::Identity, NODE_GROUP), &snapshot);
            *self.layout.write() = Some(layout);
        }
        self.db.write(&batch).map_err(|error| MachineError::new("write the snapshot of the node group", error))
    }
}
