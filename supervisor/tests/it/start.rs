//! Start: order, admission, timing, rollback, refusals.

use std::collections::BTreeSet;

use wk_proto::node::v1::State;

use crate::node::{FAULTS, Node, Plan, run_to_end};

const ALL: [&str; 7] = ["api@0", "cluster@0", "gateway@0", "plugin-host@0", "worker.channel@0", "worker.push@0", "worker.user@0"];

#[tokio::test]
async fn starts_in_order_and_admits_last() {
    let node = Node::start().await;
    let order = ["cluster@0", "gateway@0", "api@0", "worker.channel@0", "worker.push@0", "plugin-host@0"];
    for pair in order.windows(2) {
        assert!(node.at(pair[0], "activate").await < node.at(pair[1], "activate").await, "{pair:?}: {:?}", node.events());
    }
    for admitted in ["gateway@0", "api@0"] {
        assert!(node.at("worker.push@0", "activate").await < node.at(admitted, "admit").await, "{:?}", node.events());
    }
    let first = |what: &str| node.events().iter().position(|(_, _, w)| w.starts_with(what)).unwrap();
    let spawned = node.events().iter().take_while(|(_, _, w)| w.starts_with("spawn")).count();
    assert!(first("spawn") < first("activate"));
    assert!(spawned >= 1, "{:?}", node.events());
    let status = node.status().await;
    assert_eq!(status.instances.iter().map(|i| i.name.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(ALL));
    assert!(status.admitted && status.epoch == 1);
    let kinds: Vec<&str> = status.addresses.iter().filter_map(|a| a.split(' ').next()).collect();
    assert_eq!(kinds, ["tcp", "ws", "api", "manager"]);
    let fds = node.events().into_iter().find(|(i, _, w)| i == "gateway@0" && w.starts_with("spawn")).unwrap().2;
    assert!(fds.ends_with("config:health:lock:link:tcp:ws"), "{fds}");
}

#[tokio::test]
async fn prints_the_timing_table() {
    let node = Node::start().await;
    node.wait("timed", |s| s.timing.is_some()).await;
    let table = node.must_wkctl(&["analyze"]).await;
    assert!(ALL.iter().all(|name| table.contains(name)), "{table}");
    let critical: Vec<&str> = table.lines().filter(|l| l.ends_with('*')).collect();
    assert!(!critical.is_empty(), "{table}");
    let timing = node.status().await.timing.unwrap();
    let last = timing.rows.iter().filter(|r| r.critical).map(|r| r.ready_at_us).max();
    assert_eq!(last, Some(timing.total_us), "the chain ends with the one that was waited for: {table}");
    for row in &timing.rows {
        assert_eq!(row.wait_us + row.own_us, row.ready_at_us, "{row:?}");
    }
    node.said("total ready").await;
}

/// Catalogue rows 3 and 7, and the rollback.
#[tokio::test]
async fn rolls_back_when_a_part_fails_for_good() {
    let plan = Plan::new("").fault("api@0", "exit=78 log=bad_key_webhook.httpAddr");
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("api@0 failed: exit 78 (configuration refused)"), "{text}");
    assert!(text.contains("| bad key webhook.httpAddr"), "{text}");
    assert!(text.contains("cluster@0") && text.contains("clean"), "{text}");
}

#[tokio::test]
async fn names_a_missing_binary_and_does_not_loop() {
    let plan = Plan::new("");
    std::fs::remove_file(plan.path().join("bin/wk-gateway")).unwrap();
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("gateway@0 failed: cannot execute") && text.contains("bin/wk-gateway: No such file"), "{text}");
    let events = std::fs::read_to_string(plan.path().join(FAULTS).join("events")).unwrap_or_default();
    assert!(!events.contains("cluster@0 2 spawn"), "{events}");
}

/// Catalogue row 9.
#[tokio::test]
async fn rolls_back_a_part_that_is_never_ready() {
    let plan = Plan::new("supervisor:\n  startTimeout: 1s").fault("worker.user@0", "never-ready");
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("worker.user@0 failed: not ready before the start timeout"), "{text}");
}

/// Crashes before ready: three attempts, then the rollback.
#[tokio::test]
async fn gives_up_after_three_attempts() {
    let plan = Plan::new("").fault("worker.push@0", "exit=3");
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("worker.push@0 failed: exit 3 (3 attempts)"), "{text}");
}

#[tokio::test]
async fn an_optional_daemon_does_not_hold_the_start_back() {
    let node = Plan::new("").fault("plugin-host@0", "exit=78").spawn();
    let status = node.wait("timed", |s| s.timing.is_some()).await;
    assert!(status.admitted);
    let host = node.wait_instance("plugin-host@0", "failed", |i| i.state() == State::Failed).await;
    assert!(host.why.contains("exit 78"), "{}", host.why);
    assert_eq!(node.wkctl(&["status"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn names_component_and_key_of_a_bad_address() {
    let plan = Plan::new("cluster:\n  addr: \"invalid-address\"");
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("cluster: cluster.addr = \"invalid-address\""), "{text}");
}

#[tokio::test]
async fn names_who_holds_a_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan::new("");
    let file = plan.path().join("wukongim.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("tcp://127.0.0.1:0", &format!("tcp://{}", taken.local_addr().unwrap()));
    std::fs::write(&file, text).unwrap();
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("gateway: addr = 127.0.0.1:") && text.contains(&format!("held by pid {}", std::process::id())), "{text}");
}

/// Catalogue row 17: somebody else answers.
#[tokio::test]
async fn refuses_a_stranger_on_the_health_socket() {
    let plan = Plan::new("").fault("cluster@0", "wrong-nonce");
    let (code, text) = run_to_end(&plan).await.unwrap();
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("health socket answered by another process"), "{text}");
}

#[tokio::test]
async fn retries_the_whole_start_as_often_as_told() {
    let plan = Plan::new("supervisor:\n  startRetries: 1").fault("api@0", "exit=78 once");
    let node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.said("next attempt in").await;
}

#[tokio::test]
async fn a_missing_binary_is_not_explained_by_an_earlier_life() {
    let node = Plan::new("").fault("api@0", "log=all_is_well").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    std::fs::remove_file(node.dir().join("bin/wk-api")).unwrap();
    let output = node.wkctl(&["restart", "api"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("cannot execute") && !text.contains("all is well"), "{text}");
    assert!(!node.must_wkctl(&["why", "api"]).await.contains("all is well"));
}
