//! Encoders of all frames: each appends one whole frame to a buffer (§3, §6).
//!
//! The layout of a body is written down once, against a sink: a first run counts, which gives the remaining length and finds strings that
//! are too long, a second run writes. A failing encoder leaves the buffer as it was.

use crate::crypto::{MsgKey, SessionKeys, sealed_len};
use crate::frame::put_varint;
use crate::limits::{LENGTH_MAX, STRING_BYTES_MAX};
use crate::{Connack, Connect, Disconnect, Event, Flags, FrameType, RecvRef, Recvack, SendRef, Sendack, Sub, Suback, Version};

/// Why a frame cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// This string is longer than [`STRING_BYTES_MAX`].
    #[error("{0} is longer than a string field can be")]
    StringTooLong(&'static str),
    /// The body is longer than [`LENGTH_MAX`].
    #[error("frame body of {0} bytes is longer than a frame can be")]
    BodyTooLong(usize),
}

/// Appends a CONNECT.
///
/// # Errors
///
/// A string that is too long.
pub fn connect(out: &mut Vec<u8>, x: &Connect, _version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Connect, Flags::NONE, 0, |s| {
        s.u8(x.version);
        s.u8(x.device_flag.0);
        s.str("deviceId", &x.device_id);
        s.str("uid", &x.uid);
        s.str("token", &x.token);
        s.bytes(&x.client_timestamp.to_be_bytes());
        s.str("clientKey", &x.client_key);
    })
    .map(drop)
}

/// Appends a CONNACK in the layout for a client that stated at least `version`; also on failure (§6.2).
///
/// # Errors
///
/// A string that is too long.
pub fn connack(out: &mut Vec<u8>, x: &Connack, version: Version) -> Result<(), EncodeError> {
    let full = version.has_server_version();
    frame(out, FrameType::Connack, Flags::NONE.with_if(Flags::HAS_SERVER_VERSION, full), 0, |s| {
        if full {
            s.u8(x.server_version);
        }
        s.bytes(&x.time_diff.to_be_bytes());
        s.u8(x.reason.0);
        s.str("serverKey", &x.server_key);
        s.str("salt", &x.salt);
        if full {
            s.bytes(&x.node_id.to_be_bytes());
        }
    })
    .map(drop)
}

/// Appends a SEND with key and payload as they are. For clients.
///
/// # Errors
///
/// A string or a payload that is too long.
pub fn send(out: &mut Vec<u8>, x: &SendRef<'_>, version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Send, x.flags, x.payload.len(), |s| {
        send_before_key(s, x, version);
        s.str("msgKey", x.msg_key);
        send_after_key(s, x);
    })?;
    out.extend_from_slice(x.payload);
    Ok(())
}

/// Appends a SEND whose clear payload is encrypted and signed with `keys`; `x.msg_key` is not used. For clients.
///
/// # Errors
///
/// A string or a payload that is too long.
pub fn send_sealed(out: &mut Vec<u8>, x: &SendRef<'_>, version: Version, keys: &SessionKeys) -> Result<(), EncodeError> {
    let mut before = Count::default();
    send_before_key(&mut before, x, version);
    let payload_len = sealed_len(x.payload.len());
    let body_at = frame(out, FrameType::Send, x.flags, payload_len, |s| {
        send_before_key(s, x, version);
        s.str("msgKey", KEY_PLACE);
        send_after_key(s, x);
    })?;
    let cipher = keys.cipher();
    let payload_at = out.len();
    cipher.seal(x.payload, out);
    let key = cipher.sign_send(x, out.get(payload_at..).unwrap_or_default());
    put_key(out, body_at + before.len, &key);
    Ok(())
}

/// Appends a SENDACK.
///
/// # Errors
///
/// A client message number that is too long (version 6 only).
pub fn sendack(out: &mut Vec<u8>, x: &Sendack<'_>, version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Sendack, x.flags, 0, |s| {
        s.bytes(&x.message_id.to_be_bytes());
        s.bytes(&x.client_seq.to_be_bytes());
        s.seq(x.message_seq, version);
        s.u8(x.reason.0);
        if version.has_wide_seq() && !x.client_msg_no.is_empty() {
            s.str("clientMsgNo", x.client_msg_no);
        }
    })
    .map(drop)
}

