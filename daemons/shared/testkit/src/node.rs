//! A whole node: the real supervisor, the real daemons, ports of its own, a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use wk_config::Env;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;
use wk_proto::supervisor::v1::{InstanceStatus, Snapshot, StatusRequest};

use crate::PATIENCE;
use crate::http::Api;

/// Folder of the binaries: `WK_BIN_DIR`, set by `cargo xtask e2e`.
///
/// # Errors
/// The variable is not set.
pub fn bin_dir() -> anyhow::Result<PathBuf> {
    Env::process().get("WK_BIN_DIR").map(PathBuf::from).context("WK_BIN_DIR is not set: run whole-system tests through `cargo xtask e2e`")
}

/// What a test wants of its node.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// YAML lines added to the configuration, unindented top-level keys.
    pub extra: String,
}

/// A running node. Dropping it kills everything that is left.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    node_id: u16,
    supervisor: Child,
}

impl Node {
    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready; the text has the supervisor's output.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let node = Self::spawn(options)?;
        node.wait_overall("ready").await?;
        Ok(node)
    }

    /// As [`Node::start`], with variables added to the environment of the supervisor.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with_env(options: &Options, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let node = Self::spawn_with_env(options, env)?;
        node.wait_overall("ready").await?;
        Ok(node)
    }

    /// Starts a node and does not wait.
    ///
    /// # Errors
    /// The supervisor cannot be spawned.
    pub fn spawn(options: &Options) -> anyhow::Result<Self> {
        Self::spawn_with_env(options, &[])
    }

    fn spawn_with_env(options: &Options, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("wk").tempdir()?;
        let node_id = 1001;
        std::fs::write(dir.path().join("wukongim.yaml"), config_text(dir.path(), node_id, &options.extra))?;
        let supervisor = Self::spawn_supervisor(dir.path(), env)?;
        Ok(Self { dir, node_id, supervisor })
    }

    fn spawn_supervisor(dir: &Path, env: &[(&str, &str)]) -> anyhow::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("supervisor.out"))?;
        Command::new(bin_dir()?.join("wksupervisor"))
            .arg("run")
            .arg("--config")
            .arg(dir.join("wukongim.yaml"))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("spawn wksupervisor")
    }

    /// Folder of this node: configuration, data, logs, runtime.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The node's runtime folder.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.dir.path().join("r").join(self.node_id.to_string())
    }

    /// What the supervisor printed, and the ends of all logs: for messages of failing tests.
    #[must_use]
    pub fn story(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("supervisor.out")).unwrap_or_default() + &story(self.dir.path())
    }

    /// The supervisor's snapshot.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn status(&self) -> anyhow::Result<Snapshot> {
        let channel = wk_rpc::dial(self.runtime().join("control.sock")).await?;
        Ok(SupervisorClient::new(channel).status(StatusRequest::default()).await?.into_inner())
    }

    /// Waits until the snapshot satisfies `ready`.
    ///
    /// # Errors
    /// Not within [`PATIENCE`], or the supervisor ended.
    pub async fn wait_status(&self, what: &str, ready: impl Fn(&Snapshot) -> bool) -> anyhow::Result<Snapshot> {
        let wait = async {
            loop {
                if let Ok(channel) = wk_rpc::dial(self.runtime().join("control.sock")).await
                    && let Ok(stream) = SupervisorClient::new(channel).watch_status(StatusRequest::default()).await
                {
                    let mut stream = stream.into_inner();
                    while let Ok(Some(snapshot)) = stream.message().await {
                        if ready(&snapshot) {
                            return snapshot;
                        }
                    }
                }
                // The socket is not there yet: nothing to wait on but time.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| anyhow::anyhow!("node is not {what}:\n{}", self.story()))
    }

    /// Waits for the overall state `ready`, `down`, ...
    ///
    /// # Errors
    /// As [`Node::wait_status`].
    pub async fn wait_overall(&self, state: &str) -> anyhow::Result<Snapshot> {
        self.wait_status(state, |s| s.overall == state && (state != "ready" || s.admitted)).await
    }

    /// Address of a public listener: "tcp", "ws", "api" or "manager".
    ///
    /// # Errors
    /// The supervisor does not name it.
    pub async fn address(&self, kind: &str) -> anyhow::Result<String> {
        let status = self.status().await?;
        let prefix = format!("{kind} ");
        status
            .addresses
            .iter()
            .find_map(|a| a.strip_prefix(&prefix).map(str::to_owned))
            .with_context(|| format!("no {kind} among {:?}", status.addresses))
    }

    /// Address of the TCP listener for clients.
    ///
    /// # Errors
    /// The supervisor does not name it.
    pub async fn tcp(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.address("tcp").await?.parse()?)
    }

    /// `ws://host:port`.
    ///
    /// # Errors
    /// The supervisor does not name it.
    pub async fn ws(&self) -> anyhow::Result<String> {
        Ok(format!("ws://{}", self.address("ws").await?))
    }

    /// The business API.
    ///
    /// # Errors
    /// The supervisor does not name it.
    pub async fn api(&self) -> anyhow::Result<Api> {
        Api::new(format!("http://{}", self.address("api").await?))
    }

    /// The manager port: metrics.
    ///
    /// # Errors
    /// The supervisor does not name it.
    pub async fn manager(&self) -> anyhow::Result<Api> {
        Api::new(format!("http://{}", self.address("manager").await?))
    }

    /// State of one instance.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn instance(&self, name: &str) -> anyhow::Result<InstanceStatus> {
        let status = self.status().await?;
        status.instances.into_iter().find(|i| i.name == name).with_context(|| format!("no instance {name}"))
    }

    /// Sends a signal to one instance's process.
    ///
    /// # Errors
    /// It does not run.
    pub async fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let pid = self.instance(name).await?.pid;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("{signal} to {name} ({pid})"))
    }

    /// `kill -9` of one instance, then waits until its next generation is ready.
    ///
    /// # Errors
    /// It does not run, or does not come back.
    pub async fn kill_and_wait(&self, name: &str) -> anyhow::Result<()> {
        let before = self.instance(name).await?.generation;
        self.signal(name, Signal::SIGKILL).await?;
        let ready = wk_proto::node::v1::State::Ready;
        self.wait_status("back", |s| s.instances.iter().any(|i| i.name == name && i.generation > before && i.state() == ready)).await?;
        Ok(())
    }

    /// `kill -9` of every process of the node, the supervisor first, as a power cut would do.
    ///
    /// # Errors
    /// The processes cannot be found.
    pub async fn kill_all(&mut self) -> anyhow::Result<()> {
        let pids: Vec<u32> = self.status().await?.instances.iter().map(|i| i.pid).filter(|&p| p != 0).collect();
        self.supervisor.start_kill()?;
        for pid in pids {
            // It may have ended by itself.
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).ok();
        }
        self.supervisor.wait().await?;
        Ok(())
    }

    /// `kill -9` of the supervisor alone; the daemons go on.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill_supervisor(&mut self) -> anyhow::Result<()> {
        Ok(self.supervisor.kill().await?)
    }

    /// Starts the supervisor again on the same folder and waits until the node is ready.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.supervisor = Self::spawn_supervisor(self.dir.path(), &[])?;
        self.wait_overall("ready").await.map(drop)
    }

    /// Runs wkctl on this node.
    ///
    /// # Errors
    /// It cannot be run or hangs.
    pub async fn wkctl(&self, args: &[&str]) -> anyhow::Result<Output> {
        let run = Command::new(bin_dir()?.join("wkctl")).arg("--runtime").arg(self.runtime()).args(args).stdin(Stdio::null()).output();
        Ok(tokio::time::timeout(PATIENCE * 3, run).await.with_context(|| format!("wkctl {args:?} hangs"))??)
    }

    /// Runs wkctl and fails on a non-zero exit; returns its standard output.
    ///
    /// # Errors
    /// Its exit code, with everything it printed.
    pub async fn must_wkctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.wkctl(args).await?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("wkctl {args:?}: {}\n{stdout}{}\n{}", output.status, String::from_utf8_lossy(&output.stderr), self.story());
        }
        Ok(stdout)
    }

    /// Waits for the supervisor's own end and returns its exit code.
    ///
    /// # Errors
    /// It does not end within [`PATIENCE`].
    pub async fn wait_exit(&mut self) -> anyhow::Result<Option<i32>> {
        let status = tokio::time::timeout(PATIENCE * 3, self.supervisor.wait()).await.context("the supervisor does not end")??;
        Ok(status.code())
    }

    /// SIGTERM to the supervisor, then waits for its end.
    ///
    /// # Errors
    /// As [`Node::wait_exit`].
    pub async fn stop(&mut self) -> anyhow::Result<Option<i32>> {
        let pid = self.supervisor.id().context("the supervisor runs")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        self.wait_exit().await
    }

    /// Processes whose command line or environment names this node's folder: must be empty after a stop.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn leftovers(&self) -> anyhow::Result<Vec<u32>> {
        with_marker(self.dir.path())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Children live in sessions of their own: kill whatever still names our folder.
        drop(self.supervisor.start_kill());
        for pid in self.leftovers().unwrap_or_default() {
            if let Ok(pid) = i32::try_from(pid) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        if Env::process().get("WK_KEEP").is_some() {
            let kept = std::env::temp_dir().join(format!("wk-kept-{}", std::process::id()));
            drop(std::fs::rename(self.dir.path(), kept));
        }
    }
}

