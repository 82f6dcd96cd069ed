//! Bounds of connections between processes.

use std::time::Duration;

/// HTTP/2 flow-control window of a stream and of a connection. Unit: bytes. Source: machine-limits §3 (batches of 256 KiB, two in flight, with room).
pub const WINDOW_BYTES: u32 = 8 << 20;
/// Largest HTTP/2 frame. Unit: bytes.
pub const FRAME_BYTES: u32 = 256 << 10;
/// Largest gRPC message. Unit: bytes. Larger than one batch that holds a single message of the largest size.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How long a dial may take: a Unix socket answers at once or not at all.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest and longest pause before a reconnect; see [`crate::backoff::Backoff`].
pub const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// See [`RECONNECT_MIN`].
pub const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Requests of one [`crate::ClusterData`] that may be open at a time; further callers wait.
pub const CALLS_IN_FLIGHT_MAX: usize = 4096;
/// Deadline of a control call. Source: DESIGN.md "Internal times".
pub const CONTROL_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline of a lookup.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);

const _: () = assert!(wk_types::limits::BATCH_BYTES_MAX * 2 < WINDOW_BYTES as usize, "two batches in flight must fit the window");
const _: () = assert!(wk_types::limits::PAYLOAD_BYTES_MAX < MESSAGE_BYTES_MAX, "one message must fit");
