//! A bad file while daemons run: no supervisor is lost to it (catalogue rows 40, 52 and 71).

use std::process::Stdio;

use tokio::process::Command;
use wk_proto::supervisor::v1::Snapshot;

use crate::node::{Node, Plan, edit};

fn lives(status: &Snapshot) -> Vec<(String, u32, u64)> {
    status.instances.iter().map(|i| (i.name.clone(), i.pid, i.generation)).collect()
}

async fn ready(node: &Node) -> Snapshot {
    node.wait("ready", |s| s.overall == "ready").await
}

/// Ready, below another supervisor than before.
async fn succeeded(node: &Node, before: &Snapshot) -> Snapshot {
    node.wait("taken over", |s| s.overall == "ready" && s.supervisor_pid != before.supervisor_pid).await
}

#[tokio::test]
async fn row_52_a_refused_configuration_leaves_the_old_supervisor_going_on() {
    let node = Plan::new("connIdleTime: 90s").spawn();
    let before = ready(&node).await;
    edit(&node, "90s", "ninety");
    let output = node.wkctl(&["reexec"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(78) && said.contains("connIdleTime") && said.contains("the old supervisor goes on"), "{output:?}");
    assert_eq!(lives(&ready(&node).await), lives(&before));
    node.must_wkctl(&["restart", "worker.user"]).await;
    // What only another process can follow waits: the successor looks for its daemons where they are.
    let before = ready(&node).await;
    edit(&node, "connIdleTime: ninety", "cluster:\n  nodeId: 1002");
    node.must_wkctl(&["reexec"]).await;
    let after = ready(&node).await;
    assert_eq!((lives(&after), after.waiting_keys), (lives(&before), vec!["cluster.nodeId".to_owned()]));
}

#[tokio::test]
async fn row_40_a_refused_configuration_does_not_keep_a_successor_from_its_daemons() {
    let mut node = Plan::new("connIdleTime: 90s").spawn();
    let first = ready(&node).await;
    edit(&node, "connIdleTime: 90s", "connIdleTime: [");
    node.replace_killed_supervisor().await;
    let second = succeeded(&node, &first).await;
    assert_eq!(lives(&second), lives(&first), "{}", node.out());
    node.said("what held before holds").await;
    let refused = node.out().lines().filter(|l| l.contains("configuration refused") && l.contains("wkctl reload")).count();
    assert_eq!(refused, 1, "{}", node.out());
    assert!(first.config_refused.is_empty() && second.config_refused.contains("wkctl reload"), "{second:?}");
    let shown = String::from_utf8(node.wkctl(&["status"]).await.stdout).unwrap();
    assert!(shown.contains("configuration refused") && shown.contains("correct it, then `wkctl reload`"), "{shown}");
    assert_eq!(node.wkctl(&["reload"]).await.status.code(), Some(78), "still bad");
    assert_eq!(node.status().await.config_refused, second.config_refused);
    edit(&node, "connIdleTime: [", "cluster:\n  nodeId: 1002");
    let text = node.must_wkctl(&["reload"]).await;
    assert!(text.contains("with the next start of the supervisor: cluster.nodeId"), "{text}");
    assert_eq!(node.status().await.config_refused, "", "a good file was taken");
    // Another identity would be another node beside the one that lives.
    node.replace_killed_supervisor().await;
    let third = succeeded(&node, &second).await;
    assert_eq!((lives(&third), third.waiting_keys), (lives(&first), vec!["cluster.nodeId".to_owned()]));
}

#[tokio::test]
async fn a_refused_configuration_does_not_keep_reap_from_what_is_left() {
    let mut node = Plan::new("connIdleTime: 90s").spawn();
    ready(&node).await;
    edit(&node, "90s", "ninety");
    node.kill_supervisor().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_wksupervisor"));
    command.arg("reap").arg("--config").arg(node.dir().join("wukongim.yaml")).arg("--runtime").arg(node.dir().join("r"));
    let output = command.env("SERVICE_RESULT", "success").stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("cluster@0"), "{output:?}");
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    // Nothing lives: a bad file is a bad file.
    let output = crate::node::command(node.dir()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(!node.runtime().join("config").exists(), "it holds secrets");
}
