//! Policies of single daemons, against real processes.

use std::time::Duration;

use nix::sys::signal::Signal;
use wk_proto::node::v1::State;

use crate::node::{FAULTS, Plan};

/// The kernel ends it, the next supervisor waits for it: never two of them, and nothing that counts as a crash.
#[tokio::test]
async fn row_41_a_daemon_of_policy_kill_leaves_with_its_supervisor() {
    let plan = Plan::new("supervisor:\n  daemons:\n    worker.user: {orphans: kill}").fault("worker.user@0", "drain=1500");
    let mut node = plan.spawn();
    let before = node.wait("ready", |s| s.overall == "ready").await;
    node.replace_killed_supervisor().await;
    let back = node.wait_back("worker.user@0", 1).await;
    assert_eq!((back.generation, back.restarts, back.adopted), (2, 0, false), "{}", node.out());
    let status = node.wait("ready", |s| s.overall == "ready").await;
    for old in before.instances.iter().filter(|i| i.name != "worker.user@0") {
        let now = status.instances.iter().find(|i| i.name == old.name).unwrap();
        assert_eq!((now.pid, now.adopted, now.restarts), (old.pid, true, 0), "{}", old.name);
    }
    let events: Vec<_> = node.events().into_iter().filter(|(i, _, _)| i == "worker.user@0").map(|(_, g, w)| (g, w)).collect();
    let at = |generation: &str, word: &str| events.iter().position(|(g, w)| g == generation && w.starts_with(word)).unwrap();
    assert!(at("1", "term") < at("1", "end") && at("1", "end") < at("2", "spawn"), "{events:?}");
    assert_eq!(events.iter().filter(|(_, w)| w == "term").count(), 1, "a second signal would cut the drain short: {events:?}");
}

#[tokio::test]
async fn row_11_a_daemon_that_cannot_take_work_is_restarted_by_its_policy() {
    let plan = Plan::new("supervisor:\n  daemons:\n    api: {unreadyRestart: 300ms}").fault("api@0", "unready-after=200 once");
    let node = plan.spawn();
    let back = node.wait_back("api@0", 1).await;
    assert_eq!((back.generation, back.restarts), (2, 1), "{}", node.out());
    node.said("unreadyRestart").await;
    node.wait("ready", |s| s.overall == "ready").await;
}

#[tokio::test]
async fn row_11_without_a_policy_it_is_left_alone() {
    let node = Plan::new("").fault("api@0", "unready-after=200").spawn();
    node.wait_instance("api@0", "degraded", |i| i.state() == State::Degraded).await;
    let changed = node.wait_instance("api@0", "restarted", |i| i.generation > 1);
    assert!(tokio::time::timeout(Duration::from_secs(1), changed).await.is_err());
}

#[tokio::test]
async fn a_crash_loop_ends_the_node_with_101_where_the_policy_says_so() {
    let mut node = Plan::new("supervisor:\n  daemons:\n    api: {escalateAfter: 200ms}").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.fault("api@0", "crash=1");
    node.signal("api@0", Signal::SIGKILL).await;
    assert_eq!(node.exit().await.code(), Some(101), "{}", node.out());
    node.said("supervisor.daemons.api.escalateAfter").await;
    assert!(node.leftovers().is_empty() && !node.runtime().join("state").exists(), "{:?}", node.leftovers());
    let events = std::fs::read_to_string(node.dir().join("logs/events.jsonl")).unwrap();
    let told: Vec<&str> = events.lines().filter(|l| l.contains(r#""kind":"crash-loop""#)).collect();
    assert!(told.len() == 2 && told[0].contains("5 crashes within 60 s") && told[1].contains("the node ends"), "{told:#?}");
    // Whoever starts it again gets the whole node.
    std::fs::remove_file(node.dir().join(FAULTS).join("api@0")).unwrap();
    node.spawn_supervisor();
    node.wait("ready", |s| s.overall == "ready").await;
}

#[tokio::test]
async fn max_restarts_and_never_end_in_failed_until_an_operator_asks() {
    let plan = Plan::new("supervisor:\n  daemons:\n    api: {maxRestarts: 2}\n    plugin-host: {restart: never}");
    let node = plan.fault("api@0", "exit-on-usr1=3").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal("plugin-host@0", Signal::SIGKILL).await;
    let host = node.wait_instance("plugin-host@0", "given up", |i| i.state() == State::Failed).await;
    assert_eq!(host.generation, 1, "{}", node.out());
    for generation in 1..=3 {
        node.wait_instance("api@0", "up", |i| i.generation == generation && i.state() == State::Ready).await;
        node.signal("api@0", Signal::SIGUSR1).await;
    }
    let api = node.wait_instance("api@0", "given up", |i| i.state() == State::Failed).await;
    assert!(api.generation == 3 && api.why.contains("exit 3; not restarted"), "{}", api.why);
    node.must_wkctl(&["restart", "api", "plugin-host"]).await;
    node.signal("api@0", Signal::SIGUSR1).await;
    node.wait_back("api@0", 4).await;
    node.wait("ready", |s| s.overall == "ready").await;
}
