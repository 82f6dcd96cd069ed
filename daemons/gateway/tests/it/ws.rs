//! WebSocket.

use wk_gateway::config::Settings;
use wk_gateway::exchange::{CloseReason, Command, Event, Login};

use crate::client::{Client, UPGRADE, connect_frame, send_frame, ws_frame};
use crate::rig::{Rig, settings};

fn upgraded(rig: &Rig) -> Client {
    let mut client = Client::connect(rig.ws);
    client.send(UPGRADE);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.bytes(1));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    client
}

fn logged_in(rig: &Rig) -> (Client, Login) {
    let mut client = upgraded(rig);
    client.send(&ws_frame(true, 2, &connect_frame("ann")));
    let login = rig.login();
    rig.accept(&login);
    let (opcode, frame) = client.ws();
    assert_eq!((opcode, frame[0] >> 4), (2, 2));
    (client, login)
}

#[test]
fn one_frame_per_message_out_and_any_cut_in() {
    let rig = Rig::start(settings());
    let (mut client, login) = logged_in(&rig);
    // Several frames in one message, one frame over two messages, text opcode, fragments with a ping between.
    let two = send_frame(3, b"split");
    let stream = [
        ws_frame(true, 2, &[send_frame(1, b"a"), send_frame(2, b"b")].concat()),
        ws_frame(true, 2, &two[..5]),
        ws_frame(true, 1, &two[5..]),
        ws_frame(false, 2, &send_frame(4, b"frag")[..3]),
        ws_frame(true, 9, b"hey"),
        ws_frame(true, 0, &send_frame(4, b"frag")[3..]),
        ws_frame(true, 2, &[0x70]),
    ]
    .concat();
    for byte in &stream {
        client.send(&[*byte]);
    }
    assert_eq!(client.ws(), (10, b"hey".to_vec()));
    assert_eq!(client.ws(), (2, vec![0x80]));
    let sends: Vec<_> = (0..4).map(|_| rig.send()).collect();
    assert_eq!(sends.iter().map(|s| s.client_seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for send in &sends {
        rig.sendack(send);
    }
    rig.write(login.at, vec![0x50; 300]);
    for _ in 0..4 {
        let (opcode, frame) = client.ws();
        assert_eq!((opcode, frame[0], frame.len()), (2, 0x40, 19));
    }
    assert_eq!(client.ws(), (2, vec![0x50; 300]));
    client.send(&ws_frame(true, 8, &[0x03, 0xe8]));
    assert_eq!(client.ws(), (8, vec![0x03, 0xe8]));
    assert!(client.clean_rest().is_empty());
    assert_eq!(rig.closed_reason(), CloseReason::Farewell);
    rig.stop();
}

#[test]
fn plain_http_is_told_to_upgrade() {
    let rig = Rig::start(settings());
    for (request, status) in [(&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], "426"), (b"nonsense\r\n\r\n", "400")] {
        let mut client = Client::connect(rig.ws);
        client.send(request);
        let answer = String::from_utf8(client.clean_rest()).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert!(rig.none(|e| matches!(e, Event::Login(_))));
    rig.stop();
}

/// What a client sees of an end that we begin: CLOSE with this status, then a clean end of the stream.
fn sees_close(client: &mut Client, status: u16) {
    assert_eq!(client.ws(), (8, status.to_be_bytes().to_vec()));
    assert!(client.clean_rest().is_empty());
}

#[test]
fn every_end_is_said() {
    let rig = Rig::start(Settings { first_bytes_ms: 400, idle_ms: 400, ..settings() });
    // Unmasked; the output before it is not lost.
    let (mut client, _) = logged_in(&rig);
    client.send(&[ws_frame(true, 9, b"hey"), vec![0x82, 0x01, 0x70]].concat());
    assert_eq!(client.ws(), (10, b"hey".to_vec()));
    sees_close(&mut client, 1000);
    assert_eq!(rig.closed_reason(), CloseReason::Malformed);
    let (mut client, _) = logged_in(&rig);
    sees_close(&mut client, 1000);
    assert_eq!(rig.closed_reason(), CloseReason::Idle);
    let (mut client, login) = logged_in(&rig);
    rig.post(login.at, Command::Close(login.at, CloseReason::Refused));
    sees_close(&mut client, 1000);
    assert_eq!(rig.closed_reason(), CloseReason::Refused);
    let mut client = upgraded(&rig);
    sees_close(&mut client, 1000);
    let (mut client, _) = logged_in(&rig);
    rig.reactors.drain();
    sees_close(&mut client, 1001);
    assert_eq!(rig.closed_reason(), CloseReason::Stopping);
    rig.wait(|e| matches!(e, Event::Drained(_)).then_some(()));
    rig.reactors.join();
}

#[test]
fn json_texts_end_with_their_message() {
    let rig = Rig::start(settings());
    let mut client = upgraded(&rig);
    let connect = br#"{"method":"connect","id":7,"params":{"uid":"ann"}}"#;
    client.send(&[ws_frame(false, 1, &connect[..10]), ws_frame(true, 0, &connect[10..])].concat());
    let login = rig.login();
    rig.accept(&login);
    let (opcode, text) = client.ws();
    assert_eq!(opcode, 1);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["id"], 7);
    // An incomplete text is an error of its message only.
    client.send(&ws_frame(true, 1, br#"{"method":"ping","#));
    let answer = serde_json::from_slice::<serde_json::Value>(&client.ws().1).unwrap();
    assert_eq!(answer["error"]["code"], -32700);
    client.send(&ws_frame(true, 1, br#"{"method":"ping","id":"p"} {"method":"ping","id":"q"}"#));
    for id in ["p", "q"] {
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&client.ws().1).unwrap()["id"], id);
    }
    client.send(&ws_frame(true, 1, br#"{"method":"disconnect","id":"d","params":{}}"#));
    assert_eq!(client.ws().0, 1);
    assert_eq!(client.ws(), (8, vec![0x03, 0xe8]));
    assert!(client.clean_rest().is_empty());
    rig.stop();
}
