//! Bounds of the api daemon.

use std::time::Duration;

/// Largest request body. Unit: bytes. Large enough for 100,000 members of 64 bytes, or a payload of the largest size in base64.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Bodies held at a time, all requests together; above it requests are answered 503. Unit: KiB.
pub const BODIES_KIB_MAX: u32 = 256 << 10;
/// Requests under way at a time; above it they are answered 503. A `/message/send` waits up to [`SEND_DEADLINE`].
pub const REQUESTS_MAX: usize = 4096;
/// Connections of one listener; further ones wait in its queue.
pub const CONNECTIONS_MAX: usize = 8192;
/// A connection that was accepted before a stop and has not sent a byte is closed this long after its accept: a client's first bytes are there
/// after a round trip.
pub const FIRST_BYTES_MAX: Duration = Duration::from_millis(500);
/// A connection that neither sends nor is being answered for this long is closed.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(120);
/// Longest a request may take, body included; then 400 with a text.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// A message accepted by `/message/send` is settled by then, or the answer is an error.
pub const SEND_DEADLINE: Duration = wk_types::limits::SEND_DEADLINE;
/// Calls on the owner of a key, retries included. Source: DESIGN.md "Internal times".
pub const OWNER_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before a call on an owner is repeated when the node table does not change. Unit: see [`Duration`].
pub const OWNER_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Depth of JSON nesting; deeper bodies are refused.
pub const JSON_DEPTH_MAX: usize = 64;
/// Members in one change of a list; longer lists are written in several changes.
pub const CHANGE_MEMBERS_MAX: usize = 2000;
/// Bytes of uids at which an item with a command to online users is closed; the next ones travel in another item.
pub const COMMAND_RECEIVERS_BYTES: usize = 1 << 20;
/// Messages of `/message/sendbatch` under way at a time.
pub const SENDBATCH_PARALLEL: usize = 64;
/// Largest `limit` of `/channel/messagesync`. Source: semantics.md §8.
pub const SYNC_LIMIT_MAX: u64 = 10_000;
/// Messages asked of the cluster in one read, so that a reply stays far below [`wk_rpc::limits::MESSAGE_BYTES_MAX`] for ordinary messages.
pub const READ_PAGE_MESSAGES: u32 = 500;
/// Bytes of records that one answer of `/channel/messagesync` may hold; a longer page is cut and says `more`. Unit: bytes.
pub const SYNC_BYTES_MAX: usize = 64 << 20;
/// Members in one scan of a list.
pub const SCAN_PAGE_MEMBERS: u32 = 5000;
/// Message ids fetched in one call.
pub const ID_BLOCK: u32 = 512;
/// Ids left at which the next block is fetched.
pub const ID_LOW: u64 = 128;
/// Items and bytes the api keeps unsettled towards one channel worker.
pub const LINK_RING_ITEMS: usize = 16 << 10;
/// See [`LINK_RING_ITEMS`]. Unit: bytes.
pub const LINK_RING_BYTES: usize = 64 << 20;

/// One daemon's answer to "your metrics, please".
pub const GATHER_DEADLINE: Duration = Duration::from_secs(2);
/// Answer of `/health` at the latest.
pub const HEALTH_DEADLINE: Duration = Duration::from_secs(2);
/// `Retry-After` of a 503. Unit: s.
pub const RETRY_AFTER_S: u64 = 1;

/// Dial timeout of a webhook. Source: webhooks.md §1.
pub const WEBHOOK_DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A backend that sends nothing for this long has failed. Source: webhooks.md §1 (response header).
pub const WEBHOOK_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Whole webhook request. Source: webhooks.md §1.
pub const WEBHOOK_TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections kept per backend. Source: webhooks.md §1.
pub const WEBHOOK_IDLE_PER_HOST: usize = 100;
/// Idle connections are closed after this. Source: webhooks.md §1.
pub const WEBHOOK_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Webhook requests at a time, all groups together. Source: webhooks.md §1 (connections per host).
pub const WEBHOOK_POSTS_MAX: usize = 100;
/// First pause after a failed webhook. Source: webhooks.md §3.
pub const WEBHOOK_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause; it doubles up to here and nothing is dropped.
pub const WEBHOOK_RETRY_MAX: Duration = Duration::from_secs(30);
/// Journal entries in one read of a group.
pub const JOURNAL_ENTRIES_MAX: u32 = 256;
/// Long poll of the journal.
pub const JOURNAL_WAIT: Duration = Duration::from_secs(10);
/// Pause after a failed read of the journal.
pub const JOURNAL_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Cursors of groups that moved are saved this often.
pub const CURSOR_SAVE_EVERY: Duration = Duration::from_secs(1);
/// Bytes of one webhook body at which it is closed; one message alone may be larger. Unit: bytes.
pub const WEBHOOK_BODY_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(BODY_BYTES_MAX >= wk_types::limits::PAYLOAD_BYTES_MAX / 3 * 4 + 4096, "the largest payload fits in base64");
const _: () = assert!(ID_LOW < ID_BLOCK as u64, "a block is fetched before the last one ends");
const _: () = assert!(WEBHOOK_RETRY_MIN.as_millis() < WEBHOOK_RETRY_MAX.as_millis(), "the pause grows");
