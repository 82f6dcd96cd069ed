//! The frames as structs (§6). Frames on the hot path borrow ([`SendRef`], [`RecvRef`], [`Sendack`], [`Event`]); the others own their strings.

use wk_types::{ChannelType, DeviceFlag, Reason};

use crate::{Flags, Setting};

/// CONNECT (§6.1), the same in all versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Version the client states; see [`crate::Version::negotiate`].
    pub version: u8,
    /// Kind of device.
    pub device_flag: DeviceFlag,
    /// The client's device.
    pub device_id: String,
    /// The user; check with [`crate::ids::check_uid`].
    pub uid: String,
    /// The user's token, maybe empty. A secret: do not log.
    pub token: String,
    /// Milliseconds since the epoch (Go clients send seconds).
    pub client_timestamp: i64,
    /// Base64 of the client's X25519 public key, or empty.
    pub client_key: String,
}

/// CONNACK (§6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connack {
    /// Negotiated version. On the wire from version 4; 0 when decoded below.
    pub server_version: u8,
    /// Server time minus the client's timestamp. Unit: milliseconds.
    pub time_diff: i64,
    /// Result of the login.
    pub reason: Reason,
    /// Base64 of the server's X25519 public key, or empty.
    pub server_key: String,
    /// The 16 ASCII characters of the IV, or empty.
    pub salt: String,
    /// Node that holds the socket. On the wire from version 4; 0 when decoded below.
    pub node_id: u64,
}

/// Stream fields of a message (versions 2 to 4 with [`Setting::STREAM`]; JSON-RPC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamRef<'a> {
    /// RECV only: 0 start, 1 middle, 2 end.
    pub flag: u8,
    /// Number of the stream.
    pub no: &'a str,
    /// RECV only: message id of this piece.
    pub id: u64,
}

/// SEND (§6.3), borrowed from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRef<'a> {
    /// Flags of the frame, copied into the SENDACK.
    pub flags: Flags,
    /// Setting.
    pub setting: Setting,
    /// The client's counter, echoed. 0 from JSON-RPC.
    pub client_seq: u32,
    /// The client's unique id of the message, maybe empty.
    pub client_msg_no: &'a str,
    /// Number of the stream, usually empty.
    pub stream_no: &'a str,
    /// Channel as the sender names it: for a person the other uid.
    pub channel_id: &'a str,
    /// Type of the channel.
    pub channel_type: ChannelType,
    /// Seconds to live, 0 = for ever.
    pub expire: u32,
    /// 32 hex characters or empty (§10.3).
    pub msg_key: &'a str,
    /// Topic; only with [`Setting::TOPIC`].
    pub topic: &'a str,
    /// Payload as on the wire: base64 of the ciphertext, or clear bytes (§10).
    pub payload: &'a [u8],
}

impl SendRef<'_> {
    /// A copy that owns its bytes.
    #[must_use]
    pub fn to_owned(&self) -> Send {
        Send {
            flags: self.flags,
            setting: self.setting,
            client_seq: self.client_seq,
            client_msg_no: self.client_msg_no.to_owned(),
            stream_no: self.stream_no.to_owned(),
            channel_id: self.channel_id.to_owned(),
            channel_type: self.channel_type,
            expire: self.expire,
            msg_key: self.msg_key.to_owned(),
            topic: self.topic.to_owned(),
            payload: self.payload.to_vec(),
        }
    }
}

/// SEND (§6.3) that owns its bytes: from JSON-RPC, or kept by a client. Fields as in [`SendRef`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Flags of the frame.
    pub flags: Flags,
    /// Setting.
    pub setting: Setting,
    /// The client's counter. 0 from JSON-RPC.
    pub client_seq: u32,
    /// The client's unique id of the message, maybe empty.
    pub client_msg_no: String,
    /// Number of the stream, usually empty.
    pub stream_no: String,
    /// Channel as the sender names it.
    pub channel_id: String,
    /// Type of the channel.
    pub channel_type: ChannelType,
    /// Seconds to live, 0 = for ever.
    pub expire: u32,
    /// 32 hex characters or empty; always empty from JSON-RPC.
    pub msg_key: String,
    /// Topic.
    pub topic: String,
    /// Payload: as on the wire from a frame, always clear from JSON-RPC.
    pub payload: Vec<u8>,
}

impl Send {
    /// The borrowed form, which encoders and checks take.
    #[must_use]
    pub fn view(&self) -> SendRef<'_> {
        SendRef {
            flags: self.flags,
            setting: self.setting,
            client_seq: self.client_seq,
            client_msg_no: &self.client_msg_no,
            stream_no: &self.stream_no,
            channel_id: &self.channel_id,
            channel_type: self.channel_type,
            expire: self.expire,
            msg_key: &self.msg_key,
            topic: &self.topic,
            payload: &self.payload,
        }
    }
}

/// SENDACK (§6.3, §17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sendack<'a> {
    /// Flags of the SEND.
    pub flags: Flags,
    /// Id of the message, also on failure.
    pub message_id: i64,
    /// Echo of the SEND's counter.
    pub client_seq: u32,
    /// Position in the channel; 0 when not stored. 32 bits on the wire below version 6: larger values are written as `u32::MAX`, which
    /// cannot happen because channels refuse to grow past it (§11.1).
    pub message_seq: u64,
    /// Result.
    pub reason: Reason,
    /// Echo of the SEND's client message number; on the wire at version 6 only, when not empty.
    pub client_msg_no: &'a str,
}

