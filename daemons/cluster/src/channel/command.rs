//! Commands of a channel group and its answers, as bytes of the raft log.
//!
//! Command: version, kind, the leader's time, body. The body of an append is the frames of the request, unchanged. The answer lists one
//! result per channel frame, in order.

use bytes::{BufMut, Bytes, BytesMut};
use wk_link::codec::{DecodeError, Reader, put_text};
use wk_proto::cluster::v1::Code;

use super::rows::len_u32;
use crate::error::Refusal;

/// Version of commands and answers. A machine that meets a newer one stops: a node that skipped it would differ from the others.
pub const VERSION: u8 = 1;
/// Bytes in front of the body.
pub const HEAD_BYTES: usize = 10;

const KIND_APPEND: u8 = 1;
const KIND_CURSORS: u8 = 2;

/// A decoded command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// Store messages.
    Append {
        /// The leader's clock. Unit: ms since 1970.
        now_ms: i64,
        /// Frames of `wk_link::record::ChannelBatch`.
        frames: &'a [u8],
    },
    /// Save consumers' positions.
    SaveCursors(Vec<CursorChange<'a>>),
}

/// One change of a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorChange<'a> {
    /// Consumer.
    pub consumer: &'a str,
    /// Bucket, or 0xffff for the whole group.
    pub bucket: u16,
    /// New position; a smaller one than the saved is ignored.
    pub index: u64,
    /// The consumer is gone.
    pub remove: bool,
}

/// Why a command was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misread {
    /// Written by a newer program: the machine must stop.
    Version(u8),
    /// Not a command: refused, as on every other node.
    Broken,
}

/// Starts an append command; the frames follow.
#[must_use]
pub fn begin_append(now_ms: i64, capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + capacity);
    head(&mut out, KIND_APPEND, now_ms);
    out
}

/// A command that saves cursors.
#[must_use]
pub fn encode_cursors<'a>(changes: impl ExactSizeIterator<Item = CursorChange<'a>>) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + 4 + changes.len() * 24);
    head(&mut out, KIND_CURSORS, 0);
    out.put_u32_le(len_u32(changes.len()));
    for change in changes {
        put_text(&mut out, change.consumer);
        out.put_u16_le(change.bucket);
        out.put_u64_le(change.index);
        out.put_u8(u8::from(change.remove));
    }
    out.freeze()
}

fn head(out: &mut BytesMut, kind: u8, now_ms: i64) {
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_i64_le(now_ms);
}

/// Reads a command.
///
/// # Errors
/// [`Misread`].
pub fn decode(command: &[u8]) -> Result<Command<'_>, Misread> {
    let mut r = Reader::new(command);
    match r.u8("version") {
        Ok(VERSION) => decode_body(&mut r).map_err(|_| Misread::Broken),
        Ok(version) => Err(Misread::Version(version)),
        Err(_) => Err(Misread::Broken),
    }
}

fn decode_body<'a>(r: &mut Reader<'a>) -> Result<Command<'a>, DecodeError> {
    let kind = r.u8("kind")?;
    let now_ms = r.i64("now_ms")?;
    match kind {
        KIND_APPEND => Ok(Command::Append { now_ms, frames: r.rest() }),
        KIND_CURSORS => {
            let changes = (0..r.u32("count")?).map(|_| {
                Ok(CursorChange {
                    consumer: r.text("consumer")?,
                    bucket: r.u16("bucket")?,
                    index: r.u64("index")?,
                    remove: r.u8("remove")? != 0,
                })
            });
            changes.collect::<Result<_, _>>().map(Command::SaveCursors)
        }
        _ => Err(DecodeError::Range("kind")),
    }
}

/// Where one message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAt {
    /// Id under which it is stored.
    pub message_id: i64,
    /// Its sequence.
    pub seq: u64,
    /// It was stored before.
    pub duplicate: bool,
}

/// Result of one channel's frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelResult {
    /// All messages of the frame are stored.
    Stored {
        /// Stored second of the batch. Unit: s since 1970.
        timestamp_s: i64,
        /// One per message.
        messages: Vec<StoredAt>,
    },
    /// None of them is.
    Refused(Refusal),
}

impl ChannelResult {
    /// Appends the result to an answer.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Stored { timestamp_s, messages } => {
                out.put_i32_le(0);
                out.put_i64_le(*timestamp_s);
                out.put_u32_le(len_u32(messages.len()));
                for message in messages {
                    out.put_i64_le(message.message_id);
                    out.put_u64_le(message.seq);
                    out.put_u8(u8::from(message.duplicate));
                }
            }
            Self::Refused(refusal) => {
                out.put_i32_le(refusal.code.into());
                put_text(out, &refusal.detail);
            }
        }
    }

    /// Reads the next result of an answer.
    ///
    /// # Errors
    /// When the bytes are not such a result.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = i32::from_le_bytes(r.array("code")?);
        if code == 0 {
            let timestamp_s = r.i64("timestamp")?;
            let messages = (0..r.u32("count")?)
                .map(|_| Ok(StoredAt { message_id: r.i64("message_id")?, seq: r.u64("seq")?, duplicate: r.u8("duplicate")? != 0 }))
                .collect::<Result<_, DecodeError>>()?;
            return Ok(Self::Stored { timestamp_s, messages });
        }
        let code = Code::try_from(code).map_err(|_| DecodeError::Range("code"))?;
        let detail = r.text("detail")?.to_owned().into();
        Ok(Self::Refused(Refusal { code, detail, retry_after_ms: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_answers_round_trip() {
        let mut append = begin_append(5, 3);
        append.put_slice(b"abc");
        assert_eq!(decode(&append), Ok(Command::Append { now_ms: 5, frames: b"abc" }));
        let change = CursorChange { consumer: "webhook", bucket: 0xffff, index: 9, remove: true };
        assert_eq!(decode(&encode_cursors([change.clone()].into_iter())), Ok(Command::SaveCursors(vec![change])));
        assert_eq!(decode(&[9, 1]), Err(Misread::Version(9)));
        assert_eq!(decode(&[]), Err(Misread::Broken));
        assert_eq!(decode(&[VERSION, 77, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Misread::Broken));
        let results = [
            ChannelResult::Stored { timestamp_s: 4, messages: vec![StoredAt { message_id: 8, seq: 2, duplicate: true }] },
            ChannelResult::Refused(Refusal::rejected("no")),
        ];
        let mut out = BytesMut::new();
        results.iter().for_each(|result| result.encode(&mut out));
        let mut r = Reader::new(&out);
        for result in results {
            assert_eq!(ChannelResult::read(&mut r), Ok(result));
        }
        assert!(r.is_empty());
    }
}
