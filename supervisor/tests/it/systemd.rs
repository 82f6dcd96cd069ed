//! The supervisor under a service manager: what it says, what it takes over, what is reaped after it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure here is a failure of the test")]

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::node::{Node, Plan, edit};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Collects messages until one contains `wanted`.
fn hear(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let (until, mut heard) = (Instant::now() + PATIENCE, Vec::new());
    while Instant::now() < until {
        let mut buffer = [0; 1024];
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let found = text.contains(wanted);
        heard.push(text);
        if found {
            return heard;
        }
    }
    panic!("{wanted:?} was not said; heard {heard:?}")
}

#[tokio::test]
async fn systemd_hears_of_readiness_status_life_and_stop() {
    let plan = Plan::new("");
    let path = plan.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut node = plan.spawn_as(|mut command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
        command
    });
    let heard = hear(&systemd, "READY=1");
    for said in ["FDNAME=l.tcp", "FDNAME=p.cluster@0", "STATUS=", "EXTEND_TIMEOUT_USEC=", "WATCHDOG=1"] {
        assert!(heard.iter().any(|m| m.contains(said)), "{said}: {heard:?}");
    }
    node.wait("ready", |s| s.overall == "ready").await;
    hear(&systemd, "STATUS=7/7 ready");
    let began = Instant::now();
    for _ in 0..3 {
        hear(&systemd, "WATCHDOG=1");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "a ping every 200 ms on an idle machine");
    node.signal_supervisor(Signal::SIGTERM);
    let heard = hear(&systemd, "FDSTOREREMOVE=1\nFDNAME=l.tcp");
    assert!(heard.iter().any(|m| m == "STOPPING=1\n"), "{heard:?}");
    assert!(node.exit().await.success());
}

/// Catalogue row 71: what began ends, whatever came out, and whoever asked.
#[tokio::test]
async fn row_71_a_reload_is_told_as_a_pair() {
    let plan = Plan::new("connIdleTime: 90s");
    let path = plan.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let node = plan.spawn_as(|mut command| {
        command.env("NOTIFY_SOCKET", &path);
        command
    });
    hear(&systemd, "READY=1");
    let pair = || {
        let heard = hear(&systemd, "RELOADING=1");
        assert!(heard.iter().all(|m| !m.contains("READY=1")), "{heard:?}");
        hear(&systemd, "READY=1");
    };
    edit(&node, "90s", "ninety");
    node.signal_supervisor(Signal::SIGHUP);
    pair();
    node.said("reload refused, the old configuration holds").await;
    edit(&node, "ninety", "80s");
    node.must_wkctl(&["reload", "--dry-run"]).await;
    node.must_wkctl(&["reload"]).await;
    pair();
    node.signal_supervisor(Signal::SIGTERM);
    let heard = hear(&systemd, "STOPPING=1");
    assert!(heard.iter().all(|m| !m.contains("RELOADING")), "a dry run is no reload: {heard:?}");
}

/// Its queue is full for the whole start: readiness is repeated until there is room.
#[tokio::test]
async fn a_busy_systemd_hears_of_readiness_later() {
    let plan = Plan::new("");
    let path = plan.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"filling", &path).is_ok() {}
    let node = plan.spawn_as(|mut command| {
        command.env("NOTIFY_SOCKET", &path);
        command
    });
    node.wait("ready", |s| s.overall == "ready").await;
    let heard = hear(&systemd, "READY=1");
    assert_eq!(heard.iter().filter(|m| m.contains("FDSTORE=1") && m.contains("FDNAME=p.")).count(), 7, "{heard:?}");
}

#[tokio::test]
async fn a_listener_of_a_socket_unit_is_used() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = passed.local_addr().unwrap();
    let node = Plan::new("").spawn_as(|direct| {
        // The variable must name the process itself.
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg("export LISTEN_PID=$$; exec \"$@\"").arg("sh").arg(direct.as_std().get_program());
        command.args(direct.as_std().get_args()).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "tcp");
        command.envs(direct.as_std().get_envs().filter_map(|(k, v)| Some((k, v?)))).stdin(Stdio::null());
        command.fd_mappings(vec![FdMapping { parent_fd: OwnedFd::from(passed), child_fd: 3 }]).unwrap();
        Command::from(command)
    });
    let status = node.wait("ready", |s| s.overall == "ready").await;
    assert!(status.addresses.contains(&format!("tcp {addr}")), "{:?}", status.addresses);
}

/// Nothing is left over after a stop, and what will be adopted is left alone.
#[tokio::test]
async fn reap_ends_what_is_left_only_after_a_real_end() {
    let mut node = Node::start().await;
    node.signal_supervisor(Signal::SIGKILL);
    node.exit().await;
    assert!(reap(&node, "signal").await.status.success());
    assert!(!node.leftovers().is_empty(), "left to the next supervisor");
    let output = reap(&node, "success").await;
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("cluster@0"), "{output:?}");
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

async fn reap(node: &Node, result: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wksupervisor"));
    command.arg("reap").arg("--config").arg(node.dir().join("wukongim.yaml")).arg("--runtime").arg(node.dir().join("r"));
    let run = command.env("SERVICE_RESULT", result).stdin(Stdio::null()).output();
    tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap()
}
