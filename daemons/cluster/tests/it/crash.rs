//! The real binary, killed again and again: nothing acknowledged is lost, nothing is stored twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use wk_link::record::Stored;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::reply::Result as ReplyResult;
use wk_proto::cluster::v1::request::Op;

use crate::client::{Client, Text, append, group};
use crate::start::Daemon;

const CHANNELS: usize = 23;
const ROUNDS: usize = 4;
const PER_ROUND: usize = 250;

/// One request of one channel, retried unchanged until it is acknowledged.
#[derive(Clone)]
struct Work {
    channel: String,
    texts: Vec<Text>,
}

/// What an acknowledged message is known by: channel, and client number or id.
type Name = (String, String);

fn name(work: &Work, text: &Text) -> Name {
    let key = if text.no.is_empty() { text.id.to_string() } else { format!("{}/{}", text.from, text.no) };
    (work.channel.clone(), key)
}

#[derive(Default)]
struct History {
    acknowledged: HashMap<Name, (i64, u64)>,
    ids: HashSet<i64>,
}

impl History {
    fn acknowledge(&mut self, work: &Work, stored: &pb::ChannelAppended) {
        assert_eq!(stored.error, None);
        for (n, text) in work.texts.iter().enumerate() {
            let place = (stored.message_ids[n], stored.message_seqs[n]);
            let known = self.acknowledged.insert(name(work, text), place);
            assert!(known.is_none_or(|known| known == place && stored.duplicates[n]), "a second answer differs from the first");
        }
    }
}

async fn make_work(client: &mut Client, round: usize, history: &mut History) -> Vec<Work> {
    let mut ids = Vec::new();
    while ids.len() < PER_ROUND * 3 {
        ids.extend(client.alloc(u32::try_from(PER_ROUND * 3 - ids.len()).expect("few")).await);
    }
    for id in &ids {
        assert!(history.ids.insert(*id), "id {id} came twice");
    }
    let mut ids = ids.into_iter();
    let mut work = Vec::new();
    for n in 0..PER_ROUND {
        let texts = (0..1 + n % 3).map(|k| {
            let no = if n % 5 == 0 { String::new() } else { format!("{round}-{n}-{k}") };
            Text::new(ids.next().expect("enough ids"), &format!("u{}", n % 4), &no, format!("{round}.{n}.{k}").as_bytes())
        });
        work.push(Work { channel: format!("group{}", n % CHANNELS), texts: texts.collect() });
    }
    work
}

/// Sends everything, takes at most `acks` answers; returns what was not acknowledged.
async fn push(client: &mut Client, work: Vec<Work>, acks: usize, history: &mut History) -> Vec<Work> {
    let mut open = BTreeMap::new();
    for work in work {
        let request = append(&[(&work.channel, work.texts.clone())]);
        open.insert(client.send(Op::Append(request)).await, work);
    }
    for _ in 0..acks.min(open.len()) {
        let Some(reply) = client.reply().await else { break };
        let Some(ReplyResult::Append(stored)) = reply.result else { unreachable!("not an append: {reply:?}") };
        let work = open.remove(&reply.id).expect("an open request");
        history.acknowledge(&work, &stored.channels[0]);
    }
    open.into_values().collect()
}

#[tokio::test]
async fn kill_nine_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut history = History::default();
    let mut unknown: Vec<Work> = Vec::new();
    let mut all: Vec<Work> = Vec::new();
    for round in 0..ROUNDS {
        let daemon = Daemon::start(folder.path(), "cluster:\n  slotGroupCount: 4\n");
        let mut client = Client::connect(&daemon.socket).await;
        // Unknown outcomes first, unchanged; then everything acknowledged once more, which must change nothing.
        let left = push(&mut client, std::mem::take(&mut unknown), usize::MAX, &mut history).await;
        assert!(left.is_empty());
        assert!(push(&mut client, all.clone(), usize::MAX, &mut history).await.is_empty());
        let work = make_work(&mut client, round, &mut history).await;
        all.extend(work.clone());
        unknown = push(&mut client, work, 20 + 60 * round, &mut history).await;
        daemon.kill();
    }
    let daemon = Daemon::start(folder.path(), "cluster:\n  slotGroupCount: 4\n");
    let mut client = Client::connect(&daemon.socket).await;
    assert!(push(&mut client, unknown, usize::MAX, &mut history).await.is_empty());
    let log = read_all(&mut client, &history).await;
    assert_eq!(journal_all(&mut client).await, log, "the journal has every message once");
    drop(client);
    assert_eq!(daemon.stop().await, 0, "a clean stop");
}

#[expect(clippy::unwrap_used, clippy::expect_used, reason = "helper of a test: a failure here is a failure of the test")]
/// Every channel's (channel, sequence): dense, and everything acknowledged where it was said to be.
async fn read_all(client: &mut Client, history: &History) -> HashSet<(String, u64)> {
    let mut log = HashSet::new();
    for n in 0..CHANNELS {
        let channel = format!("group{n}");
        let request = pb::ReadRequest { channel: Some(group(&channel)), first: 0, last: 0, limit: 10_000, newest: false };
        let read = client.read(request).await;
        let rows = Stored::read_all(&read.records).unwrap();
        let seqs: Vec<u64> = rows.iter().map(|row| row.message_seq).collect();
        assert_eq!(seqs, (1..=read.last_seq).collect::<Vec<_>>(), "sequences of {channel} have gaps");
        let mut names = HashSet::new();
        for row in rows {
            let key = match row.message.client_msg_no {
                "" => row.message.message_id.to_string(),
                no => format!("{}/{no}", row.message.from_uid),
            };
            assert!(names.insert(key.clone()), "{key} is stored twice in {channel}");
            let place = history.acknowledged.get(&(channel.clone(), key)).expect("everything was acknowledged in the end");
            assert_eq!(*place, (row.message.message_id, row.message_seq));
            log.insert((channel.clone(), row.message_seq));
        }
    }
    assert_eq!(log.len(), history.acknowledged.len());
    log
}

#[expect(clippy::unwrap_used, reason = "helper of a test: a failure here is a failure of the test")]
async fn journal_all(client: &mut Client) -> HashSet<(String, u64)> {
    let mut log = HashSet::new();
    for shard in 0..4 {
        let mut after = 0;
        loop {
            let request = pb::JournalRequest { group: shard, after, limit: 100, buckets: vec![], wait_ms: 0, after_each: vec![] };
            let reply = client.journal(request).await;
            for entry in &reply.entries {
                let channel = entry.channel.as_ref().unwrap().id.clone();
                for row in Stored::read_all(&entry.records).unwrap() {
                    assert!(log.insert((channel.clone(), row.message_seq)), "the journal has a message twice");
                }
            }
            after = reply.upto;
            if reply.entries.is_empty() {
                break;
            }
        }
    }
    log
}
