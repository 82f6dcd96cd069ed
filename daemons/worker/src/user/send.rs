//! A SEND on its way to the channel (`spec/semantics.md` §3, steps 2 to 4).

use wk_link::item;
use wk_types::channel::internal_id;
use wk_types::{ChannelType, Reason};
use wk_wire::crypto::SessionKeys;
use wk_wire::{Flags, SendRef, Setting};

use super::cache::Info;

/// Checks a SEND and leaves its plaintext in `plain`.
///
/// # Errors
/// 25 for a muted sender, 16 for an illegal channel id, 9 for a payload that does not open.
pub fn open(s: &item::Send<'_>, keys: Option<&SessionKeys>, info: Info, plain: &mut Vec<u8>) -> Result<(), Reason> {
    plain.clear();
    if info.send_ban {
        return Err(Reason::SEND_BAN);
    }
    let view = view(s);
    wk_wire::ids::check_send(&view)?;
    match keys {
        // A client may send a clear payload on purpose (§10.4).
        Some(keys) if !view.setting.no_encrypt() => keys.open_send(&view, plain).map_err(wk_wire::crypto::PayloadError::reason),
        _ => {
            plain.extend_from_slice(s.payload);
            Ok(())
        }
    }
}

/// Internal id of the channel, and the id as the sender named it where receivers cannot derive it.
#[must_use]
pub fn channel<'a>(s: &item::Send<'a>) -> (std::borrow::Cow<'a, str>, &'a str) {
    let named = if s.channel_type == ChannelType::AGENT { s.channel_id } else { "" };
    (internal_id(s.channel_type, s.channel_id, s.uid), named)
}

fn view<'a>(s: &item::Send<'a>) -> SendRef<'a> {
    SendRef {
        flags: Flags::from_byte(s.flags),
        setting: Setting::from_byte(s.setting),
        client_seq: s.client_seq,
        client_msg_no: s.client_msg_no,
        stream_no: s.stream_no,
        channel_id: s.channel_id,
        channel_type: s.channel_type,
        expire: s.expire,
        msg_key: s.msg_key,
        topic: s.topic,
        payload: s.payload,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use wk_types::ConnId;

    pub(crate) fn sample<'a>(channel_id: &'a str, payload: &'a [u8]) -> item::Send<'a> {
        item::Send {
            conn: ConnId(1),
            message_id: 7,
            accepted_ms: 0,
            flags: 2,
            setting: 0,
            client_seq: 3,
            expire: 0,
            channel_type: ChannelType::PERSON,
            uid: "u1",
            channel_id,
            client_msg_no: "no",
            stream_no: "",
            topic: "",
            msg_key: "",
            payload,
        }
    }

    fn keys() -> SessionKeys {
        SessionKeys::from_bytes(&[7; 32]).expect("32 bytes")
    }

    #[test]
    fn mute_comes_first_then_id_then_payload() {
        let mut plain = Vec::new();
        let muted = Info { send_ban: true, ..Info::default() };
        assert_eq!(open(&sample("a@b", b"x"), None, muted, &mut plain), Err(Reason::SEND_BAN));
        assert_eq!(open(&sample("a@b", b"x"), Some(&keys()), Info::default(), &mut plain), Err(Reason::CHANNEL_ID_ERROR));
        assert_eq!(open(&sample("u2", b"x"), Some(&keys()), Info::default(), &mut plain), Err(Reason::PAYLOAD_DECODE_ERROR));
        assert_eq!(open(&sample("u2", b"x"), None, Info::default(), &mut plain), Ok(()));
        assert_eq!(plain, b"x");
    }

    #[test]
    fn opens_what_a_client_sealed_and_accepts_clear_on_request() {
        let (keys, mut plain, mut wire) = (keys(), Vec::new(), Vec::new());
        keys.encrypt_payload(b"hello", &mut wire);
        let mut s = sample("u2", &wire);
        let key = keys.send_key(&view(&s));
        s.msg_key = key.as_str();
        assert_eq!(open(&s, Some(&keys), Info::default(), &mut plain), Ok(()));
        assert_eq!(plain, b"hello");
        let mut clear = sample("u2", b"clear");
        clear.setting = 0x10;
        assert_eq!(open(&clear, Some(&keys), Info::default(), &mut plain), Ok(()));
        assert_eq!(plain, b"clear");
    }

    #[test]
    fn internal_ids() {
        assert_eq!(channel(&sample("u2", b"")), ("u2@u1".into(), ""));
        let mut s = sample("bot", b"");
        s.channel_type = ChannelType::AGENT;
        assert_eq!(channel(&s), ("u1@bot".into(), "bot"));
    }
}
