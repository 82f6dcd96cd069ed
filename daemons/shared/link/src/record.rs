//! Messages as the log holds them.
//!
//! The channel worker encodes a [`Message`] once; the same bytes travel in the append request, lie in the raft entry, become the row in
//! RocksDB (behind a `RowHead`) and come back in reads. Format version 1; golden vectors in `testdata/record/v1`.

use bytes::{BufMut, Bytes, BytesMut};
use wk_types::{ChannelType, ConnId, MessageId, MessageSeq};

use crate::codec::{DecodeError, Reader, put_blob, put_framed, put_text};

/// One message, plaintext, before or after it got its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Snowflake, never 0.
    pub message_id: MessageId,
    /// Header flags of the SEND: 1 noPersist, 2 redDot, 4 syncOnce, 8 dup.
    pub flags: u8,
    /// Setting byte of the SEND.
    pub setting: u8,
    /// Seconds, 0 = never.
    pub expire: u32,
    /// Client counter, 0 for API messages.
    pub client_seq: u32,
    /// Sender, the system uid not blanked.
    pub from_uid: &'a str,
    /// Client's unique number; may be empty.
    pub client_msg_no: &'a str,
    /// Topic; empty without the topic bit.
    pub topic: &'a str,
    /// Stream number; empty without the stream bit.
    pub stream_no: &'a str,
    /// Plain payload.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Appends the encoded message (no length in front).
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i64_le(self.message_id);
        out.put_u8(self.flags);
        out.put_u8(self.setting);
        out.put_u32_le(self.expire);
        out.put_u32_le(self.client_seq);
        put_text(out, self.from_uid);
        put_text(out, self.client_msg_no);
        put_text(out, self.topic);
        put_text(out, self.stream_no);
        put_blob(out, self.payload);
    }

    /// Decodes a message from the front of `r`.
    ///
    /// # Errors
    /// When the bytes are not an encoded message.
    pub fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            message_id: r.i64("message_id")?,
            flags: r.u8("flags")?,
            setting: r.u8("setting")?,
            expire: r.u32("expire")?,
            client_seq: r.u32("client_seq")?,
            from_uid: r.text("from_uid")?,
            client_msg_no: r.text("client_msg_no")?,
            topic: r.text("topic")?,
            stream_no: r.text("stream_no")?,
            payload: r.blob("payload")?,
        })
    }

    /// Decodes a whole slice.
    ///
    /// # Errors
    /// When the bytes are not an encoded message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(bytes))
    }
}

/// Messages for one channel inside an append request and a raft entry: frame of `u32` length, channel, count, length-prefixed messages, then
/// perhaps a `u64` for each: the connection that sent it; then perhaps a text for each: the channel's id as the sender named it.
#[derive(Debug, Clone, Copy)]
pub struct ChannelBatch<'a> {
    /// Internal channel id.
    pub channel_id: &'a str,
    /// Channel type.
    pub channel_type: ChannelType,
    /// Number of messages, at least 1.
    pub count: u16,
    messages: &'a [u8],
}

impl<'a> ChannelBatch<'a> {
    /// Appends one frame; `messages` are encoded [`Message`]s in order, at most 65,535.
    pub fn encode<'m>(out: &mut BytesMut, channel_id: &str, channel_type: ChannelType, messages: impl ExactSizeIterator<Item = &'m [u8]>) {
        put_framed(out, |out| {
            put_text(out, channel_id);
            out.put_u8(channel_type.0);
            out.put_u16_le(u16::try_from(messages.len()).unwrap_or(u16::MAX));
            for message in messages.take(usize::from(u16::MAX)) {
                put_blob(out, message);
            }
        });
    }

    /// As [`ChannelBatch::encode`], with the connection that sent each message and the id it named, empty where receivers can derive that: so
    /// both are known also after a crash.
    pub fn encode_sent<'m>(
        out: &mut BytesMut,
        channel_id: &str,
        channel_type: ChannelType,
        messages: impl ExactSizeIterator<Item = &'m [u8]>,
        senders: impl Iterator<Item = (ConnId, &'m str)> + Clone,
    ) {
        let start = out.len();
        Self::encode(out, channel_id, channel_type, messages);
        let senders = senders.take(usize::from(u16::MAX));
        senders.clone().for_each(|(conn, _)| out.put_u64_le(conn.0));
        if senders.clone().any(|(_, named)| !named.is_empty()) {
            senders.for_each(|(_, named)| put_text(out, named));
        }
        let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(head) = out.get_mut(start..start + 4) {
            head.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// Decodes the next frame from the front of `r`.
    ///
    /// # Errors
    /// When the bytes are not such a frame.
    pub fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut frame = Reader::new(r.blob("channel batch")?);
        Ok(Self {
            channel_id: frame.text("channel_id")?,
            channel_type: ChannelType(frame.u8("channel_type")?),
            count: frame.u16("count")?,
            messages: frame.rest(),
        })
    }

    /// The encoded messages in order. Stops with an error at the first broken one.
    pub fn messages(&self) -> impl Iterator<Item = Result<&'a [u8], DecodeError>> + use<'a> {
        let mut r = Reader::new(self.messages);
        (0..self.count).map(move |_| r.blob("message"))
    }

    /// The connection that sent each message, in order, and the id it named; `NONE` and empty where the frame does not say.
    pub fn senders(&self) -> impl Iterator<Item = (ConnId, &'a str)> + use<'a> {
        let mut r = Reader::new(self.messages);
        let whole = (0..self.count).all(|_| r.blob("message").is_ok());
        let mut conns = if whole { r } else { Reader::new(&[]) };
        let mut named = Reader::new(conns.rest().get(usize::from(self.count) * 8..).unwrap_or_default());
        (0..self.count).map(move |_| (conns.u64("sender").map_or(ConnId::NONE, ConnId), named.text("named").unwrap_or_default()))
    }
}

/// What precedes the message bytes in a stored row: the stored second.
pub const ROW_HEAD_BYTES: usize = 8;

/// Value of a `msg` row: `i64` stored second, then the encoded message.
#[must_use]
pub fn encode_row(timestamp_s: i64, message: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(ROW_HEAD_BYTES + message.len());
    row.extend_from_slice(&timestamp_s.to_le_bytes());
    row.extend_from_slice(message);
    row
}

/// Splits a `msg` row into its stored second and the encoded message.
///
/// # Errors
/// When the row is shorter than its head.
pub fn decode_row(row: &[u8]) -> Result<(i64, &[u8]), DecodeError> {
    let mut r = Reader::new(row);
    Ok((r.i64("timestamp")?, r.rest()))
}

/// A message of the log as reads and the journal return it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Position in the channel's log.
    pub message_seq: MessageSeq,
    /// Stored second since 1970, the leader's clock.
    pub timestamp_s: i64,
    /// The message.
    pub message: Message<'a>,
}

