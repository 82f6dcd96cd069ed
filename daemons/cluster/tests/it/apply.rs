//! The machines alone: the same commands give the same rows and answers, whatever the batches and restarts.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tokio::sync::watch;
use wk_cluster::channel::ChannelMachine;
use wk_cluster::channel::command::{CursorChange, begin_append, encode_cursors};
use wk_cluster::channel::machine::GroupPlace;
use wk_cluster::metrics::ApplyMetrics;
use wk_cluster::shard::ShardMachine;
use wk_cluster::shard::command::{Change, Command};
use wk_proto::cluster::v1 as pb;
use wk_raft::{ApplyContext, Entry, StateMachine};
use wk_store::keys::{SysKind, hash64};
use wk_store::{Cf, DataDb, Direction, GroupId, Options};

use crate::client::{Text, frames};

const PLACE: GroupPlace = GroupPlace { group: GroupId(2), shard: 0, shards: 1 };

/// All rows but the applied record, folded.
fn state_hash(db: &DataDb) -> u64 {
    let mut hash = 0;
    for cf in Cf::ALL {
        let row = |key: &[u8], value: &[u8]| {
            if cf != Cf::Sys || key.first() != Some(&(SysKind::Applied as u8)) {
                hash = hash64(&[&hash_bytes(hash), cf.name().as_bytes(), key, value]);
            }
            true
        };
        db.visit(cf, &[], &[0xff; 64], Direction::Forward, row).expect("a read");
    }
    hash
}

fn hash_bytes(hash: u64) -> [u8; 8] {
    hash.to_be_bytes()
}

/// Applies `commands` in chunks of the given sizes (repeated); a chunk of size 0 restarts the machine.
fn run<M: StateMachine>(make: impl Fn(DataDb) -> M, commands: &[Bytes], chunks: &[usize]) -> (u64, Vec<Bytes>) {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let folder = tempfile::Builder::new().prefix(&format!("apply-{}", RUNS.fetch_add(1, Ordering::Relaxed))).tempdir().expect("a folder");
    let db = DataDb::open(folder.path(), &Options::default()).expect("a database");
    let mut machine = make(db.clone());
    machine.applied().expect("a record");
    let mut answers = Vec::new();
    let (mut at, mut chunk) = (0, 0);
    while at < commands.len() {
        let size = chunks[chunk % chunks.len()].min(commands.len() - at);
        chunk += 1;
        if size == 0 {
            machine = make(db.clone());
            machine.applied().expect("a record");
            continue;
        }
        let entry = |n: usize| Entry { index: n as u64 + 1, term: 1, command: commands[n].clone() };
        let context = ApplyContext { record: Bytes::from_static(b"r"), index: (at + size) as u64, replay: false };
        answers.extend(machine.apply(&context, (at..at + size).map(entry).collect()).expect("a batch"));
        at += size;
    }
    (state_hash(&db), answers)
}

fn channel_machine(db: DataDb) -> ChannelMachine {
    ChannelMachine::new(PLACE, db, 2, watch::channel(0).0, ApplyMetrics::detached())
}

fn shard_machine(db: DataDb) -> ShardMachine {
    ShardMachine::new(PLACE, db, ApplyMetrics::detached())
}

fn channel_command() -> impl Strategy<Value = Bytes> {
    let text = (1..40_i64, 0..3_u8, 0..4_u8, 0..2_u8).prop_map(|(id, from, no, payload)| {
        let no = if no == 0 { String::new() } else { format!("no{no}") };
        Text::new(id, &format!("u{from}"), &no, &[payload])
    });
    let frame = (0..4_u8, prop::collection::vec(text, 0..4)).prop_map(|(channel, texts)| (format!("c{channel}"), texts));
    let append = (0..9_i64, prop::collection::vec(frame, 1..4)).prop_map(|(now, list)| {
        let list: Vec<(&str, Vec<Text>)> = list.iter().map(|(channel, texts)| (channel.as_str(), texts.clone())).collect();
        let mut command = begin_append(now * 700, 0);
        command.put_slice(&frames(&list));
        command.freeze()
    });
    let cursor = (0..2_u8, 0..1024_u16, 0..2000_u64, any::<bool>()).prop_map(|(consumer, bucket, index, remove)| {
        let consumer = if consumer == 0 { "dispatch" } else { "webhook" };
        encode_cursors([CursorChange { consumer, bucket, index, remove }].into_iter())
    });
    // A broken command has the known version: a foreign one would stop the machine by design.
    let broken = prop::collection::vec(any::<u8>(), 0..40).prop_map(|mut bytes| {
        bytes.insert(0, 1);
        Bytes::from(bytes)
    });
    prop_oneof![6 => append, 2 => cursor, 1 => broken]
}

