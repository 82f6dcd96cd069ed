//! A node in this process: requests over a real socket.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wk_cluster::config::Config;
use wk_cluster::engine::{Engine, OpenError};
use wk_cluster::metrics::Metrics;
use wk_link::record::Stored;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_proto::cluster::v1::lock_client::LockClient;
use wk_proto::cluster::v1::query::Of;
use wk_proto::cluster::v1::reply::Result as ReplyResult;
use wk_proto::cluster::v1::request::Op;
use wk_raft::RaftOptions;
use wk_types::NodeId;

use crate::client::{Client, Text, append, group};

pub(crate) fn config(folder: &Path, slot_groups: u16) -> Config {
    Config {
        node: NodeId(1001),
        folder: folder.join("cluster"),
        raft_folder: folder.join("raft"),
        slot_groups,
        flush_every: Duration::from_secs(1),
        disk_reserve_bytes: 1 << 20,
        cache_bytes: 8 << 20,
        channel_rows: 1000,
        raft: RaftOptions::default(),
        write_delay: Duration::ZERO,
    }
}

struct Node {
    engine: Engine,
    socket: PathBuf,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Node {
    async fn open(folder: &Path, slot_groups: u16) -> Result<Self, OpenError> {
        Self::open_with(folder, &config(folder, slot_groups)).await
    }

    async fn open_with(folder: &Path, config: &Config) -> Result<Self, OpenError> {
        let metrics = Metrics::register(&wk_telemetry::Metrics::new());
        let engine = Engine::open(config, &metrics, |_| {}).await?;
        let socket = folder.join("link.sock");
        let _old = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let stop = CancellationToken::new();
        let served = wk_rpc::serve(listener, engine.routes(), wk_rpc::ServeOptions::default(), stop.clone().cancelled_owned());
        let server = tokio::spawn(async move { served.await.expect("served") });
        Ok(Self { engine, socket, stop, server })
    }

    async fn close(self) {
        self.engine.stop_streams().await;
        self.stop.cancel();
        self.server.abort();
        let _aborted = self.server.await;
        self.engine.close().await.expect("the last flush");
    }
}

#[tokio::test]
async fn appends_are_idempotent_and_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 4).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    let first = append(&[
        ("g1", vec![Text::new(11, "ann", "n1", b"a"), Text::new(12, "ann", "n2", b"b")]),
        ("g2", vec![Text::new(13, "bob", "", b"c")]),
    ]);
    let stored = client.append(first.clone()).await.unwrap();
    assert_eq!(stored[0].message_seqs, [1, 2]);
    assert_eq!((stored[1].message_ids.as_slice(), stored[1].message_seqs.as_slice()), (&[13_i64][..], &[1_u64][..]));
    let again = client.append(first).await.unwrap();
    assert_eq!((again[0].message_seqs.as_slice(), again[0].duplicates.as_slice()), (&[1_u64, 2][..], &[true, true][..]));
    assert_eq!(again[1].duplicates, [true]);

    // Another id under the same client number is the same message; another payload is another one; also within one batch.
    let mixed = [
        Text::new(21, "ann", "n1", b"a"),
        Text::new(22, "ann", "n1", b"other"),
        Text::new(23, "bob", "n1", b"a"),
        Text::new(24, "bob", "n1", b"a"),
    ];
    let mixed = client.append(append(&[("g1", mixed.to_vec())])).await.unwrap();
    assert_eq!(mixed[0].message_ids, [11, 22, 23, 23]);
    assert_eq!(mixed[0].message_seqs, [1, 3, 4, 4]);
    assert_eq!(mixed[0].duplicates, [true, false, false, true]);
    // A replay of both: the older one of a number is found as well as the newest.
    let replayed = [Text::new(11, "ann", "n1", b"a"), Text::new(22, "ann", "n1", b"other")];
    let replayed = client.append(append(&[("g1", replayed.to_vec())])).await.unwrap();
    assert_eq!((replayed[0].message_ids.as_slice(), replayed[0].message_seqs.as_slice()), (&[11_i64, 22][..], &[1_u64, 3][..]));
    assert_eq!(replayed[0].duplicates, [true, true]);

    let ask = |first, last, limit, newest| pb::ReadRequest { channel: Some(group("g1")), first, last, limit, newest };
    let read = client.read(ask(0, 0, 100, false)).await;
    let rows = Stored::read_all(&read.records).unwrap();
    assert_eq!((read.last_seq, read.count), (4, 4));
    assert_eq!(rows.iter().map(|row| row.message_seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(rows[2].message.payload, b"other");
    assert_eq!(stored[0].timestamp, rows[0].timestamp_s);
    let seqs = |read: pb::ReadReply| Stored::read_all(&read.records).unwrap().iter().map(|row| row.message_seq).collect::<Vec<_>>();
    assert_eq!(seqs(client.read(ask(0, 0, 2, true)).await), [3, 4]);
    assert_eq!(seqs(client.read(ask(2, 3, 2, true)).await), [2, 3]);
    assert_eq!(seqs(client.read(ask(2, 0, 2, false)).await), [2, 3]);
    assert_eq!(seqs(client.read(ask(9, 0, 2, false)).await), [0_u64; 0]);

    assert_eq!(client.lookup(Of::LastSeq(group("g1"))).await.number, 4);
    assert_eq!(client.lookup(Of::LastSeq(group("nobody"))).await.number, 0);
    let key = |id: i64, from: &str, no: &str, channel: &str| pb::StoredKey {
        channel: Some(group(channel)),
        message_id: id,
        from_uid: from.into(),
        client_msg_no: no.into(),
        payload: None,
    };
    let with = |payload: &[u8]| pb::StoredKey { payload: Some(payload.to_vec()), ..key(99, "ann", "n1", "g1") };
    for (found, query) in [((11, 1), with(b"a")), ((22, 3), with(b"other")), ((0, 0), with(b"third"))] {
        let answer = client.lookup(Of::Stored(query)).await;
        assert_eq!((answer.message_id, answer.number), found, "by payload");
    }
    for (found, id, no) in [((11, 1), 11, "n1"), ((22, 3), 22, "n1"), ((12, 2), 12, "n2"), ((0, 0), 99, "n2")] {
        let answer = client.lookup(Of::Stored(key(id, "ann", no, "g1"))).await;
        assert_eq!((answer.message_id, answer.number), found, "by id");
    }
    let by_id = client.lookup(Of::Stored(key(13, "", "", "g2"))).await;
    assert_eq!((by_id.message_id, by_id.number), (13, 1));
    assert_eq!(client.lookup(Of::Stored(key(13, "", "", "g1"))).await.number, 0);
    node.close().await;
}

#[tokio::test]
async fn bad_channels_do_not_touch_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 2).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    let good = || vec![Text::new(1, "u", "", b"x")];
    let mixed = append(&[("", good()), ("ok", good()), ("none", vec![]), ("zero", vec![Text::new(0, "u", "", b"")])]);
    let answers = client.append(mixed).await.unwrap();
    let codes: Vec<_> = answers.iter().map(|answer| answer.error.as_ref().map(pb::Error::code)).collect();
    assert_eq!(codes, [Some(Code::Rejected), None, Some(Code::Rejected), Some(Code::Rejected)]);
    let large = client.append(append(&[("big", vec![Text::new(5, "u", "", &vec![7; 2 << 20])])])).await.unwrap();
    assert_eq!(large[0].error.as_ref().map(pb::Error::code), Some(Code::TooLarge));

    let mut wrong = append(&[("ok", good())]);
    wrong.channels = 2;
    assert_eq!(client.append(wrong).await.unwrap_err().code(), Code::Rejected);
    assert_eq!(client.append(pb::AppendRequest::default()).await.unwrap_err().code(), Code::Rejected);

    let owned = |generation| {
        let owner = Some(owner(generation));
        pb::AppendRequest { owner, ..append(&[("ok", vec![Text::new(50 + i64::try_from(generation).unwrap(), "u", "", b"x")])]) }
    };
    assert!(client.append(owned(2)).await.unwrap()[0].error.is_none());
    assert_eq!(client.append(owned(1)).await.unwrap()[0].error.as_ref().map(pb::Error::code), Some(Code::Fenced));
    node.close().await;
}

