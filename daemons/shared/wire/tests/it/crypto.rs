//! Vectors `crypto` and `large`.

use serde_json::Value;
use sha2::{Digest, Sha256};
use wk_types::{ChannelType, Reason};
use wk_wire::crypto::{KeyError, KeyPair, PayloadError, Salt, SessionKeys, accept, agree, random_msg_no, sealed_len};
use wk_wire::{ClientFrame, Flags, RecvRef, SendRef, ServerFrame, Setting, StreamRef, Version, decode_client, decode_server, encode};

use crate::fixture::*;

fn secret(entry: &Value, key: &str) -> KeyPair {
    KeyPair::from_secret(hex(text(entry, key)).try_into().unwrap())
}

#[test]
fn both_sides_agree_on_the_keys() {
    for entry in list(&vectors(), "crypto") {
        let (client, server) = (secret(entry, "client_private_hex"), secret(entry, "server_private_hex"));
        assert_eq!(client.public_b64(), text(entry, "client_key"));
        assert_eq!(server.public_b64(), text(entry, "server_key"));
        let salt = Salt::parse(text(entry, "salt_iv_ascii")).unwrap();
        let keys = agree(&server, &client.public_b64(), salt).unwrap();
        assert_eq!(keys, agree(&client, &server.public_b64(), salt).unwrap());
        let expected = [text(entry, "aes_key_ascii"), text(entry, "salt_iv_ascii")].concat();
        assert_eq!(keys.to_bytes().as_slice(), expected.as_bytes());
        assert_eq!(SessionKeys::from_bytes(&keys.to_bytes()), Some(keys));
    }
}

#[test]
fn payloads_and_frames_are_byte_exact() {
    let vectors = vectors();
    for entry in list(&vectors, "crypto") {
        let keys = session(&vectors, text(entry, "id"));
        let plain = hex(text(entry, "plain_hex"));
        let mut wire = Vec::new();
        keys.encrypt_payload(&plain, &mut wire);
        assert_eq!(String::from_utf8(wire.clone()).unwrap(), text(entry, "cipher_b64"));
        assert_eq!(wire.len(), sealed_len(plain.len()));
        let mut opened = Vec::new();
        keys.decrypt_payload(&wire, &mut opened).unwrap();
        assert_eq!(opened, plain);
        check_send(entry, &keys, &plain);
        check_recv(entry, &keys, &plain);
    }
}

fn check_send(entry: &Value, keys: &SessionKeys, plain: &[u8]) {
    let bytes = hex(text(&entry["send"], "frame_v5"));
    let frame = whole(&bytes);
    let Ok(ClientFrame::Send(send)) = decode_client(&frame.head, frame.body, Version::V5) else { panic!("not a send") };
    assert_eq!(send.msg_key, text(&entry["send"], "msgKey"));
    assert_eq!(keys.send_key(&send).as_str(), send.msg_key);
    let mut opened = Vec::new();
    keys.open_send(&send, &mut opened).unwrap();
    assert_eq!(opened, plain);
    let mut sealed = vec![0xee];
    encode::send_sealed(&mut sealed, &SendRef { payload: plain, ..send }, Version::V5, keys).unwrap();
    assert_eq!(sealed[1..], bytes);
}

fn check_recv(entry: &Value, keys: &SessionKeys, plain: &[u8]) {
    let bytes = hex(text(&entry["recv"], "frame_v5"));
    let frame = whole(&bytes);
    let Ok(ServerFrame::Recv(recv)) = decode_server(&frame.head, frame.body, Version::V5) else { panic!("not a recv") };
    assert_eq!(recv.msg_key, text(&entry["recv"], "msgKey"));
    assert_eq!(keys.recv_key(&recv).as_str(), recv.msg_key);
    let mut opened = Vec::new();
    keys.open_recv(&recv, &mut opened).unwrap();
    assert_eq!(opened, plain);
    let mut sealed = vec![0xee];
    encode::recv_sealed(&mut sealed, &RecvRef { payload: plain, ..recv }, Version::V5, keys).unwrap();
    assert_eq!(sealed[1..], bytes);
}

