use std::collections::HashSet as StdSet;

use proptest::prelude::*;
use prost::Message as _;
use wk_link::codec::Reader;
use wk_link::item::{ChannelSend, Deliver, Encoder, PersonRulesChanged, Receivers, Sendack};
use wk_link::record::{ChannelBatch, Message};
use wk_proto::cluster::v1::Code;
use wk_types::{ConnId, NodeId};

use super::*;
use crate::origin::PeerId;

mod append;
mod replay;
mod share;

/// A channel.
type To<'a> = (&'a str, ChannelType);

/// A SENDACK: message, stored id, sequence, reason.
type Ack = (i64, i64, u64, Reason);

#[derive(Default)]
struct Sink {
    settled: Vec<u64>,
    acks: Vec<Ack>,
    /// Message, sequence, receivers, keep, token.
    delivers: Vec<(i64, u64, Vec<String>, Keep, u64)>,
    /// Connection that each Deliver leaves out.
    senders: Vec<ConnId>,
    /// Channel of each Deliver, and its id as the sender named it.
    named: Vec<(String, String)>,
    lookups: Vec<(usize, Vec<pb::Query>)>,
    members: Vec<(usize, u32, pb::ListKey)>,
    appends: Vec<(usize, u32, Bytes)>,
    activated: Vec<u16>,
    activations: u64,
    congested: bool,
    /// What would be blamed for a death now.
    handling: Option<u64>,
}

impl Out for Sink {
    fn handling(&mut self, origin: Origin) {
        self.handling = Some(origin.position());
    }
    fn rest(&mut self) {
        self.handling = None;
    }
    fn settle(&mut self, origin: Origin) {
        self.settled.push(origin.position());
    }
    fn sendack(&mut self, x: &Sendack<'_>, _done: Origin) {
        self.acks.push((x.message_id, x.stored_id, x.message_seq, x.reason));
    }
    fn deliver(&mut self, _slot: u16, _bucket: Bucket, x: &Deliver<'_>, keep: Keep, token: u64) {
        let uids = x.receivers.iter().map(str::to_owned).collect();
        self.senders.push(x.sender_conn);
        self.named.push((x.channel_id.to_owned(), x.named.to_owned()));
        self.delivers.push((x.message.message_id, x.message_seq, uids, keep, token));
    }
    fn lookup(&mut self, load: usize, queries: Vec<pb::Query>) {
        self.lookups.push((load, queries));
    }
    fn members(&mut self, chan: usize, epoch: u32, list: pb::ListKey) {
        self.members.push((chan, epoch, list));
    }
    fn system_uids(&mut self) {}
    fn append(&mut self, request: usize, channels: u32, batches: Bytes) {
        self.appends.push((request, channels, batches));
    }
    fn activate(&mut self, number: u64, buckets: Vec<u16>) {
        self.activations = number;
        self.activated.extend(buckets);
    }
    fn congested(&self) -> bool {
        self.congested
    }
}

const NOW: Now = Now { mono_ms: 1_000, unix_ms: 50_000 };

/// A cluster in the test: lists and rows by name, and a log per channel.
#[derive(Default)]
struct Cluster {
    /// "deny g1 u1", "member g1 u1", "allow g1 u1", "ban g1".
    facts: StdSet<String>,
    log: Vec<(String, i64, Vec<u8>)>,
    index: u64,
}