impl<'a> Stored<'a> {
    /// Appends one frame from a `msg` row: `u32` length, sequence, row.
    pub fn encode_from_row(out: &mut BytesMut, seq: MessageSeq, row: &[u8]) {
        put_framed(out, |out| {
            out.put_u64_le(seq);
            out.put_slice(row);
        });
    }

    /// Decodes the next frame from the front of `r`.
    ///
    /// # Errors
    /// When the bytes are not such a frame.
    pub fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut frame = Reader::new(r.blob("stored")?);
        let message_seq = frame.u64("seq")?;
        let timestamp_s = frame.i64("timestamp")?;
        Ok(Self { message_seq, timestamp_s, message: Message::read(&mut frame)? })
    }

    /// All frames of a reply, in order.
    ///
    /// # Errors
    /// When one of them is broken.
    pub fn read_all(records: &'a [u8]) -> Result<Vec<Self>, DecodeError> {
        let mut r = Reader::new(records);
        let mut all = Vec::new();
        while !r.is_empty() {
            all.push(Self::read(&mut r)?);
        }
        Ok(all)
    }
}

/// Encodes one message into an own buffer.
#[must_use]
pub fn encode_message(message: &Message<'_>) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + message.payload.len());
    message.encode(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(payload: &[u8]) -> Message<'_> {
        Message {
            message_id: 7,
            flags: 2,
            setting: 8,
            expire: 3,
            client_seq: 9,
            from_uid: "ann",
            client_msg_no: "no-1",
            topic: "t",
            stream_no: "",
            payload,
        }
    }

    #[test]
    fn a_message_survives_log_and_read() {
        let message = encode_message(&sample(b"hi"));
        let mut out = BytesMut::new();
        ChannelBatch::encode(&mut out, "bob@ann", ChannelType::PERSON, [&message[..], &message[..]].into_iter());
        let mut r = Reader::new(&out);
        let batch = ChannelBatch::read(&mut r).expect("own bytes");
        assert!(r.is_empty());
        assert_eq!((batch.channel_id, batch.channel_type, batch.count), ("bob@ann", ChannelType::PERSON, 2));
        for bytes in batch.messages() {
            let row = encode_row(55, bytes.expect("own bytes"));
            let mut reply = BytesMut::new();
            Stored::encode_from_row(&mut reply, 4, &row);
            let all = Stored::read_all(&reply).expect("own bytes");
            assert_eq!(all, [Stored { message_seq: 4, timestamp_s: 55, message: sample(b"hi") }]);
        }
    }

    #[test]
    fn a_batch_names_its_senders_or_none() {
        let message = encode_message(&sample(b"hi"));
        let two = || [&message[..], &message[..]].into_iter();
        let mut out = BytesMut::new();
        ChannelBatch::encode_sent(&mut out, "g", ChannelType::GROUP, two(), [(ConnId(7), ""), (ConnId::NONE, "")].into_iter());
        ChannelBatch::encode(&mut out, "g", ChannelType::GROUP, two());
        ChannelBatch::encode_sent(&mut out, "ann@bot", ChannelType::AGENT, two(), [(ConnId(7), "bot"), (ConnId(8), "")].into_iter());
        let mut r = Reader::new(&out);
        let sent = ChannelBatch::read(&mut r).expect("own bytes");
        assert_eq!(sent.messages().collect::<Result<Vec<_>, _>>().expect("own bytes"), two().collect::<Vec<_>>());
        assert_eq!(sent.senders().collect::<Vec<_>>(), [(ConnId(7), ""), (ConnId::NONE, "")]);
        let silent = ChannelBatch::read(&mut r).expect("own bytes");
        assert_eq!(silent.senders().collect::<Vec<_>>(), [(ConnId::NONE, ""); 2]);
        let named = ChannelBatch::read(&mut r).expect("own bytes");
        assert!(r.is_empty());
        assert_eq!(named.senders().collect::<Vec<_>>(), [(ConnId(7), "bot"), (ConnId(8), "")]);
    }

    #[test]
    fn golden_row_v1() {
        let row = encode_row(0x0102, &encode_message(&sample(b"hi")));
        let hex: String = row.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("../testdata/record/v1/row.hex").trim());
    }

    #[test]
    fn broken_bytes_are_errors() {
        let message = encode_message(&sample(b"hi"));
        for cut in 0..message.len() {
            assert!(Message::decode(&message[..cut]).is_err());
        }
    }
}
