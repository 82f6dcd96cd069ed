use std::collections::VecDeque;

use parking_lot::Mutex;
use wk_link::sender::Ticket;
use wk_types::{ChannelType, DeviceFlag, DeviceLevel, IdRun, Reason};
use wk_wire::jsonrpc::{Dialect, Id};
use wk_wire::{Connect, ServerFrame, Version, decode_server, frame};

use super::*;

/// What was handed to the workers.
#[derive(Debug, Clone, Default)]
struct Sent(Arc<Mutex<SentInner>>);

#[derive(Debug, Default)]
struct SentInner {
    user: Vec<(Kind, Bytes, u64)>,
    push: Vec<(Kind, Bytes, u64)>,
    settled: Vec<u64>,
    congested: bool,
}

impl Uplink for Sent {
    fn user(&self, _: Bucket, kind: Kind, body: Bytes, _: Keep, token: u64) -> Option<Ticket> {
        let mut inner = self.0.lock();
        inner.user.push((kind, body, token));
        Some(Ticket { slot: 0, position: inner.user.len() as u64 })
    }

    fn push(&self, _: Bucket, kind: Kind, body: Bytes, _: Keep, token: u64) {
        self.0.lock().push.push((kind, body, token));
    }

    fn settle_user(&self, ticket: Ticket) {
        self.0.lock().settled.push(ticket.position);
    }

    fn congested(&self) -> bool {
        self.0.lock().congested
    }

    fn unsettled(&self) -> u64 {
        0
    }
}

struct Bench {
    hub: Hub,
    sent: Sent,
    reactor: Arc<Mailbox<Command>>,
}

const AT: At = At { conn: ConnId(77), slot: 3, reactor: 0 };

impl Bench {
    fn new() -> Self {
        let mut hub =
            Hub::new(Parts { settings: Arc::default(), shared: Arc::default(), metrics: Metrics::new(&wk_telemetry::Metrics::new()) });
        let reactor = Arc::new(Mailbox::new(|| {}));
        let sent = Sent::default();
        hub.attach_reactors(vec![Arc::clone(&reactor)]);
        hub.attach_uplink(Box::new(sent.clone()));
        Self { hub, sent, reactor }
    }

    fn commands(&mut self) -> VecDeque<Command> {
        self.hub.flush();
        let mut commands = Vec::new();
        self.reactor.take(&mut commands);
        commands.into()
    }

    fn login(&mut self, version: u8, json: bool) {
        let connect = Connect {
            version,
            device_flag: DeviceFlag(1),
            device_id: "d".into(),
            uid: "ann".into(),
            token: "t".into(),
            client_timestamp: 5,
            client_key: String::new(),
        };
        self.hub.shared.newcomer_came();
        self.hub.on_event(Event::Login(Box::new(Login {
            at: AT,
            connect,
            version: Version::negotiate(version),
            json,
            dialect: Dialect::Camel,
            id: json.then(|| Id::string("1")),
            peer: "p".into(),
            accepted_ms: 1,
            bucket: Bucket::of("ann"),
        })));
    }

    fn connack(&mut self, reason: Reason) {
        let body = Encoder::default().encode(&item::Connack {
            conn: AT.conn,
            reason,
            device_level: DeviceLevel::MASTER,
            encrypted: true,
            time_diff_ms: 9,
            aes_key: [1; 16],
            aes_iv: [2; 16],
            server_key: "sk",
            salt: "salt",
        });
        self.hub.on_item(Kind::Connack, &body);
    }

    fn open(&mut self, version: u8, json: bool) {
        self.login(version, json);
        self.connack(Reason::SUCCESS);
        self.hub.on_push_done(&[AT.conn.0]);
        self.commands();
    }

    fn send(&mut self, message_id: i64, id: Option<&str>) {
        let body = Encoder::default().encode(&item::Send {
            conn: AT.conn,
            message_id,
            accepted_ms: 1_000,
            flags: 2,
            setting: 0,
            client_seq: 11,
            expire: 0,
            channel_type: ChannelType::PERSON,
            uid: "ann",
            channel_id: "ben",
            client_msg_no: "no-1",
            stream_no: "",
            topic: "",
            msg_key: "",
            payload: b"x",
        });
        self.hub.on_event(Event::Send(Handover {
            at: AT,
            bucket: Bucket::of("ann"),
            body,
            message_id,
            client_seq: 11,
            flags: wk_wire::Flags::from_byte(2),
            id: id.map(|id| Box::new(Id::string(id))),
            cost: 40,
            accepted_ms: 1_000,
        }));
    }