impl Cluster {
    fn answer(&self, q: &pb::Query) -> pb::Answer {
        use pb::query::Of;
        let list_name = |l: &pb::ListKey| match l.list() {
            pb::List::Deny => "deny",
            pb::List::Allow => "allow",
            _ => "member",
        };
        let id = |l: &pb::ListKey| l.channel.clone().expect("a channel").id;
        match q.of.as_ref().expect("a query") {
            Of::Row(key) => {
                let row = pb::ChannelInfoRow { ban: self.facts.contains(&format!("ban {}", key.id)), ..Default::default() };
                pb::Answer { value: Some(row.encode_to_vec()), ..Default::default() }
            }
            Of::Contains(m) => {
                let list = m.list.as_ref().expect("a list");
                let has = self.facts.contains(&format!("{} {} {}", list_name(list), id(list), m.member));
                pb::Answer { number: u64::from(has), ..Default::default() }
            }
            Of::Count(list) => {
                let prefix = format!("{} {} ", list_name(list), id(list));
                let count = self.facts.iter().filter(|f| f.starts_with(&prefix)).count();
                pb::Answer { number: u64::try_from(count).expect("small"), ..Default::default() }
            }
            Of::Stored(key) => {
                let channel = key.channel.clone().expect("a channel").id;
                let found = self.position(&channel, key.message_id);
                pb::Answer { message_id: key.message_id, number: found.unwrap_or(0), ..Default::default() }
            }
            other @ Of::LastSeq(_) => unreachable!("{other:?}"),
        }
    }

    /// Sequence of a stored message.
    fn position(&self, channel: &str, id: i64) -> Option<u64> {
        let mut of_channel = self.log.iter().filter(|(c, ..)| c == channel);
        of_channel.position(|(_, i, _)| *i == id).map(|p| u64::try_from(p).expect("small") + 1)
    }

    /// Applies an append request as the cluster does.
    fn append(&mut self, batches: &[u8]) -> pb::AppendReply {
        let mut r = Reader::new(batches);
        let mut channels = Vec::new();
        while !r.is_empty() {
            let batch = ChannelBatch::read(&mut r).expect("own bytes");
            self.index += 1;
            let mut done = pb::ChannelAppended { group: 0, index: self.index, timestamp: 50, ..Default::default() };
            for bytes in batch.messages() {
                let m = Message::decode(bytes.expect("own bytes")).expect("own bytes");
                let before = self.position(batch.channel_id, m.message_id);
                if before.is_none() {
                    self.log.push((batch.channel_id.to_owned(), m.message_id, m.payload.to_vec()));
                }
                done.message_ids.push(m.message_id);
                done.message_seqs.push(self.position(batch.channel_id, m.message_id).expect("just stored"));
                done.duplicates.push(before.is_some());
            }
            channels.push(done);
        }
        pb::AppendReply { channels }
    }
}

struct Bench {
    channels: Channels,
    out: Sink,
    cluster: Cluster,
    position: u64,
    now: Now,
}