fn owner(generation: u64) -> pb::Owner {
    pb::Owner { slot: 0, generation, epoch: 1, born: 1, incarnation: 100 + generation }
}

#[tokio::test]
async fn nothing_of_an_older_owner_lands_behind_a_takeover() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Config { write_delay: Duration::from_millis(20), ..config(folder.path(), 1) };
    let node = Node::open_with(folder.path(), &slow).await.unwrap();
    let (mut old, mut new) = (Client::connect(&node.socket).await, Client::connect(&node.socket).await);
    // Each append closes an entry, so most of them wait in the queue of the group.
    let messages = |n: i64| (0..256).map(|m| Text::new(1 + n * 256 + m, "u", "", &[7; 200])).collect::<Vec<_>>();
    let first = append(&[("g", messages(0))]);
    old.append(pb::AppendRequest { owner: Some(owner(1)), ..first }).await.unwrap();
    let mut sent = Vec::new();
    for n in 1..=16 {
        sent.push(old.send(Op::Append(pb::AppendRequest { owner: Some(owner(1)), ..append(&[("g", messages(n))]) })).await);
    }
    let stored = old.reply().await.unwrap();
    let bucket = u32::from(wk_types::Bucket::of("g").index());
    let cursor = pb::Cursor { consumer: "dispatch".into(), group: 0, bucket, index: 0, remove: false };
    let takeover = pb::SaveCursorsRequest { cursors: vec![cursor], owner: Some(owner(2)) };
    let applied = match new.call(Op::SaveCursors(takeover.clone())).await.unwrap() {
        ReplyResult::SaveCursors(reply) => reply.applied[0],
        other => unreachable!("not a takeover: {other:?}"),
    };
    let mut replies = vec![stored];
    while replies.len() < sent.len() {
        replies.push(old.reply().await.unwrap());
    }
    for reply in replies {
        let Some(ReplyResult::Append(reply)) = reply.result else { unreachable!("not an append reply: {reply:?}") };
        match &reply.channels[0].error {
            None => assert!(reply.channels[0].index <= applied, "{} lies behind {applied}", reply.channels[0].index),
            Some(error) => assert_eq!(error.code(), Code::Fenced),
        }
    }
    let late = old.append(pb::AppendRequest { owner: Some(owner(1)), ..append(&[("g", messages(99))]) }).await.unwrap();
    assert_eq!(late[0].error.as_ref().map(pb::Error::code), Some(Code::Fenced));
    let again = pb::SaveCursorsRequest { owner: Some(owner(1)), ..takeover };
    assert_eq!(new.call(Op::SaveCursors(again)).await.unwrap_err().code(), Code::Fenced);
    node.close().await;
}

