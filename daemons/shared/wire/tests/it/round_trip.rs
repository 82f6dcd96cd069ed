//! Whatever is encoded decodes to the same, at every version; and no bytes at all make a parser panic.

use proptest::prelude::*;
use wk_types::{ChannelType, DeviceFlag, Reason};
use wk_wire::crypto::SessionKeys;
use wk_wire::detect::{Options, ProxyMode, detect};
use wk_wire::frame::split;
use wk_wire::jsonrpc::{self, Splitter};
use wk_wire::{
    ClientFrame, Connack, Connect, Disconnect, Event, Flags, RecvRef, Recvack, SendRef, Sendack, ServerFrame, Setting, StreamRef, Sub,
    SubAction, Suback, Version, decode_client, decode_server, encode, proxy,
};

use crate::fixture::{encode_client, encode_server, whole};

/// All strings that a frame can need.
type Texts = (String, String, String, String, String, String);
/// All numbers that a frame can need.
type Numbers = (u8, u8, u8, u32, u64, i64, i32);

fn texts() -> impl Strategy<Value = Texts> {
    let text = || "\\PC{0,40}";
    (text(), text(), text(), text(), text(), text())
}

fn version() -> impl Strategy<Value = Version> {
    (0_u8..=8).prop_map(Version::negotiate)
}

fn check_client(frame: &ClientFrame<'_>, version: Version) -> Result<(), TestCaseError> {
    let bytes = encode_client(frame, version);
    let found = whole(&bytes);
    prop_assert_eq!(&decode_client(&found.head, found.body, version).unwrap(), frame);
    Ok(())
}

fn check_server(frame: &ServerFrame<'_>, version: Version) -> Result<(), TestCaseError> {
    let bytes = encode_server(frame, version);
    let found = whole(&bytes);
    prop_assert_eq!(&decode_server(&found.head, found.body, version).unwrap(), frame);
    Ok(())
}

fn seq(value: u64, version: Version) -> u64 {
    if version.has_wide_seq() { value } else { value & 0xffff_ffff }
}

/// A SEND with only the fields that exist at `version` and with this setting.
fn send<'a>((a, b, c, d, e, _): &'a Texts, n: Numbers, payload: &'a [u8], version: Version) -> SendRef<'a> {
    let setting = Setting::from_byte(n.1);
    SendRef {
        flags: Flags::from_byte(n.0),
        setting,
        client_seq: n.3,
        client_msg_no: a,
        stream_no: if setting.stream() && version.has_stream_fields() { b } else { "" },
        channel_id: c,
        channel_type: ChannelType(n.2),
        expire: if version.has_expire() { n.3 } else { 0 },
        msg_key: d,
        topic: if setting.topic() { e } else { "" },
        payload,
    }
}

fn recv<'a>((a, b, c, d, e, f): &'a Texts, n: Numbers, payload: &'a [u8], version: Version) -> RecvRef<'a> {
    let setting = Setting::from_byte(n.1);
    let stream = StreamRef { flag: n.0, no: b, id: n.4 };
    RecvRef {
        flags: Flags::from_byte(n.0),
        setting,
        msg_key: a,
        from_uid: c,
        channel_id: d,
        channel_type: ChannelType(n.2),
        expire: if version.has_expire() { n.3 } else { 0 },
        client_msg_no: e,
        stream: if setting.stream() && version.has_stream_fields() { stream } else { StreamRef::default() },
        message_id: n.5,
        message_seq: seq(n.4, version),
        timestamp: n.6,
        topic: if setting.topic() { f } else { "" },
        payload,
    }
}

