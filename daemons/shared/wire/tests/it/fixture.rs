//! The vector files, and their frames as structs.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wk_types::{ChannelType, DeviceFlag, Reason};
use wk_wire::crypto::{KeyPair, Salt, SessionKeys, agree};
use wk_wire::{
    ClientFrame, Connack, Connect, Disconnect, Event, Flags, Frame, RecvRef, Recvack, SendRef, Sendack, ServerFrame, Setting, StreamRef,
    Sub, SubAction, Suback, Version, encode,
};

pub(crate) fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn vectors() -> Value {
    read(&crate_dir().join("testdata/vectors/v1/wire-vectors.json"))
}

pub(crate) fn vectors_v6() -> Value {
    read(&crate_dir().join("testdata/vectors/v6/frames.json"))
}

/// The specification beside the repository; absent in a plain clone.
pub(crate) fn shared_vectors() -> PathBuf {
    crate_dir().join("../../../../shared/spec/wire-vectors.json")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no string in {value}"))
}

/// A number, or a string of digits; 0 when absent.
pub(crate) fn number<T: TryFrom<i128>>(value: &Value, key: &str) -> T {
    let number = match &value[key] {
        Value::Null => 0,
        Value::String(digits) => digits.parse().unwrap(),
        number => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)).unwrap(),
    };
    T::try_from(number).unwrap_or_else(|_| panic!("{key} is out of range"))
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn version(vector: &Value) -> Version {
    Version::negotiate(number(vector, "proto_version"))
}

/// Key material of a `crypto` entry.
pub(crate) fn session(vectors: &Value, id: &str) -> SessionKeys {
    let entry = list(vectors, "crypto").iter().find(|entry| text(entry, "id") == id).unwrap();
    let pair = KeyPair::from_secret(hex(text(entry, "server_private_hex")).try_into().unwrap());
    agree(&pair, text(entry, "client_key"), Salt::parse(text(entry, "salt_iv_ascii")).unwrap()).unwrap()
}

/// The one frame in `bytes`.
pub(crate) fn whole(bytes: &[u8]) -> Frame<'_> {
    let frame = Frame::next(bytes, wk_wire::limits::LENGTH_MAX).unwrap().unwrap();
    assert_eq!(frame.head.total_len(), bytes.len());
    frame
}

/// A vector with its bytes unpacked, so that borrowed frames can be built from it.
pub(crate) struct Fixture<'v> {
    pub(crate) vector: &'v Value,
    pub(crate) bytes: Vec<u8>,
    rest: Vec<u8>,
}

impl<'v> Fixture<'v> {
    pub(crate) fn new(vector: &'v Value) -> Self {
        let fields = &vector["fields"];
        let rest = ["payload_hex", "data_hex"].iter().find_map(|key| fields[key].as_str()).map(hex).unwrap_or_default();
        let bytes = vector["hex"].as_str().map(hex).unwrap_or_default();
        Self { vector, bytes, rest }
    }

    fn s(&self, key: &str) -> &str {
        self.vector["fields"][key].as_str().unwrap_or_default()
    }

    fn n<T: TryFrom<i128>>(&self, key: &str) -> T {
        number(&self.vector["fields"], key)
    }

    pub(crate) fn flags(&self) -> Flags {
        let on = |key: &str| self.vector["flags"][key] == true;
        Flags::NONE
            .with_if(Flags::NO_PERSIST, on("noPersist"))
            .with_if(Flags::RED_DOT, on("redDot"))
            .with_if(Flags::SYNC_ONCE, on("syncOnce"))
            .with_if(Flags::DUP, on("dup"))
    }

