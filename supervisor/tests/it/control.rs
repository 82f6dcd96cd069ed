//! The control tool and the control socket.

use wk_proto::node::v1::State;

use crate::node::{Node, command};

/// Catalogue row 47.
#[tokio::test]
async fn a_second_supervisor_is_refused_with_the_pid_of_the_first() {
    let node = Node::start().await;
    let pid = node.status().await.supervisor_pid;
    let output = command(node.dir()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("pid {pid}")), "{output:?}");
    assert_eq!(node.status().await.overall, "ready");
}

#[tokio::test]
async fn a_wrong_command_line_has_the_code_that_systemd_does_not_restart() {
    let run = |words: &'static [&'static str]| tokio::process::Command::new(env!("CARGO_BIN_EXE_wksupervisor")).args(words).output();
    for wrong in [&["nonsense"] as &[&str], &["run", "--nonsense"], &[]] {
        let output = run(wrong).await.unwrap();
        assert!(output.status.code() == Some(64) && !output.stderr.is_empty(), "{wrong:?}: {output:?}");
    }
    let help = run(&["--help"]).await.unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("64   wrong command line"), "{help:?}");
}

#[tokio::test]
async fn status_has_three_forms_and_knows_its_names() {
    let node = Node::start().await;
    let table = node.must_wkctl(&["status"]).await;
    assert!(table.contains("● ready") && table.contains("cluster") && table.contains("tcp 127.0.0.1:"), "{table}");
    assert!(!table.contains('\x1b'), "no colours on a pipe");
    let json: serde_json::Value = serde_json::from_str(&node.must_wkctl(&["status", "-o", "json"]).await).unwrap();
    assert_eq!((&json["overall"], &json["instances"][0]["state"]), (&"ready".into(), &"ready".into()));
    assert_eq!(node.must_wkctl(&["status", "worker", "-o", "name"]).await, "worker.user@0\nworker.channel@0\nworker.push@0\n");
    let deep = node.must_wkctl(&["status", "--deep"]).await;
    assert!(deep.contains("wk.fault.part"), "{deep}");
    assert_eq!(node.wkctl(&["status", "nobody"]).await.status.code(), Some(4));
    assert_eq!(node.wkctl(&["stop", "nobody"]).await.status.code(), Some(4));
    assert_eq!(node.wkctl(&["scale", "gateway=2"]).await.status.code(), Some(64));
}

#[tokio::test]
async fn scales_a_pool_up_and_down() {
    let node = Node::start().await;
    let before = node.status().await.epoch;
    node.must_wkctl(&["scale", "worker.channel=3"]).await;
    let status = node.status().await;
    assert_eq!(status.epoch, before + 3, "a move has three steps");
    assert_eq!(status.instances.iter().filter(|i| i.name.starts_with("worker.channel@") && i.state() == State::Ready).count(), 3);
    let old = node.instance("worker.channel@0").await.pid;
    let text = node.must_wkctl(&["scale", "worker.channel=1"]).await;
    assert!(text.contains("clean 2"), "{text}");
    let status = node.status().await;
    assert_eq!((status.epoch, status.instances.len()), (before + 6, 7));
    assert_eq!(node.instance("worker.channel@0").await.pid, old);
    let epoch = std::fs::read_to_string(node.dir().join("data/supervisor/epoch")).unwrap();
    assert_eq!(epoch.trim(), status.epoch.to_string());
}

/// Catalogue rows 5 and 64: a planned restart is no crash.
#[tokio::test]
async fn row_05_restarts_one_daemon_without_counting_a_crash() {
    let node = Node::start().await;
    let old = node.instance("gateway@0").await;
    node.must_wkctl(&["restart", "gateway"]).await;
    let new = node.instance("gateway@0").await;
    assert_eq!((new.generation, new.restarts), (old.generation + 1, 0));
    node.wait("ready", |s| s.overall == "ready").await;
}

#[tokio::test]
async fn restarts_everything() {
    let node = Node::start().await;
    let text = node.must_wkctl(&["restart"]).await;
    assert!(text.contains("clean 7") && text.contains("total ready"), "{text}");
    assert!(node.status().await.instances.iter().all(|i| i.generation == 2 && i.restarts == 0));
}

/// Catalogue row 65.
#[tokio::test]
async fn row_65_refuses_to_pull_a_dependency_away() {
    let node = Node::start().await;
    let output = node.wkctl(&["stop", "api"]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--cascade"), "{output:?}");
    let text = node.must_wkctl(&["stop", "api", "--cascade"]).await;
    assert!(text.contains("clean 5"), "{text}");
    let text = node.must_wkctl(&["start", "plugin-host"]).await;
    assert!(text.contains("total ready"), "{text}");
    node.wait("ready", |s| s.overall == "ready").await;
}

#[tokio::test]
async fn gathers_the_metrics_of_all() {
    let node = Node::start().await;
    let page = node.must_wkctl(&["metrics"]).await;
    assert_eq!(page.matches("# TYPE fault_up gauge").count(), 1, "{page}");
    assert!(page.contains("fault_up{instance=\"cluster@0\"} 1") && page.contains("wk_supervisor_signals_total"), "{page}");
}

#[tokio::test]
async fn writes_completions_and_manuals() {
    let node = Node::start().await;
    for shell in ["bash", "zsh", "fish"] {
        assert!(node.must_wkctl(&["completion", shell]).await.contains("wkctl"));
    }
    let dir = node.dir().join("man");
    node.must_wkctl(&["man", dir.to_str().unwrap()]).await;
    assert!(dir.join("wkctl.1").exists() && dir.join("wkctl-status.1").exists());
}
