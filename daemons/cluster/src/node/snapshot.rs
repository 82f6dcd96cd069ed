//! Whole state of a slot or channel group as bytes, for a node that is too far behind for the log.
//!
//! The rows of the shard's slots in key order plus the group's own rows. The delta form of `design/cluster.md` §3.3 replaces it for
//! channel groups when several nodes run; both nodes of a transfer run the same program until then.

use bytes::{BufMut, Bytes, BytesMut};
use wk_link::codec::{DecodeError, Reader, put_blob};
use wk_raft::MachineError;
use wk_store::keys::{self, SysKind};
use wk_store::{Batch, Cf, DataDb, Direction, StoreError};
use wk_types::BUCKETS;

use crate::channel::machine::GroupPlace;

const VERSION: u8 = 1;

/// Which rows belong to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those of a slot group.
    Metadata,
    /// Those of a channel group.
    Messages,
}

impl Rows {
    fn families(self) -> &'static [Cf] {
        match self {
            Self::Metadata => &[Cf::Meta],
            Self::Messages => &[Cf::Chan, Cf::Msg, Cf::Idx],
        }
    }
}

/// Every key range of the group: family, from, to.
fn ranges(place: GroupPlace, rows: Rows) -> Vec<(Cf, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for slot in (place.shard..BUCKETS).step_by(usize::from(place.shards)) {
        let prefix = slot.to_be_bytes();
        all.extend(rows.families().iter().map(|cf| (*cf, prefix.to_vec(), keys::prefix_end(&prefix))));
    }
    if rows == Rows::Messages {
        all.push((Cf::Jrnl, keys::jrnl(place.group, 0).to_vec(), keys::jrnl(place.group, u64::MAX).to_vec()));
    }
    for kind in [SysKind::Allocator, SysKind::Cursors] {
        let key = keys::sys(kind, place.group);
        all.push((Cf::Sys, key.to_vec(), keys::prefix_end(&key)));
    }
    all
}

/// Writes the state of a group into bytes.
///
/// # Errors
/// A read failed.
pub fn export(db: &DataDb, place: GroupPlace, rows: Rows) -> Result<Bytes, MachineError> {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    for (cf, from, to) in ranges(place, rows) {
        let visited = db.visit(cf, &from, &to, Direction::Forward, |key, value| {
            out.put_u8(number(cf));
            put_blob(&mut out, key);
            put_blob(&mut out, value);
            true
        });
        visited.map_err(|error| MachineError::new("read rows for a snapshot", error))?;
    }
    Ok(out.freeze())
}

/// Replaces the state of a group.
///
/// # Errors
/// The bytes are not a snapshot of ours, or the write failed.
pub fn install(db: &DataDb, place: GroupPlace, rows: Rows, snapshot: &[u8], record: &[u8]) -> Result<(), MachineError> {
    let mut batch = Batch::new();
    let own = ranges(place, rows);
    for (cf, from, to) in &own {
        batch.delete_range(*cf, from, to);
    }
    let foreign = |error: DecodeError| MachineError::new("read a snapshot", error);
    let mut r = Reader::new(snapshot);
    if r.u8("version").map_err(foreign)? != VERSION {
        return Err(foreign(DecodeError::Range("version")));
    }
    while !r.is_empty() {
        let cf = r.u8("family").map_err(foreign)?;
        let (key, value) = (r.blob("key").map_err(foreign)?, r.blob("value").map_err(foreign)?);
        let fits = |(family, from, to): &&(Cf, Vec<u8>, Vec<u8>)| number(*family) == cf && from.as_slice() <= key && key < to.as_slice();
        let Some((family, ..)) = own.iter().find(fits) else { return Err(foreign(DecodeError::Range("key"))) };
        batch.put(*family, key, value);
    }
    batch.put(Cf::Sys, keys::sys(SysKind::Applied, place.group), record);
    db.write(&batch).map_err(|error: StoreError| MachineError::new("write a snapshot", error))
}

/// Number of a family inside a snapshot.
fn number(cf: Cf) -> u8 {
    match cf {
        Cf::Sys => 0,
        Cf::Chan => 1,
        Cf::Msg => 2,
        Cf::Idx => 3,
        Cf::Jrnl => 4,
        Cf::Meta => 5,
    }
}