fn shard_command() -> impl Strategy<Value = Bytes> {
    let list = |n: u8| pb::ListKey { list: i32::from(n % 5), channel: Some(pb::ChannelRef { id: "g".into(), r#type: u32::from(n % 2) }) };
    let change = (0..7_u8, 0..5_u8, prop::collection::vec(0..6_u8, 0..5)).prop_map(move |(kind, n, members)| {
        use pb::command::Change as C;
        let members = members.iter().map(|m| if *m == 0 { String::new() } else { format!("u{m}") }).collect();
        let key = pb::RowKey { table: i32::from(n), id: "g".into(), sub: u32::from(n) };
        let changed = pb::ListChange { list: Some(list(n)), members };
        let change = match kind {
            0 => Some(C::Put(pb::PutRow { key: Some(key), value: vec![n] })),
            1 => Some(C::Delete(key)),
            2 | 3 => Some(C::Add(changed)),
            4 => Some(C::Remove(changed)),
            5 => Some(C::Clear(list(n))),
            _ => None,
        };
        pb::Command { routing_id: "g".into(), change }
    });
    let propose = prop::collection::vec(change, 0..4).prop_map(|commands| Change::Propose(pb::ProposeRequest { commands }));
    let lock = (0..3_u8, 0..2_u8, 0..2_u8, 1..30_u64).prop_map(|(kind, name, owner, token)| {
        let (name, owner) = (format!("l{name}"), format!("o{owner}"));
        match kind {
            0 => Change::Acquire(pb::AcquireRequest { name, owner, ttl_ms: 1000 }),
            1 => Change::Renew(pb::RenewRequest { name, owner, token, ttl_ms: 2000 }),
            _ => Change::Release(pb::ReleaseRequest { name, owner, token }),
        }
    });
    (0..5000_i64, prop_oneof![propose, lock]).prop_map(|(now_ms, change)| Command { now_ms, change }.encode())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn channel_groups_are_deterministic(
        commands in prop::collection::vec(channel_command(), 1..60),
        chunks in prop::collection::vec(0..7_usize, 1..6),
    ) {
        prop_assume!(chunks.iter().any(|size| *size > 0));
        let one_by_one = run(channel_machine, &commands, &[1]);
        prop_assert_eq!(&run(channel_machine, &commands, &chunks), &one_by_one);
        prop_assert_eq!(&run(channel_machine, &commands, &[usize::MAX]), &one_by_one);
    }

    #[test]
    fn slot_groups_are_deterministic(
        commands in prop::collection::vec(shard_command(), 1..60),
        chunks in prop::collection::vec(0..7_usize, 1..6),
    ) {
        prop_assume!(chunks.iter().any(|size| *size > 0));
        let one_by_one = run(shard_machine, &commands, &[1]);
        prop_assert_eq!(&run(shard_machine, &commands, &chunks), &one_by_one);
        prop_assert_eq!(&run(shard_machine, &commands, &[usize::MAX]), &one_by_one);
    }
}

#[test]
fn journals_are_cut_the_same_way_after_a_restart() {
    let mut commands = Vec::new();
    for n in 1..=700_i64 {
        let mut command = begin_append(n, 0);
        command.put_slice(&frames(&[(if n % 3 == 0 { "a" } else { "b" }, vec![Text::new(n, "u", "", b"x")])]));
        commands.push(command.freeze());
        if n % 50 == 0 {
            let bucket = wk_types::Bucket::of(if n % 100 == 0 { "a" } else { "b" }).index();
            let index = commands.len() as u64;
            commands.push(encode_cursors([CursorChange { consumer: "dispatch", bucket, index, remove: false }].into_iter()));
        }
    }
    let whole = run(channel_machine, &commands, &[64]);
    assert_eq!(run(channel_machine, &commands, &[5, 0, 40, 0]), whole);
}

#[test]
fn a_command_of_a_newer_version_stops_the_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let db = DataDb::open(folder.path(), &Options::default()).expect("a database");
    let context = ApplyContext { record: Bytes::from_static(b"r"), index: 1, replay: false };
    let entry = Entry { index: 1, term: 1, command: Bytes::from_static(&[2, 1]) };
    assert!(channel_machine(db.clone()).apply(&context, vec![entry.clone()]).is_err());
    assert!(shard_machine(db).apply(&context, vec![entry]).is_err());
}
