//! Every bound of the gateway.

use std::time::Duration;

use wk_types::limits::FRAME_BODY_BYTES_MAX;
use wk_wire::limits::JSON_BYTES_MAX;

/// SENDs of one connection handed over and not answered. Source: architecture §5a.
pub const SENDS_OPEN_MAX: u32 = 64;
/// Their bytes. A single larger SEND is handed over alone. Unit: bytes.
pub const SENDS_OPEN_BYTES_MAX: u32 = 256 << 10;
/// RECVs of one connection that may still be acknowledged; RECVACKs beyond those go no further. More than the push worker remembers, so that a
/// client that is slow to acknowledge is not sent the newest ones again.
pub const RECVS_OPEN_MAX: u32 = 16_384;
/// Frames parsed and held back because of the two bounds above; then the connection is not read. Unit: bytes.
pub const PARKED_BYTES_MAX: usize = 1 << 20;
/// Frames behind CONNECT held back until CONNACK is written; then the connection is not read. Unit: bytes. Source: wire protocol §8.2.
pub const PARKED_BEFORE_LOGIN_BYTES_MAX: usize = 64 << 10;
/// Unparsed input of one connection; more closes it. Unit: bytes. Source: wire protocol §13.
pub const INPUT_BYTES_MAX: usize = 16 << 20;
/// The same for JSON-RPC: one text of the largest size, with white space around it. Unit: bytes.
pub const JSON_INPUT_BYTES_MAX: usize = JSON_BYTES_MAX + (4 << 10);
/// Header block of a WebSocket upgrade. Unit: bytes. Source: wire protocol §2.3.
pub const UPGRADE_BYTES_MAX: usize = 8 << 10;
/// Headers of a WebSocket upgrade.
pub const UPGRADE_HEADERS_MAX: usize = 64;
/// One WebSocket message, all fragments together. Unit: bytes. Source: wire protocol §13.
pub const WS_MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// Output that waits for one connection; more closes it. Unit: bytes. Source: wire protocol §13.
pub const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Output that waits for all connections of the process; above it a connection is closed at [`OUTPUT_CROWDED_BYTES_MAX`]. Unit: bytes.
pub const OUTPUT_TOTAL_BYTES_MAX: u64 = 256 << 20;
/// Output that waits for one connection while all together are above their bound. A client that reads never has as much. Unit: bytes.
pub const OUTPUT_CROWDED_BYTES_MAX: usize = 64 << 10;
/// A connection with output behind a send of which the peer took nothing for this long is closed.
pub const OUTPUT_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Output buffers up to this capacity are reused. Unit: bytes.
pub const POOLED_BUFFER_BYTES_MAX: usize = 16 << 10;
/// Output buffers kept for reuse by one reactor.
pub const POOLED_BUFFERS_MAX: usize = 1024;

/// Submission entries of a ring.
pub const RING_ENTRIES: u32 = 4096;
/// Completion entries of a ring; what does not fit waits inside the kernel.
pub const RING_COMPLETIONS: u32 = 16_384;
/// Receive buffers of a ring, shared by its connections.
pub const RECEIVE_BUFFERS: u16 = 2048;
/// Size of a receive buffer. Unit: bytes.
pub const RECEIVE_BUFFER_BYTES: usize = 2048;
const _: () = assert!(RECEIVE_BUFFERS as usize * RECEIVE_BUFFER_BYTES == 4 << 20, "the pool is 4 MiB (architecture §6)");

/// Message ids lent to a reactor ahead. A reactor that has none stops handing SENDs over.
pub const IDS_LENT: u32 = 4096;
/// Message ids the hub asks the cluster for at a time.
pub const IDS_BLOCK: u32 = 16_384;
/// The hub asks for more when it has fewer than this.
pub const IDS_LOW: u32 = 8_192;
const _: () = assert!(IDS_LENT <= IDS_LOW, "one loan never empties the store before the next block is asked for");

/// First bytes of a connection, and each pause between bytes, before its CONNECT is understood. Source: wire protocol §8.1.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(2);
/// From the last bytes to CONNACK, once the CONNECT is understood.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(4);
/// From accept to CONNACK, whatever arrives.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// While the owner of the uid is away the two above stand still, up to this long after accept. Source: architecture §5a.
pub const HANDSHAKE_AWAY_TIMEOUT: Duration = Duration::from_secs(30);
/// Discarding input after our half-close, until end of stream. Source: architecture §8a.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before accepting is armed again after an error that will not go away at once (EMFILE, ENFILE, ENOMEM).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Resolution of a reactor's timers.
pub const TIMER_TICK: Duration = Duration::from_millis(64);
/// Pause before the hub asks for message ids again after a failure.
pub const IDS_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often the hub looks whether a full link has room again.
pub const CONGESTION_CHECK: Duration = Duration::from_millis(5);
/// Connections that were accepted before a quiesce may send their CONNECT for this long after it; the answer is then waited for.
pub const QUIESCE_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Those of them that have not sent a byte are closed this long after their accept: a client's first bytes are there after a round trip.
pub const QUIESCE_SILENT_TIMEOUT: Duration = Duration::from_millis(500);
/// Once quiesced and with every SEND answered, connections are closed when no worker has sent anything for this long.
pub const QUIET_BEFORE_CLOSE: Duration = Duration::from_millis(100);
/// How long the drain waits for CLOSED items to be settled.
pub const DRAIN_SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Items a link to one worker slot may hold unsettled before the gateway stops handing SENDs over.
pub const LINK_ITEMS_MAX: usize = 65_536;
/// Their bytes. Unit: bytes.
pub const LINK_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(PARKED_BYTES_MAX >= FRAME_BODY_BYTES_MAX, "one frame of the largest size can wait");
const _: () = assert!(OUTPUT_BYTES_MAX > FRAME_BODY_BYTES_MAX * 2, "a frame of the largest size fits the output, as JSON too");
const _: () = assert!(INPUT_BYTES_MAX > FRAME_BODY_BYTES_MAX * 2, "a frame or JSON text of the largest size fits the input");