fn user() -> Sender {
    Sender { id: PeerId(1), daemon: Daemon::Worker(Pool::User), slot: 0, incarnation: 1 }
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let mut b = Self { channels: Channels::new(rules), out: Sink::default(), cluster: Cluster::default(), position: 0, now: NOW };
        b.channels.owners.set(&[0]);
        b.channels.system_uids(vec!["robot".into()]);
        assert!(b.channels.share(|_| true, &mut b.out));
        assert_eq!(b.out.activated.len(), 1024);
        b.channels.started(b.out.activations, 4, &[]);
        b.channels.open(b.out.activations, &(0..1024).collect::<Vec<_>>());
        b
    }

    fn send(&mut self, id: i64, channel: &str, kind: ChannelType, from: &str) -> &mut Self {
        self.send_with(id, (channel, kind), from, 0, false)
    }

    fn send_with(&mut self, id: i64, to: To<'_>, from: &str, flags: u8, replay: bool) -> &mut Self {
        self.position += 1;
        let body = self.item(id, to, from, |x| x.message.flags = flags);
        let d = Delivery { position: self.position, kind: Kind::ChannelSend, replay, bucket: Bucket::default(), body };
        self.channels.deliver(user(), d, self.now, &mut self.out);
        self
    }

    /// An item that `change` makes special.
    fn channel_send<'a>(&mut self, id: i64, to: To<'a>, from: &'a str, change: impl FnOnce(&mut ChannelSend<'a>)) {
        self.position += 1;
        let body = self.item(id, to, from, change);
        let d = Delivery { position: self.position, kind: Kind::ChannelSend, replay: false, bucket: Bucket::default(), body };
        self.channels.deliver(user(), d, self.now, &mut self.out);
    }

    fn item<'a>(&self, id: i64, to: To<'a>, from: &'a str, change: impl FnOnce(&mut ChannelSend<'a>)) -> Bytes {
        let (channel, kind) = to;
        let conn = if from == "api" { ConnId::NONE } else { ConnId::new(NodeId(1), 0, 1) };
        let message = Message {
            message_id: id,
            flags: 0,
            setting: 0,
            expire: 0,
            client_seq: 3,
            from_uid: from,
            client_msg_no: "",
            topic: "",
            stream_no: "",
            payload: b"p",
        };
        let mut x = ChannelSend {
            conn,
            accepted_ms: self.now.mono_ms,
            system_device: from == "api",
            channel_type: kind,
            channel_id: channel,
            named: "",
            receivers: Receivers::NONE,
            message,
        };
        change(&mut x);
        Encoder::default().encode(&x)
    }

    fn flush(&mut self) -> &mut Self {
        self.channels.flush(self.now, &mut self.out);
        self
    }

    fn answer_lookups(&mut self) -> &mut Self {
        for (load, queries) in std::mem::take(&mut self.out.lookups) {
            let answers = queries.iter().map(|q| self.cluster.answer(q)).collect();
            self.channels.loaded(load, Some(answers));
        }
        self.flush()
    }

    fn answer_members(&mut self) -> &mut Self {
        for (chan, epoch, list) in std::mem::take(&mut self.out.members) {
            let prefix = format!("member {} ", list.channel.expect("a channel").id);
            let mut members: Vec<String> = self.cluster.facts.iter().filter_map(|f| f.strip_prefix(&prefix)).map(str::to_owned).collect();
            members.sort_unstable();
            self.channels.members(chan, epoch, Some(members), self.now);
        }
        self.flush()
    }

    fn answer_appends(&mut self) -> &mut Self {
        for (request, _, batches) in std::mem::take(&mut self.out.appends) {
            let reply = self.cluster.append(&batches);
            self.channels.appended(request, Ok(reply), self.now, &mut self.out);
        }
        self.flush()
    }

    fn settle_delivers(&mut self) -> &mut Self {
        for (.., token) in std::mem::take(&mut self.out.delivers) {
            self.channels.job_done(Channels::job_of(token).expect("a job"), &mut self.out);
        }
        self
    }

    fn all(&mut self) -> &mut Self {
        for _ in 0..4 {
            self.flush().answer_lookups().answer_members().answer_appends();
        }
        self
    }
}

const GROUP: ChannelType = ChannelType::GROUP;

fn ok(id: i64, seq: u64) -> Ack {
    (id, id, seq, Reason::SUCCESS)
}

#[test]
fn a_group_message_is_checked_stored_answered_and_distributed() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.extend(["member g1 u1", "member g1 u2"].map(str::to_owned));
    b.send(1, "g1", GROUP, "u1").send(2, "g1", GROUP, "u1").flush();
    // One lookup for the drain, nothing else before it is answered.
    assert_eq!((b.out.lookups.len(), b.out.appends.len()), (1, 0));
    b.answer_lookups();
    assert_eq!((b.out.appends.len(), b.out.acks.len()), (1, 0));
    b.answer_appends();
    assert_eq!(b.out.acks, [ok(1, 1), ok(2, 2)]);
    b.answer_members();
    let got: Vec<_> = b.out.delivers.iter().map(|d| (d.0, d.1, d.2.join(","), d.3)).collect();
    let both = "u1,u2".to_owned();
    assert_eq!(got, [(1, 1, both.clone(), Keep::UntilSettled), (2, 2, both, Keep::UntilSettled)]);
    // The cursor follows the settlements.
    assert_eq!(b.channels.unsaved_cursors(false), []);
    b.settle_delivers();
    let cursors = b.channels.unsaved_cursors(false);
    assert_eq!(cursors.iter().map(|c| c.index).collect::<Vec<_>>(), [1]);
    b.channels.cursors_saved(&cursors);
    assert_eq!(b.channels.unsaved_cursors(false), []);
    assert_eq!(b.channels.under_way(), 0);
}

