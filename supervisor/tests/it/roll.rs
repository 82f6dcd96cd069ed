//! Rolls with added slots, on real processes.

use nix::sys::signal::Signal;
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use crate::node::Node;

const ROLL: [&str; 6] = ["roll", "worker.channel", "--surge", "1", "--min-ready", "100ms"];

/// Generations of the channel pool, by slot.
fn channel(status: &pb::Snapshot) -> Vec<u64> {
    status.instances.iter().filter(|i| i.name.starts_with("worker.channel@")).map(|i| i.generation).collect()
}

/// A node with two slots in that pool.
async fn two() -> Node {
    let node = Node::start().await;
    node.must_wkctl(&["scale", "worker.channel=2"]).await;
    node
}

#[tokio::test]
async fn a_roll_with_an_added_slot_keeps_the_capacity_and_leaves_nothing() {
    let node = two().await;
    let plan = node.must_wkctl(&[&ROLL[..], &["--dry-run"]].concat()).await;
    assert!(plan.contains("add worker.channel@2") && plan.contains("drain worker.channel@2"), "{plan}");
    assert_eq!(channel(&node.status().await), [1, 1], "a dry run changes nothing");
    let text = node.must_wkctl(&ROLL).await;
    let order = ["adds worker.channel@2 for the time", "worker.channel@2   proved, takes its share", "proved (1 of 2)", "proved (2 of 2)"];
    let places: Vec<Option<usize>> = order.iter().map(|part| text.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{text}");
    assert!(text.ends_with("rolled 2\n"), "{text}");
    let status = node.status().await;
    assert_eq!((channel(&status), status.overall.as_str()), (vec![2, 2], "ready"));
    assert_eq!(status.overrides.iter().map(|o| o.slots).collect::<Vec<_>>(), [2], "as before");
    for (name, part) in [("gateway", "gateway cannot run twice"), ("cluster", "cluster cannot run twice")] {
        let refused = node.wkctl(&["roll", name, "--surge", "1"]).await;
        assert_eq!(refused.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(part), "{refused:?}");
    }
}

#[tokio::test]
async fn a_bad_added_one_ends_the_roll_before_anybody_was_replaced() {
    let node = two().await;
    node.fault("worker.channel@2", "exit=3 log=bad_version");
    let output = node.wkctl(&ROLL).await;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(err.contains("worker.channel@2 failed: exit 3") && err.contains("the added worker.channel@2 goes again"), "{err}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("| bad version"), "{output:?}");
    let status = node.wait("as before", |s| channel(s).len() == 2).await;
    assert_eq!(channel(&status), [1, 1]);
    node.fault("worker.channel@2", "");
    let again = err.split("to go on: wkctl ").nth(1).and_then(|rest| rest.split(';').next()).expect("a command to go on");
    let text = node.must_wkctl(&again.split(' ').chain(["--min-ready", "100ms"]).collect::<Vec<_>>()).await;
    assert!(text.ends_with("rolled 2\n"), "{text}");
}

#[tokio::test]
async fn an_added_slot_does_not_outlive_the_supervisor_that_added_it() {
    let mut node = two().await;
    let dial = wk_rpc::dial(node.runtime().join("control.sock")).await.unwrap();
    let request = pb::OpRequest { names: vec!["worker.channel".into()], surge: 1, min_ready_ms: 600_000, ..Default::default() };
    let roll = SupervisorClient::new(dial).roll(request).await.unwrap();
    node.wait_instance("worker.channel@2", "added", |i| i.state() == State::Ready).await;
    let before = node.instance("worker.channel@0").await.pid;
    node.replace_killed_supervisor().await;
    drop(roll);
    let status = node.wait("as before", |s| s.overall == "ready" && channel(s).len() == 2).await;
    assert_eq!((channel(&status), status.overrides[0].slots), (vec![1, 1], 2));
    assert_eq!(node.instance("worker.channel@0").await.pid, before, "nobody else was touched");
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    assert!(node.leftovers().is_empty());
}
