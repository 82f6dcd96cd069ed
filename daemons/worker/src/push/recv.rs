//! One RECV for one connection (`spec/wire-protocol.md` §11.4).

use wk_link::item::Deliver;
use wk_types::channel::{SYSTEM_UID, base_id, person_peer};
use wk_types::{ChannelType, ConnId};
use wk_wire::jsonrpc::{self, Dialect};
use wk_wire::{EncodeError, Flags, RecvRef, Setting, StreamRef, encode};

use super::cache::Conn;

/// What is the same for all receivers of a Deliver.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// Sender as receivers see it: empty for the system account.
    from_uid: &'a str,
    /// Channel as the sender named it.
    named: &'a str,
    flags: Flags,
    setting: Setting,
    timestamp: i32,
    deliver: &'a Deliver<'a>,
}

impl<'a> Common<'a> {
    /// Prepares a Deliver.
    #[must_use]
    pub fn new(deliver: &'a Deliver<'a>) -> Self {
        let m = &deliver.message;
        Self {
            from_uid: if m.from_uid == SYSTEM_UID { "" } else { m.from_uid },
            named: named(deliver),
            flags: Flags::from_byte(m.flags),
            setting: Setting::from_byte(m.setting),
            timestamp: i32::try_from(deliver.timestamp_s).unwrap_or(i32::MAX),
            deliver,
        }
    }

    /// True when a RECV of this Deliver is kept until its RECVACK.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        !self.flags.no_persist()
    }

    /// True when nothing goes to this connection: it sent the message.
    #[must_use]
    pub fn skips(&self, conn: ConnId) -> bool {
        conn == self.deliver.sender_conn && !conn.is_none()
    }

    /// Appends the frame (binary) or text (JSON-RPC) for one connection of `uid`.
    ///
    /// # Errors
    /// A message that does not fit a frame of this connection's version.
    pub fn encode(&self, uid: &str, conn: &Conn, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let m = &self.deliver.message;
        let to_sender = uid == m.from_uid;
        let is_person = self.deliver.channel_type == ChannelType::PERSON;
        // A JSON-RPC connection is clear by nature; only a clear binary one must be told so.
        let setting = Setting::for_recv(self.setting, conn.version, conn.json || conn.keys.is_some());
        let stream = if setting.stream() {
            StreamRef { no: m.stream_no, id: u64::try_from(m.message_id).unwrap_or(0), ..StreamRef::default() }
        } else {
            StreamRef::default()
        };
        let x = RecvRef {
            flags: self.flags.for_recv(to_sender),
            setting,
            msg_key: "",
            from_uid: self.from_uid,
            channel_id: if is_person && self.named == uid { self.from_uid } else { self.named },
            channel_type: self.deliver.channel_type,
            expire: m.expire,
            client_msg_no: m.client_msg_no,
            stream,
            message_id: m.message_id,
            message_seq: self.deliver.message_seq,
            timestamp: self.timestamp,
            topic: m.topic,
            payload: m.payload,
        };
        match (conn.json, &conn.keys) {
            (true, _) => {
                let dialect = if conn.snake_case { Dialect::Both } else { Dialect::Camel };
                jsonrpc::notices::recv(out, &x, dialect);
                Ok(())
            }
            (false, Some(keys)) => encode::recv_sealed(out, &x, conn.version, keys),
            (false, None) => encode::recv(out, &x, conn.version),
        }
    }
}

