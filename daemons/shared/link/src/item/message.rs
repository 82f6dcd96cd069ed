//! Items about messages: on their way in, to a channel, to receivers, and their answers.

use bytes::{BufMut, Bytes, BytesMut};
use wk_types::{ChannelType, ConnId, MessageId, MessageSeq, Reason};

use super::Body;
use crate::codec::{DecodeError, Reader, put_blob, put_text};
use crate::record::Message;

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
    /// Who gets the message, instead of the channel's members; empty: these do. Only for messages that are not stored.
    pub receivers: Receivers<'a>,
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
        out.put_u32_le(self.receivers.count);
        if !self.receivers.is_empty() {
            put_blob(out, self.receivers.bytes);
        }
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
            receivers: match r.u32("receivers")? {
                0 => Receivers::NONE,
                count => Receivers { count, bytes: r.blob("receivers")? },
            },
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

/// List of uids inside a [`Deliver`] (encoded once per tag, copied into each item) or a [`ChannelSend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receivers<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Receivers<'a> {
    /// Nobody.
    pub const NONE: Self = Self { count: 0, bytes: &[] };

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
