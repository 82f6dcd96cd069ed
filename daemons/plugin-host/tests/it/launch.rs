//! The launch contract: named descriptors, sealed configuration, nonce.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wk_config::Config;
use wk_proto::lifecycle::v1::ActivateRequest;
use wk_proto::lifecycle::v1::lifecycle_client::LifecycleClient;

const DEADLINE: Duration = Duration::from_secs(20);

fn sealed_config() -> OwnedFd {
    let mut file = File::from(memfd_create("config", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap());
    file.write_all(Config::default().to_json().as_bytes()).unwrap();
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    file.into()
}

/// The process as the supervisor starts it, and its health socket.
pub(crate) fn supervised(dir: &Path, errors: Stdio) -> (Child, PathBuf) {
    let (health, link) = (dir.join("h.sock"), dir.join("l.sock"));
    let fds: Vec<OwnedFd> = vec![sealed_config(), UnixListener::bind(&health).unwrap().into(), UnixListener::bind(&link).unwrap().into()];
    let mappings = (3..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
    let child = Command::new(env!("CARGO_BIN_EXE_wk-plugin-host"))
        .fd_mappings(mappings)
        .unwrap()
        .env("WK_INSTANCE", "plugin-host@0/4/00000000000000ab")
        .env("WK_LISTEN_FDS", "3")
        .env("WK_LISTEN_FDNAMES", "config:health:link")
        .env("WK_RUNTIME", dir)
        .env("WK_SLOTS", "1")
        .stderr(errors)
        .spawn()
        .unwrap();
    (child, health)
}

#[tokio::test]
async fn a_supervised_launch_waits_for_activation() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, health) = supervised(dir.path(), Stdio::null());
    // The kernel queues the connection until the child accepts: no polling.
    let channel = wk_rpc::dial(&health).await.unwrap();
    let mut client = HealthClient::new(channel.clone());
    let response = timeout(DEADLINE, client.watch(HealthCheckRequest { service: "wk.ready".into() })).await.unwrap().unwrap();
    assert_eq!(response.metadata().get("wk-instance").unwrap(), "plugin-host@0/4/00000000000000ab");
    let mut ready = response.into_inner();
    assert_eq!(ready.message().await.unwrap().unwrap().status, 2, "not serving before activation");
    LifecycleClient::new(channel).activate(ActivateRequest {}).await.unwrap();
    assert_eq!(timeout(DEADLINE, ready.message()).await.unwrap().unwrap().unwrap().status, 1);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert_eq!(timeout(DEADLINE, ended).await.unwrap().unwrap().code(), Some(0));
}

/// Its code is one that nobody restarts; so it is for the other daemons, which read their command line with the same helper.
#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let code = |word: &str| Command::new(env!("CARGO_BIN_EXE_wk-plugin-host")).arg(word).output().unwrap().status.code();
    assert_eq!((code("--nonsense"), code("--version")), (Some(64), Some(0)));
}
