//! Stop: quiesce, reverse order, deadlines, what is left.

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

use crate::node::{Node, Plan};

const REVERSE: [&str; 6] = ["plugin-host@0", "worker.push@0", "worker.channel@0", "api@0", "gateway@0", "cluster@0"];

#[tokio::test]
async fn stops_in_reverse_stays_resident_and_starts_again() {
    let mut node = Node::start().await;
    let table = node.must_wkctl(&["stop"]).await;
    assert!(table.contains("clean 7 · forced 0 · gone 0 · lost 0"), "{table}");
    for pair in REVERSE.windows(2) {
        assert!(node.at(pair[0], "end").await < node.at(pair[1], "term").await, "{pair:?}: {:?}", node.events());
    }
    assert!(node.at("gateway@0", "quiesce").await < node.at("plugin-host@0", "term").await);
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    let status = node.status().await;
    assert_eq!((status.overall.as_str(), status.addresses.len(), status.admitted), ("down", 0, false));
    assert_eq!(node.wkctl(&["status"]).await.status.code(), Some(3));
    let started = node.must_wkctl(&["start"]).await;
    assert!(started.contains("total ready"), "{started}");
    assert_eq!(node.wkctl(&["status"]).await.status.code(), Some(0));
    node.must_wkctl(&["stop", "--supervisor"]).await;
    assert_eq!(node.exit().await.code(), Some(0));
    let output = node.wkctl(&["start"]).await;
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("scripts/up"), "{output:?}");
}

/// Catalogue row 57.
#[tokio::test]
async fn row_57_sigterm_drains_and_ends_with_zero() {
    let mut node = Node::start().await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    node.said("clean 7").await;
    assert!(node.leftovers().is_empty());
}

/// Catalogue rows 21 and 58: a second signal cuts the deadlines, order is kept.
#[tokio::test]
async fn row_58_a_second_signal_shortens_the_deadline_of_who_ignores_the_first() {
    let plan = Plan::new("").fault("worker.user@0", "ignore-term");
    let mut node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal_supervisor(Signal::SIGINT);
    node.wait_instance("worker.user@0", "draining", |i| i.why.contains("SIGTERM")).await;
    let began = Instant::now();
    node.signal_supervisor(Signal::SIGINT);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    node.said("clean 6 · forced 1").await;
    assert!(node.leftovers().is_empty());
}

/// Five of them in a row, each of which would take its second.
#[tokio::test]
async fn row_58_a_third_signal_kills() {
    let deaf = ["cluster@0", "gateway@0", "api@0", "worker.user@0", "plugin-host@0"];
    let mut node = deaf.iter().fold(Plan::new(""), |plan, name| plan.fault(name, "ignore-term")).spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    // Signals of one kind do not queue: each must have been seen before the next.
    for said in ["stopping: again for deadlines of 1 s", "stopping fast: again to kill"] {
        node.signal_supervisor(Signal::SIGTERM);
        node.said(said).await;
    }
    let began = Instant::now();
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(node.out().lines().any(|l| l.trim() == "killing") && node.out().contains("forced"), "{}", node.out());
    assert!(node.leftovers().is_empty());
}

/// SIGCONT follows SIGTERM: one that was stopped drains as the others.
#[tokio::test]
async fn row_20_a_stopped_daemon_is_woken_to_drain() {
    let node = Node::start().await;
    node.signal("worker.push@0", Signal::SIGSTOP).await;
    node.must_wkctl(&["stop", "worker.push", "--force-alone"]).await;
    node.at("worker.push@0", "end").await;
    assert!(!node.out().contains("hang"), "{}", node.out());
}

/// Work that does not end is counted, the stop goes on.
#[tokio::test]
async fn counts_what_is_lost() {
    let plan = Plan::new("").fault("worker.channel@0", "unsettled=3");
    let node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let table = node.must_wkctl(&["stop", "--fast"]).await;
    assert!(table.contains("lost 3"), "{table}");
}

/// Catalogue row 62: a stop cancels a start; nothing is left.
#[tokio::test]
async fn row_62_a_stop_cancels_a_start() {
    let plan = Plan::new("").fault("cluster@0", "never-ready");
    let mut node = plan.spawn();
    node.wait_instance("cluster@0", "starting", |i| i.pid != 0).await;
    node.must_wkctl(&["stop"]).await;
    assert_eq!(node.status().await.overall, "down");
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_new_supervisor_replaces_one_that_is_down() {
    let mut node = Node::start().await;
    let first = crate::node::command(node.dir()).arg("--replace").output().await.unwrap();
    assert_eq!(first.status.code(), Some(75), "{first:?}");
    node.must_wkctl(&["stop"]).await;
    let old = node.status().await.supervisor_pid;
    let mut second = crate::node::command(node.dir()).arg("--replace").spawn().unwrap();
    assert_eq!(node.exit().await.code(), Some(0));
    node.wait("ready", |s| s.overall == "ready" && s.supervisor_pid != old).await;
    node.must_wkctl(&["stop", "--supervisor"]).await;
    assert_eq!(second.wait().await.unwrap().code(), Some(0));
    node.spawn_supervisor();
    node.wait("ready", |s| s.overall == "ready").await;
}
