use std::collections::BTreeMap;

use wk_link::item::{Closed, Encoder, Receivers, Recvack, Session};
use wk_types::{Bucket, ChannelType, DeviceFlag, DeviceLevel, NodeId};

use super::super::recv::tests::deliver;
use super::*;
use crate::origin::PeerId;

#[derive(Default)]
struct Sink {
    settled: Vec<Origin>,
    /// Connection, frame, token.
    sent: Vec<(ConnId, Bytes, u64)>,
    resent: Vec<(ConnId, Bytes)>,
    congested: bool,
    /// What would be blamed for a death now, and what was when each RECV was made.
    handling: Option<u64>,
    blamed: Vec<Option<u64>>,
}

impl Out for Sink {
    fn handling(&mut self, origin: Origin) {
        self.handling = Some(origin.position());
    }
    fn rest(&mut self) {
        self.handling = None;
    }
    fn settle(&mut self, origin: Origin) {
        if origin.position() > 0 {
            self.settled.push(origin);
        }
    }
    fn recv(&mut self, conn: ConnId, frame: &[u8], token: u64) -> Bytes {
        let body = Bytes::copy_from_slice(frame);
        self.blamed.push(self.handling);
        self.sent.push((conn, body.clone(), token));
        body
    }
    fn resend(&mut self, conn: ConnId, body: &Bytes) {
        self.resent.push((conn, body.clone()));
    }
    fn congested(&self) -> bool {
        self.congested
    }
}

const POLICY: Policy = Policy { interval_ms: 60, scan_ms: 10, max: 5 };

fn at(ms: u64) -> Now {
    Now { mono_ms: ms, unix_ms: 0 }
}

fn gateway(slot: u16, incarnation: u64) -> Sender {
    Sender { id: PeerId(slot + 1), daemon: Daemon::Gateway, slot, incarnation }
}

fn worker() -> Sender {
    Sender { id: PeerId(100), daemon: Daemon::Worker(wk_types::Pool::Channel), slot: 0, incarnation: 9 }
}

fn conn(slot: u16, counter: u64) -> ConnId {
    ConnId::new(NodeId(1), slot, counter)
}

fn item(kind: Kind, position: u64, body: Bytes) -> Delivery {
    Delivery { position, kind, replay: false, bucket: Bucket::default(), body }
}

fn session(conn: ConnId, uid: &str) -> Bytes {
    Encoder::default().encode(&Session {
        conn,
        version: 5,
        json: false,
        encrypted: true,
        snake_case: false,
        device_flag: DeviceFlag(0),
        device_level: DeviceLevel::SLAVE,
        aes_key: [7; 16],
        aes_iv: [8; 16],
        since_ms: 0,
        uid,
        device_id: "d",
    })
}

/// A worker that knows gateway 0 with these sessions.
fn push_with(sessions: &[(ConnId, &str)], out: &mut Sink) -> Push {
    let mut push = Push::new(POLICY, 0);
    push.gateways.set_live(BTreeMap::from([(0, 1)]));
    push.deliver(gateway(0, 1), item(Kind::SnapshotBegin, 0, Bytes::new()), out);
    for (conn, uid) in sessions {
        push.deliver(gateway(0, 1), item(Kind::SessionUp, 0, session(*conn, uid)), out);
    }
    push.deliver(gateway(0, 1), item(Kind::SnapshotEnd, 0, Bytes::new()), out);
    push
}

fn message(id: i64, flags: u8, sender: ConnId, uids: &[&str]) -> Bytes {
    let (count, list) = Receivers::encode_list(uids.iter().copied());
    let mut d = deliver("g1", ChannelType::GROUP, "u1");
    d.message.message_id = id;
    d.message.flags = flags;
    d.sender_conn = sender;
    d.receivers = Receivers::new(count, &list);
    Encoder::default().encode(&d)
}

#[test]
fn one_recv_per_connection_but_the_senders() {
    let mut out = Sink::default();
    let (phone, pc, peer) = (conn(0, 1), conn(0, 2), conn(0, 3));
    let mut push = push_with(&[(phone, "u1"), (pc, "u1"), (peer, "u2")], &mut out);
    push.deliver(worker(), item(Kind::Deliver, 7, message(1, 0, phone, &["u1", "u2", "u3"])), &mut out);
    push.run(at(0), &mut out);
    assert_eq!(out.sent.iter().map(|s| s.0).collect::<Vec<_>>(), [pc, peer]);
    assert_eq!((push.counts.offline, push.counts.online_slave), (1, 2));
    // Settled only when the gateway has received both.
    assert_eq!(out.settled, []);
    let tokens: Vec<u64> = out.sent.iter().map(|s| s.2).collect();
    push.done(&tokens[..1], &mut out);
    assert_eq!(out.settled, []);
    push.done(&tokens[1..], &mut out);
    assert_eq!(out.settled, [Origin::new(PeerId(100), 7)]);
}