    pub(crate) fn send(&self) -> SendRef<'_> {
        SendRef {
            flags: self.flags(),
            setting: Setting::from_byte(self.n("setting")),
            client_seq: self.n("clientSeq"),
            client_msg_no: self.s("clientMsgNo"),
            stream_no: self.s("streamNo"),
            channel_id: self.s("channelId"),
            channel_type: ChannelType(self.n("channelType")),
            expire: self.n("expire"),
            msg_key: self.s("msgKey"),
            topic: self.s("topic"),
            payload: &self.rest,
        }
    }

    pub(crate) fn recv(&self) -> RecvRef<'_> {
        RecvRef {
            flags: self.flags(),
            setting: Setting::from_byte(self.n("setting")),
            msg_key: self.s("msgKey"),
            from_uid: self.s("fromUid"),
            channel_id: self.s("channelId"),
            channel_type: ChannelType(self.n("channelType")),
            expire: self.n("expire"),
            client_msg_no: self.s("clientMsgNo"),
            stream: StreamRef { flag: self.n("streamFlag"), no: self.s("streamNo"), id: self.n("streamId") },
            message_id: self.n("messageId"),
            message_seq: self.n("messageSeq"),
            timestamp: self.n("timestamp"),
            topic: self.s("topic"),
            payload: &self.rest,
        }
    }

    pub(crate) fn sendack(&self) -> Sendack<'_> {
        Sendack {
            flags: self.flags(),
            message_id: self.n("messageId"),
            client_seq: self.n("clientSeq"),
            message_seq: self.n("messageSeq"),
            reason: Reason(self.n("reasonCode")),
            client_msg_no: self.s("clientMsgNo"),
        }
    }

    pub(crate) fn connack(&self) -> Connack {
        Connack {
            server_version: self.n("serverVersion"),
            time_diff: self.n("timeDiff"),
            reason: Reason(self.n("reasonCode")),
            server_key: self.s("serverKey").into(),
            salt: self.s("salt").into(),
            node_id: self.n("nodeId"),
        }
    }

    pub(crate) fn disconnect(&self) -> Disconnect {
        Disconnect { reason: Reason(self.n("reasonCode")), text: self.s("reason").into() }
    }

    pub(crate) fn event(&self) -> Event<'_> {
        Event { id: self.s("id"), kind: self.s("type"), timestamp: self.n("timestamp"), data: &self.rest }
    }

    pub(crate) fn client_frame(&self) -> ClientFrame<'_> {
        match text(self.vector, "type") {
            "CONNECT" => ClientFrame::Connect(Connect {
                version: self.n("version"),
                device_flag: DeviceFlag(self.n("deviceFlag")),
                device_id: self.s("deviceId").into(),
                uid: self.s("uid").into(),
                token: self.s("token").into(),
                client_timestamp: self.n("clientTimestamp"),
                client_key: self.s("clientKey").into(),
            }),
            "SEND" => ClientFrame::Send(self.send()),
            "RECVACK" => {
                ClientFrame::Recvack(Recvack { flags: self.flags(), message_id: self.n("messageId"), message_seq: self.n("messageSeq") })
            }
            "PING" => ClientFrame::Ping,
            "DISCONNECT" => ClientFrame::Disconnect(self.disconnect()),
            "SUB" => ClientFrame::Sub(Sub {
                setting: Setting::from_byte(self.n("setting")),
                sub_no: self.s("subNo").into(),
                channel_id: self.s("channelId").into(),
                channel_type: ChannelType(self.n("channelType")),
                action: SubAction(self.n("action")),
                param: self.s("param").into(),
            }),
            other => panic!("unknown client frame {other}"),
        }
    }

    pub(crate) fn server_frame(&self) -> ServerFrame<'_> {
        match text(self.vector, "type") {
            "CONNACK" => ServerFrame::Connack(self.connack()),
            "SENDACK" => ServerFrame::Sendack(self.sendack()),
            "RECV" => ServerFrame::Recv(self.recv()),
            "PONG" => ServerFrame::Pong,
            "DISCONNECT" => ServerFrame::Disconnect(self.disconnect()),
            "SUBACK" => ServerFrame::Suback(Suback {
                sub_no: self.s("subNo").into(),
                channel_id: self.s("channelId").into(),
                channel_type: ChannelType(self.n("channelType")),
                action: SubAction(self.n("action")),
                reason: Reason(self.n("reasonCode")),
            }),
            "EVENT" => ServerFrame::Event(self.event()),
            other => panic!("unknown server frame {other}"),
        }
    }
}

pub(crate) fn encode_client(frame: &ClientFrame<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    match frame {
        ClientFrame::Connect(x) => encode::connect(&mut out, x, version).unwrap(),
        ClientFrame::Send(x) => encode::send(&mut out, x, version).unwrap(),
        ClientFrame::Recvack(x) => encode::recvack(&mut out, x, version),
        ClientFrame::Ping => encode::ping(&mut out),
        ClientFrame::Disconnect(x) => encode::disconnect(&mut out, x, version).unwrap(),
        ClientFrame::Sub(x) => encode::sub(&mut out, x, version).unwrap(),
        ClientFrame::Ignored(kind) => panic!("{kind:?} is no client frame"),
    }
    out
}

pub(crate) fn encode_server(frame: &ServerFrame<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    match frame {
        ServerFrame::Connack(x) => encode::connack(&mut out, x, version).unwrap(),
        ServerFrame::Sendack(x) => encode::sendack(&mut out, x, version).unwrap(),
        ServerFrame::Recv(x) => encode::recv(&mut out, x, version).unwrap(),
        ServerFrame::Pong => encode::pong(&mut out),
        ServerFrame::Disconnect(x) => encode::disconnect(&mut out, x, version).unwrap(),
        ServerFrame::Suback(x) => encode::suback(&mut out, x, version).unwrap(),
        ServerFrame::Event(x) => encode::event(&mut out, x, version).unwrap(),
        ServerFrame::Ignored(kind) => panic!("{kind:?} is no server frame"),
    }
    out
}
