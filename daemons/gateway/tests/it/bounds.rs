//! What happens at the bounds.

use std::sync::atomic::Ordering;

use wk_gateway::config::Settings;
use wk_gateway::exchange::{CloseReason, Command, Event};

use crate::client::{Client, connect_frame, send_frame};
use crate::rig::{Rig, settings};

fn logged_in(rig: &Rig) -> (Client, wk_gateway::exchange::Login) {
    let mut client = Client::connect(rig.tcp);
    client.send(&connect_frame("ann"));
    let login = rig.login();
    rig.accept(&login);
    client.frame();
    (client, login)
}

#[test]
fn a_slow_reader_is_closed_at_the_output_bound() {
    let rig = Rig::start(Settings { output_bytes_max: 256 << 10, ..settings() });
    let (client, login) = logged_in(&rig);
    // The peer's and our socket buffers take some megabytes before anything waits here.
    for _ in 0..200 {
        rig.write(login.at, vec![0x50; 128 << 10]);
    }
    assert_eq!(rig.closed_reason(), CloseReason::OutputFull);
    drop(client);
    rig.stop();
}

#[test]
fn too_much_output_in_all_closes_those_it_waits_for() {
    let rig = Rig::start(Settings { output_total_bytes_max: 1 << 20, ..settings() });
    let (slow, at_slow) = logged_in(&rig);
    let (mut healthy, at_healthy) = logged_in(&rig);
    // The budget is used up by somebody who is not touched.
    rig.shared.output.add(2 << 20);
    for n in 0..100 {
        rig.write(at_healthy.at, &b"\x50\x03abc"[..]);
        assert_eq!(healthy.frame(), b"\x50\x03abc", "{n}");
    }
    for _ in 0..60 {
        rig.write(at_slow.at, vec![0x50; 128 << 10]);
    }
    assert_eq!(rig.closed_reason(), CloseReason::OutputBudget);
    drop(slow);
    healthy.send(&[0x70]);
    assert_eq!(healthy.frame(), [0x80]);
    rig.shared.output.sub(2 << 20);
    rig.stop();
}

#[test]
fn output_that_stands_still_closes_whatever_else_comes() {
    let rig = Rig::start(Settings { output_bytes_max: 64 << 20, stall_ms: 400, idle_ms: 600, ..settings() });
    let (mut slow, at_slow) = logged_in(&rig);
    let (mut reader, at_reader) = logged_in(&rig);
    for _ in 0..100 {
        rig.write(at_slow.at, vec![0x50; 128 << 10]);
    }
    let start = std::time::Instant::now();
    let closed = || rig.metrics.closed.at(CloseReason::OutputStalled.index()).get() > 0;
    while !closed() {
        // Both are heard of, one reads.
        drop(std::io::Write::write(&mut slow.socket, &[0x70]));
        reader.send(&[0x70]);
        assert_eq!(reader.frame(), [0x80]);
        rig.write(at_reader.at, vec![0x50; 1 << 10]);
        assert_eq!(reader.bytes(1 << 10).len(), 1 << 10);
        assert!(start.elapsed() < crate::rig::DEADLINE);
    }
    assert_eq!(rig.closed_reason(), CloseReason::OutputStalled);
    assert!(start.elapsed() >= std::time::Duration::from_millis(350), "{:?}", start.elapsed());
    reader.send(&[0x70]);
    assert_eq!(reader.frame(), [0x80]);
    drop(slow);
    rig.stop();
}

