//! Vectors `malformed` and `proxy_protocol`.

use serde_json::Value;
use wk_types::Reason;
use wk_wire::crypto::accept;
use wk_wire::detect::{Detect, Options, detect};
use wk_wire::frame::split;
use wk_wire::ids::check_connect;
use wk_wire::limits::BODY_BYTES_MAX;
use wk_wire::proxy::{Proxy, parse};
use wk_wire::{ClientFrame, FrameType, Version, decode_client};

use crate::fixture::*;

/// What a gateway learns from the bytes of a vector.
#[derive(Debug, PartialEq)]
enum Outcome<'a> {
    Close,
    Wait,
    Frame(ClientFrame<'a>, &'a [u8]),
}

fn look<'a>(bytes: &'a [u8], version: Version, unauthenticated: bool) -> Outcome<'a> {
    if unauthenticated {
        match detect(bytes, Options::default()) {
            Detect::Binary => {}
            Detect::NeedMore => return Outcome::Wait,
            _ => return Outcome::Close,
        }
    }
    match split(bytes, BODY_BYTES_MAX) {
        Err(_) => Outcome::Close,
        Ok(None) => Outcome::Wait,
        Ok(Some((head, total))) => match decode_client(&head, head.body(bytes).unwrap(), version) {
            Ok(frame) => Outcome::Frame(frame, &bytes[total..]),
            Err(_) => Outcome::Close,
        },
    }
}

fn check(vector: &Value, vectors: &Value) {
    let id = text(vector, "id");
    let bytes = hex(text(vector, "hex"));
    let outcome = look(&bytes, version(vector), text(vector, "state") == "unauthenticated");
    let ours = text(vector, "ours");
    let connect = |outcome: Outcome<'_>| match outcome {
        Outcome::Frame(ClientFrame::Connect(connect), _) => connect,
        other => panic!("{id}: {other:?}"),
    };
    if ours.starts_with("as connect-empty-uid") || id == "connect-empty-uid" {
        assert_eq!(check_connect(&connect(outcome)), Err(Reason::AUTH_FAIL), "{id}");
    } else if ours.starts_with("close") {
        assert_eq!(outcome, Outcome::Close, "{id}");
    } else if ours.starts_with("wait") {
        assert_eq!(outcome, Outcome::Wait, "{id}");
    } else if let Some(code) = ours.strip_prefix("CONNACK reason ").and_then(|rest| rest.split(',').next()) {
        let reason = Reason(code.parse().unwrap());
        assert_eq!(accept(&connect(outcome).client_key).unwrap_err().reason(), reason, "{id}");
    } else if ours.starts_with("accept") {
        assert_eq!(check_connect(&connect(outcome)), Ok(()), "{id}");
    } else if ours.starts_with("process CONNECT") {
        let Outcome::Frame(_, rest) = outcome else { panic!("{id}: {outcome:?}") };
        assert_eq!(look(rest, version(vector), false), Outcome::Frame(ClientFrame::Ping, &[]), "{id}");
    } else if ours.starts_with("treat as PING") {
        assert_eq!(outcome, Outcome::Frame(ClientFrame::Ping, &[]), "{id}");
    } else if ours.contains("SENDACK reason 9") {
        let Outcome::Frame(ClientFrame::Send(send), _) = outcome else { panic!("{id}: {outcome:?}") };
        assert!(session(vectors, "s1").open_send(&send, &mut Vec::new()).is_err(), "{id}");
        if text(vector, "desc").starts_with("valid msgKey") {
            assert!(session(vectors, "s1").send_key(&send).matches(send.msg_key), "{id}");
        }
    } else if ours.starts_with("ignore") {
        let expected = match id {
            "second-connect" => matches!(outcome, Outcome::Frame(ClientFrame::Connect(_), _)),
            "c2s-connack" => matches!(outcome, Outcome::Frame(ClientFrame::Ignored(FrameType::Connack), _)),
            "c2s-pong" => matches!(outcome, Outcome::Frame(ClientFrame::Ignored(FrameType::Pong), _)),
            "recvack-unknown" => matches!(outcome, Outcome::Frame(ClientFrame::Recvack(_), _)),
            other => panic!("new vector {other}"),
        };
        assert!(expected, "{id}");
    } else {
        panic!("{id}: no rule for {ours:?}");
    }
}

#[test]
fn malformed_input_ends_as_specified() {
    let vectors = vectors();
    for vector in list(&vectors, "malformed") {
        check(vector, &vectors);
    }
}

#[test]
fn proxy_headers() {
    for vector in list(&vectors(), "proxy_protocol") {
        let ours = &vector["ours"];
        let result = parse(&hex(text(vector, "hex")));
        let expected = match (ours["wait"] == true, ours["consumed"].as_u64()) {
            (true, _) => Proxy::NeedMore,
            (_, Some(0)) => Proxy::Absent,
            _ => Proxy::Header { consumed: number(ours, "consumed"), source: ours["addr"].as_str().map(|addr| addr.parse().unwrap()) },
        };
        assert_eq!(result, expected, "{}", text(vector, "id"));
    }
}
