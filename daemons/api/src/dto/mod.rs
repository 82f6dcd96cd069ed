//! What travels over HTTP: requests, answers and how they are decoded.

pub mod decode;
mod message;
mod request;
pub mod scan;

pub use decode::{Blob, Decode, DecodeError, Place, decode};
pub use message::{Header, MessageResp};
pub use request::*;
pub use scan::ScanError;

use serde::Serialize;

/// `{"status":200}`, or a refusal that is no error: 404, or a reason code.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct Status {
    /// 200, or why not.
    pub status: u32,
}

impl Status {
    /// It worked.
    pub const OK: Self = Self { status: 200 };
    /// No such message.
    pub const NOT_FOUND: Self = Self { status: 404 };
}

/// Addresses for clients.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct Addresses {
    /// `host:port`.
    pub tcp_addr: String,
    /// `ws://host:port`.
    pub ws_addr: String,
    /// `wss://host:port`, empty when off.
    pub wss_addr: String,
}

/// Addresses for a set of users.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct BatchAddresses {
    /// `host:port`.
    pub tcp_addr: String,
    /// `ws://host:port`.
    pub ws_addr: String,
    /// `wss://host:port`, empty when off.
    pub wss_addr: String,
    /// All users that were asked for.
    pub uids: Vec<String>,
}

/// One live connection.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct OnlineStatus {
    /// User.
    pub uid: String,
    /// Device class.
    pub device_flag: u32,
    /// Always 1.
    pub online: u8,
}

/// Answer of `/message/send`.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct Sent {
    /// Always 200.
    pub status: u32,
    /// What was sent.
    pub data: SentMessage,
}

/// See [`Sent`].
#[derive(Debug, Clone, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct SentMessage {
    /// Number of the message given by the caller or made here.
    pub client_msg_no: String,
    /// Id of the message.
    pub message_id: i64,
}

/// Answer of `/message/sendbatch`.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct SentBatch {
    /// Users the message was not sent to.
    pub fail_uids: Vec<String>,
    /// Why, in the same order.
    pub reason: Vec<String>,
}

/// Answer of `/channel/messagesync`.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct SyncedMessages {
    /// Echo; 0 for a channel without a log.
    pub start_message_seq: u64,
    /// Echo; 0 for a channel without a log.
    pub end_message_seq: u64,
    /// 1: there may be more.
    pub more: u8,
    /// Ascending.
    pub messages: Vec<MessageResp>,
}

/// Answer of `/channel/max_message_seq`.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct MaxSeq {
    /// 0 for a channel without a log.
    pub message_seq: u64,
}

/// Row of an allow list.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct AllowRow {
    /// FNV-1a of the uid.
    pub id: u64,
    /// User.
    pub uid: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}
