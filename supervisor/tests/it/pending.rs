//! What is behind the configuration stays marked, whoever supervises.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::signal::Signal;
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

/// Value of a key in the sealed configuration that a process was given.
#[expect(clippy::unwrap_used, reason = "helper of tests: a failure here is a failure of the test")]
fn given(pid: u32, key: &str) -> String {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let sealed = |p: &PathBuf| std::fs::read_link(p).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:wk-config"));
    let path = fds.map(|fd| fd.path()).find(sealed).expect("a configuration");
    let keys: BTreeMap<String, String> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    keys[key].clone()
}

#[tokio::test]
async fn what_waits_for_the_next_supervisor_reaches_no_generation_before() {
    let mut node = Plan::new("connIdleTime: 90s").spawn();
    let status = node.wait("ready", |s| s.overall == "ready").await;
    let cluster = node.instance("cluster@0").await;
    let folder = given(cluster.pid, "dataDir");
    let moved = node.dir().join("moved").display().to_string();
    edit(&node, "connIdleTime: 90s", &format!("connIdleTime: 80s\ndataDir: {moved}\nworkers:\n  oneProcess: true"));
    let text = node.must_wkctl(&["reload"]).await;
    let waits = "with the next start of the supervisor: dataDir, workers.oneProcess";
    assert!(text.contains(waits) && text.contains("pending restart: gateway"), "{text}");
    let after = node.status().await;
    assert_eq!((after.waiting_keys.join(" ").as_str(), pending(&after)), ("dataDir workers.oneProcess", vec!["gateway@0"]));
    assert!(node.must_wkctl(&["status"]).await.contains("with the next start of the supervisor: dataDir, workers.oneProcess"));
    assert_eq!(after.instances.len(), status.instances.len(), "the pools have their processes");
    // A later crash goes on in the old folder, as the old process; so it does behind an exchanged supervisor.
    for name in ["cluster@0", "worker.user@0"] {
        let before = node.instance(name).await.generation;
        node.signal(name, Signal::SIGKILL).await;
        let next = node.wait_back(name, before).await;
        assert_eq!((given(next.pid, "dataDir"), given(next.pid, "connIdleTime")), (folder.clone(), "80s".to_owned()), "{name}");
        assert!(!std::fs::read_to_string(format!("/proc/{}/cmdline", next.pid)).unwrap().contains("user,channel"), "{name}");
    }
    node.must_wkctl(&["reexec"]).await;
    let status = node.wait("ready again", |s| s.overall == "ready").await;
    assert_eq!((status.instances.len(), status.waiting_keys.len()), (after.instances.len(), 2), "exchanged");
    assert!(node.must_wkctl(&["reload"]).await.contains(waits), "they still wait");
    // The next start of the supervisor follows: the pools move together, everybody else is marked.
    node.replace_killed_supervisor().await;
    let together = |s: &Snapshot| s.overall == "ready" && s.instances.iter().all(|i| !i.name.starts_with("worker.channel"));
    let status = node.wait("followed", together).await;
    assert_eq!((status.waiting_keys.len(), pending(&status)), (0, vec!["cluster@0", "gateway@0", "api@0", "plugin-host@0"]));
    let worker = node.instance("worker.user@0").await;
    assert_eq!(given(worker.pid, "dataDir"), moved);
}