#[tokio::test]
async fn a_takeover_leaves_groups_without_data_closed_and_fences_them() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 4).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    let cursor = |bucket| pb::Cursor { consumer: "dispatch".into(), group: bucket % 4, bucket, index: 0, remove: false };
    let takeover = pb::SaveCursorsRequest { cursors: (0..1024).map(cursor).collect(), owner: Some(owner(2)) };
    match client.call(Op::SaveCursors(takeover.clone())).await.unwrap() {
        ReplyResult::SaveCursors(reply) => assert_eq!(reply.applied, [0; 4]),
        other => unreachable!("not a takeover: {other:?}"),
    }
    assert_eq!(client.cursors().await.applied, [0; 4], "no group was opened");
    let by = |generation, id| pb::AppendRequest { owner: Some(owner(generation)), ..append(&[("g", vec![Text::new(id, "u", "", b"x")])]) };
    let late = client.append(by(1, 1)).await.unwrap();
    assert_eq!(late[0].error.as_ref().map(pb::Error::code), Some(Code::Fenced));
    let index = client.append(by(2, 2)).await.unwrap()[0].index;
    let bucket = u32::from(wk_types::Bucket::of("g").index());
    let loaded = client.cursors().await;
    let first = pb::Cursor { index: index - 1, ..cursor(bucket) };
    assert_eq!(loaded.cursors, [first], "the first message brings the cursor");
    // The same takeover once the group has data goes through its log.
    match client.call(Op::SaveCursors(takeover)).await.unwrap() {
        ReplyResult::SaveCursors(reply) => assert!(reply.applied[usize::try_from(bucket % 4).unwrap()] > index),
        other => unreachable!("not a takeover: {other:?}"),
    }
    node.close().await;
}

