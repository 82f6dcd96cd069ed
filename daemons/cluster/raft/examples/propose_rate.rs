//! Rate of one group on one node: `cargo run --release -p wk-raft --example propose_rate -- <folder> <seconds> <writers> <bytes>`.
#![expect(clippy::print_stdout, reason = "a measuring program for a terminal")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wk_raft::{ApplyContext, Entry, GroupId, Groups, MachineError, NoNetwork, RaftOptions, StateMachine};
use wk_store::keys::{self, SysKind};
use wk_store::{Batch, Cf, DataDb, LogWriter, Options, RaftDb, WriterOptions};
use wk_types::NodeId;

struct Rows(DataDb, GroupId);

impl StateMachine for Rows {
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError> {
        self.0.get(Cf::Sys, keys::sys(SysKind::Applied, self.1)).map_err(|error| MachineError::new("read", error))
    }

    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError> {
        let mut batch = Batch::new();
        for entry in &entries {
            batch.put(Cf::Jrnl, keys::jrnl(self.1, entry.index), &entry.command);
        }
        batch.put(Cf::Sys, keys::sys(SysKind::Applied, self.1), &context.record);
        self.0.write(&batch).map_err(|error| MachineError::new("write", error))?;
        Ok(vec![Bytes::new(); entries.len()])
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    fn install(&mut self, _context: &ApplyContext, _snapshot: Bytes) -> Result<(), MachineError> {
        Err(MachineError { what: "one node installs nothing", source: None })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| args.get(index).and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let dir = std::path::PathBuf::from(args.first().expect("folder"));
    let (seconds, writers, bytes, groups) = (number(1, 3), number(2, 1024), number(3, 256), number(4, 1024));
    let options = Options::new(64 << 20);
    let data = DataDb::open(&dir.join("data"), &options).expect("data database");
    let log = Arc::new(RaftDb::open(&dir.join("raft"), &options).expect("log database"));
    let writer = LogWriter::start(log.clone(), WriterOptions::default()).expect("writer");
    let all = Groups::new(NodeId(1), log, writer.clone(), Arc::new(NoNetwork), &RaftOptions::default()).expect("options");
    let id = GroupId(1);
    let group = all.open(id, Box::new(Rows(data.clone(), id))).await.expect("open");
    if group.is_pristine() {
        group.initialize(&[NodeId(1)]).await.expect("initialize");
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds as u64);
    let payload = Bytes::from(vec![7; bytes]);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (group, payload) = (group.clone(), payload.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                group.propose(payload.clone()).await.expect("propose");
                times.push(begin.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let stats = writer.stats();
    println!("one group, {writers} writers, {bytes} B: {:.0}/s, p50 {:?}, p99 {:?}", times.len() as f64 / elapsed, at(50), at(99));
    println!("syncs {}, mean {} us, max {} us", stats.syncs, stats.sync_micros / stats.syncs.max(1), stats.sync_micros_max);
    let begin = Instant::now();
    let many = (2..u32::try_from(groups).unwrap_or(2) + 2)
        .map(|id| (GroupId(id), Box::new(Rows(data.clone(), GroupId(id))) as Box<dyn StateMachine>));
    let opened = all.open_all(many).await.expect("open all");
    let mut starts = tokio::task::JoinSet::new();
    for group in opened {
        starts.spawn(async move {
            if group.is_pristine() {
                group.initialize(&[NodeId(1)]).await.expect("initialize");
            }
            assert!(group.is_leader());
        });
    }
    starts.join_all().await;
    println!("{groups} more groups lead after {:?}", begin.elapsed());
    println!("now idle for 5 s: watch the process");
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap_or_default()
            .lines()
            .filter(|line| line.starts_with("VmRSS"))
            .collect::<String>()
    );
    all.shutdown().await;
}
