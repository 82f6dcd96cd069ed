//! Bounds of the cluster daemon. Storage has its own in `wk_store::limits`, consensus in `wk_raft::RaftOptions`.

use std::time::Duration;

use wk_types::BUCKETS;
use wk_types::limits::{ID_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Shards of a cluster at most: one slot each.
pub const SHARDS_MAX: u16 = BUCKETS;
/// Bytes of an internal channel id: two uids, the separator and the command suffix.
pub const CHANNEL_ID_BYTES_MAX: usize = 2 * ID_BYTES_MAX + 8;
/// Bytes of one encoded message: payload, four texts and the fixed fields.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 4 * (ID_BYTES_MAX + 2) + 64;
/// Largest sequence of a channel: the client protocol carries 32 bits. A message that would pass it is refused.
pub const MESSAGE_SEQ_MAX: u64 = u32::MAX as u64;

/// Bytes of one entry of a channel group. One channel's batch is never split.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Bytes at which an entry is closed while more waits. Source: `design/cluster.md` §8.3.
pub const ENTRY_BYTES_CLOSE: usize = 512 << 10;
/// Messages at which an entry is closed while more waits: bounds the time one apply takes. Source: `design/cluster.md` §8.3.
pub const ENTRY_MESSAGES_CLOSE: usize = 256;
/// Entries of one channel group under way. The sync of the first is the collection window of the next.
pub const ENTRIES_IN_FLIGHT: usize = 4;
/// Messages that may wait for one channel group; then OVERLOADED. Source: `design/cluster.md` §8.3.
pub const QUEUE_MESSAGES_MAX: usize = 4_096;
/// Bytes that may wait for one channel group; then OVERLOADED. Source: `design/cluster.md` §8.3.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;

/// Commands in one metadata request.
pub const COMMANDS_MAX: usize = 1_024;
/// Members in all list changes of one metadata request.
pub const MEMBERS_MAX: usize = 10_000;
/// Bytes of one metadata row's value.
pub const ROW_BYTES_MAX: usize = 64 << 10;
/// Longest lock name and lock owner. Unit: bytes.
pub const LOCK_TEXT_BYTES_MAX: usize = 128;
/// Shortest and longest life of a lock. Unit: ms.
pub const LOCK_TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;

/// Requests of one stream that are not answered yet; then the stream is not read on.
pub const REQUESTS_IN_FLIGHT: usize = 4_096;
/// Queries in one lookup.
pub const QUERIES_MAX: usize = 4_096;
/// Queries up to which a lookup runs on the runtime thread; larger ones go to the readers.
pub const QUERIES_INLINE: usize = 32;
/// Rows of one read or scan.
pub const ROWS_MAX: u32 = 10_000;
/// Messages with one client number and different payloads that a question by message id looks at; an append finds its message among any number.
pub const SAME_NUMBER_MAX: usize = 64;
/// Entries of one journal answer.
pub const JOURNAL_ENTRIES_MAX: u32 = 1_000;
/// Bytes of records in one answer; the answer ends early, the caller asks again. Below the largest gRPC message.
pub const ANSWER_BYTES_MAX: usize = 6 << 20;
/// Longest wait of a long poll. Unit: ms.
pub const JOURNAL_WAIT_MS_MAX: u64 = 60_000;
/// Cursors of one save request.
pub const CURSORS_MAX: usize = 4_096;
/// Cursors one channel group keeps; more are refused.
pub const CURSORS_PER_GROUP_MAX: usize = 8_192;
/// Longest name of a consumer. Unit: bytes.
pub const CONSUMER_BYTES_MAX: usize = 64;
/// Journal indices that must lie below the smallest cursor before they are cut: each cut is one range tombstone.
pub const JOURNAL_CUT_STEP: u64 = 256;

/// Ids of one request.
pub const IDS_MAX: u32 = 1 << 20;
/// Threads for reads that may touch many rows.
pub const READERS: usize = 2;
/// Reads that may wait for a reader; then OVERLOADED.
pub const READER_QUEUE_MAX: usize = 4_096;
/// Groups opened at the same time at start. Source: `design/cluster.md` §8.6.
pub const OPEN_AT_ONCE: usize = 64;
/// How long a group may take to elect its leader at start.
pub const LEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How often free space and the counters of the databases are read.
pub const STATS_EVERY: Duration = Duration::from_secs(1);

const _: () = assert!(MESSAGE_BYTES_MAX + CHANNEL_ID_BYTES_MAX + 64 < ENTRY_BYTES_MAX, "one message must fit one entry");
const _: () = assert!(ENTRY_BYTES_CLOSE <= ENTRY_BYTES_MAX, "an entry is closed before it is full");
const _: () = assert!(ENTRY_BYTES_MAX <= QUEUE_BYTES_MAX, "a full entry must fit the queue");
const _: () = assert!(ANSWER_BYTES_MAX + MESSAGE_BYTES_MAX < wk_rpc::limits::MESSAGE_BYTES_MAX, "an answer must fit one gRPC message");