#[tokio::test]
async fn the_journal_wakes_its_readers_and_is_cut_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 1).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    let ask = |after, wait_ms, buckets| pb::JournalRequest { group: 0, after, limit: 1000, buckets, wait_ms, after_each: vec![] };
    let empty = client.journal(ask(0, 0, vec![])).await;
    assert_eq!((empty.entries.len(), empty.groups), (0, 1));

    let waiting = client.send(Op::Journal(ask(empty.upto, 30_000, vec![]))).await;
    let stored = client.append(append(&[("g", vec![Text::new(1, "u", "a", b"1"), Text::new(2, "u", "b", b"2")])])).await.unwrap();
    let woken = match client.reply().await.unwrap() {
        pb::Reply { id, result: Some(ReplyResult::Journal(reply)), .. } if id == waiting => reply,
        other => unreachable!("not the waiting poll: {other:?}"),
    };
    assert_eq!(woken.entries.len(), 1);
    let entry = &woken.entries[0];
    assert_eq!((entry.index, entry.count, entry.channel.clone()), (stored[0].index, 2, Some(group("g"))));
    assert!(woken.upto >= entry.index);
    let bucket = u32::from(wk_types::Bucket::of("g").index());
    assert_eq!(client.journal(ask(0, 0, vec![(bucket + 1) % 1024])).await.entries.len(), 0);
    assert_eq!(client.journal(ask(0, 0, vec![bucket])).await.entries.len(), 1);
    let above = |index| pb::JournalRequest { after_each: vec![0, index], ..ask(0, 0, vec![(bucket + 1) % 1024, bucket]) };
    assert_eq!(client.journal(above(stored[0].index - 1)).await.entries.len(), 1);
    let none = client.journal(above(stored[0].index)).await;
    assert_eq!((none.entries.len(), none.upto >= stored[0].index), (0, true), "this bucket has it already");

    for n in 0..600 {
        client.append(append(&[("g", vec![Text::new(100 + n, "u", "", b"x")])])).await.unwrap();
    }
    let last = client.journal(ask(0, 0, vec![])).await.upto;
    let cursor = |index| pb::Cursor { consumer: "dispatch".into(), group: 0, bucket, index, remove: false };
    let save = |index| Op::SaveCursors(pb::SaveCursorsRequest { cursors: vec![cursor(index)], owner: None });
    client.call(save(last)).await.unwrap();
    client.call(save(5)).await.unwrap();
    assert_eq!(client.journal(ask(0, 0, vec![])).await.entries.len(), 0, "everything was consumed and cut");
    let loaded = client.cursors().await;
    assert_eq!(loaded.cursors, [cursor(last)], "positions never fall");
    assert!(loaded.applied[0] > last);
    node.close().await;
}

fn add(channel: &str, members: &[&str]) -> pb::Command {
    let change = pb::ListChange { list: Some(subscribers(channel)), members: members.iter().map(ToString::to_string).collect() };
    pb::Command { routing_id: channel.into(), change: Some(pb::command::Change::Add(change)) }
}

fn subscribers(channel: &str) -> pb::ListKey {
    pb::ListKey { list: pb::List::Subscribers.into(), channel: Some(group(channel)) }
}

