//! Items of the links: what they mean and their bytes.
//!
//! Each struct is both what the sender encodes and what the receiver decodes, borrowed from the batch. The item's kind travels beside the body.

use bytes::{BufMut, Bytes, BytesMut};
use wk_types::{ChannelType, ConnId, DeviceFlag, DeviceLevel, MessageId, MessageSeq, Reason};

use crate::codec::{DecodeError, Reader, put_text};
use crate::record::Message;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`Connect`], gateway → user.
    Connect = 1,
    /// [`Send`], gateway → user.
    Send = 2,
    /// [`Closed`], gateway → user.
    Closed = 3,
    /// [`Session`], gateway → user (snapshot only) and push: this connection is authenticated.
    SessionUp = 4,
    /// [`Closed`], gateway → push.
    SessionDown = 5,
    /// No body, gateway → user, push: the sessions that follow replace all of this gateway.
    SnapshotBegin = 6,
    /// No body: the snapshot is complete.
    SnapshotEnd = 7,
    /// [`Connack`], user → gateway.
    Connack = 8,
    /// [`Kick`], user → gateway.
    Kick = 9,
    /// [`Sendack`], user and channel → gateway.
    Sendack = 10,
    /// [`ChannelSend`], user and api → channel.
    ChannelSend = 11,
    /// [`PersonRulesChanged`], user → channel.
    PersonRulesChanged = 12,
    /// [`Deliver`], channel → push.
    Deliver = 13,
    /// [`RecvOut`], push → gateway.
    RecvOut = 14,
    /// [`Recvack`], gateway → push.
    Recvack = 15,
    /// No body: the sender has nothing more of this bucket at this epoch (architecture §7a).
    Fence = 20,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Connect,
            2 => Self::Send,
            3 => Self::Closed,
            4 => Self::SessionUp,
            5 => Self::SessionDown,
            6 => Self::SnapshotBegin,
            7 => Self::SnapshotEnd,
            8 => Self::Connack,
            9 => Self::Kick,
            10 => Self::Sendack,
            11 => Self::ChannelSend,
            12 => Self::PersonRulesChanged,
            13 => Self::Deliver,
            14 => Self::RecvOut,
            15 => Self::Recvack,
            20 => Self::Fence,
            _ => return None,
        })
    }
}

/// An item body that can be encoded and decoded.
pub trait Body<'a>: Sized {
    /// Appends the body.
    fn encode(&self, out: &mut BytesMut);
    /// Reads the body.
    ///
    /// # Errors
    /// When the bytes are not such a body.
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError>;
}

/// Encodes bodies into shared chunks: one allocation for many items.
#[derive(Debug, Default)]
pub struct Encoder {
    chunk: BytesMut,
}

/// Size of a chunk. An item pins its chunk until it is settled, so chunks are small beside the queues. Unit: bytes.
const CHUNK_BYTES: usize = 16 << 10;

impl Encoder {
    /// The body as bytes of its own.
    pub fn encode<'a>(&mut self, body: &impl Body<'a>) -> Bytes {
        if self.chunk.capacity() < 512 {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
        body.encode(&mut self.chunk);
        self.chunk.split().freeze()
    }
}

/// A CONNECT that the gateway understood. Settled when presence is updated in the user worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Monotonic ms of the node when the socket was accepted.
    pub accepted_ms: u64,
    /// Version the client stated.
    pub version: u8,
    /// True: JSON-RPC.
    pub json: bool,
    /// Device class.
    pub device_flag: DeviceFlag,
    /// Client's clock, ms since 1970.
    pub client_timestamp_ms: i64,
    /// Device.
    pub device_id: &'a str,
    /// User.
    pub uid: &'a str,
    /// Token, may be empty. Never logged.
    pub token: &'a str,
    /// Base64 of the client's public key, may be empty.
    pub client_key: &'a str,
    /// Peer address for people: `192.0.2.1:5000`.
    pub peer: &'a str,
}

impl<'a> Body<'a> for Connect<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u64_le(self.accepted_ms);
        out.put_u8(self.version);
        out.put_u8(u8::from(self.json));
        out.put_u8(self.device_flag.0);
        out.put_i64_le(self.client_timestamp_ms);
        for text in [self.device_id, self.uid, self.token, self.client_key, self.peer] {
            put_text(out, text);
        }
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            accepted_ms: r.u64("accepted_ms")?,
            version: r.u8("version")?,
            json: r.u8("json")? != 0,
            device_flag: DeviceFlag(r.u8("device_flag")?),
            client_timestamp_ms: r.i64("client_timestamp_ms")?,
            device_id: r.text("device_id")?,
            uid: r.text("uid")?,
            token: r.text("token")?,
            client_key: r.text("client_key")?,
            peer: r.text("peer")?,
        })
    }
}

