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
    let mut watch = table::watch(&sock, "api@0", 9);
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

    // Without parts an epoch is met as soon as it is heard of, else when all parts have met it.
    server.heard(|epochs| epochs.last() == Some(&("api@0".into(), 9, 3))).await;
    let (one, other) = (watch.part(), watch.part());
    server.tables.send_modify(|t| t.epoch = 4);
    watch.wait_for(|t| (t.epoch == 4).then_some(())).await;
    one.meet(4);
    assert_eq!((watch.met(), server.epochs.borrow().len()), (Some(0), 1));
    other.meet(4);
    server.heard(|epochs| epochs.last() == Some(&("api@0".into(), 9, 4))).await;
}

#[test]
fn a_move_names_the_buckets_that_change_hands() {
    let mut pb = sample(3, std::path::Path::new("c.sock"));
    let user = Daemon::Worker(wk_types::Pool::User);
    let still = table::Table::from(pb.clone());
    assert!(Bucket::all().all(|b| !still.moves(user, b)) && still.next_slots(user).is_empty());
    pb.pools[0].next = vec![0, 1, 2];
    pb.pools[0].held = true;
    let moving = table::Table::from(pb);
    assert!(moving.held(user));
    let next = Bucket::all().filter(|b| moving.moves(user, *b)).count();
    assert!((250..450).contains(&next), "about a third: {next}");
}
