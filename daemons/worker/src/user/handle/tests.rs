use std::collections::BTreeMap;

use prost::Message as _;
use wk_link::item::{ChannelSend, Closed, Connack, Connect, Encoder, Kick, Send, Sendack};
use wk_types::{ConnId, NodeId};

use super::super::send::tests::sample;
use super::*;
use crate::origin::PeerId;

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Settle(u64),
    Connack(ConnId, Reason, u64),
    Kick(ConnId, bool, u32),
    Sendack(ConnId, Reason, i64, u64),
    Forward(String, Vec<u8>, u64),
}

#[derive(Default)]
struct Sink {
    did: Vec<Did>,
    lookups: Vec<(usize, Vec<pb::Query>)>,
}

impl Out for Sink {
    fn settle(&mut self, origin: Origin) {
        self.did.push(Did::Settle(origin.position()));
    }
    fn connack(&mut self, x: &Connack<'_>, done: Origin) {
        self.did.push(Did::Connack(x.conn, x.reason, done.position()));
    }
    fn kick(&mut self, x: &Kick<'_>) {
        self.did.push(Did::Kick(x.conn, x.disconnect.is_some(), x.close_after_ms));
    }
    fn sendack(&mut self, x: &Sendack<'_>, done: Origin) {
        assert_eq!(done.peer(), PeerId(1));
        self.did.push(Did::Sendack(x.conn, x.reason, x.stored_id, x.message_seq));
    }
    fn channel_send(&mut self, bucket: Bucket, x: &ChannelSend<'_>, done: Origin) {
        assert_eq!(bucket, Bucket::of(wk_types::channel::base_id(x.channel_id)));
        self.did.push(Did::Forward(x.channel_id.to_owned(), x.message.payload.to_vec(), done.position()));
    }
    fn lookup(&mut self, load: usize, queries: Vec<pb::Query>) {
        self.lookups.push((load, queries));
    }
}

impl Sink {
    fn took(&mut self) -> Vec<Did> {
        std::mem::take(&mut self.did)
    }

    /// Answers the oldest lookup; `row` gives the value of each row, `stored` the result of a stored query.
    fn answer(&mut self, users: &mut Users, row: impl Fn(&pb::RowKey) -> Option<Vec<u8>>, stored: (i64, u64)) {
        let (load, queries) = self.lookups.remove(0);
        let answers = queries.iter().map(|q| match q.of.as_ref().expect("a query") {
            pb::query::Of::Row(key) => pb::Answer { value: row(key), ..pb::Answer::default() },
            pb::query::Of::Stored(_) => pb::Answer { message_id: stored.0, number: stored.1, ..pb::Answer::default() },
            other => unreachable!("{other:?}"),
        });
        users.loaded(load, Some(answers.collect()), NOW, self);
        users.flush(self);
    }
}

const NOW: Now = Now { mono_ms: 100, unix_ms: 5_000 };

fn gateway(incarnation: u64) -> Sender {
    Sender { id: PeerId(1), daemon: Daemon::Gateway, slot: 0, incarnation }
}

fn id(counter: u64) -> ConnId {
    ConnId::new(NodeId(1), 0, counter)
}

fn connect(conn: ConnId, uid: &str, device: &str, token: &str) -> Bytes {
    Encoder::default().encode(&Connect {
        conn,
        accepted_ms: 0,
        version: 5,
        json: true,
        device_flag: DeviceFlag(1),
        client_timestamp_ms: 4_000,
        device_id: device,
        uid,
        token,
        client_key: "",
        peer: "",
    })
}

fn send_to(conn: ConnId, message_id: i64, payload: &[u8]) -> Bytes {
    Encoder::default().encode(&Send { conn, message_id, ..sample("u2", payload) })
}

struct Bench {
    users: Users,
    out: Sink,
    position: u64,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let mut bench = Self { users: Users::new(rules), out: Sink::default(), position: 0 };
        bench.users.gateways.set_live(BTreeMap::from([(0, 1)]));
        bench
    }

    fn snapshot(mut self) -> Self {
        self.item(Kind::SnapshotBegin, Bytes::new(), false);
        self.item(Kind::SnapshotEnd, Bytes::new(), false);
        self.out.took();
        self.position = 0;
        self
    }

    fn item(&mut self, kind: Kind, body: Bytes, replay: bool) {
        self.position += 1;
        let d = Delivery { position: self.position, kind, replay, bucket: Bucket::default(), body };
        self.users.deliver(gateway(1), d, NOW, &mut self.out);
        self.users.flush(&mut self.out);
    }

    fn no_rows(&mut self) {
        self.out.answer(&mut self.users, |_| None, (0, 0));
    }
}

