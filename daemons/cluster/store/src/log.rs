//! The log as the writer sees it: opaque entries and meta values of groups, and the backend that keeps them.

use bytes::Bytes;

use crate::error::StoreError;
use crate::keys::GroupId;

/// Meta values of a group. The numbers are on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MetaTag {
    /// Term and candidate this node voted for.
    Vote = 1,
    /// Last known committed log id, written lazily.
    Committed = 2,
    /// Last purged log id.
    Purged = 3,
    /// Group 0 only: message ids of this millisecond and later were not handed out yet (the cluster daemon's id generator).
    IdCeiling = 16,
}

impl MetaTag {
    /// All tags.
    pub const ALL: [Self; 4] = [Self::Vote, Self::Committed, Self::Purged, Self::IdCeiling];
}

/// One change of one group's log. Applied in this order: `remove`, `entries`, `meta`.
#[derive(Debug, Clone)]
pub struct LogWrite {
    /// The group.
    pub group: GroupId,
    /// Indices to remove, end excluded: a truncation `n..u64::MAX` or a purge `0..n`.
    pub remove: Option<std::ops::Range<u64>>,
    /// Entries to write, by index.
    pub entries: Vec<(u64, Bytes)>,
    /// Meta values to write.
    pub meta: Vec<(MetaTag, Bytes)>,
    /// Whether the item must be on the device before its callback runs. An item that needs none is written with the
    /// next one that does, or after [`crate::limits::WRITER_LAZY_MAX`].
    pub durability: Durability,
}

/// How soon a log change must be on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the callback runs.
    Synced,
    /// Later: losing it at a crash is harmless. The callback runs when it is written, not synced.
    Lazy,
}

impl LogWrite {
    /// An empty change of `group`.
    #[must_use]
    pub fn new(group: GroupId, durability: Durability) -> Self {
        Self { group, remove: None, entries: Vec::new(), meta: Vec::new(), durability }
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(|(_, value)| value.len() + 12).sum();
        let meta: usize = self.meta.iter().map(|(_, value)| value.len() + 5).sum();
        entries + meta + if self.remove.is_some() { 24 } else { 0 }
    }
}

/// Runs on the writer thread after a write (and sync) succeeded, or after the writer stopped. Must not block.
pub type LogDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A change on its way to the writer, with what to do when it is done.
pub struct LogItem {
    /// The change.
    pub write: LogWrite,
    /// Hears the outcome.
    pub done: Option<LogDone>,
}

impl std::fmt::Debug for LogItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogItem").field("write", &self.write).finish_non_exhaustive()
    }
}

/// Entries of a group that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Smallest index.
    pub first: u64,
    /// Largest index.
    pub last: u64,
}

/// Keeps the logs of all groups. Implemented by [`crate::RaftDb`] and, for tests, by [`crate::MemoryLog`].
pub trait LogBackend: Send + Sync + std::fmt::Debug + 'static {
    /// Write all changes as one atomic batch; with [`Durability::Synced`] they are on the device on return.
    /// Only the writer thread calls this.
    ///
    /// # Errors
    /// [`StoreError::Write`], [`StoreError::Sync`]: the outcome is unknown and the process must end.
    fn write(&self, writes: &[&LogWrite], durability: Durability) -> Result<(), StoreError>;

    /// Entries with `from <= index < to`, in order, at least one when there is one, then up to `bytes_max`.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn entries(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// Smallest and largest stored index at or above `from`; nothing when there is none. `from` lets the backend skip what was
    /// purged.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn bounds(&self, group: GroupId, from: u64) -> Result<Option<LogBounds>, StoreError>;

    /// A meta value.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    fn meta(&self, group: GroupId, tag: MetaTag) -> Result<Option<Bytes>, StoreError>;
}
