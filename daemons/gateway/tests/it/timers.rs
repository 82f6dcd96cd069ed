//! Deadlines of connections, with short limits.

use std::time::{Duration, Instant};

use wk_gateway::config::Settings;
use wk_gateway::exchange::CloseReason;

use crate::client::{Client, UPGRADE, connect_frame};
use crate::rig::Rig;

fn settings() -> Settings {
    Settings { first_bytes_ms: 200, login_ms: 300, handshake_ms: 700, away_ms: 1_200, idle_ms: 250, linger_ms: 200, ..Settings::default() }
}

#[test]
fn silent_connections_are_closed() {
    let rig = Rig::start(settings());
    let start = Instant::now();
    let mut clients = [Client::connect(rig.tcp), Client::connect(rig.ws), Client::connect(rig.tcp)];
    clients[2].send(&[0x10]);
    for client in &mut clients {
        assert!(client.rest().is_empty());
    }
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(rig.metrics.closed.at(CloseReason::Handshake.index()).get(), 3);
    rig.stop();
}

#[test]
fn trickling_does_not_hold_a_connection() {
    let rig = Rig::start(settings());
    let start = Instant::now();
    let mut client = Client::connect(rig.ws);
    client.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // One byte per 50 ms never lets the short limit pass.
    let mut bytes = UPGRADE.iter().cycle();
    let closed = loop {
        use std::io::{Read, Write};
        if client.socket.write_all(&[*bytes.next().unwrap()]).is_err() {
            break true;
        }
        match client.socket.read(&mut [0; 16]) {
            Ok(0) => break true,
            Ok(_) => break false,
            Err(err) if matches!(err.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break true,
        }
        assert!(start.elapsed() < crate::rig::DEADLINE);
    };
    assert!(closed && start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
    rig.stop();
}

#[test]
fn a_connect_without_an_answer_is_closed_but_waits_for_an_absent_owner() {
    let rig = Rig::start(settings());
    let start = Instant::now();
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame("ann"));
    rig.login();
    assert!(client.rest().is_empty());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(rig.closed_reason(), CloseReason::Handshake);

    rig.shared.set_away(|_| true);
    let start = Instant::now();
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame("ann"));
    rig.login();
    assert!(client.rest().is_empty());
    assert!(start.elapsed() >= Duration::from_millis(1_100), "{:?}", start.elapsed());
    rig.stop();
}

#[test]
fn idle_connections_are_closed_and_pings_keep_them() {
    let rig = Rig::start(settings());
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame("ann"));
    rig.accept(&rig.login());
    client.frame();
    client.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(800) {
        use std::io::Read;
        client.send(&[0x70]);
        let mut pong = [0; 1];
        client.socket.read_exact(&mut pong).unwrap();
        let quiet = client.socket.read(&mut pong).unwrap_err();
        assert!(matches!(quiet.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{quiet}");
    }
    client.socket.set_read_timeout(Some(crate::rig::DEADLINE)).unwrap();
    assert!(client.rest().is_empty());
    assert_eq!(rig.closed_reason(), CloseReason::Idle);
    rig.stop();
}