/// Channel id as the sender named it, without the command suffix.
fn named<'a>(d: &Deliver<'a>) -> &'a str {
    if !d.named.is_empty() {
        return base_id(d.named);
    }
    let base = base_id(d.channel_id);
    match d.channel_type {
        ChannelType::PERSON => person_peer(base, d.message.from_uid).unwrap_or(base),
        _ => base,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use wk_link::item::Receivers;
    use wk_link::record::Message;
    use wk_types::{DeviceFlag, DeviceLevel};
    use wk_wire::crypto::SessionKeys;
    use wk_wire::{Frame, Version, decode_server};

    pub(crate) fn deliver<'a>(channel_id: &'a str, kind: ChannelType, from_uid: &'a str) -> Deliver<'a> {
        Deliver {
            sender_conn: ConnId::NONE,
            message_seq: 9,
            timestamp_s: 1_700_000_000,
            channel_type: kind,
            channel_id,
            named: "",
            message: Message {
                message_id: 77,
                flags: 0b1010,
                setting: 0,
                expire: 0,
                client_seq: 1,
                from_uid,
                client_msg_no: "no",
                topic: "",
                stream_no: "",
                payload: b"hello",
            },
            receivers: Receivers::new(0, b""),
        }
    }

    pub(crate) fn conn(version: u8, json: bool, keys: Option<SessionKeys>) -> Conn {
        Conn::new(
            &wk_link::item::Session {
                conn: ConnId(5),
                version,
                json,
                encrypted: keys.is_some(),
                snake_case: false,
                device_flag: DeviceFlag(0),
                device_level: DeviceLevel::MASTER,
                aes_key: [7; 16],
                aes_iv: [7; 16],
                since_ms: 0,
                uid: "u2",
                device_id: "d",
            },
            1,
        )
    }

    fn decoded(common: &Common<'_>, uid: &str, conn: &Conn) -> wk_wire::Recv {
        let mut out = Vec::new();
        common.encode(uid, conn, &mut out).expect("fits a frame");
        let frame = Frame::next(&out, 1 << 20).expect("own bytes").expect("a whole frame");
        match decode_server(&frame.head, frame.body, conn.version).expect("own bytes") {
            wk_wire::ServerFrame::Recv(recv) => recv.to_owned(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn person_channels_are_named_from_each_side() {
        let d = deliver("u2@u1", ChannelType::PERSON, "u1");
        let (common, clear) = (Common::new(&d), conn(5, false, None));
        let to_peer = decoded(&common, "u2", &clear);
        assert_eq!((to_peer.channel_id.as_str(), to_peer.from_uid.as_str()), ("u1", "u1"));
        assert!(to_peer.flags.red_dot() && !to_peer.flags.dup());
        assert!(to_peer.setting.no_encrypt());
        let to_self = decoded(&common, "u1", &clear);
        assert_eq!((to_self.channel_id.as_str(), to_self.from_uid.as_str()), ("u2", "u1"));
        assert!(!to_self.flags.red_dot());
    }

    #[test]
    fn system_messages_have_no_sender_and_commands_no_suffix() {
        let d = deliver("u1@____system", ChannelType::PERSON, SYSTEM_UID);
        let recv = decoded(&Common::new(&d), "u1", &conn(5, false, None));
        assert_eq!((recv.channel_id.as_str(), recv.from_uid.as_str()), ("", ""));
        let d = deliver("g1____cmd", ChannelType::GROUP, "u1");
        assert_eq!(decoded(&Common::new(&d), "u3", &conn(5, false, None)).channel_id, "g1");
    }

    #[test]
    fn encrypted_payloads_open_with_the_session_keys() {
        let keys = SessionKeys::from_bytes(&[7; 32]).expect("32 bytes");
        for version in [1, 2, 3, 4, 5, 6] {
            let d = deliver("g1", ChannelType::GROUP, "u1");
            let recv = decoded(&Common::new(&d), "u2", &conn(version, false, Some(keys)));
            let mut plain = Vec::new();
            keys.open_recv(&recv.view(), &mut plain).expect("own keys");
            assert_eq!(plain, b"hello");
            assert_eq!((recv.message_id, recv.message_seq, recv.timestamp), (77, 9, 1_700_000_000));
            assert!(Version::negotiate(version).get() == version && !recv.setting.no_encrypt());
        }
    }

    #[test]
    fn json_connections_get_a_notice() {
        let d = deliver("u2@u1", ChannelType::PERSON, "u1");
        let mut out = Vec::new();
        Common::new(&d).encode("u2", &conn(5, true, None), &mut out).expect("a text");
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        assert!(text.contains("\"method\":\"recv\"") && text.contains("\"payload\":\"aGVsbG8=\""), "{text}");
    }
}
