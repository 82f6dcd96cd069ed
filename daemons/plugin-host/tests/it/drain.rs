//! Start to stop of one process.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wk_proto::lifecycle::v1::admin_client::AdminClient;
use wk_proto::lifecycle::v1::lifecycle_client::LifecycleClient;
use wk_proto::lifecycle::v1::{ActivateRequest, ComponentsRequest, InFlightRequest, MetricsRequest, QuiesceRequest, SetLogFilterRequest};

use crate::launch::supervised;

const DEADLINE: Duration = Duration::from_secs(20);
const SERVING: i32 = 1;

fn start(dir: &Path, extra: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_wk-plugin-host"))
        .args(["--runtime", dir.to_str().unwrap(), "--data", dir.to_str().unwrap()])
        .args(extra)
        .env_remove("WK_INSTANCE")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the exit in a blocking thread; returns code and standard error.
async fn end(mut child: Child) -> (Option<i32>, String) {
    let ended = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    });
    timeout(DEADLINE, ended).await.unwrap().unwrap()
}

#[tokio::test]
async fn ready_answers_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let (child, socket) = supervised(dir.path(), Stdio::piped());
    // The kernel queues the connection until the child accepts: no polling.
    let channel = wk_rpc::dial(&socket).await.unwrap();
    let mut lifecycle = LifecycleClient::new(channel.clone());
    timeout(DEADLINE, lifecycle.activate(ActivateRequest {})).await.unwrap().unwrap();
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: "wk.ready".into() };
    let response = health.watch(request).await.unwrap();
    let identity = response.metadata().get("wk-instance").unwrap().to_str().unwrap().to_owned();
    assert_eq!(identity, "plugin-host@0/4/00000000000000ab");
    let mut ready = response.into_inner();
    while timeout(DEADLINE, ready.message()).await.unwrap().unwrap().unwrap().status != SERVING {}

    let mut admin = AdminClient::new(channel.clone());
    let components = admin.components(ComponentsRequest {}).await.unwrap().into_inner().components;
    assert!(components.iter().any(|c| c.name == "wk.plugin-host.registry" && c.serving), "{components:?}");
    let page = admin.metrics(MetricsRequest {}).await.unwrap().into_inner().text;
    assert!(page.contains("wk_plugin_host_plugins 0") && page.contains("process_open_fds"), "{page}");
    admin.set_log_filter(SetLogFilterRequest { filter: "debug".into() }).await.unwrap();
    assert!(admin.set_log_filter(SetLogFilterRequest { filter: "wk=nolevel".into() }).await.is_err());
    assert_eq!(lifecycle.in_flight(InFlightRequest {}).await.unwrap().into_inner().unsettled, 0);
    lifecycle.quiesce(QuiesceRequest { deadline_ms: 1000 }).await.unwrap();
    assert!(health.check(HealthCheckRequest { service: "nobody".into() }).await.is_err());

    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    while let Ok(Some(answer)) = timeout(DEADLINE, ready.message()).await.unwrap() {
        assert_ne!(answer.status, SERVING, "readiness is taken back while draining");
    }
    let (code, log) = end(child).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("draining") && log.contains("stopped"), "{log}");
}

#[tokio::test]
async fn a_bad_configuration_names_component_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wukongim.yaml");
    std::fs::write(&file, "cluster:\n  addr: \"invalid-address\"\n").unwrap();
    let (code, log) = end(start(dir.path(), &["--config", file.to_str().unwrap()])).await;
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("cluster: cluster.addr = \"invalid-address\"") && log.contains("wukongim.yaml:2"), "{log}");
}

#[tokio::test]
async fn the_wrong_launch_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_wk-plugin-host")).env("WK_INSTANCE", "gateway@0/1/1").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("this program is plugin-host"));
}
