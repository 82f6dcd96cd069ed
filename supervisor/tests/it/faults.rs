//! Rows of the fault catalogue that have no better place, against real processes.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wk_proto::node::v1::node_table_client::NodeTableClient;
use wk_proto::node::v1::{StallReport, State, WatchRequest};

use crate::node::{FAULTS, Node, Plan};

/// Longer than its timeout, but at work: the start waits for it.
#[tokio::test]
async fn row_10_a_start_that_works_outlives_its_timeout() {
    let node = Plan::new("supervisor:\n  startTimeout: 2s").fault("api@0", "busy=4000").spawn();
    let api = node.wait_instance("api@0", "late", |i| i.why.contains("still working")).await;
    assert_eq!(api.state(), State::Starting);
    node.wait("ready", |s| s.overall == "ready").await;
    assert_eq!(node.instance("api@0").await.generation, 1);
}

/// Input and output go on, the executor stands: found by the neighbour's report, dead, replaced.
#[tokio::test]
async fn rows_12_and_13_a_blocked_executor_is_a_hang() {
    let node = Plan::new("").fault("worker.user@0", "hang-on-usr1 once").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let old = node.instance("worker.user@0").await;
    let channel = wk_rpc::dial(node.runtime().join("node.sock")).await.unwrap();
    let mut client = NodeTableClient::new(channel);
    let table = client.watch(WatchRequest { instance: "test".into() }).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let incarnation = table.instances.iter().find(|i| i.name == "worker.user@0").unwrap().incarnation;
    node.signal("worker.user@0", Signal::SIGUSR1).await;
    node.at("worker.user@0", "hangs").await;
    let began = Instant::now();
    let report = StallReport { reporter: "test".into(), instance: "worker.user@0".into(), incarnation, stalled_ms: 2000 };
    client.report_stall(report).await.unwrap();
    node.wait_back("worker.user@0", old.generation).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    node.said("hang: no answer to a probe, ended by signal 6 (ABRT)").await;
    let events = node.must_wkctl(&["events"]).await;
    assert!(events.contains("ended by signal 6 (ABRT)"), "{events}");
}

#[tokio::test]
async fn row_18_a_daemon_that_closes_its_health_socket_is_a_hang() {
    let node = Plan::new("").fault("worker.push@0", "health-closes=800 once").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.wait_back("worker.push@0", 1).await;
    node.said("hang: health connection lost").await;
}

/// Nobody reads for a daemon: it writes to its file, whatever the supervisor does.
#[tokio::test]
async fn row_25_a_daemon_writes_while_the_supervisor_stands_still() {
    let node = Node::start().await;
    node.fault("worker.user@0", "flood=16");
    let old = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.seen("next", |events| events.iter().find(|(i, g, _)| i == "worker.user@0" && g == "2").cloned()).await;
    node.signal_supervisor(Signal::SIGSTOP);
    let log = node.dir().join("logs/worker.user@0.log");
    let look = async {
        while std::fs::metadata(&log).map_or(0, |m| m.len()) < 16 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), look).await;
    node.signal_supervisor(Signal::SIGCONT);
    written.expect("16 MiB in its log");
    node.wait_back("worker.user@0", old.generation).await;
}

/// A log over its bound gives its head to the old file while its daemon goes on writing into it; readers and `why` lose nothing.
#[tokio::test]
async fn a_log_is_bounded_while_its_daemon_runs() {
    let node = Plan::new("supervisor:\n  logBytes: 64KB").fault("worker.user@0", "flood=1 exit-on-usr1=78").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let log = node.dir().join("logs/worker.user@0.log");
    let old = node.dir().join("logs/worker.user@0.log.1");
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let look = async {
        while size(&old) == 0 || size(&log) > 64 << 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("cut within a look");
    assert!(size(&old) <= 64 << 10, "the old file is bounded too: {}", size(&old));
    let before = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGUSR1).await;
    node.wait("given up", |s| s.instances.iter().any(|i| i.name == "worker.user@0" && i.pid == 0)).await;
    let why = node.wkctl(&["why", "worker.user@0"]).await;
    let text = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(text.contains("the last word: 78"), "generation {}: {text}", before.generation);
}

