//! Bytes of everything consensus stores or sends: log values, meta values, applied records and peer frames.
//!
//! Big endian, versioned by the first byte of each record. Decoders take bytes from disk and from other nodes: they never panic and
//! answer `None` for anything they do not know. Golden vectors: `testdata/raft/v1`.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::vote::leader_id_std::CommittedLeaderId;

use crate::types::{Command, LogId, Membership, RawEntry, StoredMembership, Vote};

/// Version of all records below.
const VERSION: u8 = 1;
const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// Fixed part of a log value: version, term, kind.
const ENTRY_HEAD: usize = 10;
/// Nodes a membership may name; more is a broken record.
const NODES_MAX: u32 = 65_536;

/// A log id of term and index.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

/// Cursor over foreign bytes.
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let value = *self.0.first_chunk::<N>()?;
        self.0 = self.0.slice(N..);
        Some(value)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn version(&mut self) -> Option<()> {
        (self.u8()? == VERSION).then_some(())
    }

    /// Bytes with their length in front.
    pub(crate) fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.u32()?).ok()?;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }

    pub(crate) fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }

    pub(crate) fn log_id(&mut self) -> Option<Option<LogId>> {
        Some(match self.flag()? {
            false => None,
            true => Some(log_id(self.u64()?, self.u64()?)),
        })
    }

    pub(crate) fn vote(&mut self) -> Option<Vote> {
        let (term, node, committed) = (self.u64()?, self.u64()?, self.flag()?);
        Some(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
    }

    pub(crate) fn membership(&mut self) -> Option<Membership> {
        let count = self.u32()?;
        let mut configs = Vec::new();
        for _ in 0..count {
            configs.push(self.nodes()?);
        }
        let nodes = self.nodes()?;
        Some(Membership::new_with_defaults(configs, nodes))
    }

    fn nodes(&mut self) -> Option<BTreeSet<u64>> {
        let count = self.u32()?;
        if count > NODES_MAX {
            return None;
        }
        (0..count).map(|_| self.u64()).collect()
    }

    pub(crate) fn stored_membership(&mut self) -> Option<StoredMembership> {
        let log_id = self.log_id()?;
        Some(StoredMembership::new(log_id, self.membership()?))
    }

    pub(crate) fn entry(&mut self) -> Option<RawEntry> {
        let index = self.u64()?;
        entry_decode(index, self.bytes()?)
    }
}

/// A buffer that starts with the version.
pub(crate) fn record(capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(capacity + 1);
    out.put_u8(VERSION);
    out
}

pub(crate) fn put_length(out: &mut BytesMut, length: usize) {
    // INVARIANT: nothing here is larger than a frame, far below 4 GiB; a saturated length is refused by every decoder.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

pub(crate) fn put_log_id(out: &mut BytesMut, id: Option<&LogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        out.put_u64(id.leader_id.term);
        out.put_u64(id.index);
    }
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

fn put_nodes(out: &mut BytesMut, nodes: impl ExactSizeIterator<Item = u64>) {
    put_length(out, nodes.len());
    nodes.for_each(|node| out.put_u64(node));
}

pub(crate) fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_length(out, configs.len());
    for config in configs {
        put_nodes(out, config.iter().copied());
    }
    let nodes: Vec<u64> = membership.nodes().map(|(node, ())| *node).collect();
    put_nodes(out, nodes.into_iter());
}

pub(crate) fn put_stored_membership(out: &mut BytesMut, membership: &StoredMembership) {
    put_log_id(out, membership.log_id().as_ref());
    put_membership(out, membership.membership());
}

pub(crate) fn put_entry(out: &mut BytesMut, entry: &RawEntry) {
    out.put_u64(entry.log_id.index);
    let value = entry_encode(entry);
    put_length(out, value.len());
    out.put_slice(&value);
}

/// The log value of an entry. The index is in the key.
pub(crate) fn entry_encode(entry: &RawEntry) -> Bytes {
    let payload = match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank => 0,
        EntryPayload::Membership(_) => 64,
    };
    let mut out = BytesMut::with_capacity(ENTRY_HEAD + payload);
    out.put_u8(VERSION);
    out.put_u64(entry.log_id.leader_id.term);
    match &entry.payload {
        EntryPayload::Blank => out.put_u8(KIND_BLANK),
        EntryPayload::Normal(command) => {
            out.put_u8(KIND_COMMAND);
            out.put_slice(&command.0);
        }
        EntryPayload::Membership(membership) => {
            out.put_u8(KIND_MEMBERSHIP);
            put_membership(&mut out, membership);
        }
    }
    out.freeze()
}

/// The entry of a log value.
pub(crate) fn entry_decode(index: u64, value: Bytes) -> Option<RawEntry> {
    let mut reader = Reader::new(value);
    reader.version()?;
    let log_id = log_id(reader.u64()?, index);
    let payload = match reader.u8()? {
        KIND_BLANK => reader.end(EntryPayload::Blank)?,
        KIND_COMMAND => EntryPayload::Normal(Command(reader.rest())),
        KIND_MEMBERSHIP => {
            let membership = reader.membership()?;
            reader.end(EntryPayload::Membership(membership))?
        }
        _ => return None,
    };
    Some(RawEntry { log_id, payload })
}

/// Meta value of a vote.
pub(crate) fn vote_encode(vote: &Vote) -> Bytes {
    let mut out = record(17);
    put_vote(&mut out, vote);
    out.freeze()
}

/// The vote of a meta value.
pub(crate) fn vote_decode(value: Bytes) -> Option<Vote> {
    let mut reader = Reader::new(value);
    reader.version()?;
    let vote = reader.vote()?;
    reader.end(vote)
}

/// Meta value of a log id: committed, purged.
pub(crate) fn log_id_encode(id: &LogId) -> Bytes {
    let mut out = record(17);
    put_log_id(&mut out, Some(id));
    out.freeze()
}

/// The log id of a meta value.
pub(crate) fn log_id_decode(value: Bytes) -> Option<LogId> {
    let mut reader = Reader::new(value);
    reader.version()?;
    let id = reader.log_id()??;
    reader.end(id)
}

/// The applied record a machine stores: last applied log id and membership.
pub(crate) fn applied_encode(applied: Option<&LogId>, membership: &StoredMembership) -> Bytes {
    let mut out = record(96);
    put_log_id(&mut out, applied);
    put_stored_membership(&mut out, membership);
    out.freeze()
}

/// Fields of an applied record.
pub(crate) fn applied_decode(value: Bytes) -> Option<(Option<LogId>, StoredMembership)> {
    let mut reader = Reader::new(value);
    reader.version()?;
    let fields = (reader.log_id()?, reader.stored_membership()?);
    reader.end(fields)
}

#[cfg(test)]
mod tests;
