//! WebSocket framing of a server (RFC 6455), sans I/O: a streaming decoder without buffers of its own, and the header of an outgoing frame.
//!
//! Data bytes are handed on as they arrive, so a message is never held here; fragments need no reassembly because the client protocol is a
//! byte stream (wire protocol §2.2). Only control frames, at most 125 bytes, are collected.

use crate::limits::WS_MESSAGE_BYTES_MAX;

/// Largest payload of a control frame. Source: RFC 6455 §5.5. Unit: bytes.
const CONTROL_BYTES_MAX: usize = 125;
/// Largest head of a masked frame. Unit: bytes.
const HEAD_BYTES_MAX: usize = 14;

/// What the next bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// All input was taken; the frame goes on in the next bytes.
    NeedMore,
    /// Payload bytes of a data message, unmasked, are in the output buffer.
    Data,
    /// The last frame of a data message has ended.
    MessageEnd,
    /// A PING; its payload is in the output buffer.
    Ping,
    /// A PONG.
    Pong,
    /// A CLOSE; its payload (empty, or status and text) is in the output buffer. Nothing after it is looked at.
    Close,
}

/// Bytes that no client may send: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    /// A frame without mask.
    #[error("websocket frame is not masked")]
    Unmasked,
    /// A reserved bit is set; no extension was agreed on.
    #[error("reserved bit of a websocket frame is set")]
    Reserved,
    /// An opcode that does not exist.
    #[error("unknown websocket opcode {0}")]
    Opcode(u8),
    /// A control frame that is fragmented or longer than 125 bytes.
    #[error("malformed websocket control frame")]
    Control,
    /// A continuation without a start, or a start inside a message.
    #[error("websocket fragments out of order")]
    Fragments,
    /// The message is longer than the limit.
    #[error("websocket message over the limit")]
    TooLong,
}

/// Frame being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Payload bytes taken so far; the mask turns with them.
    taken: u64,
    rest: u64,
}

/// Decoder of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEAD_BYTES_MAX],
    head_len: usize,
    frame: Option<Frame>,
    /// A data message has begun and not ended.
    in_message: bool,
    /// Payload bytes of that message so far.
    message_bytes: u64,
    control: Vec<u8>,
}

impl Decoder {
    /// Takes bytes from the front of `input` until there is something to say. `out` is cleared first.
    ///
    /// # Errors
    /// [`WsError`]; the decoder must not be used any more.
    pub fn next(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Piece, WsError> {
        out.clear();
        loop {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.head(input)? {
                    Some(frame) => frame,
                    None => return Ok(Piece::NeedMore),
                },
            };
            if let Some(piece) = self.payload(frame, input, out) {
                return Ok(piece);
            }
        }
    }

    /// Takes payload bytes of a frame; `None` at the end of a fragment that is not the last one.
    fn payload(&mut self, mut frame: Frame, input: &mut &[u8], out: &mut Vec<u8>) -> Option<Piece> {
        let want = usize::try_from(frame.rest).unwrap_or(usize::MAX).min(input.len());
        let (payload, rest) = input.split_at(want);
        *input = rest;
        let control = frame.opcode >= 8;
        unmask(payload, frame.mask, frame.taken, if control { &mut self.control } else { &mut *out });
        frame.taken += want as u64;
        frame.rest -= want as u64;
        if frame.rest > 0 {
            self.frame = Some(frame);
            return Some(if control || want == 0 { Piece::NeedMore } else { Piece::Data });
        }
        if control {
            *out = std::mem::take(&mut self.control);
            return Some(match frame.opcode {
                8 => Piece::Close,
                9 => Piece::Ping,
                _ => Piece::Pong,
            });
        }
        if want > 0 {
            // The end of the frame is reported by the next call, which takes nothing.
            self.frame = Some(frame);
            return Some(Piece::Data);
        }
        if !frame.fin {
            return None;
        }
        self.in_message = false;
        Some(Piece::MessageEnd)
    }

