//! Frame heads: type, flags, remaining length, and the splitter of a receive buffer (§3).

use crate::Flags;
use crate::limits::LENGTH_MAX;

/// Type of a frame: the high nibble of its first byte (§3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Client logs in.
    Connect = 1,
    /// Answer to CONNECT.
    Connack = 2,
    /// Client sends a message.
    Send = 3,
    /// Answer to SEND.
    Sendack = 4,
    /// Message to a client.
    Recv = 5,
    /// Client got a RECV.
    Recvack = 6,
    /// Heartbeat.
    Ping = 7,
    /// Answer to PING.
    Pong = 8,
    /// Kick, or a client's farewell.
    Disconnect = 9,
    /// Client subscribes or unsubscribes.
    Sub = 10,
    /// Answer to SUB.
    Suback = 11,
    /// Event to a client.
    Event = 12,
}

impl FrameType {
    /// The type in the high nibble of `byte`.
    ///
    /// # Errors
    ///
    /// [`FrameError::UnknownType`] for 0 and for 13 to 15.
    pub const fn from_byte(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte >> 4 {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Send,
            4 => Self::Sendack,
            5 => Self::Recv,
            6 => Self::Recvack,
            7 => Self::Ping,
            8 => Self::Pong,
            9 => Self::Disconnect,
            10 => Self::Sub,
            11 => Self::Suback,
            12 => Self::Event,
            other => return Err(FrameError::UnknownType(other)),
        })
    }

    /// First byte of a frame of this type with these flags.
    #[must_use]
    pub const fn byte(self, flags: Flags) -> u8 {
        (self as u8) << 4 | flags.get()
    }

    /// True for PING and PONG, which are a single byte without a length.
    #[must_use]
    pub const fn is_single_byte(self) -> bool {
        matches!(self, Self::Ping | Self::Pong)
    }
}

/// Why bytes are not a frame. None is recoverable: the connection is closed without a DISCONNECT (§8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Type 0 or 13 to 15.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The remaining length has more than four bytes.
    #[error("remaining length is longer than 4 bytes")]
    LongLength,
    /// The head announces more than the limit.
    #[error("frame body of {len} bytes is over the limit of {limit}")]
    OverLimit {
        /// Announced remaining length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The body ends inside this field, or a string announces a negative length.
    #[error("frame body ends inside {0}")]
    Short(&'static str),
    /// This string field is not UTF-8.
    #[error("{0} is not utf-8")]
    NotUtf8(&'static str),
}

/// What the first bytes of a frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Type.
    pub kind: FrameType,
    /// Flags.
    pub flags: Flags,
    /// Bytes of the head: 1 to 5.
    pub head_len: usize,
    /// Bytes of the body; 0 for PING and PONG.
    pub body_len: usize,
}

impl FrameHead {
    /// Reads the head at the start of `buf`. The body need not be there yet. `limit` bounds the body in bytes.
    ///
    /// Returns `None` when more bytes are needed to know the head.
    ///
    /// # Errors
    ///
    /// An unknown type, a length of more than four bytes, or a body over `limit`; each as soon as the bytes show it.
    pub fn parse(buf: &[u8], limit: usize) -> Result<Option<Self>, FrameError> {
        let Some((&first, rest)) = buf.split_first() else { return Ok(None) };
        let kind = FrameType::from_byte(first)?;
        let flags = Flags::from_byte(first);
        if kind.is_single_byte() {
            return Ok(Some(Self { kind, flags, head_len: 1, body_len: 0 }));
        }
        let Some((body_len, used)) = varint(rest)? else { return Ok(None) };
        if body_len > limit {
            return Err(FrameError::OverLimit { len: body_len, limit });
        }
        Ok(Some(Self { kind, flags, head_len: 1 + used, body_len }))
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.head_len + self.body_len
    }

    /// The body inside `buf`, whose first byte is the first byte of this frame; `None` while it is incomplete.
    #[must_use]
    pub fn body<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        buf.get(self.head_len..self.total_len())
    }
}

/// A whole frame inside a receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its head.
    pub head: FrameHead,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `buf`, or `None` while it is incomplete. It takes `head.total_len()` bytes.
    ///
    /// # Errors
    ///
    /// As [`split`].
    pub fn next(buf: &'a [u8], limit: usize) -> Result<Option<Self>, FrameError> {
        let Some(head) = FrameHead::parse(buf, limit)? else { return Ok(None) };
        Ok(head.body(buf).map(|body| Self { head, body }))
    }
}

/// Finds the frame at the start of `buf` without copying: its head and its length in bytes. `limit` bounds the body in bytes, usually
/// [`crate::limits::BODY_BYTES_MAX`].
///
/// Returns `None` until the whole frame is there; [`FrameHead::parse`] tells earlier how long it will be.
///
/// # Errors
///
/// What [`FrameHead::parse`] reports; the connection cannot continue.
pub fn split(buf: &[u8], limit: usize) -> Result<Option<(FrameHead, usize)>, FrameError> {
    let Some(head) = FrameHead::parse(buf, limit)? else { return Ok(None) };
    let total = head.total_len();
    Ok((buf.len() >= total).then_some((head, total)))
}

/// Reads a remaining length: its value and its size in bytes, or `None` when it is incomplete. Over-long forms are accepted (§3.3).
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut value = 0_usize;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 { Err(FrameError::LongLength) } else { Ok(None) }
}

/// Appends a remaining length in its shortest form.
///
/// The caller has checked that `value` is at most [`LENGTH_MAX`].
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    debug_assert!(value <= LENGTH_MAX, "the length must fit four bytes");
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_frame_over_the_limit_at_its_head() {
        assert_eq!(split(&[0x30, 0x81, 0x80, 0x40], 1 << 20), Err(FrameError::OverLimit { len: (1 << 20) + 1, limit: 1 << 20 }));
        assert_eq!(split(&[0x30, 0x80, 0x80, 0x40], 1 << 20), Ok(None));
    }

    #[test]
    fn refuses_a_length_of_five_bytes_at_the_fourth() {
        assert_eq!(split(&[0x30, 0x80, 0x80, 0x80], 10), Ok(None));
        assert_eq!(split(&[0x30, 0x80, 0x80, 0x80, 0x80], 10), Err(FrameError::LongLength));
    }

    #[test]
    fn single_bytes_have_no_length() {
        let (head, total) = split(&[0x7f, 0x80], 10).unwrap().unwrap();
        assert_eq!((head.kind, head.flags.get(), total), (FrameType::Ping, 0xf, 1));
    }

    #[test]
    fn lengths_round_trip() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, LENGTH_MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(varint(&out), Ok(Some((value, out.len()))));
        }
    }
}