proptest! {
    #[test]
    fn client_frames_round_trip(t in texts(), n in any::<Numbers>(), payload in any::<Vec<u8>>(), version in version()) {
        check_client(&ClientFrame::Send(send(&t, n, &payload, version)), version)?;
        let owned = send(&t, n, &payload, version).to_owned();
        prop_assert_eq!(owned.view(), send(&t, n, &payload, version));
        let recvack = Recvack { flags: Flags::from_byte(n.0), message_id: n.5, message_seq: seq(n.4, version) };
        check_client(&ClientFrame::Recvack(recvack), version)?;
        let (a, b, c, d, _, _) = t;
        check_client(&ClientFrame::Disconnect(Disconnect { reason: Reason(n.0), text: a.clone() }), version)?;
        check_client(&ClientFrame::Sub(Sub {
            setting: Setting::from_byte(n.1),
            sub_no: a.clone(),
            channel_id: b.clone(),
            channel_type: ChannelType(n.2),
            action: SubAction(n.0),
            param: c.clone(),
        }), version)?;
        check_client(&ClientFrame::Connect(Connect {
            version: n.0,
            device_flag: DeviceFlag(n.1),
            device_id: a,
            uid: b,
            token: c,
            client_timestamp: n.5,
            client_key: d,
        }), version)?;
    }

    #[test]
    fn server_frames_round_trip(t in texts(), n in any::<Numbers>(), payload in any::<Vec<u8>>(), version in version()) {
        check_server(&ServerFrame::Recv(recv(&t, n, &payload, version)), version)?;
        let kept = RecvRef { stream: StreamRef::default(), ..recv(&t, n, &payload, version) };
        let owned = kept.to_owned();
        prop_assert_eq!(owned.view(), kept);
        let (a, b, ..) = t;
        check_server(&ServerFrame::Sendack(Sendack {
            flags: Flags::from_byte(n.0),
            message_id: n.5,
            client_seq: n.3,
            message_seq: seq(n.4, version),
            reason: Reason(n.1),
            client_msg_no: if version.has_wide_seq() { &a } else { "" },
        }), version)?;
        check_server(&ServerFrame::Event(Event { id: &a, kind: &b, timestamp: n.5, data: &payload }), version)?;
        let full = version.has_server_version();
        check_server(&ServerFrame::Connack(Connack {
            server_version: if full { n.0 } else { 0 },
            time_diff: n.5,
            reason: Reason(n.1),
            server_key: a.clone(),
            salt: b.clone(),
            node_id: if full { n.4 } else { 0 },
        }), version)?;
        check_server(&ServerFrame::Suback(Suback {
            sub_no: a,
            channel_id: b,
            channel_type: ChannelType(n.2),
            action: SubAction(n.0),
            reason: Reason(n.1),
        }), version)?;
    }

    #[test]
    fn sealed_frames_open(t in texts(), n in any::<Numbers>(), plain in any::<Vec<u8>>(), version in version(), key in any::<[u8; 32]>()) {
        let keys = SessionKeys::from_bytes(&key).unwrap();
        let mut bytes = Vec::new();
        encode::recv_sealed(&mut bytes, &recv(&t, n, &plain, version), version, &keys).unwrap();
        let found = whole(&bytes);
        let Ok(ServerFrame::Recv(sealed)) = decode_server(&found.head, found.body, version) else { panic!("not a recv") };
        let mut opened = Vec::new();
        keys.open_recv(&sealed, &mut opened).unwrap();
        prop_assert_eq!(&opened, &plain);

        let mut bytes = Vec::new();
        encode::send_sealed(&mut bytes, &send(&t, n, &plain, version), version, &keys).unwrap();
        let found = whole(&bytes);
        let Ok(ClientFrame::Send(sealed)) = decode_client(&found.head, found.body, version) else { panic!("not a send") };
        let mut opened = Vec::new();
        keys.open_send(&sealed, &mut opened).unwrap();
        prop_assert_eq!(&opened, &plain);
    }

    #[test]
    fn no_bytes_make_the_frame_parser_panic(bytes in any::<Vec<u8>>(), version in version()) {
        if let Ok(Some((head, total))) = split(&bytes, 1 << 20) {
            prop_assert!(total <= bytes.len());
            let body = head.body(&bytes).unwrap();
            drop((decode_client(&head, body, version), decode_server(&head, body, version)));
        }
    }

    #[test]
    fn no_body_makes_a_decoder_panic(kind in 1_u8..=12, body in any::<Vec<u8>>(), version in version()) {
        let kind = wk_wire::FrameType::from_byte(kind << 4 | 0xf).unwrap();
        let head = wk_wire::FrameHead { kind, flags: Flags::from_byte(1), head_len: 2, body_len: body.len() };
        drop((decode_client(&head, &body, version), decode_server(&head, &body, version)));
    }

    #[test]
    fn no_bytes_make_detection_panic(bytes in any::<Vec<u8>>(), json in any::<bool>()) {
        for proxy in [ProxyMode::Auto, ProxyMode::Off, ProxyMode::Required] {
            std::hint::black_box(detect(&bytes, Options { proxy, json }));
        }
        let signed = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &bytes].concat();
        std::hint::black_box(proxy::parse(&signed));
        std::hint::black_box(proxy::parse(&[b"PROXY TCP4 ".as_slice(), &bytes, b"\r\n"].concat()));
    }

    #[test]
    fn no_text_makes_the_json_parser_panic(bytes in any::<Vec<u8>>(), text in "[ {}\\[\\]\":,a-z0-9\\\\.-]{0,60}", limit in 1_usize..100) {
        for input in [bytes.as_slice(), text.as_bytes()] {
            drop(jsonrpc::parse(input));
            if let Ok(Some(found)) = Splitter::new(limit).next(input) {
                prop_assert!(found.start < found.end && found.end <= limit);
            }
        }
    }

    #[test]
    fn no_payload_makes_opening_panic(wire in any::<Vec<u8>>(), text in "[A-Za-z0-9+/=\r\n]{0,80}", key in any::<[u8; 32]>()) {
        let keys = SessionKeys::from_bytes(&key).unwrap();
        for wire in [wire.as_slice(), text.as_bytes()] {
            let mut out = vec![1];
            let opened = keys.decrypt_payload(wire, &mut out);
            prop_assert!(opened.is_ok() || out == [1]);
        }
    }
}
