//! Starts the binary by the launch contract and asks it over its sockets.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tempfile::TempDir;
use tonic::transport::Channel;
use wk_config::Config;
use wk_proto::lifecycle::v1 as pb;
use wk_proto::lifecycle::v1::lifecycle_client::LifecycleClient;
use wk_testkit::PATIENCE;
use wk_testkit::http::Api;

use crate::neighbours::Neighbours;

/// One api process with its neighbours.
pub(crate) struct Node {
    pub(crate) neighbours: Neighbours,
    pub(crate) http: Api,
    pub(crate) manager: Api,
    child: Child,
    lifecycle: LifecycleClient<Channel>,
    _listeners: [TcpListener; 2],
    _dir: TempDir,
}

impl Node {
    /// Starts neighbours and process; activated, not admitted.
    pub(crate) async fn start(webhook: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let neighbours = Neighbours::start(dir.path());
        Self::start_beside(dir, neighbours, webhook).await
    }

    async fn start_beside(dir: TempDir, neighbours: Neighbours, webhook: &str) -> Self {
        let mut config = Config::default();
        config.external.tcp_addr = "1.2.3.4:5100".into();
        config.webhook.http_addr = webhook.into();
        config.webhook.msg_notify_event_push_interval = Duration::from_millis(20);
        let sealed = memfd_create("config", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&sealed, config.to_json().as_bytes()).unwrap();
        fcntl_add_seals(&sealed, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
        let unix = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (http, manager) = (tcp(), tcp());
        let url = |listener: &TcpListener| -> SocketAddr { listener.local_addr().unwrap() };
        let (http_addr, manager_addr) = (url(&http), url(&manager));
        let fds = [
            sealed,
            unix("api-health.sock").into(),
            unix("api-link.sock").into(),
            http.try_clone().unwrap().into(),
            manager.try_clone().unwrap().into(),
        ];
        let mappings = fds.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wk-api"));
        command
            .env_clear()
            .env("WK_INSTANCE", "api@0/1/00000000000000aa")
            .env("WK_LISTEN_FDS", "5")
            .env("WK_LISTEN_FDNAMES", "config:health:link:http:manager")
            .env("WK_RUNTIME", dir.path())
            .env("WK_SLOTS", "0")
            .env("WK_LOG", "warn,wk_api=info")
            .fd_mappings(mappings)
            .unwrap();
        let child = command.spawn().unwrap();
        let lifecycle = LifecycleClient::new(wk_rpc::dial_lazy(dir.path().join("api-health.sock")));
        let mut node = Self {
            neighbours,
            http: Api::new(format!("http://{http_addr}")).unwrap(),
            manager: Api::new(format!("http://{manager_addr}")).unwrap(),
            child,
            lifecycle,
            _listeners: [http, manager],
            _dir: dir,
        };
        node.lifecycle.activate(pb::ActivateRequest {}).await.unwrap();
        node
    }

    pub(crate) async fn admit(&mut self) {
        // The manager port opens with readiness; its listener queues until then.
        assert_eq!(self.manager.get("/readyz").await.unwrap().0, 503);
        self.lifecycle.admit(pb::AdmitRequest {}).await.unwrap();
        assert_eq!(self.manager.get("/readyz").await.unwrap().0, 200);
    }

    pub(crate) async fn quiesce(&mut self) {
        self.lifecycle.quiesce(pb::QuiesceRequest { deadline_ms: 5000 }).await.unwrap();
    }

    pub(crate) async fn stop_accept(&mut self) {
        self.lifecycle.stop_accept(pb::StopAcceptRequest {}).await.unwrap();
    }

    pub(crate) async fn in_flight(&mut self) -> pb::InFlightReply {
        self.lifecycle.in_flight(pb::InFlightRequest {}).await.unwrap().into_inner()
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Exit code, within the patience of tests.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "the process does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends this process the hard way and starts the next generation over the same neighbours.
    pub(crate) async fn kill_and_restart(mut self, webhook: &str) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let Self { neighbours, .. } = &self;
        let neighbours = neighbours.clone();
        let dir = tempfile::tempdir().unwrap();
        neighbours.serve_in(dir.path());
        Self::start_beside(dir, neighbours, webhook).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until `ready` gives a value, within the patience of tests.
pub(crate) async fn eventually<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "the condition is never met");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
