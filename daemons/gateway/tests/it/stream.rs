//! TCP: binary frames, JSON-RPC, PROXY.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wk_gateway::config::Settings;
use wk_gateway::exchange::{CloseReason, Command, Event};
use wk_link::item::{self, Body};
use wk_types::Reason;
use wk_wire::detect::ProxyMode;

use crate::client::{Client, UPGRADE, connect_frame, connect_version, send_frame, ws_frame};
use crate::rig::{Rig, settings};

fn logged_in(rig: &Rig, uid: &str) -> (Client, wk_gateway::exchange::Login) {
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame(uid));
    let login = rig.login();
    assert_eq!(login.connect.uid, uid);
    rig.accept(&login);
    assert_eq!(client.frame()[0] >> 4, 2);
    (client, login)
}

#[test]
fn login_send_receive_ping_and_goodbye() {
    let rig = Rig::start(settings());
    let (mut client, login) = logged_in(&rig, "ann");
    client.send(&[0x70]);
    assert_eq!(client.frame(), [0x80]);
    client.send(&send_frame(9, b"hello"));
    let send = rig.send();
    let item = item::Send::decode(&send.body).unwrap();
    assert_eq!((item.uid, item.channel_id, item.client_seq, item.payload), ("ann", "ben", 9, &b"hello"[..]));
    assert_eq!((item.conn, item.message_id), (login.at.conn, send.message_id));
    rig.sendack(&send);
    assert_eq!(client.frame()[0] >> 4, 4);
    rig.write(login.at, &b"\x50\x03abc"[..]);
    assert_eq!(client.frame(), b"\x50\x03abc");
    client.send(&[0x60, 12, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6]);
    let ack = rig.wait(|event| match event {
        Event::Recvack(_, body) => Some(body.clone()),
        _ => None,
    });
    let ack = item::Recvack::decode(&ack).unwrap();
    assert_eq!((ack.message_id, ack.message_seq, ack.uid), (5, 6, "ann"));
    client.send(&[0x90, 3, 0, 0, 0]);
    assert!(client.clean_rest().is_empty());
    assert_eq!(rig.closed_reason(), CloseReason::Farewell);
    rig.stop();
}

#[test]
fn frames_may_come_byte_by_byte() {
    let rig = Rig::start(settings());
    let mut client = Client::connect(rig.tcp);
    for byte in connect_frame("ann") {
        client.send(&[byte]);
    }
    let login = rig.login();
    rig.accept(&login);
    client.frame();
    for byte in [send_frame(1, &[b'x'; 300]), vec![0x70], send_frame(2, b"")].concat() {
        client.send(&[byte]);
    }
    assert_eq!(client.frame(), [0x80]);
    assert_eq!([rig.send().client_seq, rig.send().client_seq], [1, 2]);
    rig.stop();
}

#[test]
fn what_follows_connect_waits_for_connack() {
    let rig = Rig::start(settings());
    let mut client = Client::connect(rig.tcp);
    client.send(&[connect_frame("ann"), vec![0x70], send_frame(1, b"x")].concat());
    let login = rig.login();
    client.send(&send_frame(2, b"y"));
    assert!(rig.none(|e| matches!(e, Event::Send(_))));
    rig.accept(&login);
    assert_eq!(client.frame()[0] >> 4, 2);
    assert_eq!(client.frame(), [0x80]);
    assert_eq!([rig.send().client_seq, rig.send().client_seq], [1, 2]);
    rig.stop();
}

#[test]
fn large_frames_arrive_whole() {
    let rig = Rig::start(settings());
    let (mut client, login) = logged_in(&rig, "ann");
    let payload: Vec<u8> = (0..1_000_000).map(|n| u8::try_from(n % 251).unwrap()).collect();
    client.send(&send_frame(1, &payload));
    let send = rig.send();
    assert_eq!(item::Send::decode(&send.body).unwrap().payload, payload);
    let mut frame = vec![0x50, 0xc0, 0x84, 0x3d];
    frame.extend_from_slice(&payload);
    rig.write(login.at, frame.clone());
    assert_eq!(client.frame(), frame);
    rig.stop();
}