#[tokio::test]
async fn metadata_and_ids_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 4).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    let key = pb::RowKey { table: pb::Table::User.into(), id: "ann".into(), sub: 0 };
    let put = pb::command::Change::Put(pb::PutRow { key: Some(key.clone()), value: b"row".to_vec() });
    let propose = |commands| Op::Propose(pb::ProposeRequest { commands });
    client.call(propose(vec![pb::Command { routing_id: "ann".into(), change: Some(put) }])).await.unwrap();
    client.call(propose(vec![add("g", &["c", "a", "b"]), add("g", &["a"])])).await.unwrap();
    assert_eq!(client.call(propose(vec![add("g", &["x"]), add("h", &[""])])).await.unwrap_err().code(), Code::Rejected);
    let before = client.alloc(10_000).await;
    drop(client);
    node.close().await;

    let node = Node::open(folder.path(), 4).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    assert_eq!(client.lookup(Of::Row(key)).await.value.as_deref(), Some(&b"row"[..]));
    assert_eq!(client.lookup(Of::Count(subscribers("g"))).await.number, 3);
    let member = |uid: &str| Of::Contains(pb::MemberKey { list: Some(subscribers("g")), member: uid.into() });
    assert_eq!((client.lookup(member("b")).await.number, client.lookup(member("x")).await.number), (1, 0));
    let scan = |after: &str| Op::Scan(pb::ScanRequest { list: Some(subscribers("g")), after: after.into(), limit: 2 });
    let uids = |result: ReplyResult| match result {
        ReplyResult::Scan(reply) => (reply.members.into_iter().map(|member| member.uid).collect::<Vec<_>>(), reply.more),
        other => unreachable!("not a scan: {other:?}"),
    };
    assert_eq!(uids(client.call(scan("")).await.unwrap()), (vec!["a".into(), "b".into()], true));
    assert_eq!(uids(client.call(scan("b")).await.unwrap()), (vec!["c".to_string()], false));
    let after = client.alloc(1).await;
    assert!(before.iter().max() < after.iter().min(), "ids continue upward");
    drop(client);
    node.close().await;

    let changed = Node::open(folder.path(), 8).await.err().unwrap().to_string();
    assert!(changed.contains("cluster.slotGroupCount is 8") && changed.contains("made with 4"), "{changed}");
}

#[tokio::test]
async fn locks_have_one_owner_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 4).await.unwrap();
    let mut locks = LockClient::new(wk_rpc::dial(&node.socket).await.unwrap());
    let take = |owner: &str, ttl_ms| pb::AcquireRequest { name: "job".into(), owner: owner.into(), ttl_ms };
    let first = locks.acquire(take("a", 60_000)).await.unwrap().into_inner();
    assert!(first.held && first.token > 0);
    assert!(!locks.acquire(take("b", 1000)).await.unwrap().into_inner().held);
    assert_eq!(wk_rpc::status::code_of(&locks.acquire(take("b", 5)).await.unwrap_err()), Some(Code::Rejected));
    drop(locks);
    node.close().await;

    let node = Node::open(folder.path(), 4).await.unwrap();
    let mut locks = LockClient::new(wk_rpc::dial(&node.socket).await.unwrap());
    let held = locks.inspect(pb::InspectRequest { name: "job".into() }).await.unwrap().into_inner();
    assert_eq!((held.held, held.owner.as_str(), held.token), (true, "a", first.token));
    let give = pb::ReleaseRequest { name: "job".into(), owner: "a".into(), token: first.token };
    locks.release(give).await.unwrap();
    let second = locks.acquire(take("b", 1000)).await.unwrap().into_inner();
    assert!(second.held && second.token > first.token, "tokens grow");
    drop(locks);
    node.close().await;
}

#[tokio::test]
async fn one_shard_takes_many_requests_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), 1).await.unwrap();
    let mut client = Client::connect(&node.socket).await;
    let (count, began) = (2_000_i64, Instant::now());
    for n in 0..count {
        let channel = format!("c{}", n % 50);
        client.send(Op::Append(append(&[(&channel, vec![Text::new(1 + n, "u", &format!("{n}"), &[7; 256])])]))).await;
    }
    let (mut stored, mut overloaded) = (0, 0);
    for _ in 0..count {
        let Some(ReplyResult::Append(reply)) = client.reply().await.unwrap().result else { unreachable!("not an append") };
        match &reply.channels[0].error {
            None => stored += 1,
            Some(error) => {
                assert_eq!(error.code(), Code::Overloaded);
                overloaded += 1;
            }
        }
    }
    eprintln!("{stored} stored, {overloaded} refused in {:?}", began.elapsed());
    assert!(stored > 0);
    node.close().await;
}
