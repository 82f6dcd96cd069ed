//! Accepting, quiesce, drain.

use wk_gateway::config::Settings;
use wk_gateway::exchange::{CloseReason, Command, Event};

use crate::client::{Client, UPGRADE, connect_frame, send_frame, ws_frame};
use crate::rig::{Rig, settings};

#[test]
fn nothing_is_accepted_before_admission_and_after_stop_accept() {
    let rig = Rig::closed(settings(), 2);
    let mut early = Client::connect(rig.tcp);
    early.send(&connect_frame("early"));
    assert!(rig.none(|_| true));
    rig.reactors.main.post_one(Command::Admit);
    assert_eq!(rig.login().connect.uid, "early");
    // Round robin over both reactors.
    let mut other = Client::connect(rig.ws);
    other.send(b"x\r\n\r\n");
    other.rest();
    let mut third = Client::connect(rig.tcp);
    third.send(&connect_frame("third"));
    rig.login();
    rig.reactors.main.post_one(Command::StopAccept);
    rig.wait(|e| matches!(e, Event::AcceptStopped(_)).then_some(()));
    let accepted = rig.metrics.accepted.get();
    let mut late = Client::connect(rig.tcp);
    late.send(&connect_frame("late"));
    rig.reactors.main.post_one(Command::StopAccept);
    rig.wait(|e| matches!(e, Event::AcceptStopped(_)).then_some(()));
    assert_eq!(rig.metrics.accepted.get(), accepted);
    rig.reactors.main.post_one(Command::Admit);
    assert_eq!(rig.login().connect.uid, "late");
    rig.stop();
}

#[test]
fn connection_ids_differ_between_reactors_and_lives() {
    let mut seen = std::collections::HashSet::new();
    for incarnation in [1 << 60 | 5, 1 << 40 | 77] {
        let rig = Rig::with(Settings { incarnation, ..settings() }, 3);
        let clients: Vec<_> = (0..9)
            .map(|n| {
                let mut client = Client::connect(rig.tcp);
                client.send(&connect_frame(&format!("u{n}")));
                let login = rig.login();
                assert!(seen.insert(login.at.conn));
                client
            })
            .collect();
        drop(clients);
        rig.stop();
    }
}

#[test]
fn quiesce_takes_no_sends_but_answers_and_pings_go_on_and_drain_loses_no_byte() {
    let rig = Rig::start(settings());
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame("ann"));
    let login = rig.login();
    rig.accept(&login);
    client.frame();
    client.send(&send_frame(1, b"x"));
    let send = rig.send();
    rig.post(login.at, Command::Quiesce);
    rig.reactors.main.post_one(Command::StopAccept);
    rig.wait(|e| matches!(e, Event::AcceptStopped(_)).then_some(()));
    client.send(&[send_frame(2, b"y"), vec![0x70]].concat());
    assert_eq!(client.frame(), [0x80]);
    assert!(rig.none(|e| matches!(e, Event::Send(_))));
    rig.sendack(&send);
    let tail = vec![0x50; 3 << 20];
    rig.write(login.at, tail.clone());
    rig.reactors.drain();
    // The client goes on sending and never closes by itself: it still gets everything, and a clean end.
    client.send(&send_frame(3, b"z"));
    let got = client.clean_rest();
    assert_eq!(got[0] >> 4, 4);
    assert_eq!(got[19..], tail);
    assert_eq!(rig.closed_reason(), CloseReason::Stopping);
    rig.wait(|e| matches!(e, Event::Drained(_)).then_some(()));
    rig.reactors.join();
}

#[test]
fn who_came_before_the_quiesce_gets_a_handshake() {
    let rig = Rig::with(Settings { silent_ms: 60_000, ..settings() }, 2);
    let mut tcp = Client::connect(rig.tcp);
    let mut ws = Client::connect(rig.ws);
    let mut begun = Client::connect(rig.tcp);
    let mut silent = [Client::connect(rig.tcp), Client::connect(rig.ws)];
    let frame = connect_frame("begun");
    begun.send(&frame[..5]);
    rig.until(|| rig.metrics.conns.get() == 5);
    assert_eq!(rig.shared.newcomers(), 5);
    rig.reactors.main.post_one(Command::StopAccept);
    for sub in &rig.reactors.subs {
        sub.post_one(Command::Quiesce);
    }
    rig.wait(|e| matches!(e, Event::AcceptStopped(_)).then_some(()));
    tcp.send(&connect_frame("tcp"));
    rig.accept(&rig.login());
    assert_eq!(tcp.frame()[0] >> 4, 2);
    begun.send(&frame[5..]);
    rig.accept(&rig.login());
    assert_eq!(begun.frame()[0] >> 4, 2);
    ws.send(&[UPGRADE, &ws_frame(true, 2, &connect_frame("ws"))].concat());
    rig.accept(&rig.login());
    while !ws.bytes(1).ends_with(b"\n") || ws.bytes(1) != b"\r" {}
    ws.bytes(1);
    assert_eq!(ws.ws().1[0] >> 4, 2);
    // The hub has been told of three; those that say nothing are left.
    assert_eq!(rig.shared.newcomers(), 5);
    (0..3).for_each(|_| rig.shared.newcomer_left());
    rig.reactors.drain();
    for client in &mut silent {
        assert!(client.clean_rest().is_empty());
    }
    assert_eq!(ws.ws(), (8, vec![0x03, 0xe9]));
    for client in [&mut tcp, &mut begun, &mut ws] {
        assert!(client.clean_rest().is_empty());
        assert_eq!(rig.closed_reason(), CloseReason::Stopping);
    }
    assert_eq!(rig.shared.newcomers(), 0);
    rig.wait(|e| matches!(e, Event::Drained(_)).then_some(()));
    rig.reactors.join();
}

#[test]
fn who_says_nothing_is_not_waited_for_by_a_quiesce() {
    let patient = Settings { first_bytes_ms: 60_000, handshake_ms: 60_000, silent_ms: 200, ..settings() };
    let rig = Rig::with(patient, 2);
    let mut silent = [Client::connect(rig.tcp), Client::connect(rig.ws)];
    let mut begun = Client::connect(rig.tcp);
    let frame = connect_frame("begun");
    begun.send(&frame[..1]);
    rig.until(|| rig.metrics.conns.get() == 3 && rig.metrics.bytes_in.get() == 1);
    rig.reactors.main.post_one(Command::StopAccept);
    for sub in &rig.reactors.subs {
        sub.post_one(Command::Quiesce);
    }
    for client in &mut silent {
        assert!(client.clean_rest().is_empty());
    }
    rig.until(|| rig.shared.newcomers() == 1);
    begun.send(&frame[1..]);
    rig.accept(&rig.login());
    assert_eq!(begun.frame()[0] >> 4, 2);
    drop(begun);
    rig.stop();
}

#[test]
fn who_says_nothing_does_not_hold_a_drain() {
    let rig = Rig::start(Settings { linger_ms: 600_000, ..settings() });
    let mut silent = Client::connect(rig.tcp);
    rig.until(|| rig.metrics.conns.get() == 1);
    rig.reactors.drain();
    // It never closes by itself.
    rig.wait(|e| matches!(e, Event::Drained(_)).then_some(()));
    assert!(silent.clean_rest().is_empty());
    rig.reactors.join();
}
