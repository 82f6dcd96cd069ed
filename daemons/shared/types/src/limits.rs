//! Bounds that more than one process relies on.

use std::time::Duration;

/// Largest remaining length of a client frame. Unit: bytes. Source: client protocol §3.3.
pub const FRAME_BODY_BYTES_MAX: usize = 1 << 20;
/// Largest payload of one message on the links and in the log: a whole frame body, so that no accepted frame is refused later. Unit: bytes.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX;
/// Longest uid, device id, channel id, client message number or topic. Unit: bytes. Source: client protocol §9.1.
pub const ID_BYTES_MAX: usize = 512;
/// Items in one batch of a link.
pub const BATCH_ITEMS_MAX: usize = 1024;
/// Bytes at which a batch is closed; one item alone may be larger. Unit: bytes.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches of one link direction in flight. Source: machine-limits §3: two reach the best rate, timers never do.
pub const BATCHES_IN_FLIGHT: usize = 2;
/// From acceptance of a SEND to its answer at the latest; then reason 15.
pub const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// Channels in one append request: a larger request is refused whole.
pub const APPEND_CHANNELS_MAX: usize = 4096;
/// A link that holds unsettled items and sees no progress for this long is reported to the supervisor.
pub const LINK_STALL: Duration = Duration::from_secs(2);

const _: () = assert!(BATCH_BYTES_MAX < FRAME_BODY_BYTES_MAX, "a large frame travels in a batch of its own");