#[test]
fn malformed_frames_close() {
    let rig = Rig::start(settings());
    let cases: [&[u8]; 4] = [&[0x00], &[0xd0, 0x01, 0x00], &[0x30, 0x81, 0x80, 0x40], &[0x60, 0x01, 0x00]];
    for bytes in cases {
        let (mut client, _) = logged_in(&rig, "ann");
        client.send(bytes);
        assert!(client.rest().is_empty());
        assert_eq!(rig.closed_reason(), CloseReason::Malformed, "{bytes:?}");
    }
    // Before login nobody is told.
    for bytes in [&[0x70][..], &[0x30, 0x00], b"GET / HTTP/1.1\r\n", &[0x10, 0x81, 0x80, 0x40], &[0x10, 0x01, 0x05]] {
        let mut client = Client::connect(rig.tcp);
        client.send(bytes);
        assert!(client.rest().is_empty(), "{bytes:?}");
    }
    assert!(rig.none(|e| matches!(e, Event::Closed(..))));
    assert_eq!(rig.metrics.closed.at(CloseReason::Malformed.index()).get(), 9);
    rig.stop();
}

#[test]
fn an_illegal_uid_is_refused_here_and_a_refusal_is_flushed_before_the_close() {
    let rig = Rig::start(settings());
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_version("a@b", 3));
    let connack = client.frame();
    assert_eq!((connack[0], connack[10]), (0x20, Reason::AUTH_FAIL.0));
    assert!(client.clean_rest().is_empty());

    // Unread input must not turn the close into a reset that eats the answer.
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame("ann"));
    let login = rig.login();
    client.send(&send_frame(1, &[0; 20_000]));
    rig.connack(&login, Reason::BAN);
    assert_eq!(client.frame()[0], 0x21);
    assert!(client.clean_rest().is_empty());
    client.finish();
    assert_eq!(rig.closed_reason(), CloseReason::Refused);
    rig.stop();
}