/// Ends of all logs below a folder.
pub(crate) fn story(dir: &Path) -> String {
    let mut story = String::new();
    for entry in walk(dir) {
        if entry.extension().is_some_and(|e| e == "log")
            && let Ok(text) = std::fs::read_to_string(&entry)
        {
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n");
            story.push_str(&format!("\n--- {}\n{tail}", entry.display()));
        }
    }
    story
}

/// Processes but our own whose command line or environment names a folder.
pub(crate) fn with_marker(dir: &Path) -> anyhow::Result<Vec<u32>> {
    let mark = dir.as_os_str().as_encoded_bytes().to_vec();
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()).filter(|&p| p != me) else { continue };
        let text = [entry.path().join("cmdline"), entry.path().join("environ")]
            .iter()
            .flat_map(|p| std::fs::read(p).unwrap_or_default())
            .collect::<Vec<u8>>();
        if text.windows(mark.len()).any(|w| w == mark) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn config_text(dir: &Path, node_id: u16, extra: &str) -> String {
    let dir = dir.display();
    format!(
        "rootDir: {dir}\n\
         dataDir: {dir}/data\n\
         addr: tcp://127.0.0.1:0\n\
         wsAddr: ws://127.0.0.1:0\n\
         httpAddr: 127.0.0.1:0\n\
         {extra}\n",
    ) + &section(extra, "manager", "  addr: 127.0.0.1:0\n")
        + &section(extra, "supervisor", &format!("  runtimeDir: {dir}/r\n"))
        + &section(extra, "cluster", &format!("  nodeId: {node_id}\n  addr: tcp://127.0.0.1:0\n"))
}

/// A section with our lines, unless `extra` has one of its own (which then must hold everything it needs).
fn section(extra: &str, name: &str, lines: &str) -> String {
    if extra.lines().any(|l| l.starts_with(&format!("{name}:"))) { String::new() } else { format!("{name}:\n{lines}") }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