/// An authenticated connection, as the registry of the gateway holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Negotiated version, 0..=6.
    pub version: u8,
    /// True: JSON-RPC.
    pub json: bool,
    /// True: payloads are encrypted with the keys below.
    pub encrypted: bool,
    /// True: a JSON-RPC client that spells keys in `snake_case`.
    pub snake_case: bool,
    /// Device class.
    pub device_flag: DeviceFlag,
    /// Level.
    pub device_level: DeviceLevel,
    /// AES-128 key.
    pub aes_key: [u8; 16],
    /// AES-CBC initial vector (the salt).
    pub aes_iv: [u8; 16],
    /// Monotonic ms of the node at login.
    pub since_ms: u64,
    /// User.
    pub uid: &'a str,
    /// Device.
    pub device_id: &'a str,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("conn", &self.conn).field("uid", &self.uid).field("version", &self.version).finish_non_exhaustive()
    }
}

impl<'a> Body<'a> for Session<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u8(self.version);
        out.put_u8(u8::from(self.json) | u8::from(self.encrypted) << 1 | u8::from(self.snake_case) << 2);
        out.put_u8(self.device_flag.0);
        out.put_u8(self.device_level.0);
        out.put_slice(&self.aes_key);
        out.put_slice(&self.aes_iv);
        out.put_u64_le(self.since_ms);
        put_text(out, self.uid);
        put_text(out, self.device_id);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let conn = ConnId(r.u64("conn")?);
        let version = r.u8("version")?;
        let bits = r.u8("bits")?;
        Ok(Self {
            conn,
            version,
            json: bits & 1 != 0,
            encrypted: bits & 2 != 0,
            snake_case: bits & 4 != 0,
            device_flag: DeviceFlag(r.u8("device_flag")?),
            device_level: DeviceLevel(r.u8("device_level")?),
            aes_key: r.array("aes_key")?,
            aes_iv: r.array("aes_iv")?,
            since_ms: r.u64("since_ms")?,
            uid: r.text("uid")?,
            device_id: r.text("device_id")?,
        })
    }
}

/// A connection that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Its user.
    pub uid: &'a str,
}

impl<'a> Body<'a> for Closed<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        put_text(out, self.uid);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self { conn: ConnId(r.u64("conn")?), uid: r.text("uid")? })
    }
}

/// The user worker's answer to a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Success, or why not (then the gateway writes the CONNACK and closes).
    pub reason: Reason,
    /// Level, on success.
    pub device_level: DeviceLevel,
    /// Keys are agreed on.
    pub encrypted: bool,
    /// Server ms minus client ms.
    pub time_diff_ms: i64,
    /// AES-128 key; zero without encryption.
    pub aes_key: [u8; 16],
    /// AES-CBC initial vector; zero without encryption.
    pub aes_iv: [u8; 16],
    /// Base64 of the server's public key, or empty.
    pub server_key: &'a str,
    /// 16 characters, or empty.
    pub salt: &'a str,
}

impl std::fmt::Debug for Connack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connack").field("conn", &self.conn).field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<'a> Body<'a> for Connack<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u8(self.reason.0);
        out.put_u8(self.device_level.0);
        out.put_u8(u8::from(self.encrypted));
        out.put_i64_le(self.time_diff_ms);
        out.put_slice(&self.aes_key);
        out.put_slice(&self.aes_iv);
        put_text(out, self.server_key);
        put_text(out, self.salt);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            reason: Reason(r.u8("reason")?),
            device_level: DeviceLevel(r.u8("device_level")?),
            encrypted: r.u8("encrypted")? != 0,
            time_diff_ms: r.i64("time_diff_ms")?,
            aes_key: r.array("aes_key")?,
            aes_iv: r.array("aes_iv")?,
            server_key: r.text("server_key")?,
            salt: r.text("salt")?,
        })
    }
}

/// Close a connection, after a while and perhaps with a DISCONNECT first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kick<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Send DISCONNECT with this reason and text first.
    pub disconnect: Option<Reason>,
    /// Text of the DISCONNECT.
    pub text: &'a str,
    /// The gateway closes after this. Unit: ms; 0: at once.
    pub close_after_ms: u32,
}

impl<'a> Body<'a> for Kick<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u8(self.disconnect.map_or(0, |r| r.0));
        out.put_u32_le(self.close_after_ms);
        put_text(out, self.text);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let conn = ConnId(r.u64("conn")?);
        let reason = r.u8("reason")?;
        Ok(Self {
            conn,
            disconnect: (reason != 0).then_some(Reason(reason)),
            close_after_ms: r.u32("close_after_ms")?,
            text: r.text("text")?,
        })
    }
}