/// RECV (§6.4), borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvRef<'a> {
    /// Flags; see [`Flags::for_recv`].
    pub flags: Flags,
    /// Setting; see [`Setting::for_recv`].
    pub setting: Setting,
    /// 32 hex characters or empty. Ignored by [`crate::encode::recv_sealed`], which makes it.
    pub msg_key: &'a str,
    /// Sender; empty for the system account.
    pub from_uid: &'a str,
    /// Channel as this receiver names it (§11.4).
    pub channel_id: &'a str,
    /// Type of the channel.
    pub channel_type: ChannelType,
    /// Seconds to live, 0 = for ever.
    pub expire: u32,
    /// The sender's unique id of the message.
    pub client_msg_no: &'a str,
    /// Stream fields.
    pub stream: StreamRef<'a>,
    /// Id of the message.
    pub message_id: i64,
    /// Position in the channel, 0 when not stored. Width as in [`Sendack::message_seq`].
    pub message_seq: u64,
    /// Seconds since the epoch.
    pub timestamp: i32,
    /// Topic; on the wire with [`Setting::TOPIC`].
    pub topic: &'a str,
    /// Payload: as on the wire for [`crate::encode::recv`], clear for [`crate::encode::recv_sealed`] and for JSON-RPC.
    pub payload: &'a [u8],
}

impl RecvRef<'_> {
    /// A copy that owns its bytes, without the stream fields.
    #[must_use]
    pub fn to_owned(&self) -> Recv {
        Recv {
            flags: self.flags,
            setting: self.setting,
            msg_key: self.msg_key.to_owned(),
            from_uid: self.from_uid.to_owned(),
            channel_id: self.channel_id.to_owned(),
            channel_type: self.channel_type,
            expire: self.expire,
            client_msg_no: self.client_msg_no.to_owned(),
            message_id: self.message_id,
            message_seq: self.message_seq,
            timestamp: self.timestamp,
            topic: self.topic.to_owned(),
            payload: self.payload.to_vec(),
        }
    }
}

/// RECV (§6.4) that owns its bytes, for clients that keep it. Fields as in [`RecvRef`]; without stream fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recv {
    /// Flags.
    pub flags: Flags,
    /// Setting.
    pub setting: Setting,
    /// 32 hex characters or empty.
    pub msg_key: String,
    /// Sender; empty for the system account.
    pub from_uid: String,
    /// Channel as this receiver names it.
    pub channel_id: String,
    /// Type of the channel.
    pub channel_type: ChannelType,
    /// Seconds to live, 0 = for ever.
    pub expire: u32,
    /// The sender's unique id of the message.
    pub client_msg_no: String,
    /// Id of the message.
    pub message_id: i64,
    /// Position in the channel, 0 when not stored.
    pub message_seq: u64,
    /// Seconds since the epoch.
    pub timestamp: i32,
    /// Topic.
    pub topic: String,
    /// Payload as on the wire.
    pub payload: Vec<u8>,
}

impl Recv {
    /// The borrowed form, which encoders and checks take.
    #[must_use]
    pub fn view(&self) -> RecvRef<'_> {
        RecvRef {
            flags: self.flags,
            setting: self.setting,
            msg_key: &self.msg_key,
            from_uid: &self.from_uid,
            channel_id: &self.channel_id,
            channel_type: self.channel_type,
            expire: self.expire,
            client_msg_no: &self.client_msg_no,
            stream: StreamRef::default(),
            message_id: self.message_id,
            message_seq: self.message_seq,
            timestamp: self.timestamp,
            topic: &self.topic,
            payload: &self.payload,
        }
    }
}

/// RECVACK (§6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recvack {
    /// Flags; some clients copy those of the RECV, others send 0.
    pub flags: Flags,
    /// Id of the message.
    pub message_id: i64,
    /// Position of the message. Width as in [`Sendack::message_seq`].
    pub message_seq: u64,
}

/// DISCONNECT (§6.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: Reason,
    /// Text for people, maybe empty.
    pub text: String,
}

/// Action of a SUB: 0 subscribe, 1 unsubscribe; other values are carried as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubAction(pub u8);

impl SubAction {
    /// Subscribe.
    pub const SUBSCRIBE: Self = Self(0);
    /// Unsubscribe.
    pub const UNSUBSCRIBE: Self = Self(1);
}

/// SUB (§6.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sub {
    /// Setting.
    pub setting: Setting,
    /// The client's number of the subscription, often empty; echoed.
    pub sub_no: String,
    /// Channel.
    pub channel_id: String,
    /// Type of the channel; only [`ChannelType::DATA`] can be subscribed.
    pub channel_type: ChannelType,
    /// What to do.
    pub action: SubAction,
    /// JSON text or empty.
    pub param: String,
}

/// SUBACK (§6.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suback {
    /// Echo.
    pub sub_no: String,
    /// Echo.
    pub channel_id: String,
    /// Echo.
    pub channel_type: ChannelType,
    /// Echo.
    pub action: SubAction,
    /// Result.
    pub reason: Reason,
}

/// EVENT (§6.9), borrowed. Only for JSON-RPC connections and from version 5: see [`crate::Version::has_event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Id; never empty towards JSON-RPC.
    pub id: &'a str,
    /// Type; never empty towards JSON-RPC.
    pub kind: &'a str,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// JSON text.
    pub data: &'a [u8],
}