#[test]
fn sends_over_the_bound_wait_and_pings_do_not() {
    let rig = Rig::start(Settings { sends_open_max: 2, ..settings() });
    let (mut client, _) = logged_in(&rig);
    let sends: Vec<u8> = (1..=5).flat_map(|n| send_frame(n, b"x")).collect();
    client.send(&[sends, vec![0x70]].concat());
    assert_eq!(client.frame(), [0x80]);
    let (first, second) = (rig.send(), rig.send());
    assert_eq!([first.client_seq, second.client_seq], [1, 2]);
    assert!(rig.none(|e| matches!(e, Event::Send(_))));
    rig.sendack(&second);
    let third = rig.send();
    assert_eq!(third.client_seq, 3);
    client.send(&send_frame(6, b"x"));
    rig.sendack(&first);
    rig.sendack(&third);
    let (fourth, fifth) = (rig.send(), rig.send());
    rig.sendack(&fourth);
    rig.sendack(&fifth);
    assert_eq!([fourth.client_seq, fifth.client_seq, rig.send().client_seq], [4, 5, 6]);
    rig.stop();
}

#[test]
fn bytes_count_too_but_a_large_send_goes_alone() {
    let rig = Rig::start(Settings { sends_open_bytes_max: 1_000, ..settings() });
    let (mut client, _) = logged_in(&rig);
    client.send(&[send_frame(1, &[0; 5_000]), send_frame(2, b"x"), vec![0x70]].concat());
    assert_eq!(client.frame(), [0x80]);
    let large = rig.send();
    assert!(rig.none(|e| matches!(e, Event::Send(_))));
    rig.sendack(&large);
    assert_eq!(rig.send().client_seq, 2);
    rig.stop();
}

#[test]
fn too_much_parked_stops_the_reading_and_all_arrive_in_order() {
    let rig = Rig::start(Settings { sends_open_max: 4, parked_bytes_max: 16 << 10, ..settings() });
    let (client, _) = logged_in(&rig);
    let mut writer = client.socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        use std::io::Write;
        for n in 0..3_000 {
            writer.write_all(&send_frame(n, &[b'x'; 2_000])).unwrap();
        }
    });
    let first = rig.send();
    assert_eq!(first.client_seq, 0);
    // Nothing is answered, so the six megabytes cannot all be parked: the reading must stop.
    let until = std::time::Instant::now() + crate::rig::DEADLINE;
    while rig.metrics.reads_paused.get() == 0 {
        assert!(std::time::Instant::now() < until, "reading goes on");
        std::thread::yield_now();
    }
    rig.sendack(&first);
    for n in 1..3_000 {
        let send = rig.send();
        assert_eq!(send.client_seq, n);
        rig.sendack(&send);
    }
    writing.join().unwrap();
    rig.stop();
}

#[test]
fn without_ids_or_with_a_full_link_sends_wait() {
    let rig = Rig::start(settings());
    rig.shared.hold.store(true, Ordering::Relaxed);
    let (mut client, login) = logged_in(&rig);
    client.send(&[send_frame(1, b"x"), vec![0x70]].concat());
    assert_eq!(client.frame(), [0x80]);
    assert!(rig.none(|e| matches!(e, Event::Send(_))));
    rig.shared.hold.store(false, Ordering::Relaxed);
    rig.post(login.at, Command::Resume);
    assert_eq!(rig.send().client_seq, 1);
    rig.stop();
}

#[test]
fn few_ids_at_a_time_are_enough() {
    let rig = Rig::bare(settings());
    let (mut client, _) = logged_in(&rig);
    client.send(&[(1..=9).flat_map(|n| send_frame(n, b"x")).collect(), vec![0x70]].concat());
    assert_eq!(client.frame(), [0x80]);
    for n in 1..=9 {
        if n % 2 == 1 {
            assert!(rig.none(|e| matches!(e, Event::Send(_))));
            rig.lend(2);
        }
        assert_eq!(rig.send().client_seq, n);
    }
    rig.stop();
}

#[test]
fn connections_per_address_are_bounded() {
    let rig = Rig::start(Settings { per_address_max: 1, ..settings() });
    let (first, _) = logged_in(&rig);
    let mut second = Client::connect(rig.tcp);
    assert!(second.rest().is_empty());
    drop(first);
    assert_eq!(rig.closed_reason(), CloseReason::Peer);
    let (_third, _) = logged_in(&rig);
    rig.stop();
}