fn device_row(level: u32) -> impl Fn(&pb::RowKey) -> Option<Vec<u8>> {
    move |key| {
        let row = pb::DeviceRow { token: "t".into(), level, updated_at_ms: 0 };
        (key.table() == pb::Table::Device).then(|| row.encode_to_vec())
    }
}

#[test]
fn connect_looks_up_registers_and_answers() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    assert_eq!(b.out.took(), []);
    b.no_rows();
    assert_eq!(b.out.took(), [Did::Connack(id(1), Reason::SUCCESS, 1)]);
    assert_eq!(b.users.presence().of("u1").count(), 1);
    // Rows are cached: the next one needs no lookup.
    b.item(Kind::Connect, connect(id(2), "u1", "d2", ""), false);
    assert_eq!(b.out.took(), [Did::Connack(id(2), Reason::SUCCESS, 2)]);
    b.item(Kind::Closed, Encoder::default().encode(&Closed { conn: id(1), uid: "u1" }), false);
    assert_eq!(b.out.took(), [Did::Settle(3)]);
    b.users.presence.check();
    assert_eq!(b.users.presence().of("u1").map(|s| s.conn).collect::<Vec<_>>(), [id(2)]);
}

#[test]
fn a_wrong_token_is_refused_and_a_master_kicks() {
    let rules = Rules { token_auth_on: true, ..Rules::default() };
    let mut b = Bench::new(rules).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "old", "x"), false);
    // Device first, then the user's info.
    b.out.answer(&mut b.users, device_row(1), (0, 0));
    b.no_rows();
    assert_eq!(b.out.took(), [Did::Connack(id(1), Reason::AUTH_FAIL, 1)]);
    b.item(Kind::Connect, connect(id(2), "u1", "old", "t"), false);
    b.item(Kind::Connect, connect(id(3), "u1", "new", "t"), false);
    let expected = [Did::Connack(id(2), Reason::SUCCESS, 2), Did::Kick(id(2), true, 2000), Did::Connack(id(3), Reason::SUCCESS, 3)];
    assert_eq!(b.out.took(), expected);
    // A kick is under way already: not again.
    b.item(Kind::Connect, connect(id(4), "u1", "third", "t"), false);
    assert_eq!(b.out.took(), [Did::Kick(id(3), true, 2000), Did::Connack(id(4), Reason::SUCCESS, 4)]);
}

#[test]
fn nobody_is_let_in_before_all_sessions_are_known() {
    let mut b = Bench::new(Rules::default());
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    b.item(Kind::Connect, connect(id(2), "u2", "d", ""), false);
    assert_eq!((b.out.lookups.len(), b.users.complete()), (0, false));
    // One of them goes away meanwhile: both items are settled.
    b.item(Kind::Closed, Encoder::default().encode(&Closed { conn: id(2), uid: "u2" }), false);
    assert_eq!(b.out.took(), [Did::Settle(2), Did::Settle(3)]);
    b.item(Kind::SnapshotBegin, Bytes::new(), false);
    b.item(Kind::SnapshotEnd, Bytes::new(), false);
    b.no_rows();
    assert_eq!(b.out.took(), [Did::Connack(id(1), Reason::SUCCESS, 1)]);
}

#[test]
fn sends_keep_their_order_behind_a_lookup() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    b.no_rows();
    b.users.changed("u1", &[]);
    b.out.took();
    b.item(Kind::Send, send_to(id(1), 1, b"one"), false);
    b.item(Kind::Send, send_to(id(1), 2, b"two"), false);
    assert_eq!((b.out.took(), b.out.lookups.len()), (vec![], 1));
    b.no_rows();
    let forward = |p: &[u8], at| Did::Forward("u2@u1".into(), p.to_vec(), at);
    assert_eq!(b.out.took(), [forward(b"one", 2), forward(b"two", 3)]);
    b.item(Kind::Send, send_to(id(1), 3, b"three"), false);
    assert_eq!(b.out.took(), [forward(b"three", 4)]);
}