#[test]
fn large_frames_are_byte_exact() {
    let vectors = vectors();
    for entry in list(&vectors, "large") {
        let keys = session(&vectors, text(entry, "session"));
        let recipe = &entry["plain"];
        let plain = [text(recipe, "prefix"), &text(recipe, "repeat").repeat(number(recipe, "count")), text(recipe, "suffix")].concat();
        let send = SendRef {
            flags: Flags::RED_DOT,
            setting: Setting::NONE,
            client_seq: number(entry, "clientSeq"),
            client_msg_no: text(entry, "clientMsgNo"),
            stream_no: "",
            channel_id: text(entry, "channelId"),
            channel_type: ChannelType(number(entry, "channelType")),
            expire: number(entry, "expire"),
            msg_key: "",
            topic: "",
            payload: plain.as_bytes(),
        };
        let mut bytes = Vec::new();
        encode::send_sealed(&mut bytes, &send, version(entry), &keys).unwrap();
        assert_eq!(bytes.len(), number::<usize>(entry, "frame_length"));
        assert_eq!(to_hex(&bytes[..5]), text(entry, "first_bytes_hex"));
        assert_eq!(to_hex(&Sha256::digest(&bytes)), text(entry, "sha256_of_frame"));
        let frame = wk_wire::Frame::next(&bytes, wk_wire::limits::BODY_BYTES_MAX).unwrap().unwrap();
        let Ok(ClientFrame::Send(send)) = decode_client(&frame.head, frame.body, version(entry)) else { panic!("not a send") };
        assert_eq!(send.msg_key, text(entry, "msgKey"));
        assert_eq!(send.payload.len(), number::<usize>(entry, "payload_bytes_on_wire"));
        let mut opened = Vec::new();
        keys.open_send(&send, &mut opened).unwrap();
        assert_eq!(opened, plain.as_bytes());
    }
}

#[test]
fn every_length_around_block_and_chunk_borders_opens() {
    let keys = session(&vectors(), "s1");
    let plain: Vec<u8> = (0..=255).cycle().take(1200).collect();
    for len in 0..plain.len() {
        let mut wire = Vec::new();
        keys.encrypt_payload(&plain[..len], &mut wire);
        assert_eq!(wire.len(), sealed_len(len));
        let mut opened = b"kept".to_vec();
        keys.decrypt_payload(&wire, &mut opened).unwrap();
        assert_eq!(opened, [b"kept", &plain[..len]].concat());
    }
}

#[test]
fn refuses_unusable_client_keys() {
    use base64::Engine as _;
    let b64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let good = KeyPair::generate().unwrap().public_b64();
    assert_eq!(accept("").unwrap_err().reason(), Reason::CLIENT_KEY_IS_EMPTY);
    for bad in ["***", &b64(&[7; 31]), &b64(&[0; 32])] {
        assert_eq!(accept(bad).unwrap_err(), KeyError::Bad, "{bad}");
    }
    let (start, end) = good.split_at(20);
    let accepted = accept(&format!("{start}\r\n{end}")).unwrap();
    assert_eq!(accepted.salt.as_str().len(), 16);
    assert!(accepted.salt.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(accepted.server_key.len(), 44);
    let longer = b64(&[[9; 32].as_slice(), &[1; 5]].concat());
    let pair = KeyPair::from_secret([5; 32]);
    let salt = Salt::parse("0123456789abcdef").unwrap();
    assert_eq!(agree(&pair, &longer, salt), agree(&pair, &b64(&[9; 32]), salt));
}

#[test]
fn a_failed_opening_leaves_the_buffer() {
    let keys = session(&vectors(), "s1");
    let mut out = b"kept".to_vec();
    for wire in ["", "*", "YWJjZGU=", "AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAAA", "\r\n"] {
        assert_eq!(keys.decrypt_payload(wire.as_bytes(), &mut out), Err(PayloadError), "{wire}");
        assert_eq!(out, b"kept");
    }
}

#[test]
fn message_keys_compare_as_a_whole() {
    let keys = session(&vectors(), "s1");
    let recv = RecvRef {
        flags: Flags::NONE,
        setting: Setting::NONE,
        msg_key: "",
        from_uid: "a",
        channel_id: "b",
        channel_type: ChannelType::PERSON,
        expire: 0,
        client_msg_no: "",
        stream: StreamRef::default(),
        message_id: i64::MIN,
        message_seq: u64::MAX,
        timestamp: -1,
        topic: "",
        payload: b"",
    };
    let key = keys.recv_key(&recv);
    assert!(key.matches(key.as_str()));
    assert!(!key.matches(""));
    assert!(!key.matches(key.as_str().split_at(1).1));
    assert!(!key.matches(&key.as_str().to_uppercase()));
}

#[test]
fn secrets_do_not_show() {
    let keys = session(&vectors(), "s1");
    let pair = KeyPair::from_secret([1; 32]);
    let salt = Salt::parse("abcdefghijklmnop").unwrap();
    let shown = format!("{keys:?} {pair:?} {salt:?}");
    assert_eq!(shown, "SessionKeys { .. } KeyPair { .. } Salt { .. }");
    assert_eq!(random_msg_no().unwrap().len(), 32);
    assert_eq!(size_of::<SessionKeys>(), 32);
}