    /// True between the frames of different messages: nothing of a message is pending.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.in_message && self.frame.is_none() && self.head_len == 0
    }

    /// Collects a head; `None` when it is incomplete and the input is used up.
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, WsError> {
        loop {
            let need = head_need(self.head.get(..self.head_len).unwrap_or_default())?;
            if self.head_len == need {
                break;
            }
            let Some((byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            if let Some(place) = self.head.get_mut(self.head_len) {
                *place = *byte;
            }
            self.head_len += 1;
        }
        let frame = self.open_frame()?;
        self.head_len = 0;
        Ok(Some(frame))
    }

    fn open_frame(&mut self) -> Result<Frame, WsError> {
        let [first, second, ..] = self.head;
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let [.., a, b, c, d] = *self.head.get(..self.head_len).unwrap_or_default() else { return Err(WsError::Unmasked) };
        let length = self.head.get(2..self.head_len.saturating_sub(4)).unwrap_or_default();
        let rest = match second & 0x7f {
            126 | 127 => length.iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte)),
            small => u64::from(small),
        };
        if opcode >= 8 {
            if !fin || rest > CONTROL_BYTES_MAX as u64 {
                return Err(WsError::Control);
            }
        } else {
            if (opcode == 0) != self.in_message {
                return Err(WsError::Fragments);
            }
            self.message_bytes = if opcode == 0 { self.message_bytes.saturating_add(rest) } else { rest };
            if self.message_bytes > WS_MESSAGE_BYTES_MAX {
                return Err(WsError::TooLong);
            }
            self.in_message = true;
        }
        Ok(Frame { fin, opcode, mask: [a, b, c, d], taken: 0, rest })
    }
}

/// Length of a head that starts with these bytes; checks each byte as soon as it is there.
fn head_need(head: &[u8]) -> Result<usize, WsError> {
    let Some(first) = head.first() else { return Ok(2) };
    if first & 0x70 != 0 {
        return Err(WsError::Reserved);
    }
    if !matches!(first & 0x0f, 0..=2 | 8..=10) {
        return Err(WsError::Opcode(first & 0x0f));
    }
    let Some(second) = head.get(1) else { return Ok(2) };
    if second & 0x80 == 0 {
        return Err(WsError::Unmasked);
    }
    Ok(match second & 0x7f {
        126 => 2 + 2 + 4,
        127 => 2 + 8 + 4,
        _ => 2 + 4,
    })
}

/// Appends the payload without its mask. `at`: position of its first byte inside the frame.
fn unmask(payload: &[u8], mask: [u8; 4], at: u64, out: &mut Vec<u8>) {
    let mut mask = mask;
    mask.rotate_left(usize::try_from(at % 4).unwrap_or(0));
    let key = u64::from(u32::from_ne_bytes(mask));
    let key = key << 32 | key;
    out.reserve(payload.len());
    let (words, tail) = payload.as_chunks::<8>();
    for word in words {
        out.extend_from_slice(&(u64::from_ne_bytes(*word) ^ key).to_ne_bytes());
    }
    out.extend(tail.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Opcode of an outgoing frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// JSON-RPC text.
    Text = 1,
    /// One binary frame.
    Binary = 2,
    /// CLOSE.
    Close = 8,
    /// PONG.
    Pong = 10,
}

/// Appends the head of an unmasked, unfragmented frame of `len` payload bytes.
pub fn put_head(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    out.push(0x80 | opcode as u8);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => out.push(len),
        (_, Ok(len)) => {
            out.push(126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a CLOSE. Only 1001 (the server goes away) and 1000 are ever sent (wire protocol §2.3).
pub fn put_close(out: &mut Vec<u8>, going_away: bool) {
    let status: u16 = if going_away { 1001 } else { 1000 };
    put_head(out, Opcode::Close, 2);
    out.extend_from_slice(&status.to_be_bytes());
}

#[cfg(test)]
mod tests;
