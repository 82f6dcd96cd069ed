//! Vectors `json_rpc`.

use serde_json::{Value, json};
use wk_types::{ChannelType, DeviceFlag, Reason};
use wk_wire::jsonrpc::{Dialect, ErrorCode, Id, Method, Request, notices, parse, results, split};
use wk_wire::limits::JSON_BYTES_MAX;
use wk_wire::{Flags, Setting};

use crate::fixture::*;

fn entry(id: &str) -> Value {
    let vectors = vectors();
    list(&vectors, "json_rpc").iter().find(|entry| text(entry, "id") == id).unwrap().clone()
}

fn request(id: &str) -> Request {
    parse(text(&entry(id), "text").as_bytes()).unwrap_or_else(|error| panic!("{id}: {error:?}"))
}

/// What the reference read must be what we read.
fn check_reference(id: &str, method: &Method, expected: &Value) {
    let flags = Fixture::new(&json!({ "flags": expected["flags"], "fields": {} })).flags();
    match method {
        Method::Connect(x) => {
            assert_eq!((x.uid.as_str(), x.token.as_str(), x.version), (text(expected, "uid"), text(expected, "token"), 5), "{id}");
            if id != "connect-snake" {
                assert_eq!(x.device_id, text(expected, "deviceId"), "{id}");
                assert_eq!(x.device_flag, DeviceFlag(number(expected, "deviceFlag")), "{id}");
                assert_eq!(x.client_timestamp, number::<i64>(expected, "clientTimestamp"), "{id}");
            }
        }
        Method::Send(x) => {
            assert_eq!((x.flags, x.setting), (flags, Setting::from_byte(number(expected, "setting"))), "{id}");
            assert_eq!((x.channel_id.as_str(), x.topic.as_str()), (text(expected, "channelId"), text(expected, "topic")), "{id}");
            assert_eq!((x.channel_type, x.expire), (ChannelType(number(expected, "channelType")), number(expected, "expire")), "{id}");
            let made_up = text(expected, "clientMsgNo") == "GENERATED-UUID";
            assert_eq!(x.client_msg_no, if made_up { "" } else { text(expected, "clientMsgNo") }, "{id}");
            assert_eq!(to_hex(&x.payload), text(expected, "payload"), "{id}");
        }
        Method::Recvack(x) => {
            assert_eq!(
                (x.flags, x.message_id, x.message_seq),
                (flags, number(expected, "messageId"), number(expected, "messageSeq")),
                "{id}"
            );
        }
        Method::Disconnect(x) => assert_eq!((x.reason, x.text.as_str()), (Reason::SUCCESS, "bye"), "{id}"),
        Method::Ping => assert_eq!(text(expected, "t"), "PING", "{id}"),
        Method::Subscribe(_) | Method::Unsubscribe(_) | Method::Unknown => panic!("{id}: the reference has no such method"),
    }
}

#[test]
fn requests_end_as_specified() {
    for vector in list(&vectors(), "json_rpc").iter().filter(|vector| vector["dir"] == "c2s") {
        let (id, ours) = (text(vector, "id"), text(vector, "ours"));
        let result = parse(text(vector, "text").as_bytes());
        if let Some((_, digits)) = ours.split_once("error -") {
            let code = -digits.split_at(5).0.parse::<i32>().unwrap();
            let error = result.unwrap_err();
            assert_eq!(error.code.code(), code, "{id}");
            let has_id = ![ErrorCode::Parse, ErrorCode::InvalidRequest].contains(&error.code)
                || vector["reference"]["error_response"]["id"].is_string();
            assert_eq!(error.id.is_some(), has_id, "{id}");
            continue;
        }
        let request = result.unwrap_or_else(|error| panic!("{id}: {error:?}"));
        if vector["reference"]["error"].is_null() {
            check_reference(id, &request.method, &vector["reference"]);
            let id_text = text(&vector["reference"], "reqId");
            assert_eq!(request.id, (!id_text.is_empty()).then(|| Id::string(id_text)), "{id}");
        }
        assert_eq!(request.dialect == Dialect::Both, id.ends_with("-snake"), "{id}");
    }
}