#[test]
fn a_row_that_changed_while_it_was_read_is_read_again() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    b.users.changed("u1", &[]);
    b.no_rows();
    assert_eq!((b.out.took(), b.out.lookups.len()), (vec![], 1));
    let banned = |key: &pb::RowKey| {
        assert_eq!(key.table(), pb::Table::ChannelInfo);
        Some(pb::ChannelInfoRow { ban: true, ..pb::ChannelInfoRow::default() }.encode_to_vec())
    };
    b.out.answer(&mut b.users, banned, (0, 0));
    assert_eq!(b.out.took(), [Did::Connack(id(1), Reason::BAN, 1)]);
}

#[test]
fn a_muted_user_and_a_late_or_unknown_one_hear_why() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    let muted = |_: &pb::RowKey| Some(pb::ChannelInfoRow { send_ban: true, ..pb::ChannelInfoRow::default() }.encode_to_vec());
    b.out.answer(&mut b.users, muted, (0, 0));
    b.out.took();
    b.item(Kind::Send, send_to(id(1), 1, b"x"), false);
    assert_eq!(b.out.took(), [Did::Sendack(id(1), Reason::SEND_BAN, 1, 0)]);
    b.item(Kind::Send, send_to(id(9), 2, b"x"), false);
    assert_eq!(b.out.took(), [Did::Sendack(id(9), Reason::SYSTEM_ERROR, 2, 0)]);
    let late = Now { mono_ms: 5_000, unix_ms: 0 };
    let body = send_to(id(1), 3, b"x");
    b.users.deliver(
        gateway(1),
        Delivery { position: 9, kind: Kind::Send, replay: false, bucket: Bucket::default(), body },
        late,
        &mut b.out,
    );
    assert_eq!(b.out.took(), [Did::Sendack(id(1), Reason::SYSTEM_ERROR, 3, 0)]);
}

#[test]
fn a_replayed_send_is_first_looked_up() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    b.no_rows();
    b.out.took();
    b.item(Kind::Send, send_to(id(1), 1, b"one"), true);
    b.item(Kind::Send, send_to(id(1), 2, b"two"), false);
    assert_eq!(b.out.took(), []);
    b.out.answer(&mut b.users, |_| None, (1, 5));
    assert_eq!(b.out.took(), [Did::Sendack(id(1), Reason::SUCCESS, 1, 5), Did::Forward("u2@u1".into(), b"two".to_vec(), 3)]);
    b.item(Kind::Send, send_to(id(1), 3, b"three"), true);
    b.out.answer(&mut b.users, |_| None, (0, 0));
    assert_eq!(b.out.took(), [Did::Forward("u2@u1".into(), b"three".to_vec(), 4)]);
    // Another message under its client number: what is a duplicate is for the append to say, which sees the payload.
    b.item(Kind::Send, send_to(id(1), 4, b"four"), true);
    b.out.answer(&mut b.users, |_| None, (1, 5));
    assert_eq!(b.out.took(), [Did::Forward("u2@u1".into(), b"four".to_vec(), 5)]);
}

#[test]
fn nobody_asks_for_the_stored_result_of_what_is_never_stored() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    b.no_rows();
    b.out.took();
    let body = Encoder::default().encode(&Send { conn: id(1), message_id: 1, flags: NO_PERSIST, ..sample("u2", b"one") });
    b.item(Kind::Send, body, true);
    assert_eq!(b.out.took(), [Did::Forward("u2@u1".into(), b"one".to_vec(), 2)]);
    assert!(b.out.lookups.is_empty());
}

#[test]
fn a_failed_lookup_is_repeated_and_an_error_answers_15() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    let (load, _) = b.out.lookups.remove(0);
    b.users.loaded(load, None, NOW, &mut b.out);
    b.users.tick(NOW, &mut b.out);
    b.users.flush(&mut b.out);
    let (load, queries) = b.out.lookups.remove(0);
    assert_eq!(queries.len(), 1);
    let error = pb::Error { code: pb::Code::Rejected.into(), ..pb::Error::default() };
    b.users.loaded(load, Some(vec![pb::Answer { error: Some(error), ..pb::Answer::default() }]), NOW, &mut b.out);
    assert_eq!(b.out.took(), [Did::Connack(id(1), Reason::SYSTEM_ERROR, 1)]);
    assert_eq!(b.users.waiting(), 0);
}

#[test]
fn a_new_life_of_the_gateway_voids_its_sessions() {
    let mut b = Bench::new(Rules::default()).snapshot();
    b.item(Kind::Connect, connect(id(1), "u1", "d", ""), false);
    b.no_rows();
    b.users.met(gateway(2));
    assert!(b.users.presence().is_empty());
}
