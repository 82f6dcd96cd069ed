//! Bounds of the client protocol (§13). Units are bytes unless the name says otherwise.

/// Largest remaining length of a client frame, checked as soon as the header is read (§3.3).
pub const BODY_BYTES_MAX: usize = wk_types::limits::FRAME_BODY_BYTES_MAX;
/// Largest frame head: type byte and four length bytes (§3.3).
pub const HEAD_BYTES_MAX: usize = 5;
/// Largest whole client frame.
pub const FRAME_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;
/// Largest remaining length that four length bytes can say (§3.3). Bound of the encoders.
pub const LENGTH_MAX: usize = 268_435_455;
/// Longest string the codec can carry (§1).
pub const STRING_BYTES_MAX: usize = 32_767;
/// Longest uid, device id, channel id, client message number, topic or stream number (§9.1).
pub const ID_BYTES_MAX: usize = wk_types::limits::ID_BYTES_MAX;
/// Largest JSON-RPC text: the base64 of the largest payload fits (§13).
pub const JSON_BYTES_MAX: usize = 2 << 20;
/// Most members in one object of a JSON-RPC text that this crate looks into; the largest known object has 9. Unit: members.
pub const JSON_MEMBERS_MAX: usize = 64;
/// Longest `id` of a JSON-RPC request, quotes included; it is echoed, so it must be bounded.
pub const JSON_ID_BYTES_MAX: usize = 512;
/// Longest run of white space in front of the first byte that says what a connection speaks.
pub const LEADING_SPACE_BYTES_MAX: usize = 256;
/// Longest PROXY v1 line, CR LF included (§2.4).
pub const PROXY_V1_BYTES_MAX: usize = 107;
/// Largest PROXY v2 header: 16 fixed bytes and a u16 length (§2.4).
pub const PROXY_V2_BYTES_MAX: usize = 16 + 65_535;

const _: () = assert!(BODY_BYTES_MAX <= LENGTH_MAX, "an accepted body must fit the length field");
const _: () = assert!(ID_BYTES_MAX <= STRING_BYTES_MAX, "an accepted id must fit a string field");
const _: () = assert!(JSON_BYTES_MAX > BODY_BYTES_MAX / 3 * 4, "the base64 of the largest payload must fit a JSON text");
