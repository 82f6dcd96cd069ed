//! Accepting, quiesce, drain.

use wk_gateway::config::Settings;
use wk_gateway::exchange::{CloseReason, Command, Event};

use crate::client::{Client, connect_frame, send_frame};
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
    let mut stranger = Client::connect(rig.tcp);
    client.send(&send_frame(1, b"x"));
    let send = rig.send();
    for sub in &rig.reactors.subs {
        sub.post_one(Command::Quiesce);
    }
    assert!(stranger.rest().is_empty());
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
