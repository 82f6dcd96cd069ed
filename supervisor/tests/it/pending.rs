//! What is behind the configuration stays marked, whoever supervises.

use wk_proto::supervisor::v1::Snapshot;

use crate::node::{Plan, edit};

fn pending(status: &Snapshot) -> Vec<&str> {
    let behind = status.instances.iter().filter(|i| i.pending_restart == ["configuration"]);
    behind.map(|i| i.name.as_str()).collect()
}

#[tokio::test]
async fn a_pending_restart_outlives_the_supervisor_and_its_exchange() {
    let mut node = Plan::new("connIdleTime: 90s").spawn();
    let status = node.wait("ready", |s| s.overall == "ready").await;
    assert_eq!(pending(&status), [""; 0]);
    edit(&node, "90s", "80s");
    node.must_wkctl(&["reload"]).await;
    assert_eq!(pending(&node.status().await), ["gateway@0"]);
    node.must_wkctl(&["reexec"]).await;
    let status = node.wait("ready again", |s| s.overall == "ready").await;
    assert_eq!((pending(&status), status.instances.iter().any(|i| i.adopted)), (vec!["gateway@0"], false), "exchanged");
    node.replace_killed_supervisor().await;
    let status = node.wait("adopted", |s| s.overall == "ready" && s.instances.iter().all(|i| i.adopted)).await;
    assert_eq!(pending(&status), ["gateway@0"], "adopted");
    // The file changes while nobody supervises: what it reads now is what it was started with.
    node.kill_supervisor().await;
    edit(&node, "80s", "90s");
    node.spawn_supervisor();
    let status = node.wait("adopted", |s| s.overall == "ready" && s.supervisor_pid != status.supervisor_pid).await;
    assert_eq!(pending(&status), [""; 0]);
    edit(&node, "90s", "70s");
    node.replace_killed_supervisor().await;
    let status = node.wait("adopted", |s| s.overall == "ready" && s.supervisor_pid != status.supervisor_pid).await;
    assert_eq!(pending(&status), ["gateway@0"], "the file changed while nobody read it");
    node.must_wkctl(&["roll", "gateway", "--min-ready", "10ms"]).await;
    assert_eq!(pending(&node.status().await), [""; 0]);
}
