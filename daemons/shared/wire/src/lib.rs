//! Client wire protocol, sans I/O: binary frames of versions 1 to 6, JSON-RPC, key agreement and payload crypto.
//!
//! # Planes
//!
//! - **Binary**: [`frame::split`] finds a frame in a receive buffer, [`decode_client`] / [`decode_server`] read its body without copying the
//!   hot fields, [`encode`] appends frames to a buffer.
//! - **JSON-RPC**: [`jsonrpc::Splitter`] finds a text in a byte stream, [`jsonrpc::parse`] turns it into the same structs, and
//!   [`jsonrpc::results`] / [`jsonrpc::notices`] write the answers.
//! - **Before both**: [`detect::detect`] decides what a new connection speaks, [`proxy::parse`] reads a PROXY header.
//! - **Crypto**: [`crypto`] agrees on session keys, seals and opens payloads.
//! - **Rules**: [`ids`] checks the identifiers that clients choose.
//!
//! # Invariants
//!
//! - No function here panics on any bytes that came from outside; what cannot be read is an error.
//! - Nothing here buffers: the caller owns all bytes, and every search through them is bounded by a limit from [`limits`] or by the caller.
//! - An encoder that fails leaves its output as it was.
//!
//! # Deliberately absent
//!
//! Sockets, WebSocket framing, clocks, and every decision about what to answer. The only outside resource is the system's random number
//! generator, used by [`crypto`] for keys and salts.
//!
//! Source of all numbers and layouts: `spec/wire-protocol.md`; the paragraph signs (§) in this crate refer to it.

pub mod crypto;
pub mod decode;
pub mod detect;
pub mod encode;
pub mod flags;
pub mod frame;
pub mod ids;
pub mod jsonrpc;
pub mod limits;
pub mod packet;
pub mod proxy;
mod reader;
pub mod version;

pub use decode::{ClientFrame, ServerFrame, decode_client, decode_server};
pub use encode::EncodeError;
pub use flags::{Flags, Setting};
pub use frame::{Frame, FrameError, FrameHead, FrameType};
pub use packet::{Connack, Connect, Disconnect, Event, Recv, RecvRef, Recvack, Send, SendRef, Sendack, StreamRef, Sub, SubAction, Suback};
pub use version::{VERSION_JSONRPC_DEFAULT, VERSION_MAX, Version};