#[test]
fn a_client_that_finishes_first_still_gets_what_was_written() {
    let rig = Rig::start(Settings { linger_ms: 60_000, ..settings() });
    // A refusal made here, in the round of the end of stream or before it.
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_version("a@b", 3));
    client.finish();
    assert_eq!(client.frame()[0], 0x20);
    assert!(client.clean_rest().is_empty());
    // A farewell is answered.
    let mut client = Client::connect(rig.tcp);
    client.send(br#"{"method":"connect","id":1,"params":{"uid":"ann"}}"#);
    rig.accept(&rig.login());
    client.json();
    client.send(br#"{"method":"disconnect","id":"d","params":{}}"#);
    client.finish();
    assert_eq!(client.json()["id"], "d");
    assert!(client.clean_rest().is_empty());
    assert_eq!(rig.closed_reason(), CloseReason::Farewell);
    // Output that was already under way.
    let (mut client, login) = logged_in(&rig, "ann");
    rig.write(login.at, vec![0x50; 7 << 20]);
    client.bytes(1);
    client.finish();
    assert_eq!(client.clean_rest().len(), (7 << 20) - 1);
    assert_eq!(rig.closed_reason(), CloseReason::Peer);
    // Nobody lingers for those who have finished: the time above would be noticed here.
    rig.stop();
}

#[test]
fn kicked_connections_are_closed_after_the_delay_and_send_no_more() {
    let rig = Rig::start(settings());
    let (mut client, login) = logged_in(&rig, "ann");
    rig.post(login.at, Command::Kick(login.at, (&b"\x90\x03\x0c\x00\x00"[..]).into(), 300));
    assert_eq!(client.frame(), b"\x90\x03\x0c\x00\x00");
    client.send(&[send_frame(1, b"x"), vec![0x70]].concat());
    assert_eq!(client.frame(), [0x80]);
    assert!(rig.none(|e| matches!(e, Event::Send(_))));
    assert!(client.clean_rest().is_empty());
    assert_eq!(rig.closed_reason(), CloseReason::Kicked);
    assert_eq!(rig.metrics.sends_ignored.get(), 1);
    rig.stop();
}

#[test]
fn of_two_kicks_the_first_is_said_and_the_earlier_end_holds() {
    let rig = Rig::start(settings());
    let (mut client, login) = logged_in(&rig, "ann");
    let start = Instant::now();
    for (frame, after_ms) in [(&b"\x90\x03\x0c\x00\x00"[..], 300), (b"\x90\x03\x0d\x00\x00", 60_000)] {
        rig.post(login.at, Command::Kick(login.at, frame.into(), after_ms));
    }
    assert_eq!(client.clean_rest(), b"\x90\x03\x0c\x00\x00");
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(rig.closed_reason(), CloseReason::Kicked);
    let (mut client, login) = logged_in(&rig, "ann");
    for after_ms in [60_000, 300] {
        rig.post(login.at, Command::Kick(login.at, (&b"\x90\x03\x0c\x00\x00"[..]).into(), after_ms));
    }
    assert_eq!(client.clean_rest(), b"\x90\x03\x0c\x00\x00");
    assert_eq!(rig.closed_reason(), CloseReason::Kicked);
    rig.stop();
}

#[test]
fn json_rpc_over_tcp() {
    let rig = Rig::start(settings());
    let mut client = Client::connect(rig.tcp);
    client.send(b"  \r\n{\"method\":\"connect\",\"id\":\"1\",\"params\":{\"uid\":\"ann\"}}{\"method\":\"ping\",\"id\":2}");
    let login = rig.login();
    assert!(login.json);
    rig.accept(&login);
    assert_eq!(client.json()["result"]["reasonCode"], 1);
    assert_eq!(client.json()["id"], 2);
    client.send(br#"{"method":"send","id":"s","params":{"channelId":"ben","channelType":1,"payload":"aGk="}}"#);
    let send = rig.send();
    assert_eq!(item::Send::decode(&send.body).unwrap().payload, b"hi");
    rig.sendack(&send);
    assert_eq!(client.json()["result"]["messageSeq"], 1);
    client.send(br#"{"method":"nope","id":3}"#);
    assert_eq!(client.json()["error"]["code"], -32601);
    rig.write(login.at, &br#"{"method":"recv","params":{}}"#[..]);
    assert_eq!(client.json()["method"], "recv");
    client.send(br#"{"method":"recvack","params":{"messageId":"7","messageSeq":1}}"#);
    rig.wait(|e| matches!(e, Event::Recvack(..)).then_some(()));
    client.send(b"}");
    assert_eq!(client.json()["error"]["code"], -32700);
    assert!(client.clean_rest().is_empty());
    assert_eq!(rig.closed_reason(), CloseReason::Malformed);

    let mut client = Client::connect(rig.tcp);
    client.send(br#"{"method":"ping","id":1}"#);
    assert_eq!(client.json()["error"]["code"], -32600);
    assert!(client.clean_rest().is_empty());
    rig.stop();
}

#[test]
fn subscriptions_are_answered() {
    let rig = Rig::start(settings());
    let (mut client, _) = logged_in(&rig, "ann");
    for (kind, reason) in [(7_u8, 1_u8), (2, 23)] {
        client.send(&[0xa0, 10, 0, 0, 0, 0, 1, b'c', kind, 0, 0, 0]);
        assert_eq!(client.frame(), [0xb0, 8, 0, 0, 0, 1, b'c', kind, 0, reason]);
    }
    rig.stop();
}

#[test]
fn proxy_headers_of_trusted_peers_name_the_client() {
    let trusted = Settings { trusted: Arc::from(["127.0.0.0/8".parse().unwrap()]), ..settings() };
    let rig = Rig::start(trusted);
    for cut in [1, 10, 44] {
        let mut client = Client::connect(rig.tcp);
        let bytes = [b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 5100\r\n".to_vec(), connect_frame("ann")].concat();
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        assert_eq!(rig.login().peer, "203.0.113.7:51234");
    }
    let mut plain = Client::connect(rig.tcp);
    plain.send(&connect_frame("ann"));
    assert!(rig.login().peer.starts_with("127.0.0.1:"));
    rig.stop();

    let elsewhere = Settings { trusted: Arc::from(["203.0.113.0/24".parse().unwrap()]), ..settings() };
    let rig = Rig::start(elsewhere);
    let mut client = Client::connect(rig.tcp);
    client.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 5100\r\n");
    assert!(client.rest().is_empty(), "strangers may not say who they are");
    rig.stop();
}

#[test]
fn without_a_list_everybody_may_send_a_proxy_header() {
    let rig = Rig::start(settings());
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 7, 10, 0, 0, 1], &51234_u16.to_be_bytes(), &[0, 0]].concat();
    for header in [b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 5100\r\n".to_vec(), v2] {
        let mut client = Client::connect(rig.tcp);
        client.send(&[header.clone(), connect_frame("ann")].concat());
        assert_eq!(rig.login().peer, "203.0.113.7:51234");
        let mut client = Client::connect(rig.ws);
        client.send(&[header, UPGRADE.to_vec(), ws_frame(true, 2, &connect_frame("ann"))].concat());
        assert_eq!(rig.login().peer, "203.0.113.7:51234");
    }
    // Beginnings that look alike are no headers.
    let mut client = Client::connect(rig.tcp);
    client.send(b"\r\n\r\n");
    client.send(br#"{"method":"connect","id":1,"params":{"uid":"ann"}}"#);
    assert!(rig.login().peer.starts_with("127.0.0.1:"));
    rig.stop();
    let rig = Rig::start(Settings { proxy: ProxyMode::Off, ..settings() });
    let mut client = Client::connect(rig.tcp);
    client.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 5100\r\n");
    assert!(client.rest().is_empty(), "switched off");
    rig.stop();
}
