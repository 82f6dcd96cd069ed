//! Every bound of the pools, with unit and relation to the others.

use std::time::Duration;

use wk_types::limits::{BATCH_BYTES_MAX, PAYLOAD_BYTES_MAX, SEND_DEADLINE};

/// Rows of users (info and devices, each) held by a user worker.
pub const USER_ROWS_MAX: usize = 200_000;
/// CONNECTs (and SENDs of a gateway without a snapshot) that wait for sessions to become known; above it the answer is reason 15.
pub const PARKED_MAX: usize = 65_536;
/// Pause after a failed lookup before it is made again.
pub const LOOKUP_RETRY: Duration = Duration::from_millis(50);
/// Queries in one lookup request; what is above goes into the next one.
pub const LOOKUP_QUERIES_MAX: usize = 4096;
/// How long an api call waits until every channel worker has heard that a person's rules changed.
pub const RULES_WAIT: Duration = Duration::from_secs(2);

/// Stamps of person rules: `hash(uid) & (RULE_STAMPS - 1)`.
pub const RULE_STAMPS: usize = 4096;
const _: () = assert!(RULE_STAMPS.is_power_of_two(), "stamps are chosen by a mask");
/// Senders whose facts are kept per channel; above it the channel's facts start anew.
pub const SENDERS_PER_CHANNEL_MAX: usize = 4096;
/// Append requests between a channel worker and the cluster: one is being written while the next one gathers.
pub const APPENDS_IN_FLIGHT: usize = 2;
/// Message bytes in one append request; one channel batch alone may be larger. Unit: bytes.
pub const APPEND_BYTES_MAX: usize = 4 << 20;
/// Messages in one append request.
pub const APPEND_MESSAGES_MAX: usize = 8192;
/// First pause before an append whose outcome is unknown is made again; doubles up to [`APPEND_RETRY_MAX_MS`]. Unit: ms.
pub const APPEND_RETRY_MIN_MS: u64 = 20;
/// Longest pause between attempts of an append. Unit: ms.
pub const APPEND_RETRY_MAX_MS: u64 = 500;
/// How long one attempt of an append may take before its outcome counts as unknown.
pub const APPEND_ATTEMPT: Duration = Duration::from_secs(3);
/// Uids in one Deliver.
pub const RECEIVERS_PER_DELIVER: usize = 1000;
/// Uids in all receiver tags of a process; above it the least recently used tags go.
pub const TAG_UIDS_MAX: usize = 4_000_000;
/// Members read with one scan of a list.
pub const SCAN_MEMBERS: u32 = 10_000;
/// Bytes of messages that wait for distribution; above it no new appends start. Unit: bytes.
pub const UNDISTRIBUTED_BYTES_MAX: usize = 64 << 20;
/// Journal entries read with one request while a bucket is opened.
pub const JOURNAL_ENTRIES: u32 = 256;
/// Journals read at the same time while buckets are opened.
pub const JOURNALS_AT_ONCE: usize = 16;
/// Period of the cursor save. What was delivered since the last one is delivered once more after a crash: a second of it kept clients busy longer
/// than the crash itself.
pub const CURSOR_SAVE: Duration = Duration::from_millis(250);
/// An idle bucket's cursor is moved up when it lies this many entries behind its group, so that it does not hold the journal.
pub const CURSOR_LAG_MAX: u64 = 1000;
/// Period after which the list of system accounts is read again.
pub const SYSTEM_UIDS_REFRESH: Duration = Duration::from_secs(10);

/// Message ids remembered per connection to drop a delivery that comes twice.
pub const RECENT_IDS: usize = 32;
/// Frames per connection that wait for their RECVACK; the oldest is dropped for a new one.
pub const RETRY_FRAMES_MAX: usize = 256;
/// Their bytes. Unit: bytes.
pub const RETRY_BYTES_MAX: usize = 512 << 10;
/// Delivers that wait for sessions or for room towards the gateways are bounded by the rings of the channel workers; this is where the
/// metric's capacity comes from.
pub const DELIVERS_MAX: usize = 65_536;

/// Coarse clock of every pool: deadlines, retries and expiry are looked at this often. Never delays a message that can move.
pub const TICK: Duration = Duration::from_millis(100);
/// Longest wait of a drain for what is under way.
pub const DRAIN_MAX: Duration = Duration::from_secs(8);
/// Senders get this long to read what their last items came to. They are of this node and busy with nothing that takes longer.
pub const FAREWELL: Duration = Duration::from_millis(500);

const _: () = assert!(APPEND_BYTES_MAX >= PAYLOAD_BYTES_MAX, "a request holds at least one message of the largest size");
const _: () = assert!(RETRY_BYTES_MAX >= BATCH_BYTES_MAX, "retry memory of a connection is not smaller than a batch");
const _: () = assert!(APPEND_ATTEMPT.as_millis() < SEND_DEADLINE.as_millis(), "a second attempt fits into the deadline of a send");