    fn sendack(&mut self, message_id: i64) {
        let body = Encoder::default().encode(&item::Sendack {
            conn: AT.conn,
            message_id,
            stored_id: message_id + 100,
            message_seq: 6,
            client_seq: 11,
            reason: Reason::SUCCESS,
            flags: 2,
            client_msg_no: "no-1",
        });
        self.hub.on_item(Kind::Sendack, &body);
    }
}

/// The one frame in these bytes.
fn decoded(bytes: &Bytes, version: Version, check: impl FnOnce(ServerFrame<'_>)) {
    let (head, total) = frame::split(bytes, 1 << 20).unwrap().unwrap();
    assert_eq!(total, bytes.len());
    check(decode_server(&head, head.body(bytes).unwrap(), version).unwrap());
}

#[test]
fn connack_waits_for_the_push_worker() {
    let mut bench = Bench::new();
    bench.login(5, false);
    assert_eq!(bench.sent.0.lock().user[0].0, Kind::Connect);
    bench.connack(Reason::SUCCESS);
    assert!(bench.commands().is_empty());
    let (kind, body, token) = bench.sent.0.lock().push[0].clone();
    assert_eq!((kind, token), (Kind::SessionUp, AT.conn.0));
    let session = item::Session::decode(&body).unwrap();
    assert_eq!((session.uid, session.aes_key, session.device_level), ("ann", [1; 16], DeviceLevel::MASTER));
    bench.hub.on_push_done(&[AT.conn.0]);
    let Some(Command::Connack(AT, frame, true)) = bench.commands().pop_front() else { panic!("no connack") };
    decoded(&frame, Version::V5, |frame| {
        let ServerFrame::Connack(connack) = frame else { panic!("not a connack") };
        assert_eq!((connack.server_version, connack.time_diff, connack.salt.as_str()), (5, 9, "salt"));
    });
    // A replayed answer changes nothing.
    bench.connack(Reason::SUCCESS);
    bench.hub.on_push_done(&[AT.conn.0]);
    assert!(bench.commands().is_empty());
}

#[test]
fn a_refusal_is_written_in_the_layout_of_the_version_and_not_told_to_the_workers() {
    let mut bench = Bench::new();
    bench.login(2, false);
    bench.connack(Reason::BAN);
    let Some(Command::Connack(AT, frame, false)) = bench.commands().pop_front() else { panic!("no connack") };
    assert_eq!(frame.first(), Some(&0x20));
    bench.hub.on_event(Event::Closed(AT, CloseReason::Refused));
    assert_eq!(bench.sent.0.lock().user.len(), 1);
    assert!(bench.sent.0.lock().push.is_empty());

    bench.login(5, true);
    bench.connack(Reason::BAN);
    let Some(Command::Connack(AT, frame, false)) = bench.commands().pop_front() else { panic!("no connack") };
    assert_eq!(&frame[..], br#"{"jsonrpc":"2.0","id":"1","error":{"code":19,"message":"ReasonBan"}}"#);
}

#[test]
fn a_recv_that_overtakes_the_receipt_opens_the_session_first() {
    let mut bench = Bench::new();
    bench.login(5, false);
    bench.connack(Reason::SUCCESS);
    let body = Encoder::default().encode(&item::RecvOut { conn: AT.conn, frame: b"\x50frame" });
    bench.hub.on_item(Kind::RecvOut, &body);
    let commands = bench.commands();
    assert!(matches!(&commands[0], Command::Connack(AT, _, true)));
    assert!(matches!(&commands[1], Command::Write(AT, frame) if &frame[..] == b"\x50frame"));
}

#[test]
fn a_recv_is_written_however_much_waits_for_others() {
    let mut bench = Bench::new();
    bench.open(5, false);
    bench.hub.shared.output.add(2 * usize::try_from(crate::limits::OUTPUT_TOTAL_BYTES_MAX).unwrap());
    let body = Encoder::default().encode(&item::RecvOut { conn: AT.conn, frame: b"\x50frame" });
    bench.hub.on_item(Kind::RecvOut, &body);
    assert!(matches!(&bench.commands()[0], Command::Write(AT, frame) if &frame[..] == b"\x50frame"));
}

#[test]
fn a_sendack_answers_once_and_settles() {
    let mut bench = Bench::new();
    bench.open(6, false);
    bench.send(1, None);
    bench.sendack(1);
    bench.sendack(1);
    let mut commands = bench.commands();
    let Some(Command::Sendack(AT, frame, 40)) = commands.pop_front() else { panic!("no sendack") };
    assert!(commands.is_empty());
    decoded(&frame, Version::V6, |frame| {
        let ServerFrame::Sendack(ack) = frame else { panic!("not a sendack") };
        assert_eq!((ack.message_id, ack.message_seq, ack.client_seq, ack.client_msg_no, ack.flags.get()), (101, 6, 11, "no-1", 2));
    });
    assert_eq!(bench.sent.0.lock().settled, [2]);
}

#[test]
fn a_deadline_is_answered_with_reason_15_and_the_late_answer_settles() {
    let mut bench = Bench::new();
    bench.open(5, true);
    bench.send(1, Some("q"));
    bench.hub.expire(5_999);
    assert!(bench.commands().is_empty());
    bench.hub.expire(6_000);
    let Some(Command::Sendack(AT, frame, 40)) = bench.commands().pop_front() else { panic!("no answer") };
    assert_eq!(
        &frame[..],
        br#"{"jsonrpc":"2.0","id":"q","result":{"header":{"redDot":true},"messageId":"1","messageSeq":0,"reasonCode":15}}"#
    );
    bench.sendack(1);
    assert!(bench.commands().is_empty());
    assert_eq!(bench.sent.0.lock().settled, [2]);
}

#[test]
fn a_closed_session_is_told_to_both_pools() {
    let mut bench = Bench::new();
    bench.open(5, false);
    bench.hub.on_event(Event::Closed(AT, CloseReason::Peer));
    let sent = bench.sent.0.lock();
    assert_eq!(sent.user.last().unwrap().0, Kind::Closed);
    assert_eq!(sent.push.last().unwrap().0, Kind::SessionDown);
}

#[test]
fn the_snapshot_holds_authenticated_sessions_of_the_share() {
    let mut bench = Bench::new();
    bench.login(5, false);
    assert_eq!(bench.hub.snapshot(&|_| true).len(), 2);
    bench.connack(Reason::SUCCESS);
    let items = bench.hub.snapshot(&|_| true);
    assert_eq!(items.iter().map(|i| i.0).collect::<Vec<_>>(), [Kind::SnapshotBegin, Kind::SessionUp, Kind::SnapshotEnd]);
    assert_eq!(bench.hub.snapshot(&|_| false).len(), 2);
}

#[test]
fn poison_is_answered() {
    let mut bench = Bench::new();
    bench.open(5, false);
    bench.send(1, None);
    let body = bench.sent.0.lock().user[1].1.clone();
    bench.hub.on_poison(&Poisoned { slot: 0, kind: Kind::Send, bucket: Bucket::of("ann"), body, token: 1 });
    let Some(Command::Sendack(AT, frame, _)) = bench.commands().pop_front() else { panic!("no answer") };
    decoded(&frame, Version::V5, |frame| {
        let ServerFrame::Sendack(ack) = frame else { panic!("not a sendack") };
        assert_eq!(ack.reason, Reason::SYSTEM_ERROR);
    });
    let body = bench.sent.0.lock().user[0].1.clone();
    bench.hub.on_poison(&Poisoned { slot: 0, kind: Kind::Connect, bucket: Bucket::of("ann"), body, token: 0 });
    assert!(matches!(bench.commands().pop_front(), Some(Command::Close(AT, CloseReason::Refused))));
}

#[test]
fn kick_writes_a_disconnect_first() {
    let mut bench = Bench::new();
    bench.open(5, false);
    let kick = item::Kick { conn: AT.conn, disconnect: Some(Reason::CONNECT_KICK), text: "bye", close_after_ms: 2_000 };
    bench.hub.on_item(Kind::Kick, &Encoder::default().encode(&kick));
    let Some(Command::Kick(AT, frame, 2_000)) = bench.commands().pop_front() else { panic!("no kick") };
    decoded(&frame, Version::V5, |frame| assert!(matches!(frame, ServerFrame::Disconnect(d) if d.text == "bye")));
}

#[test]
fn ids_are_lent_ahead_and_congestion_holds() {
    let mut bench = Bench::new();
    assert!(bench.hub.wants_ids());
    bench.hub.add_ids([IdRun { first: 1, count: 3 * IDS_LENT }]);
    assert!(matches!(bench.commands().pop_front(), Some(Command::Ids(runs)) if runs == [IdRun { first: 1, count: IDS_LENT }]));
    assert!(bench.commands().is_empty());
    bench.sent.0.lock().congested = true;
    bench.hub.flush();
    assert!(bench.hub.shared.hold.load(Ordering::Relaxed));
    bench.sent.0.lock().congested = false;
    assert!(matches!(bench.commands().pop_front(), Some(Command::Resume)));
    assert!(!bench.hub.shared.hold.load(Ordering::Relaxed));
}