/// A SEND as the client sent it: decoded fields, payload and msgKey still as on the wire. Settled when its answer has reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Id given by the gateway.
    pub message_id: MessageId,
    /// Monotonic ms of the node when it was accepted; the answer is due `SEND_DEADLINE` later.
    pub accepted_ms: u64,
    /// Header flags.
    pub flags: u8,
    /// Setting byte.
    pub setting: u8,
    /// Client counter.
    pub client_seq: u32,
    /// Seconds.
    pub expire: u32,
    /// Channel type.
    pub channel_type: ChannelType,
    /// Sender, as the gateway knows it from the login.
    pub uid: &'a str,
    /// Channel as the sender names it.
    pub channel_id: &'a str,
    /// Client's unique number.
    pub client_msg_no: &'a str,
    /// Stream number.
    pub stream_no: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// msgKey, 32 characters or empty.
    pub msg_key: &'a str,
    /// Payload as on the wire (binary: base64 of the ciphertext; JSON-RPC and noEncrypt: plain).
    pub payload: &'a [u8],
}

impl<'a> Body<'a> for Send<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_i64_le(self.message_id);
        out.put_u64_le(self.accepted_ms);
        out.put_u8(self.flags);
        out.put_u8(self.setting);
        out.put_u32_le(self.client_seq);
        out.put_u32_le(self.expire);
        out.put_u8(self.channel_type.0);
        for text in [self.uid, self.channel_id, self.client_msg_no, self.stream_no, self.topic, self.msg_key] {
            put_text(out, text);
        }
        out.put_slice(self.payload);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            message_id: r.i64("message_id")?,
            accepted_ms: r.u64("accepted_ms")?,
            flags: r.u8("flags")?,
            setting: r.u8("setting")?,
            client_seq: r.u32("client_seq")?,
            expire: r.u32("expire")?,
            channel_type: ChannelType(r.u8("channel_type")?),
            uid: r.text("uid")?,
            channel_id: r.text("channel_id")?,
            client_msg_no: r.text("client_msg_no")?,
            stream_no: r.text("stream_no")?,
            topic: r.text("topic")?,
            msg_key: r.text("msg_key")?,
            payload: r.rest(),
        })
    }
}

/// Answer to a SEND.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sendack<'a> {
    /// Connection that sent.
    pub conn: ConnId,
    /// Id the gateway gave: the key of its in-flight table.
    pub message_id: MessageId,
    /// Id to tell the client: the first one's for a duplicate.
    pub stored_id: MessageId,
    /// Sequence; 0 when not stored or refused.
    pub message_seq: MessageSeq,
    /// Echo.
    pub client_seq: u32,
    /// Success or why not.
    pub reason: Reason,
    /// Header flags of the SEND.
    pub flags: u8,
    /// Echo, for version 6.
    pub client_msg_no: &'a str,
}

impl<'a> Body<'a> for Sendack<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_i64_le(self.message_id);
        out.put_i64_le(self.stored_id);
        out.put_u64_le(self.message_seq);
        out.put_u32_le(self.client_seq);
        out.put_u8(self.reason.0);
        out.put_u8(self.flags);
        put_text(out, self.client_msg_no);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            message_id: r.i64("message_id")?,
            stored_id: r.i64("stored_id")?,
            message_seq: r.u64("message_seq")?,
            client_seq: r.u32("client_seq")?,
            reason: Reason(r.u8("reason")?),
            flags: r.u8("flags")?,
            client_msg_no: r.text("client_msg_no")?,
        })
    }
}

/// A message for a channel: decrypted, internal id built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSend<'a> {
    /// Connection to answer; `NONE` for the API.
    pub conn: ConnId,
    /// Monotonic ms of the node when it was accepted.
    pub accepted_ms: u64,
    /// True: sent through the HTTP API (sender device `____device`): no SENDACK, no sender permission.
    pub system_device: bool,
    /// Channel type.
    pub channel_type: ChannelType,
    /// Internal channel id, with the command suffix where it applies.
    pub channel_id: &'a str,
    /// Id as the sender named it, when it cannot be derived (agent channels); else empty.
    pub named: &'a str,
    /// Receiver tag prepared through the API; else empty.
    pub tag_key: &'a str,
    /// The message.
    pub message: Message<'a>,
}

