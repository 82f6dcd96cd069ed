//! The params of each method, read into the structs of the binary protocol (§14.3).

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use wk_types::{ChannelType, DeviceFlag, Reason};

use super::object::Object;
use crate::crypto::decode_b64;
use crate::{Connect, Disconnect, Flags, Recvack, Send, Setting, Sub, SubAction, VERSION_JSONRPC_DEFAULT};

/// Something in the params is missing or wrong: this member.
pub(super) struct Wrong(pub(super) &'static str);

pub(super) fn connect(o: &Object<'_>) -> Result<Connect, Wrong> {
    let version: u8 = optional(o, "version")?;
    Ok(Connect {
        version: if version == 0 { VERSION_JSONRPC_DEFAULT } else { version },
        device_flag: DeviceFlag(optional(o, "deviceFlag")?),
        device_id: optional(o, "deviceId")?,
        uid: required(o, "uid")?,
        token: optional(o, "token")?,
        client_timestamp: optional(o, "clientTimestamp")?,
        // Ignored by the protocol: there is no encryption on these connections.
        client_key: String::new(),
    })
}

pub(super) fn send(o: &Object<'_>) -> Result<Send, Wrong> {
    let setting = setting(o)?;
    let topic = optional(o, "topic")?;
    Ok(Send {
        flags: header(o)?,
        setting,
        client_seq: 0,
        client_msg_no: optional(o, "clientMsgNo")?,
        stream_no: optional(o, "streamNo")?,
        channel_id: required(o, "channelId")?,
        channel_type: ChannelType(required(o, "channelType")?),
        expire: optional(o, "expire")?,
        msg_key: String::new(),
        topic: if setting.topic() { topic } else { String::new() },
        payload: payload(o.get("payload").ok_or(Wrong("payload"))?).ok_or(Wrong("payload"))?,
    })
}

pub(super) fn recvack(o: &Object<'_>) -> Result<Recvack, Wrong> {
    Ok(Recvack { flags: header(o)?, message_id: message_id(o).ok_or(Wrong("messageId"))?, message_seq: required(o, "messageSeq")? })
}

pub(super) fn disconnect(o: &Object<'_>) -> Result<Disconnect, Wrong> {
    Ok(Disconnect { reason: Reason(optional(o, "reasonCode")?), text: optional(o, "reason")? })
}

pub(super) fn sub(o: &Object<'_>, action: SubAction) -> Result<Sub, Wrong> {
    Ok(Sub {
        setting: Setting::NONE,
        sub_no: optional(o, "subNo")?,
        channel_id: optional(o, "channelId")?,
        channel_type: ChannelType(optional(o, "channelType")?),
        action,
        param: match o.get("param") {
            // A string is the text itself; any other value is passed on as its JSON text.
            Some(raw) if raw.get().starts_with('"') => optional(o, "param")?,
            Some(raw) => raw.get().to_owned(),
            None => String::new(),
        },
    })
}

fn optional<T: DeserializeOwned + Default>(o: &Object<'_>, key: &'static str) -> Result<T, Wrong> {
    match o.get(key) {
        Some(raw) => value(raw).ok_or(Wrong(key)),
        None => Ok(T::default()),
    }
}

fn required<T: DeserializeOwned>(o: &Object<'_>, key: &'static str) -> Result<T, Wrong> {
    o.get(key).and_then(value).ok_or(Wrong(key))
}

fn value<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// A string of digits, or a number (§14.3).
fn message_id(o: &Object<'_>) -> Option<i64> {
    let raw = o.get("messageId")?;
    if raw.get().starts_with('"') { value::<String>(raw)?.parse().ok() } else { value(raw) }
}

fn header(o: &Object<'_>) -> Result<Flags, Wrong> {
    let Some(header) = nested(o, "header")? else { return Ok(Flags::NONE) };
    Ok(Flags::NONE
        .with_if(Flags::NO_PERSIST, optional(&header, "noPersist")?)
        .with_if(Flags::RED_DOT, optional(&header, "redDot")?)
        .with_if(Flags::SYNC_ONCE, optional(&header, "syncOnce")?)
        .with_if(Flags::DUP, optional(&header, "dup")?))
}

fn setting(o: &Object<'_>) -> Result<Setting, Wrong> {
    let Some(setting) = nested(o, "setting")? else { return Ok(Setting::NONE) };
    Ok(Setting::NONE
        .with_if(Setting::RECEIPT, optional(&setting, "receipt")?)
        .with_if(Setting::SIGNAL, optional(&setting, "signal")?)
        .with_if(Setting::STREAM, optional(&setting, "stream")?)
        .with_if(Setting::TOPIC, optional(&setting, "topic")?))
}

fn nested<'a>(o: &Object<'a>, key: &'static str) -> Result<Option<Object<'a>>, Wrong> {
    match o.get(key) {
        Some(raw) => serde_json::from_str(raw.get()).map(Some).map_err(|_| Wrong(key)),
        None => Ok(None),
    }
}

/// A base64 string, an object (its compact text is the payload), or an array of byte values (§14.7).
fn payload(raw: &RawValue) -> Option<Vec<u8>> {
    let text = raw.get();
    match text.as_bytes().first()? {
        b'"' => {
            let mut bytes = Vec::new();
            decode_b64(value::<String>(raw)?.as_bytes(), &mut bytes).ok()?;
            Some(bytes)
        }
        b'{' => Some(compact(text)),
        b'[' => value(raw),
        _ => None,
    }
}

/// The JSON text without white space between its tokens; order and spelling stay as they are.
fn compact(text: &str) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let mut kept = Vec::with_capacity(text.len());
    kept.extend(text.bytes().filter(|&byte| {
        if !in_string {
            in_string = byte == b'"';
            return !crate::detect::is_space(byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = false,
            _ => {}
        }
        true
    }));
    kept
}
