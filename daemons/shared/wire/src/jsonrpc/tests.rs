use super::*;
use crate::limits::JSON_MEMBERS_MAX;
use wk_types::ChannelType;

fn code(text: &str) -> (ErrorCode, bool, bool) {
    let error = parse(text.as_bytes()).unwrap_err();
    (error.code, error.id.is_some(), error.notification)
}

#[test]
fn splits_texts_at_every_cut() {
    let stream = b" \r\n{\"a\":\"}\\\"{\"}\t{\"b\":[{}]}[1]";
    for cut in 0..stream.len() {
        let mut splitter = Splitter::new(100);
        let mut buf = stream[..cut].to_vec();
        let mut texts = Vec::new();
        for more in [&[][..], &stream[cut..]] {
            buf.extend_from_slice(more);
            while let Some(text) = splitter.next(&buf).unwrap() {
                texts.push(String::from_utf8(buf[text.start..text.end].to_vec()).unwrap());
                buf.drain(..text.end);
            }
            buf.drain(..splitter.drain_space());
        }
        assert_eq!(texts, [r#"{"a":"}\"{"}"#, r#"{"b":[{}]}"#, "[1]"], "{cut}");
        assert!(buf.is_empty());
    }
}

#[test]
fn splitter_is_bounded() {
    assert_eq!(split(b"x", 10), Err(SplitError::Start(b'x')));
    assert_eq!(split(b"{       ", 8), Err(SplitError::OverLimit(8)));
    assert_eq!(split(b"{      }", 8), Ok(Some(Text { start: 0, end: 8 })));
    assert_eq!(split(b"        ", 8), Err(SplitError::OverLimit(8)));
}

#[test]
fn a_topic_needs_its_setting() {
    for (setting, topic) in [("", ""), (r#","setting":{"topic":false}"#, ""), (r#","setting":{"topic":true}"#, "t")] {
        let text = format!(r#"{{"method":"send","params":{{"channelId":"a","channelType":1,"payload":"aGk=","topic":"t"{setting}}}}}"#);
        let Method::Send(send) = parse(text.as_bytes()).unwrap().method else { panic!("not a send") };
        assert_eq!(send.topic, topic, "{setting}");
    }
}

#[test]
fn refuses_with_the_right_code() {
    use ErrorCode::{InvalidParams, InvalidRequest, MethodNotFound, Parse};
    let cases = [
        (r#"{"#, (Parse, false, false)),
        (r#"{} x"#, (Parse, false, false)),
        (r#"[1"#, (Parse, false, false)),
        (r#"3"#, (InvalidRequest, false, false)),
        (r#"{"method":"ping","id":true}"#, (InvalidRequest, false, false)),
        (r#"{"method":"ping","id":null}"#, (InvalidRequest, false, false)),
        (r#"{"method":3,"id":1}"#, (InvalidRequest, true, false)),
        (r#"{"method":"nope","id":1}"#, (MethodNotFound, true, false)),
        (r#"{"method":"send","id":1,"params":[]}"#, (InvalidParams, true, false)),
        (r#"{"method":"connect","id":1,"params":{"token":"t"}}"#, (InvalidParams, true, false)),
        (r#"{"method":"connect","id":1,"params":{"uid":"u","deviceFlag":256}}"#, (InvalidParams, true, false)),
        (r#"{"method":"recvack","params":{}}"#, (InvalidParams, false, true)),
        (r#"{"method":"send","id":1,"params":{"channelId":"a","channelType":1,"payload":[256]}}"#, (InvalidParams, true, false)),
        (r#"{"method":"send","id":1,"params":{"channelId":"a","channelType":1,"payload":7}}"#, (InvalidParams, true, false)),
    ];
    for (text, expected) in cases {
        assert_eq!(code(text), expected, "{text}");
    }
    let many: Vec<_> = (0..=JSON_MEMBERS_MAX).map(|n| format!("\"k{n}\":0")).collect();
    assert_eq!(code(&format!("{{{}}}", many.join(","))).0, InvalidRequest);
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let deep = format!(
        r#"{{"method":"send","id":1,"params":{{"channelId":"a","channelType":1,"payload":{}1{}}}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    assert!(parse(deep.as_bytes()).is_err());
    let deep = deep.replace('[', "{\"a\":").replace(']', "}");
    assert!(parse(deep.as_bytes()).is_ok(), "an object payload is opaque");
}

#[test]
fn exact_key_wins_over_other_spellings() {
    let request = parse(br#"{"method":"connect","id":1,"params":{"device_id":"s","DEVICEID":"c","deviceId":"x","uid":"u"}}"#).unwrap();
    let Method::Connect(connect) = request.method else { panic!("not a connect") };
    assert_eq!((connect.device_id.as_str(), request.dialect), ("x", Dialect::Camel));
}

#[test]
fn payload_forms() {
    let payload = |json: &str| {
        let text = format!(r#"{{"method":"send","id":1,"params":{{"channelId":"a","channelType":2,"payload":{json}}}}}"#);
        let Method::Send(send) = parse(text.as_bytes()).unwrap().method else { panic!("not a send") };
        assert_eq!(send.channel_type, ChannelType::GROUP);
        String::from_utf8(send.payload).unwrap()
    };
    assert_eq!(payload(r#""aGk=""#), "hi");
    assert_eq!(payload(r#"[104,105]"#), "hi");
    assert_eq!(payload("{ \"b\" : \"x \\\" y\",\n \"a\" : [1, 2] }"), r#"{"b":"x \" y","a":[1,2]}"#);
    assert_eq!(payload(r#""""#), "");
}

#[test]
fn ids_are_echoed_verbatim() {
    for id in [r#""a\u0041""#, "7", "-1.50e3"] {
        let request = parse(format!(r#"{{"method":"ping","id": {id} }}"#).as_bytes()).unwrap();
        let mut out = Vec::new();
        results::pong(&mut out, &request.id.unwrap());
        assert_eq!(String::from_utf8(out).unwrap(), format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
    }
}

#[test]
fn both_spellings_for_the_snake_dialect() {
    let ack = crate::Sendack {
        flags: crate::Flags::RED_DOT,
        message_id: 5,
        client_seq: 0,
        message_seq: 6,
        reason: Reason::SUCCESS,
        client_msg_no: "",
    };
    let mut out = Vec::new();
    results::send(&mut out, &Id::string("s\n"), &ack, Dialect::Both);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"jsonrpc":"2.0","id":"s\n","result":{"header":{"redDot":true,"red_dot":true},"messageId":"5","message_id":"5","#,
            r#""messageSeq":6,"message_seq":6,"reasonCode":1,"reason_code":1}}"#
        )
    );
}
