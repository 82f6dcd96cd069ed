//! Forms of the answers, and of the answer that does not come.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::node::Node;

#[tokio::test]
async fn a_stream_for_machines_is_one_object_a_line_and_ends_lose_no_table() {
    let node = Node::start().await;
    let mut watch = Command::new(env!("CARGO_BIN_EXE_wkctl"));
    let watch = watch.arg("--runtime").arg(node.runtime()).args(["status", "--watch", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
        let picture: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&picture["schema"], &picture["instances"][0]["adopted"]), (&1.into(), &false.into()), "{line}");
    }
    let stop = node.must_wkctl(&["stop", "worker.push", "--cascade", "-o", "yaml"]).await;
    assert!(stop.contains("name: \"worker.push@0\"\n    outcome: \"clean\""), "{stop}");
    let start = node.must_wkctl(&["start", "-o", "yaml"]).await;
    assert!(start.contains("timing:\n") && start.contains("handshake_us: "), "{start}");
    let exchanged: Value = serde_json::from_str(&node.must_wkctl(&["reexec", "-o", "json"]).await).unwrap();
    assert_eq!(exchanged["pid"], node.status().await.supervisor_pid);
}

/// A supervisor that is there and stands still: every command says so in time, and what to look at.
#[tokio::test]
async fn a_stopped_supervisor_is_not_waited_for() {
    let node = Node::start().await;
    let pid = node.status().await.supervisor_pid;
    node.signal_supervisor(Signal::SIGSTOP);
    let commands: [&[&str]; 6] = [&["status"], &["why", "api"], &["stop", "api"], &["reload"], &["events", "-f"], &["metrics"]];
    let ran = futures_util::future::join_all(commands.iter().map(|args| node.wkctl(args))).await;
    for (args, output) in commands.iter().zip(ran) {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(69) && err.contains("no answer within 5 s"), "{args:?}: {output:?}");
        assert!(err.contains(&format!("`kill -CONT {pid}`")), "{args:?}: {err}");
    }
    node.signal_supervisor(Signal::SIGCONT);
    node.wait("ready", |s| s.overall == "ready").await;
}
