//! Catalogue row 52: another binary in the place of the supervisor.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::signal::Signal;
use tokio::process::Command;
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1::HelloRequest;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use crate::node::{Node, Plan, copy_program};

/// A node whose supervisor runs from a path of its own, which a test may replace.
fn own_binary(plan: Plan) -> (Node, PathBuf) {
    let path = plan.path().join("wksupervisor");
    install(Path::new(env!("CARGO_BIN_EXE_wksupervisor")), &path);
    let node = plan.spawn_as(|direct| {
        let mut command = Command::new(&path);
        command.args(direct.as_std().get_args());
        command.envs(direct.as_std().get_envs().filter_map(|(k, v)| Some((k, v?)))).kill_on_drop(true);
        command
    });
    (node, path)
}

/// As a package does it: a new file under the old name.
fn install(from: &Path, to: &Path) {
    let next = to.with_extension("new");
    copy_program(from, &next);
    std::fs::rename(next, to).unwrap();
}

fn lives(status: &wk_proto::supervisor::v1::Snapshot) -> Vec<(String, u32, u64, u32)> {
    status.instances.iter().map(|i| (i.name.clone(), i.pid, i.generation, i.restarts)).collect()
}

async fn exec_number(node: &Node) -> u64 {
    let channel = wk_rpc::dial(node.runtime().join("control.sock")).await.unwrap();
    SupervisorClient::new(channel).hello(HelloRequest::default()).await.unwrap().into_inner().exec
}

#[tokio::test]
async fn row_52_a_new_binary_takes_over_and_nobody_is_refused() {
    let (node, path) = own_binary(Plan::new(""));
    node.wait("ready", |s| s.overall == "ready").await;
    let before = node.status().await;
    let (stop, knocks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let socket = node.runtime().join("control.sock");
    let knocking = std::thread::spawn({
        let (stop, knocks) = (stop.clone(), knocks.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                std::os::unix::net::UnixStream::connect(&socket).expect("the control socket refuses");
                knocks.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
        }
    });
    for _ in 0..5 {
        install(Path::new(env!("CARGO_BIN_EXE_wksupervisor")), &path);
        let exec = exec_number(&node).await;
        let text = node.must_wkctl(&["reexec"]).await;
        node.must_wkctl(&["status"]).await;
        assert!(text.contains("goes on"), "{text}");
        assert_ne!(exec_number(&node).await, exec);
        let status = node.wait("ready", |s| s.overall == "ready").await;
        assert_eq!((lives(&status), status.supervisor_pid), (lives(&before), before.supervisor_pid), "{}", node.out());
        assert_eq!((status.epoch, &status.addresses, status.admitted), (before.epoch, &before.addresses, true));
        assert!(status.instances.iter().all(|i| !i.adopted), "still the parent");
    }
    stop.store(true, Ordering::Relaxed);
    knocking.join().unwrap();
    assert!(knocks.load(Ordering::Relaxed) > 5);
    assert!(!std::fs::exists(path.with_extension("new")).unwrap());
}

/// Exit codes come from the kernel as before, daemons are replaced and drained as before.
#[tokio::test]
async fn the_successor_is_the_parent_still() {
    let (mut node, _) = own_binary(Plan::new("").fault("worker.user@0", "exit-on-usr1=42 once"));
    node.wait("ready", |s| s.overall == "ready").await;
    let exec = exec_number(&node).await;
    node.signal_supervisor(Signal::SIGUSR2);
    node.seen_exec(exec).await;
    node.wait("ready", |s| s.overall == "ready").await;
    let old = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGUSR1).await;
    node.wait_back("worker.user@0", old.generation).await;
    node.said("worker.user@0 exit 42;").await;
    let gateway = node.instance("gateway@0").await;
    node.signal("gateway@0", Signal::SIGSTOP).await;
    node.wait_back("gateway@0", gateway.generation).await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    node.said("clean 7").await;
    assert!(node.leftovers().is_empty());
}

#[tokio::test]
async fn row_52_a_bad_binary_leaves_the_old_one_going_on() {
    let (node, path) = own_binary(Plan::new(""));
    node.wait("ready", |s| s.overall == "ready").await;
    let before = node.status().await;
    let exec = exec_number(&node).await;
    for (text, said) in [("#!/bin/sh\necho no such state >&2; exit 3\n", "no such state"), ("no program", "does not start")] {
        let next = path.with_extension("new");
        std::fs::write(&next, text).unwrap();
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(next, &path).unwrap();
        let output = node.wkctl(&["reexec"]).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(6) && errors.contains(said), "{output:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(node.wkctl(&["reexec"]).await.status.code(), Some(6));
    let status = node.wait("ready", |s| s.overall == "ready").await;
    assert_eq!((lives(&status), exec_number(&node).await), (lives(&before), exec));
    node.must_wkctl(&["restart", "worker.user"]).await;
}

/// A signal that comes in the middle is not lost and does not kill.
#[tokio::test]
async fn a_stop_in_the_middle_of_an_exchange_is_obeyed() {
    let (mut node, _) = own_binary(Plan::new(""));
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal_supervisor(Signal::SIGUSR2);
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    assert!(node.leftovers().is_empty());
}

#[tokio::test]
async fn an_operation_is_not_interrupted_and_a_death_in_between_is_seen() {
    let (node, _) = own_binary(Plan::new("").fault("worker.user@0", "drain=1500"));
    node.wait("ready", |s| s.overall == "ready").await;
    let (restarted, refused) = tokio::join!(node.must_wkctl(&["restart", "worker.user"]), async {
        node.wait_instance("worker.user@0", "draining", |i| i.state() == State::Draining).await;
        node.wkctl(&["reexec"]).await
    });
    assert_eq!(refused.status.code(), Some(75), "{refused:?} {restarted}");
    let gateway = node.instance("gateway@0").await;
    let (_, _) = tokio::join!(node.must_wkctl(&["reexec"]), node.signal("gateway@0", Signal::SIGKILL));
    node.wait_back("gateway@0", gateway.generation).await;
}