#[test]
fn strangers_bans_and_deny_lists() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.extend(["member g1 u1", "ban g2", "deny u2 u1"].map(str::to_owned));
    b.send(1, "g1", GROUP, "eve").send(2, "g2", GROUP, "api").send(3, "u2@u1", ChannelType::PERSON, "u1").all();
    b.send(4, "u2@u1", ChannelType::PERSON, "u2").send(5, "u1@robot", ChannelType::PERSON, "u1").all();
    let reasons: Vec<_> = b.out.acks.iter().map(|a| (a.0, a.3.0)).collect();
    // 2 came through the API: no SENDACK, settled, not stored.
    assert_eq!(reasons, [(1, 3), (3, 4), (4, 1), (5, 1)]);
    assert_eq!((b.out.settled.clone(), b.cluster.log.len()), (vec![2], 2));
}

#[test]
fn answers_keep_the_order_of_the_sends() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.extend(["member g1 u1", "member g1 u2"].map(str::to_owned));
    b.send(1, "g1", GROUP, "u1").all();
    b.out.acks.clear();
    // A refused one between two stored ones is answered between them.
    b.send(2, "g1", GROUP, "u1").send(3, "g1", GROUP, "eve").send(4, "g1", GROUP, "u2").all();
    assert_eq!(b.out.acks, [ok(2, 2), (3, 3, 0, Reason::SUBSCRIBER_NOT_EXIST), ok(4, 3)]);
}

#[test]
fn an_unstored_message_is_answered_when_the_push_workers_have_it() {
    let mut b = Bench::new(Rules::default());
    b.send_with(1, ("u2@u1", ChannelType::PERSON), "u1", 1, false).all();
    assert_eq!((b.out.acks.len(), b.out.appends.len(), b.out.delivers.len()), (0, 0, 1));
    assert_eq!((b.out.delivers[0].1, b.out.delivers[0].3), (0, Keep::UntilReceived));
    b.settle_delivers();
    assert_eq!(b.out.acks, [(1, 1, 0, Reason::SUCCESS)]);
}

#[test]
fn changed_rules_and_members_count_from_the_answer_on() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").send(2, "u2@u1", ChannelType::PERSON, "u1").all();
    b.cluster.facts.extend(["member g1 u9", "deny u2 u1"].map(str::to_owned));
    b.channels.changed("g1", GROUP);
    let body = Encoder::default().encode(&PersonRulesChanged { uid: "u2" });
    let d = Delivery { position: 9, kind: Kind::PersonRulesChanged, replay: false, bucket: Bucket::default(), body };
    b.channels.deliver(user(), d, NOW, &mut b.out);
    assert_eq!(b.out.settled.last(), Some(&9));
    b.out.delivers.clear();
    b.send(3, "g1", GROUP, "u1").send(4, "u2@u1", ChannelType::PERSON, "u1").all();
    assert_eq!(b.out.acks.last(), Some(&(3, 3, 2, Reason::SUCCESS)));
    assert!(b.out.acks.contains(&(4, 4, 0, Reason::IN_BLACKLIST)));
    assert_eq!(b.out.delivers[0].2, ["u1", "u9"]);
}

#[test]
fn waits_for_room_towards_the_push_workers() {
    let mut b = Bench::new(Rules::default());
    b.out.congested = true;
    b.send(1, "u2@u1", ChannelType::PERSON, "u1").all();
    assert_eq!((b.out.acks.len(), b.out.delivers.len()), (1, 0));
    b.out.congested = false;
    b.channels.unblock_all(NOW, &mut b.out);
    assert_eq!(b.out.delivers.len(), 1);
}

#[test]
fn memory_is_given_back() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").all().settle_delivers();
    b.now.mono_ms += 700_000;
    b.channels.tick(b.now, &mut b.out);
    assert_eq!(b.channels.sizes(), (0, 0, 0));
}