#[tokio::test]
async fn row_26_output_that_nobody_reads_holds_up_nothing() {
    let (reader, full) = std::io::pipe().unwrap();
    let size = usize::try_from(fcntl(&full, FcntlArg::F_SETPIPE_SZ(4_096)).unwrap()).unwrap();
    let mut full = std::fs::File::from(std::os::fd::OwnedFd::from(full));
    full.write_all(&vec![b'.'; size]).unwrap();
    let node = Plan::new("").spawn_on(full);
    node.wait("ready", |s| s.overall == "ready").await;
    let old = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.wait_back("worker.user@0", old.generation).await;
    drop(reader);
}

#[tokio::test]
async fn row_27_without_a_log_folder_a_daemon_runs_all_the_same() {
    let node = Node::start().await;
    let logs = node.dir().join("logs");
    std::fs::remove_dir_all(&logs).unwrap();
    std::fs::write(&logs, "no folder").unwrap();
    let old = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.wait_back("worker.user@0", old.generation).await;
}

/// As the first process of a container: handlers for TERM, orphans reaped, exit when all is down.
#[tokio::test]
async fn row_39_as_process_1_it_reaps_and_ends() {
    let unshare = |direct: tokio::process::Command| {
        let mut command = tokio::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(direct.as_std().get_program());
        command.args(direct.as_std().get_args());
        command.envs(direct.as_std().get_envs().filter_map(|(k, v)| Some((k, v?)))).kill_on_drop(true);
        command
    };
    let possible = std::process::Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).status();
    if !possible.is_ok_and(|s| s.success()) {
        println!("skipped: no process namespace can be made");
        return;
    }
    let mut node = Plan::new("").fault("api@0", "orphan").spawn_as(unshare);
    let status = node.wait("ready", |s| s.overall == "ready").await;
    assert_eq!(status.supervisor_pid, 1);
    let init = node.supervisor_child().await;
    let strangers = || {
        let list = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
        list.split_whitespace().count().saturating_sub(7)
    };
    let look = async {
        while strangers() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.expect("orphans are reaped");
    kill(Pid::from_raw(i32::try_from(init).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    node.said("clean 7").await;
}

#[tokio::test]
async fn row_49_a_stale_socket_is_no_supervisor() {
    let plan = Plan::new("");
    let runtime = plan.path().join("r/1001");
    std::fs::create_dir_all(&runtime).unwrap();
    drop(std::os::unix::net::UnixListener::bind(runtime.join("control.sock")).unwrap());
    let node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
}

#[tokio::test]
async fn row_51_the_control_socket_is_for_us_and_our_group() {
    let node = Node::start().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node.runtime()) & 0o022, 0, "nobody else puts a socket there");
    assert_eq!(mode(&node.runtime().join("control.sock")) & 0o117, 0, "not for others");
}

/// A cleaner of temporary files took everything: sockets and record come back, daemons and their links stay.
#[tokio::test]
async fn row_50_a_cleaned_runtime_folder_is_made_again() {
    // What the fault children are told in the cleaned folder is made again by us, and is not what they were fenced with.
    let mut node = Plan::new("supervisor: {sandbox: false}").spawn();
    let before = node.wait("ready", |s| s.overall == "ready").await;
    std::fs::remove_dir_all(node.runtime()).unwrap();
    std::fs::create_dir_all(node.dir().join(FAULTS)).unwrap();
    let status = node.wait("reachable again", |s| s.overall == "ready").await;
    let pids = |s: &wk_proto::supervisor::v1::Snapshot| s.instances.iter().map(|i| (i.name.clone(), i.pid)).collect::<Vec<_>>();
    assert_eq!((pids(&status), status.supervisor_pid), (pids(&before), before.supervisor_pid));
    node.said("the runtime folder was cleaned").await;
    // Each socket is looked after on its own.
    let back = async {
        while wk_rpc::dial(node.runtime().join("node.sock")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("the socket of the daemons is made again");
    let old = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.wait_back("worker.user@0", old.generation).await;
    assert!(node.runtime().join("state").exists(), "the record is there for a successor");
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
}
