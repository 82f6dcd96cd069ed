use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use wk_raft::{GroupError, GroupId, OpenError, ProposeCallback, ProposeError, RaftOptions, Role};
use wk_types::NodeId;

use crate::machine::{Node, Rows, block_on, commands};

const ME: NodeId = NodeId(1);

#[test]
fn proposes_and_reads_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId(1);
    block_on(async {
        let node = Node::alone(dir.path());
        let group = node.groups.open(id, Rows::boxed(&node.data, id)).await.unwrap();
        assert!(group.is_pristine());
        assert_eq!(group.propose(Bytes::from_static(b"early")).await, Err(ProposeError::NoLeader));
        assert_eq!(group.initialize(&[]).await, Err(GroupError::Members));
        group.initialize(&[ME]).await.unwrap();
        assert_eq!(group.initialize(&[ME]).await, Err(GroupError::AlreadyInitialized));
        assert!(group.is_leader());
        assert_eq!(group.wait_leader(Duration::from_secs(5)).await, Ok(ME));
        let first = group.propose(Bytes::from_static(b"one")).await.unwrap();
        let second = group.propose(Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(first.response, "one");
        assert!(second.index > first.index);
        group.read_barrier().await.unwrap();
        assert_eq!(commands(&node.data, id), ["one", "two"]);
        let again = node.groups.open(id, Rows::boxed(&node.data, id)).await;
        assert!(matches!(again, Err(OpenError::AlreadyOpen(_))));
        node.close().await;
        assert_eq!(group.propose(Bytes::new()).await, Err(ProposeError::Fatal));
        assert_eq!(group.status().role, Role::Stopped);
    });
    block_on(async {
        let node = Node::alone(dir.path());
        let group = node.groups.open(id, Rows::boxed(&node.data, id)).await.unwrap();
        assert!(group.is_leader(), "the only voter leads at once");
        assert_eq!(commands(&node.data, id), ["one", "two"], "replay is done before open returns");
        assert_eq!(group.propose(Bytes::from_static(b"three")).await.unwrap().response, "three");
        assert_eq!(group.status().voters, [ME]);
        node.close().await;
    });
}

#[test]
fn batches_are_answered_in_order_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId(2);
    let options = RaftOptions { proposals_in_flight_max: 100, ..RaftOptions::default() };
    block_on(async {
        let node = Node::open(dir.path(), 1, Arc::new(wk_raft::NoNetwork), &options);
        let group = node.groups.open(id, Rows::boxed(&node.data, id)).await.unwrap();
        group.initialize(&[ME]).await.unwrap();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let batch = (0..150_u32).map(|number| {
            let outcomes = Arc::clone(&outcomes);
            let done: ProposeCallback = Box::new(move |outcome| outcomes.lock().push((number, outcome.map(|done| done.response))));
            (Bytes::copy_from_slice(&number.to_be_bytes()), done)
        });
        let syncs = node.writer.stats().syncs;
        group.propose_many(batch);
        assert_eq!(group.status().in_flight, 100);
        // A later proposal is applied after the batch; retry while the batch fills the bound.
        while group.propose(Bytes::from_static(b"end")).await == Err(ProposeError::Overloaded) {
            tokio::task::yield_now().await;
        }
        let outcomes = outcomes.lock().clone();
        let refused: Vec<u32> = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).map(|(number, _)| *number).collect();
        let applied: Vec<u32> = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(number, _)| *number).collect();
        assert_eq!(refused, (100..150).collect::<Vec<_>>(), "refused above the bound, the ones before are kept");
        assert_eq!(applied, (0..100).collect::<Vec<_>>());
        let used = node.writer.stats().syncs - syncs;
        assert!(used <= 10, "a batch shares syncs, used {used}");
        assert_eq!(group.status().in_flight, 0);
        let huge = Bytes::from(vec![0; options.command_bytes_max + 1]);
        assert_eq!(group.propose(huge).await, Err(ProposeError::Overloaded));
        node.close().await;
    });
}

#[test]
fn purges_only_what_was_flushed_and_restarts_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId(3);
    block_on(async {
        let node = Node::alone(dir.path());
        let group = node.groups.open(id, Rows::boxed(&node.data, id)).await.unwrap();
        group.initialize(&[ME]).await.unwrap();
        for number in 0..200_u32 {
            group.propose(Bytes::copy_from_slice(&number.to_be_bytes())).await.unwrap();
        }
        assert_eq!(group.status().purged, None);
        let failed: Result<(), &str> = node.groups.flush_and_purge(|| async { Err("disk") }).await;
        assert_eq!(failed, Err("disk"));
        assert_eq!(group.status().flushed, None, "a failed flush frees nothing");
        node.flush().await;
        let status = group.status();
        assert_eq!(status.flushed, status.applied);
        // The purge itself runs in the consensus task; the next proposal comes after it.
        group.propose(Bytes::from_static(b"after")).await.unwrap();
        assert_eq!(group.status().purged, status.applied);
        node.close().await;
    });
    block_on(async {
        let node = Node::alone(dir.path());
        let group = node.groups.open(id, Rows::boxed(&node.data, id)).await.unwrap();
        assert_eq!(commands(&node.data, id).len(), 201);
        group.propose(Bytes::from_static(b"more")).await.unwrap();
        // Close and open again in the same process: nothing was flushed since, the log must still be there.
        let applied = group.status().applied;
        node.groups.close(id).await;
        let group = node.groups.open(id, Rows::boxed(&node.data, id)).await.unwrap();
        assert!(group.status().applied >= applied);
        assert!(group.status().flushed < applied, "an applied position of this process is not durable");
        node.close().await;
    });
}

#[test]
fn many_groups_start_fast_and_rest() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<GroupId> = (1..=256).map(GroupId).collect();
    block_on(async {
        let node = Node::alone(dir.path());
        let machines = ids.iter().map(|id| (*id, Rows::boxed(&node.data, *id)));
        let groups = node.groups.open_all(machines).await.unwrap();
        for group in &groups {
            group.initialize(&[ME]).await.unwrap();
        }
        node.flush().await;
        node.close().await;
    });
    block_on(async {
        let node = Node::alone(dir.path());
        let start = Instant::now();
        let machines = ids.iter().map(|id| (*id, Rows::boxed(&node.data, *id)));
        let groups = node.groups.open_all(machines).await.unwrap();
        assert!(groups.iter().all(wk_raft::Group::is_leader));
        assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
        assert_eq!(node.groups.first_failure(), None);
        node.close().await;
    });
}