#[test]
fn nobody_online_settles_at_once() {
    let mut out = Sink::default();
    let mut push = push_with(&[], &mut out);
    push.deliver(worker(), item(Kind::Deliver, 1, message(1, 0, ConnId::NONE, &["u9"])), &mut out);
    push.run(at(0), &mut out);
    assert_eq!((out.sent.len(), out.settled.len(), push.waiting()), (0, 1, (0, 0)));
}

#[test]
fn waits_for_the_sessions_of_every_gateway_and_for_room() {
    let mut out = Sink::default();
    let mut push = push_with(&[], &mut out);
    push.gateways.set_live(BTreeMap::from([(0, 1), (1, 5)]));
    push.deliver(worker(), item(Kind::Deliver, 1, message(1, 0, ConnId::NONE, &["u2"])), &mut out);
    push.run(at(0), &mut out);
    assert_eq!(push.waiting(), (1, 0));
    push.deliver(gateway(1, 5), item(Kind::SnapshotBegin, 0, Bytes::new()), &mut out);
    push.deliver(gateway(1, 5), item(Kind::SessionUp, 0, session(conn(1, 1), "u2")), &mut out);
    push.deliver(gateway(1, 5), item(Kind::SnapshotEnd, 0, Bytes::new()), &mut out);
    out.congested = true;
    push.run(at(0), &mut out);
    assert_eq!(out.sent.len(), 0);
    out.congested = false;
    push.run(at(0), &mut out);
    assert_eq!(out.sent[0].0, conn(1, 1));
}

#[test]
fn what_waited_is_made_under_its_own_name() {
    let mut out = Sink::default();
    let mut push = push_with(&[(conn(0, 1), "u2")], &mut out);
    out.congested = true;
    for position in [4, 5] {
        push.deliver(
            worker(),
            item(Kind::Deliver, position, message(i64::try_from(position).expect("small"), 0, ConnId::NONE, &["u2"])),
            &mut out,
        );
        push.run(at(0), &mut out);
    }
    out.congested = false;
    push.run(at(0), &mut out);
    assert_eq!((out.blamed, out.handling), (vec![Some(4), Some(5)], None));
}

#[test]
fn a_replayed_deliver_reaches_a_connection_once() {
    let mut out = Sink::default();
    let mut push = push_with(&[(conn(0, 1), "u2")], &mut out);
    for position in 1..=2 {
        push.deliver(worker(), item(Kind::Deliver, position, message(5, 0, ConnId::NONE, &["u2"])), &mut out);
    }
    push.run(at(0), &mut out);
    assert_eq!((out.sent.len(), push.counts.duplicates), (1, 1));
    // The second had nothing to send.
    assert_eq!(out.settled, [Origin::new(PeerId(100), 2)]);
}

#[test]
fn resends_until_the_recvack() {
    let mut out = Sink::default();
    let me = conn(0, 1);
    let mut push = push_with(&[(me, "u2")], &mut out);
    push.deliver(worker(), item(Kind::Deliver, 1, message(5, 0, ConnId::NONE, &["u2"])), &mut out);
    push.deliver(worker(), item(Kind::Deliver, 2, message(6, 1, ConnId::NONE, &["u2"])), &mut out);
    push.run(at(1000), &mut out);
    push.tick(at(1030), 0, &mut out);
    assert_eq!(out.resent, []);
    push.tick(at(1060), 0, &mut out);
    // Same bytes; the unstored message (flag noPersist) is never repeated.
    assert_eq!(out.resent, [(me, out.sent[0].1.clone())]);
    let ack = Encoder::default().encode(&Recvack { conn: me, message_id: 5, message_seq: 9, flags: 0, uid: "u2" });
    push.deliver(gateway(0, 1), item(Kind::Recvack, 3, ack), &mut out);
    push.tick(at(2000), 0, &mut out);
    assert_eq!((out.resent.len(), push.unacked(), push.scan.len()), (1, 0, 0));
}

#[test]
fn a_closed_connection_and_a_dead_gateway_take_their_frames_along() {
    let mut out = Sink::default();
    let (a, b) = (conn(0, 1), conn(0, 2));
    let mut push = push_with(&[(a, "u2"), (b, "u2")], &mut out);
    push.deliver(worker(), item(Kind::Deliver, 1, message(5, 0, ConnId::NONE, &["u2"])), &mut out);
    push.run(at(0), &mut out);
    assert_eq!(push.unacked(), 2);
    let closed = Encoder::default().encode(&Closed { conn: a, uid: "u2" });
    push.deliver(gateway(0, 1), item(Kind::SessionDown, 4, closed), &mut out);
    assert_eq!((push.unacked(), push.sessions().len()), (1, 1));
    push.met(gateway(0, 2));
    assert_eq!((push.unacked(), push.sessions().len(), push.complete()), (0, 0, false));
}