/// One step of the storm below.
#[derive(Debug, Clone, Copy)]
enum Step {
    Send(u8),
    Flush,
    Facts,
    /// Reply to the oldest append: stored and told, stored and lost, not stored.
    Append(u8),
    Settle,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..3).prop_map(Step::Send),
        2 => Just(Step::Flush),
        2 => Just(Step::Facts),
        3 => (0_u8..4).prop_map(Step::Append),
        1 => Just(Step::Settle),
        1 => Just(Step::Tick),
    ]
}

proptest! {
    /// Whatever happens to replies: one append per channel is in flight, the log has the order of the sends without gap or double, every send
    /// is answered once with its sequence, and everything is distributed in the order of the log.
    #[test]
    fn channels_keep_their_promises(steps in proptest::collection::vec(step(), 1..120)) {
        let mut b = Bench::new(Rules { batch_messages: 3, ..Rules::default() });
        let names = ["u2@u1", "u3@u1", "u4@u1"];
        let (mut sent, mut distributed) = (Vec::new(), Vec::new());
        let mut next = 0;
        let mut run = |b: &mut Bench, step: Step| {
            match step {
                Step::Send(n) => {
                    next += 1;
                    let name = names[usize::from(n)];
                    b.send(next, name, ChannelType::PERSON, "u1");
                    sent.push((name, next));
                }
                Step::Flush => drop(b.flush()),
                Step::Facts => drop(b.answer_lookups()),
                Step::Append(how) if !b.out.appends.is_empty() => {
                    let (request, _, batches) = b.out.appends.remove(0);
                    let reply = match how {
                        0 => Err(Code::NotReady),
                        1 => { b.cluster.append(&batches); Err(Code::UnknownOutcome) }
                        _ => Ok(b.cluster.append(&batches)),
                    };
                    b.channels.appended(request, reply, b.now, &mut b.out);
                    b.flush();
                }
                Step::Append(_) => {}
                Step::Settle => {
                    distributed.extend(b.out.delivers.iter().map(|d| d.0));
                    b.settle_delivers();
                }
                Step::Tick => {
                    b.now.mono_ms += 30;
                    b.channels.tick(b.now, &mut b.out);
                    b.flush();
                }
            }
            // One append per channel at a time.
            let mut open = StdSet::new();
            for (_, _, batches) in &b.out.appends {
                let mut r = Reader::new(batches);
                while !r.is_empty() {
                    let batch = ChannelBatch::read(&mut r).expect("own bytes");
                    assert!(open.insert(batch.channel_id.to_owned()), "two appends of one channel");
                }
            }
        };
        for s in steps {
            run(&mut b, s);
        }
        for _ in 0..400 {
            for s in [Step::Flush, Step::Facts, Step::Tick, Step::Append(2), Step::Append(2), Step::Settle] {
                run(&mut b, s);
            }
        }
        for name in names {
            let ids: Vec<i64> = sent.iter().filter(|(n, _)| *n == name).map(|(_, id)| *id).collect();
            let log: Vec<i64> = b.cluster.log.iter().filter(|(c, ..)| c == name).map(|(_, id, _)| *id).collect();
            prop_assert_eq!(&log, &ids);
            let acks: Vec<_> = b.out.acks.iter().filter(|a| ids.contains(&a.0)).collect();
            prop_assert_eq!(acks.iter().map(|a| a.0).collect::<Vec<_>>(), ids.clone());
            for (seq, ack) in (1..).zip(&acks) {
                prop_assert_eq!((ack.2, ack.3), (seq, Reason::SUCCESS));
            }
            let delivered: Vec<i64> = distributed.iter().copied().filter(|id| ids.contains(id)).collect();
            prop_assert_eq!(delivered, ids);
        }
        prop_assert_eq!(b.channels.under_way(), 0);
        // Everything is settled, so the cursors stand at the end.
        let cursors = b.channels.unsaved_cursors(true);
        prop_assert!(sent.is_empty() || cursors.iter().map(|c| c.index).max() == Some(b.cluster.index));
    }
}
