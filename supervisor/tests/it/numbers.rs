//! Restarts and liveness checks with the numbers of the configuration, against real processes.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wk_proto::supervisor::v1::Snapshot;

use crate::node::{FAULTS, Plan, edit};

/// By default nothing is found before 15 s: then pings are unanswered for long enough, and later three checks.
const BEFORE_DEFAULT: Duration = Duration::from_secs(10);
const QUICK: &str = "liveness: {period: 500ms, timeout: 200ms, failures: 2}";

fn pids(status: &Snapshot) -> Vec<(String, u32, u32)> {
    status.instances.iter().map(|i| (i.name.clone(), i.pid, i.restarts)).collect()
}

/// Its executor stands, nobody reports it: only liveness checks can tell. The numbers come with a reload, which restarts nobody.
#[tokio::test]
async fn row_12_liveness_checks_follow_a_reload_and_find_a_hang() {
    let node = Plan::new("").fault("worker.user@0", "hang-on-usr1 once").spawn();
    let before = node.wait("ready", |s| s.overall == "ready").await;
    edit(&node, "manager:\n", &format!("supervisor:\n  daemons:\n    worker.user:\n      {QUICK}\nmanager:\n"));
    let said = node.must_wkctl(&["reload"]).await;
    assert!(said.contains("3 keys hold at once") && !said.contains("pending restart"), "{said}");
    assert_eq!(pids(&node.status().await), pids(&before), "{}", node.out());
    let began = Instant::now();
    node.signal("worker.user@0", Signal::SIGUSR1).await;
    node.wait_back("worker.user@0", 1).await;
    assert!(began.elapsed() < BEFORE_DEFAULT, "{:?}", began.elapsed());
    node.said("hang: liveness checks unanswered, ended by signal 6 (ABRT)").await;
    let others = node.wait("ready", |s| s.overall == "ready").await;
    assert_eq!(others.instances.iter().map(|i| i.restarts).sum::<u32>(), 1, "{}", node.out());
}

/// Nobody tells a supervisor that a process was stopped which it has adopted.
#[tokio::test]
async fn row_20_a_stopped_daemon_is_found_by_the_checks_of_its_policy() {
    let mut node = Plan::new(&format!("supervisor:\n  daemons:\n    worker.channel: {{{QUICK}}}")).spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.replace_killed_supervisor().await;
    node.wait("adopted", |s| s.overall == "ready" && s.instances.iter().all(|i| i.adopted)).await;
    let began = Instant::now();
    node.signal("worker.channel@0", Signal::SIGSTOP).await;
    let back = node.wait_back("worker.channel@0", 1).await;
    assert!(began.elapsed() < BEFORE_DEFAULT, "{:?}", began.elapsed());
    assert_eq!((back.generation, back.restarts), (2, 1), "{}", node.out());
    node.said("hang: stopped,").await;
}

#[tokio::test]
async fn row_15_a_crash_loop_has_the_pauses_of_its_policy() {
    let plan = Plan::new("supervisor:\n  daemons:\n    api:\n      backoff: {base: 10ms, cap: 20ms, jitter: 0}");
    let node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.fault("api@0", "crash=1");
    let began = Instant::now();
    node.signal("api@0", Signal::SIGKILL).await;
    // Fewer than the bound of all restarts together; by default they take 25 s, a fifth more or less.
    node.wait_instance("api@0", "restarted", |i| i.restarts >= 9 && i.crash_loop).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let why: serde_json::Value = serde_json::from_str(&node.must_wkctl(&["why", "api", "-o", "json"]).await).unwrap();
    assert_eq!((&why["backoff_ms"], &why["backoff_jitter"]), (&serde_json::json!([20, 20, 20, 20, 20, 20]), &serde_json::json!(0.0)));
    let text = node.must_wkctl(&["why", "api"]).await;
    assert!(text.contains("next pauses   20 ms, 20 ms, 20 ms") && text.contains("… (±0 %, forgotten after 60 s of ready)"), "{text}");
    std::fs::remove_file(node.dir().join(FAULTS).join("api@0")).unwrap();
    node.must_wkctl(&["restart", "api"]).await;
    node.wait("ready", |s| s.overall == "ready").await;
}