#[test]
fn requests_that_only_we_accept() {
    let Method::Send(send) = request("send-object-payload").method else { panic!("not a send") };
    assert_eq!(send.payload, br#"{"type":1,"content":"hi"}"#);
    let Method::Send(snake) = request("send-snake").method else { panic!("not a send") };
    assert_eq!((snake.channel_id.as_str(), snake.channel_type, snake.client_msg_no.as_str()), ("bob", ChannelType::PERSON, "m-5"));
    let Method::Connect(connect) = request("connect-snake").method else { panic!("not a connect") };
    assert_eq!((connect.device_id.as_str(), connect.client_timestamp), ("a1", 1_700_000_000_123));
    assert_eq!(request("ping-numeric-id").id.unwrap().as_json(), "7");
    assert!(request("recvack-as-request").id.is_some());
    assert_eq!(request("unknown-notification").method, Method::Unknown);
    assert_eq!(split(text(&entry("truncated"), "text").as_bytes(), JSON_BYTES_MAX), Ok(None));
    let Method::Subscribe(sub) = request("subscribe").method else { panic!("not a subscribe") };
    assert_eq!((sub.sub_no.as_str(), sub.channel_id.as_str(), sub.channel_type, sub.action.0), ("n1", "stock", ChannelType::DATA, 0));
    let Method::Unsubscribe(sub) = request("unsubscribe").method else { panic!("not an unsubscribe") };
    assert_eq!(sub.action.0, 1);
}

#[test]
fn answers_and_notices_are_as_specified() {
    let vectors = vectors();
    for vector in list(&vectors, "json_rpc").iter().filter(|vector| vector["dir"] == "s2c") {
        let (fixture, id) = (Fixture::new(vector), Id::string(text(vector, "request_id")));
        for dialect in [Dialect::Camel, Dialect::Both] {
            let mut out = Vec::new();
            match text(vector, "frame") {
                "CONNACK" if fixture.connack().reason.is_success() => results::connect(&mut out, &id, &fixture.connack(), dialect),
                "CONNACK" => results::refused(&mut out, Some(&id), fixture.connack().reason),
                "SENDACK" => results::send(&mut out, &id, &fixture.sendack(), dialect),
                "PONG" => results::pong(&mut out, &id),
                "RECV" => notices::recv(&mut out, &fixture.recv(), dialect),
                "DISCONNECT" => notices::disconnect(&mut out, &fixture.disconnect(), dialect),
                "EVENT" => notices::event(&mut out, &fixture.event(), dialect),
                other => panic!("new frame {other}"),
            }
            let mut written: Value = serde_json::from_slice(&out).unwrap();
            if dialect == Dialect::Camel {
                // `Value` forgets the order of keys; the file keeps it, so the texts are compared as well.
                let file = std::fs::read_to_string(crate_dir().join("testdata/vectors/v1/wire-vectors.json")).unwrap();
                let compact: String = file.split('\n').map(str::trim_start).collect::<String>().replace("\": ", "\":");
                let text_of_ours = String::from_utf8(out).unwrap();
                assert!(compact.contains(&text_of_ours), "order of keys: {text_of_ours}");
            } else {
                drop_snake_case(&mut written);
            }
            assert_eq!(written, vector["ours"], "{}", text(vector, "id"));
        }
    }
}

/// Removes every snake_case key, after checking that it repeats its camelCase sibling.
fn drop_snake_case(value: &mut Value) {
    let Value::Object(members) = value else { return };
    for member in members.values_mut() {
        drop_snake_case(member);
    }
    let camel = members.clone();
    members.retain(|key, _| !key.contains('_'));
    for key in members.keys().filter(|key| key.bytes().any(|byte| byte.is_ascii_uppercase())) {
        let snake: String =
            key.chars().flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()])).collect();
        assert!(camel.contains_key(&snake), "{key} has no {snake}");
    }
}

#[test]
fn subscription_and_error_answers() {
    let mut out = Vec::new();
    let ack = wk_wire::Suback {
        sub_no: "n1".into(),
        channel_id: "stock\u{1}".into(),
        channel_type: ChannelType::DATA,
        action: wk_wire::SubAction::SUBSCRIBE,
        reason: Reason::SUCCESS,
    };
    results::subscription(&mut out, &Id::string("u"), &ack, Dialect::Camel);
    let expected =
        r#"{"jsonrpc":"2.0","id":"u","result":{"subNo":"n1","channelId":"stock\u0001","channelType":7,"action":0,"reasonCode":1}}"#;
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    assert!(results::rpc_error(&mut out, &parse(b"{").unwrap_err()));
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"parse error"}}"#);
    let mut out = Vec::new();
    assert!(!results::rpc_error(&mut out, &parse(br#"{"method":"recvack","params":{}}"#).unwrap_err()));
    assert!(out.is_empty());
    assert_eq!(Flags::NONE.get(), 0);
}
