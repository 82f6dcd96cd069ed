//! The cluster client: answers, refusals, deadlines, and the death of the process.

use std::time::Duration;

use wk_proto::cluster::v1::{AllocIdsRequest, Code, ReadRequest};
use wk_rpc::{CallError, ClusterData, Op, table};

use crate::fake::{ClusterServer, DEADLINE, TableServer, table as sample};

fn alloc(count: u32) -> Op {
    Op::AllocIds(AllocIdsRequest { count })
}

#[tokio::test]
async fn answers_refusals_and_deadlines() {
    let dir = tempfile::tempdir().unwrap();
    let (node, link) = (dir.path().join("node.sock"), dir.path().join("c.sock"));
    let _server = ClusterServer::start(&link);
    let _table = TableServer::start(&node, sample(1, &link));
    let cluster = ClusterData::connect(table::watch(&node, "test", 1));
    let runs = cluster.alloc_ids(10).await.unwrap();
    assert_eq!((runs.len(), runs[0].first), (1, 10));
    match cluster.alloc_ids(13).await {
        Err(CallError::Refused { code: Code::Overloaded, retry_after, .. }) => assert_eq!(retry_after, Duration::from_millis(5)),
        other => unreachable!("{other:?}"),
    }
    // Swallowed: handed over and not answered, so the outcome is unknown.
    assert!(matches!(cluster.call(alloc(7), Duration::from_millis(50)).await, Err(CallError::UnknownOutcome)));
    assert_eq!(cluster.in_flight(), 0);
    let many = futures_util::future::join_all((1..500).map(|n| cluster.alloc_ids(n * 2))).await;
    for (n, runs) in (1..500_i64).zip(many) {
        assert_eq!(runs.unwrap()[0].first, n * 2, "each caller gets its own answer");
    }
}

#[tokio::test]
async fn a_call_without_a_cluster_was_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ClusterData::connect(table::watch(dir.path().join("node.sock"), "test", 1));
    let outcome = cluster.call(alloc(2), Duration::from_millis(30)).await;
    assert!(matches!(outcome, Err(CallError::NotSent)), "{outcome:?}");
}

#[tokio::test]
async fn a_new_incarnation_ends_open_calls_and_serves_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (node, old, new) = (dir.path().join("node.sock"), dir.path().join("c1.sock"), dir.path().join("c2.sock"));
    let mut first = ClusterServer::start(&old);
    let table_server = TableServer::start(&node, sample(1, &old));
    let cluster = ClusterData::connect(table::watch(&node, "test", 1));
    let open = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.call(alloc(7), DEADLINE).await }
    });
    first.swallowed(1).await;
    first.down().await;
    let _second = ClusterServer::start(&new);
    table_server.tables.send_replace(sample(2, &new));
    let outcome = tokio::time::timeout(DEADLINE, open).await.unwrap().unwrap();
    assert!(matches!(outcome, Err(CallError::UnknownOutcome)), "{outcome:?}");
    // The next call waits for the new process.
    assert_eq!(cluster.call(alloc(4), DEADLINE).await.map(|_| ()).map_err(|e| e.to_string()), Ok(()));
}

#[tokio::test]
async fn a_read_is_asked_again_in_the_next_life() {
    let dir = tempfile::tempdir().unwrap();
    let (node, old, new) = (dir.path().join("node.sock"), dir.path().join("c1.sock"), dir.path().join("c2.sock"));
    let first = ClusterServer::start(&old);
    let table_server = TableServer::start(&node, sample(1, &old));
    let cluster = ClusterData::connect(table::watch(&node, "test", 1));
    let open = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.read(ReadRequest::default()).await }
    });
    first.swallowed(1).await;
    let second = ClusterServer::start(&new);
    second.swallowed.send_replace(1);
    table_server.tables.send_replace(sample(2, &new));
    let answer = tokio::time::timeout(DEADLINE, open).await.unwrap().unwrap();
    assert!(answer.is_ok(), "{answer:?}");
    // Nobody answers: its deadline stands.
    second.swallowed.send_replace(0);
    assert!(matches!(cluster.read(ReadRequest::default()).await, Err(CallError::UnknownOutcome)));
}

#[tokio::test]
async fn the_table_server_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (node, link) = (dir.path().join("node.sock"), dir.path().join("c.sock"));
    let _server = ClusterServer::start(&link);
    let mut table_server = TableServer::start(&node, sample(1, &link));
    let cluster = ClusterData::connect(table::watch(&node, "test", 1));
    tokio::time::timeout(DEADLINE, cluster.ready()).await.unwrap();
    table_server.down().await;
    // Calls go on with the last table.
    assert!(cluster.alloc_ids(2).await.is_ok());
    table_server.up();
    assert!(cluster.alloc_ids(2).await.is_ok());
}
