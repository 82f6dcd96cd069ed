//! A process that writes and is killed: everything it acknowledged is there afterwards.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use wk_raft::{GroupId, ProposeCallback};
use wk_types::NodeId;

use crate::machine::{Node, Rows, block_on, commands};

const ID: GroupId = GroupId(5);
const DIR: &str = "WK_RAFT_CRASH_DIR";
/// Acknowledgements the parent waits for before it kills.
const ACKS: usize = 3_000;

/// The child: proposes numbers for ever, prints each acknowledged one, flushes and purges now and then.
#[test]
#[ignore = "run by the parent test, which kills it"]
#[expect(clippy::disallowed_methods, reason = "the parent can hand its child nothing but environment")]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    block_on(async {
        let node = Node::alone(std::path::Path::new(&dir));
        let group = node.groups.open(ID, Rows::boxed(&node.data, ID)).await.unwrap();
        if group.is_pristine() {
            group.initialize(&[NodeId(1)]).await.unwrap();
        }
        let room = Arc::new(tokio::sync::Semaphore::new(64));
        for number in 0..u64::MAX {
            let permit = Arc::clone(&room).acquire_owned().await.unwrap();
            let done: ProposeCallback = Box::new(move |outcome| {
                if outcome.is_ok() {
                    let mut out = std::io::stdout();
                    // The parent may be gone already.
                    writeln!(out, "ack {number}").and_then(|()| out.flush()).ok();
                }
                drop(permit);
            });
            group.propose_with(Bytes::copy_from_slice(&number.to_be_bytes()), done);
            if number % 700 == 699 {
                node.flush().await;
            }
        }
    });
}

fn kill_after_acks(dir: &std::path::Path) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acked = Vec::new();
    let number = |line: &str| line.split("ack ").nth(1)?.parse::<u64>().ok();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        acked.extend(number(&line.unwrap()));
        if acked.len() == ACKS {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acked
}

#[test]
fn acknowledged_proposals_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = 0;
    for _ in 0..2 {
        let acked = kill_after_acks(dir.path());
        assert!(acked.len() >= ACKS);
        expected += acked.len();
    }
    let node = Node::alone(dir.path());
    block_on(async {
        node.groups.open(ID, Rows::boxed(&node.data, ID)).await.unwrap();
        let found = commands(&node.data, ID);
        assert!(found.len() >= expected, "{} of {expected}", found.len());
        // Two runs of consecutive numbers from zero: nothing lost in between, nothing twice.
        let numbers: Vec<u64> = found.iter().map(|row| u64::from_be_bytes(row.as_ref().try_into().unwrap())).collect();
        let second = numbers.iter().skip(1).position(|number| *number == 0).unwrap() + 1;
        let (one, two) = numbers.split_at(second);
        assert!(one.iter().copied().eq(0..one.len() as u64) && one.len() >= ACKS);
        assert!(two.iter().copied().eq(0..two.len() as u64) && two.len() >= ACKS);
        node.groups.shutdown().await;
    });
}
