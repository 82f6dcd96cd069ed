//! Crashes, hangs, leftovers.

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use wk_proto::node::v1::State;
use wk_proto::node::v1::node_table_client::NodeTableClient;
use wk_proto::node::v1::{StallReport, WatchRequest};

use crate::node::{FAULTS, Node, Plan};

/// Catalogue row 4.
#[tokio::test]
async fn restarts_a_killed_daemon_at_once_and_keeps_the_others() {
    let node = Node::start().await;
    let before = node.status().await;
    let gateway = node.instance("gateway@0").await;
    let began = Instant::now();
    node.signal("gateway@0", Signal::SIGKILL).await;
    let back = node.wait_back("gateway@0", gateway.generation).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(back.restarts, 1);
    node.wait("ready", |s| s.overall == "ready").await;
    let again = back.generation.to_string();
    node.seen("admitted again", |events| events.iter().position(|(i, g, w)| i == "gateway@0" && *g == again && w == "admit")).await;
    for old in before.instances.iter().filter(|i| i.name != "gateway@0") {
        assert_eq!(node.instance(&old.name).await.pid, old.pid, "{} was disturbed", old.name);
    }
}

/// Catalogue row 15: backoff grows, the reason is shown, `crash_loop` is raised, it goes on trying.
#[tokio::test]
async fn backs_off_from_a_crash_loop_and_says_why() {
    let node = Node::start().await;
    node.fault("worker.user@0", "crash=1");
    node.signal("worker.user@0", Signal::SIGKILL).await;
    let flagged = node.wait_instance("worker.user@0", "in a crash loop", |i| i.crash_loop && i.state() == State::Backoff).await;
    assert!(flagged.why.contains("exit 1; next try in") && flagged.why.contains("crash loop"), "{}", flagged.why);
    let out = node.must_wkctl_code(&["status"], 1).await;
    assert!(out.contains("backoff") && out.contains("exit 1"), "{out}");
    std::fs::remove_file(node.dir().join(FAULTS).join("worker.user@0")).unwrap();
    node.must_wkctl(&["restart", "worker.user"]).await;
    node.wait("ready", |s| s.overall == "ready").await;
}

/// Catalogue rows 12 and 20: a stopped process is found through SIGCHLD, probed and replaced.
#[tokio::test]
async fn replaces_a_stopped_daemon_within_five_seconds() {
    let node = Node::start().await;
    let old = node.instance("worker.channel@0").await;
    let began = Instant::now();
    node.signal("worker.channel@0", Signal::SIGSTOP).await;
    let back = node.wait_back("worker.channel@0", old.generation).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_ne!(back.pid, old.pid);
    node.said("hang: stopped, no answer to a probe, ended by signal 6 (ABRT)").await;
}

/// A report about a healthy daemon changes nothing; one about an old life is ignored.
#[tokio::test]
async fn a_stall_report_probes_and_spares_the_living() {
    let node = Node::start().await;
    let channel = wk_rpc::dial(node.runtime().join("node.sock")).await.unwrap();
    let mut client = NodeTableClient::new(channel);
    let mut tables = client.watch(WatchRequest { instance: "test".into() }).await.unwrap().into_inner();
    let table = tables.message().await.unwrap().unwrap();
    assert!(table.epoch == 1 && table.node_id == 1001);
    let api = table.instances.iter().find(|i| i.name == "api@0").unwrap();
    assert!(std::path::Path::new(&api.link_socket).exists() && std::path::Path::new(&api.health_socket).exists());
    for incarnation in [api.incarnation, 7] {
        let report = StallReport { reporter: "test".into(), instance: "api@0".into(), incarnation, stalled_ms: 2000 };
        client.report_stall(report).await.unwrap();
    }
    node.must_wkctl(&["restart", "worker.user"]).await;
    assert_eq!(node.instance("api@0").await.generation, 1);
}

/// Catalogue row 24: what a daemon leaves in its group dies with it.
#[tokio::test]
async fn kills_the_group_of_a_dead_daemon() {
    let plan = Plan::new("").fault("worker.push@0", "grandchild once");
    let node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let grandchild =
        node.seen("a grandchild", |events| events.iter().find_map(|(_, _, w)| w.strip_prefix("grandchild ")?.parse::<u32>().ok())).await;
    let old = node.instance("worker.push@0").await;
    node.signal("worker.push@0", Signal::SIGKILL).await;
    node.wait_back("worker.push@0", old.generation).await;
    let gone = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
    node.wait("ready", |s| s.overall == "ready" && gone(grandchild)).await;
}