/// Appends a RECV with key and payload as they are: for connections without encryption, see [`crate::Setting::for_recv`].
///
/// # Errors
///
/// A string or a payload that is too long.
pub fn recv(out: &mut Vec<u8>, x: &RecvRef<'_>, version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Recv, x.flags, x.payload.len(), |s| recv_fields(s, x, x.msg_key, version))?;
    out.extend_from_slice(x.payload);
    Ok(())
}

/// Appends a RECV whose clear payload is encrypted and signed with `keys`; `x.msg_key` is not used. One key expansion, no allocation besides
/// the growth of `out`.
///
/// # Errors
///
/// A string or a payload that is too long.
pub fn recv_sealed(out: &mut Vec<u8>, x: &RecvRef<'_>, version: Version, keys: &SessionKeys) -> Result<(), EncodeError> {
    let payload_len = sealed_len(x.payload.len());
    let body_at = frame(out, FrameType::Recv, x.flags, payload_len, |s| recv_fields(s, x, KEY_PLACE, version))?;
    let cipher = keys.cipher();
    let payload_at = out.len();
    cipher.seal(x.payload, out);
    let key = cipher.sign_recv(x, out.get(payload_at..).unwrap_or_default());
    // The setting byte comes before the key.
    put_key(out, body_at + 1, &key);
    Ok(())
}

/// Appends a RECVACK. For clients.
pub fn recvack(out: &mut Vec<u8>, x: &Recvack, version: Version) {
    out.push(FrameType::Recvack.byte(x.flags));
    out.push(if version.has_wide_seq() { 16 } else { 12 });
    out.extend_from_slice(&x.message_id.to_be_bytes());
    out.seq(x.message_seq, version);
}

/// Appends a PING. For clients.
pub fn ping(out: &mut Vec<u8>) {
    out.push(FrameType::Ping.byte(Flags::NONE));
}

/// Appends a PONG.
pub fn pong(out: &mut Vec<u8>) {
    out.push(FrameType::Pong.byte(Flags::NONE));
}

/// Appends a DISCONNECT.
///
/// # Errors
///
/// A text that is too long.
pub fn disconnect(out: &mut Vec<u8>, x: &Disconnect, _version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Disconnect, Flags::NONE, 0, |s| {
        s.u8(x.reason.0);
        s.str("reason", &x.text);
    })
    .map(drop)
}

/// Appends a SUB. For clients.
///
/// # Errors
///
/// A string that is too long.
pub fn sub(out: &mut Vec<u8>, x: &Sub, _version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Sub, Flags::NONE, 0, |s| {
        s.u8(x.setting.get());
        s.str("subNo", &x.sub_no);
        s.str("channelId", &x.channel_id);
        s.u8(x.channel_type.0);
        s.u8(x.action.0);
        s.str("param", &x.param);
    })
    .map(drop)
}

/// Appends a SUBACK.
///
/// # Errors
///
/// A string that is too long.
pub fn suback(out: &mut Vec<u8>, x: &Suback, _version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Suback, Flags::NONE, 0, |s| {
        s.str("subNo", &x.sub_no);
        s.str("channelId", &x.channel_id);
        s.u8(x.channel_type.0);
        s.u8(x.action.0);
        s.u8(x.reason.0);
    })
    .map(drop)
}

/// Appends an EVENT. The caller checks [`Version::has_event`].
///
/// # Errors
///
/// A string or data that is too long.
pub fn event(out: &mut Vec<u8>, x: &Event<'_>, _version: Version) -> Result<(), EncodeError> {
    frame(out, FrameType::Event, Flags::NONE, x.data.len(), |s| {
        s.str("id", x.id);
        s.str("type", x.kind);
        s.bytes(&x.timestamp.to_be_bytes());
    })?;
    out.extend_from_slice(x.data);
    Ok(())
}

/// Stands for a key that is not known yet.
const KEY_PLACE: &str = "00000000000000000000000000000000";

