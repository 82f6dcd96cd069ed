//! Bounds of consensus that are no choice of the operator.

use std::time::Duration;

/// Bytes of durable and applied entries a group keeps in memory for its followers.
pub(crate) const TAIL_KEEP_BYTES: usize = 64 << 10;
/// Entries of the same.
pub(crate) const TAIL_KEEP_ENTRIES: usize = 128;
/// Bytes of the tail above which durable entries leave it although they are not applied yet.
pub(crate) const TAIL_BYTES_MAX: usize = 16 << 20;
/// Bytes one read of the log gives.
pub(crate) const READ_CHUNK_BYTES: usize = 2 << 20;
/// Entries one apply call gets: one batch of rows.
pub(crate) const APPLY_ENTRIES_MAX: usize = 1024;
/// Bytes of commands one apply call gets.
pub(crate) const APPLY_BYTES_MAX: usize = 2 << 20;
/// Room in openraft's message channel above the proposals in flight: votes, appends, management.
pub(crate) const CORE_CHANNEL_SPARE: usize = 4096;
/// Groups that recover at the same time at start. Source: `design/cluster.md` §8.6.
pub(crate) const OPEN_CONCURRENCY: usize = 64;
/// Entries the purge of a stopping process removes at least: below, reading them again costs less than a range tombstone at each stop.
pub(crate) const LAST_PURGE_STEP_ENTRIES: u64 = 64;
/// How long a group may take to show a snapshot position before its purge is left to the next round.
pub(crate) const PURGE_WAIT: Duration = Duration::from_secs(2);
/// How long a lone voter may take to lead after its start.
pub(crate) const LEAD_WAIT: Duration = Duration::from_secs(30);
/// A live follower holds back purging until it lags by more entries than this; then it will need a snapshot.
pub(crate) const FOLLOWER_LAG_ENTRIES_MAX: u64 = 65_536;

const _: () = assert!(TAIL_KEEP_BYTES < TAIL_BYTES_MAX, "the idle tail is part of the whole tail");