impl<'a> Body<'a> for ChannelSend<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u64_le(self.accepted_ms);
        out.put_u8(u8::from(self.system_device));
        out.put_u8(self.channel_type.0);
        put_text(out, self.channel_id);
        put_text(out, self.named);
        put_text(out, self.tag_key);
        self.message.encode(out);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            accepted_ms: r.u64("accepted_ms")?,
            system_device: r.u8("system_device")? != 0,
            channel_type: ChannelType(r.u8("channel_type")?),
            channel_id: r.text("channel_id")?,
            named: r.text("named")?,
            tag_key: r.text("tag_key")?,
            message: Message::read(&mut r)?,
        })
    }
}

/// Rows or lists of (uid, type 1) changed: cached verdicts about this user are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PersonRulesChanged<'a> {
    /// User whose rules changed.
    pub uid: &'a str,
}

impl<'a> Body<'a> for PersonRulesChanged<'a> {
    fn encode(&self, out: &mut BytesMut) {
        put_text(out, self.uid);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self { uid: Reader::new(bytes).text("uid")? })
    }
}

/// One message for the receivers that a push worker owns. Settled when every RECV made of it was received by the gateway and offline notices
/// are in their queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// Connection that sent: skipped. `NONE` for the API.
    pub sender_conn: ConnId,
    /// Sequence; 0 when not stored.
    pub message_seq: MessageSeq,
    /// Stored second.
    pub timestamp_s: i64,
    /// Channel type.
    pub channel_type: ChannelType,
    /// Internal channel id.
    pub channel_id: &'a str,
    /// Id as the sender named it, when it cannot be derived; else empty.
    pub named: &'a str,
    /// The message.
    pub message: Message<'a>,
    /// Receivers.
    pub receivers: Receivers<'a>,
}

/// List of uids inside a [`Deliver`]: encoded once per tag, copied into each item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receivers<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Receivers<'a> {
    /// A list from bytes made by [`Receivers::encode_list`].
    #[must_use]
    pub fn new(count: u32, bytes: &'a [u8]) -> Self {
        Self { count, bytes }
    }

    /// Encodes uids for [`Receivers::new`]: count and bytes.
    #[must_use]
    pub fn encode_list<'u>(uids: impl IntoIterator<Item = &'u str>) -> (u32, Bytes) {
        let mut out = BytesMut::new();
        let mut count = 0;
        for uid in uids {
            put_text(&mut out, uid);
            count += 1;
        }
        (count, out.freeze())
    }

    /// Number of uids.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The uids in order; ends early at broken bytes.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut r = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| r.text("receiver").ok())
    }
}

impl<'a> Body<'a> for Deliver<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.sender_conn.0);
        out.put_u64_le(self.message_seq);
        out.put_i64_le(self.timestamp_s);
        out.put_u8(self.channel_type.0);
        put_text(out, self.channel_id);
        put_text(out, self.named);
        self.message.encode(out);
        out.put_u32_le(self.receivers.count);
        out.put_slice(self.receivers.bytes);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let sender_conn = ConnId(r.u64("sender_conn")?);
        let message_seq = r.u64("message_seq")?;
        let timestamp_s = r.i64("timestamp_s")?;
        let channel_type = ChannelType(r.u8("channel_type")?);
        let channel_id = r.text("channel_id")?;
        let named = r.text("named")?;
        let message = Message::read(&mut r)?;
        let count = r.u32("receivers")?;
        let receivers = Receivers { count, bytes: r.rest() };
        Ok(Self { sender_conn, message_seq, timestamp_s, channel_type, channel_id, named, message, receivers })
    }
}

/// Bytes for one connection: a whole frame (binary) or one JSON text. The gateway adds only the WebSocket header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvOut<'a> {
    /// Connection.
    pub conn: ConnId,
    /// The frame.
    pub frame: &'a [u8],
}

impl<'a> Body<'a> for RecvOut<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_slice(self.frame);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self { conn: ConnId(r.u64("conn")?), frame: r.rest() })
    }
}

/// RECVACK of a client. Never kept: a loss costs one resend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recvack<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Message.
    pub message_id: MessageId,
    /// Its sequence, as the client says.
    pub message_seq: MessageSeq,
    /// Header flags of the RECVACK.
    pub flags: u8,
    /// User of the connection.
    pub uid: &'a str,
}

impl<'a> Body<'a> for Recvack<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_i64_le(self.message_id);
        out.put_u64_le(self.message_seq);
        out.put_u8(self.flags);
        put_text(out, self.uid);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            message_id: r.i64("message_id")?,
            message_seq: r.u64("message_seq")?,
            flags: r.u8("flags")?,
            uid: r.text("uid")?,
        })
    }
}
