use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wk_raft::{Group, GroupId, Loopback, ProposeError, RaftOptions};
use wk_types::NodeId;

use crate::machine::{Node, Rows, block_on, commands};

const ID: GroupId = GroupId(1);
const DEADLINE: Duration = Duration::from_secs(30);

struct Cluster {
    network: Loopback,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    _dirs: Vec<tempfile::TempDir>,
}

fn options() -> RaftOptions {
    RaftOptions {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(200),
        election_max: Duration::from_millis(400),
        purge_step_entries: 16,
        ..RaftOptions::default()
    }
}

async fn cluster(size: u16) -> Cluster {
    let network = Loopback::new();
    let dirs: Vec<_> = (0..size).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes = Vec::new();
    let mut groups = Vec::new();
    for (number, dir) in (1..=size).zip(&dirs) {
        let node = Node::open(dir.path(), number, Arc::new(network.clone()), &options());
        network.attach(NodeId(number), node.groups.clone());
        groups.push(node.groups.open(ID, Rows::boxed(&node.data, ID)).await.unwrap());
        nodes.push(node);
    }
    Cluster { network, nodes, groups, _dirs: dirs }
}

/// Poll until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Index of the leader among `alive`, once there is one that accepts a command.
async fn propose_somewhere(cluster: &Cluster, alive: &[usize], command: &'static [u8]) -> usize {
    let start = Instant::now();
    loop {
        for index in alive {
            if cluster.groups[*index].propose(Bytes::from_static(command)).await.is_ok() {
                return *index;
            }
        }
        assert!(start.elapsed() < DEADLINE, "no node accepted a command");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn three_nodes_elect_replicate_and_survive_the_loss_of_the_leader() {
    block_on(async {
        let cluster = cluster(3).await;
        let members = [NodeId(1), NodeId(2), NodeId(3)];
        cluster.groups[0].initialize(&members).await.unwrap();
        let leader = propose_somewhere(&cluster, &[0, 1, 2], b"one").await;
        until("replication", || cluster.nodes.iter().all(|node| commands(&node.data, ID) == ["one"])).await;
        cluster.groups[leader].read_barrier().await.unwrap();
        let follower = (leader + 1) % 3;
        let hint = Some(cluster.nodes[leader].groups.node());
        assert_eq!(cluster.groups[follower].propose(Bytes::new()).await, Err(ProposeError::NotLeader { hint }));
        assert!(cluster.groups[follower].read_barrier().await.is_err());

        // The leader stops and is cut off.
        cluster.network.detach(cluster.nodes[leader].groups.node());
        cluster.groups[leader].shutdown().await;
        let alive: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
        let second = propose_somewhere(&cluster, &alive, b"two").await;
        assert_ne!(second, leader);
        for index in &alive {
            until("second command", || commands(&cluster.nodes[*index].data, ID) == ["one", "two"]).await;
        }

        // It comes back and catches up.
        cluster.nodes[leader].groups.close(ID).await;
        let node = &cluster.nodes[leader];
        node.groups.open(ID, Rows::boxed(&node.data, ID)).await.unwrap();
        cluster.network.attach(node.groups.node(), node.groups.clone());
        until("catch-up", || commands(&node.data, ID) == ["one", "two"]).await;
        for node in cluster.nodes {
            node.close().await;
        }
    });
}

#[test]
fn leadership_moves_on_request() {
    block_on(async {
        let cluster = cluster(3).await;
        cluster.groups[0].initialize(&[NodeId(1), NodeId(2), NodeId(3)]).await.unwrap();
        let leader = propose_somewhere(&cluster, &[0, 1, 2], b"one").await;
        let target = (leader + 1) % 3;
        let wanted = cluster.nodes[target].groups.node();
        until("replication", || cluster.nodes.iter().all(|node| commands(&node.data, ID) == ["one"])).await;
        cluster.groups[leader].transfer_leader(wanted).await.unwrap();
        until("transfer", || cluster.groups[target].is_leader()).await;
        assert_eq!(propose_somewhere(&cluster, &[target], b"two").await, target);
        for node in cluster.nodes {
            node.close().await;
        }
    });
}

#[test]
fn one_node_grows_to_three_and_late_nodes_get_a_snapshot() {
    block_on(async {
        let cluster = cluster(3).await;
        let first = &cluster.groups[0];
        first.initialize(&[NodeId(1)]).await.unwrap();
        for _ in 0..50 {
            first.propose(Bytes::from_static(b"x")).await.unwrap();
        }
        cluster.nodes[0].flush().await;
        first.propose(Bytes::from_static(b"y")).await.unwrap();
        assert!(first.status().purged.is_some(), "new nodes cannot catch up from the log alone");
        first.add_learner(NodeId(2)).await.unwrap();
        first.add_learner(NodeId(3)).await.unwrap();
        first.change_voters(&[NodeId(1), NodeId(2), NodeId(3)]).await.unwrap();
        until("catch-up", || cluster.nodes.iter().all(|node| commands(&node.data, ID).len() == 51)).await;
        // A majority without the first node goes on.
        cluster.network.detach(NodeId(1));
        first.shutdown().await;
        propose_somewhere(&cluster, &[1, 2], b"z").await;
        for node in cluster.nodes {
            node.close().await;
        }
    });
}
