//! The watch keeps its last table and finds the next server.

use wk_proto::node::v1::State;
use wk_rpc::table;
use wk_types::{Bucket, Daemon};

use crate::fake::{DEADLINE, TableServer, table as sample};

#[tokio::test]
async fn follows_changes_and_reports_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let sock = dir.path().join("node.sock");
    let cluster = "cluster@0".parse().unwrap();
    let mut watch = table::watch(&sock, "api@0");
    assert_eq!(watch.get().epoch, 0);
    // The server comes later than the watch.
    let server = TableServer::start(&sock, sample(3, &dir.path().join("c.sock")));
    let first = tokio::time::timeout(DEADLINE, watch.changed()).await.unwrap();
    assert_eq!((first.epoch, first.node_id.0), (3, 7));
    assert_eq!(first.pool_slots(Daemon::Worker(wk_types::Pool::User)), [0, 1]);
    let owner = first.owner(Daemon::Worker(wk_types::Pool::User), Bucket::of("u1")).unwrap();
    assert!(owner.slot < 2);
    assert!(first.owner(Daemon::Gateway, Bucket::of("u1")).is_none());
    let row = first.instance(cluster).unwrap();
    assert!(row.dialable() && row.incarnation == 3);

    server.tables.send_modify(|t| t.instances[0].set_state(State::Backoff));
    let next = tokio::time::timeout(DEADLINE, watch.changed()).await.unwrap();
    assert!(!next.instance(cluster).unwrap().dialable());

    watch.report_stall(cluster, 3, DEADLINE).await;
    let stalls = server.stalls.lock().unwrap().clone();
    assert_eq!((stalls.len(), stalls[0].reporter.as_str(), stalls[0].incarnation), (1, "api@0", 3));
}