fn send_before_key(s: &mut dyn Sink, x: &SendRef<'_>, version: Version) {
    s.u8(x.setting.get());
    s.bytes(&x.client_seq.to_be_bytes());
    s.str("clientMsgNo", x.client_msg_no);
    if version.has_stream_fields() && x.setting.stream() {
        s.str("streamNo", x.stream_no);
    }
    s.str("channelId", x.channel_id);
    s.u8(x.channel_type.0);
    if version.has_expire() {
        s.bytes(&x.expire.to_be_bytes());
    }
}

fn send_after_key(s: &mut dyn Sink, x: &SendRef<'_>) {
    if x.setting.topic() {
        s.str("topic", x.topic);
    }
}

fn recv_fields(s: &mut dyn Sink, x: &RecvRef<'_>, msg_key: &str, version: Version) {
    s.u8(x.setting.get());
    s.str("msgKey", msg_key);
    s.str("fromUid", x.from_uid);
    s.str("channelId", x.channel_id);
    s.u8(x.channel_type.0);
    if version.has_expire() {
        s.bytes(&x.expire.to_be_bytes());
    }
    s.str("clientMsgNo", x.client_msg_no);
    if version.has_stream_fields() && x.setting.stream() {
        s.u8(x.stream.flag);
        s.str("streamNo", x.stream.no);
        s.bytes(&x.stream.id.to_be_bytes());
    }
    s.bytes(&x.message_id.to_be_bytes());
    s.seq(x.message_seq, version);
    s.bytes(&x.timestamp.to_be_bytes());
    if x.setting.topic() {
        s.str("topic", x.topic);
    }
}

/// Writes head and fields of a frame whose last `rest_len` bytes the caller appends. Returns where the body starts in `out`.
fn frame(out: &mut Vec<u8>, kind: FrameType, flags: Flags, rest_len: usize, body: impl Fn(&mut dyn Sink)) -> Result<usize, EncodeError> {
    let mut count = Count::default();
    body(&mut count);
    if let Some(field) = count.too_long {
        return Err(EncodeError::StringTooLong(field));
    }
    let len = count.len.saturating_add(rest_len);
    if len > LENGTH_MAX {
        return Err(EncodeError::BodyTooLong(len));
    }
    out.reserve(len + crate::limits::HEAD_BYTES_MAX);
    out.push(kind.byte(flags));
    put_varint(out, len);
    let body_at = out.len();
    body(out);
    debug_assert_eq!(out.len(), body_at + count.len, "both runs must agree");
    Ok(body_at)
}

/// Overwrites the placeholder of the string field at `field_at`.
fn put_key(out: &mut [u8], field_at: usize, key: &MsgKey) {
    let text_at = field_at + 2;
    if let Some(place) = out.get_mut(text_at..text_at + KEY_PLACE.len()) {
        place.copy_from_slice(key.as_bytes());
    }
}

/// Takes the fields of a body: either counts or writes.
trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    fn str(&mut self, field: &'static str, text: &str);

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// A sequence number, saturated at the width of the version.
    fn seq(&mut self, value: u64, version: Version) {
        if version.has_wide_seq() {
            self.bytes(&value.to_be_bytes());
        } else {
            self.bytes(&u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// Counts bytes and remembers a string that is too long.
#[derive(Debug, Default)]
struct Count {
    len: usize,
    too_long: Option<&'static str>,
}

impl Sink for Count {
    fn bytes(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len());
    }

    fn str(&mut self, field: &'static str, text: &str) {
        self.len = self.len.saturating_add(2).saturating_add(text.len());
        if text.len() > STRING_BYTES_MAX {
            self.too_long = Some(field);
        }
    }
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn str(&mut self, _field: &'static str, text: &str) {
        // INVARIANT: the counting run has refused longer strings.
        self.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        self.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Reason;

    #[test]
    fn refuses_a_long_string_and_leaves_the_buffer() {
        let mut out = vec![7];
        let x = Disconnect { reason: Reason::CONNECT_KICK, text: "x".repeat(STRING_BYTES_MAX + 1) };
        assert_eq!(disconnect(&mut out, &x, Version::V5), Err(EncodeError::StringTooLong("reason")));
        assert_eq!(out, [7]);
    }

    #[test]
    fn setting_of_a_clear_recv_says_so() {
        assert!(crate::Setting::for_recv(crate::Setting::NONE, Version::V5, false).no_encrypt());
    }
}
