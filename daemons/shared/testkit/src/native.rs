//! A node without a supervisor: the daemons as systemd starts them, with passed listeners and a notify socket. The test is systemd.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use wk_rpc::{Row, RowState, TableWatch};
use wk_types::{Daemon, InstanceName};

use crate::PATIENCE;
use crate::http::Api;
use crate::node::{bin_dir, story, with_marker};

/// First passed descriptor.
const FIRST_FD: i32 = 3;
/// Number of the node.
const NODE_ID: u16 = 1001;

/// A node of daemons that were started one by one.
#[derive(Debug)]
pub struct Native {
    dir: tempfile::TempDir,
    /// Of the socket units: `tcp`, `ws` of the gateway; `http`, `manager` of the api.
    listeners: Vec<(Daemon, TcpListener)>,
    units: BTreeMap<InstanceName, Unit>,
}

#[derive(Debug)]
struct Unit {
    child: Child,
    notify: UnixDatagram,
}

impl Native {
    /// Folder, configuration and listeners of a node where nothing runs yet. `extra`: YAML lines, top-level keys.
    ///
    /// # Errors
    /// No free port, or the folder cannot be written.
    pub fn prepare(extra: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("wkn").tempdir()?;
        let mut listeners = Vec::new();
        for daemon in [Daemon::Gateway, Daemon::Gateway, Daemon::Api, Daemon::Api] {
            listeners.push((daemon, TcpListener::bind("127.0.0.1:0")?));
        }
        let addr = |at: usize| listeners.get(at).map_or(Ok("127.0.0.1:0".parse()?), |(_, l)| l.local_addr().map_err(anyhow::Error::from));
        let (root, tcp, ws, http, manager) = (dir.path().display(), addr(0)?, addr(1)?, addr(2)?, addr(3)?);
        let text = format!(
            "rootDir: {root}\ndataDir: {root}/data\naddr: tcp://{tcp}\nwsAddr: ws://{ws}\nhttpAddr: {http}\nmanager:\n  addr: {manager}\n\
             supervisor:\n  runtimeDir: {root}/r\ncluster:\n  nodeId: {NODE_ID}\n  addr: tcp://127.0.0.1:0\n{extra}\n"
        );
        std::fs::write(dir.path().join("wukongim.yaml"), text)?;
        Ok(Self { dir, listeners, units: BTreeMap::new() })
    }

    /// Starts every daemon of the default node in the order of the units, each after the one before said READY.
    ///
    /// # Errors
    /// One of them does not become ready.
    pub async fn start(extra: &str) -> anyhow::Result<Self> {
        let mut node = Self::prepare(extra)?;
        for daemon in Daemon::ALL {
            let name = InstanceName { daemon, slot: 0 };
            node.spawn(name)?;
            node.ready(name).await?;
        }
        Ok(node)
    }

    /// Folder of the node.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runtime folder of the node.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.dir.path().join("r").join(NODE_ID.to_string())
    }

    /// Starts a daemon as its unit would.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self, name: InstanceName) -> anyhow::Result<()> {
        let (binary, args) = program(name);
        let path = self.dir.path().join(format!("notify-{name}"));
        // Left by the life before.
        drop(std::fs::remove_file(&path));
        let notify = UnixDatagram::bind(&path)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join(format!("{name}.log")))?;
        let passed = self.listeners.iter().filter(|(daemon, _)| *daemon == name.daemon).map(|(_, l)| l.try_clone());
        let passed: Vec<TcpListener> = passed.collect::<std::io::Result<_>>()?;
        // LISTEN_PID names the process itself: only a shell between fork and exec knows it.
        let mut command = std::process::Command::new("/bin/sh");
        command.arg("-c").arg("export LISTEN_PID=$$; exec \"$@\"").arg("sh").arg(bin_dir()?.join(binary));
        command.arg("--config").arg(self.dir.path().join("wukongim.yaml")).args(args);
        command.env_clear().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000000").env("LISTEN_FDS", passed.len().to_string());
        command.env("LISTEN_FDNAMES", vec!["public"; passed.len()].join(":"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mappings = (FIRST_FD..).zip(passed).map(|(child_fd, l)| FdMapping { parent_fd: OwnedFd::from(l), child_fd }).collect();
        command.fd_mappings(mappings)?;
        let child = Command::from(command).kill_on_drop(true).spawn().with_context(|| format!("spawn {binary}"))?;
        self.units.insert(name, Unit { child, notify });
        Ok(())
    }

    fn unit(&mut self, name: InstanceName) -> anyhow::Result<&mut Unit> {
        self.units.get_mut(&name).with_context(|| format!("{name} was not started"))
    }

    /// Waits until a daemon says something that contains `words`; returns all it said until then.
    ///
    /// # Errors
    /// It does not say so in time, or ends.
    pub async fn hear(&mut self, name: InstanceName, words: &str) -> anyhow::Result<Vec<String>> {
        let unit = self.unit(name)?;
        let mut said = Vec::new();
        let listen = async {
            loop {
                let mut buffer = [0; 1024];
                tokio::select! {
                    length = unit.notify.recv(&mut buffer) => {
                        let text = String::from_utf8_lossy(buffer.get(..length?).unwrap_or_default()).into_owned();
                        let found = text.contains(words);
                        said.push(text);
                        if found {
                            return anyhow::Ok(());
                        }
                    }
                    status = unit.child.wait() => bail!("{name} ended: {}", status?),
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, listen).await.map_err(anyhow::Error::from).and_then(|r| r);
        heard.map(|()| said).map_err(|e| e.context(format!("{name} did not say {words}\n{}", story(self.dir.path()))))
    }

    /// Waits for `READY=1` of a daemon.
    ///
    /// # Errors
    /// As [`Native::hear`].
    pub async fn ready(&mut self, name: InstanceName) -> anyhow::Result<()> {
        self.hear(name, "READY=1").await.map(drop)
    }

    /// Sends a signal to a daemon.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&mut self, name: InstanceName, signal: Signal) -> anyhow::Result<()> {
        let pid = self.unit(name)?.child.id().with_context(|| format!("{name} has ended"))?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Sends a signal to a daemon and waits for its end; returns its exit code, `None` when the signal ended it.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn end(&mut self, name: InstanceName, signal: Signal) -> anyhow::Result<Option<i32>> {
        let story = story(self.dir.path());
        self.signal(name, signal)?;
        let ended = tokio::time::timeout(PATIENCE * 2, self.unit(name)?.child.wait()).await;
        let status = ended.with_context(|| format!("{name} does not end\n{story}"))??;
        self.units.remove(&name);
        self.after(name, status).await?;
        Ok(status.code())
    }

    /// What systemd runs after the end of a worker (`ExecStopPost=`), with what it says of that end.
    async fn after(&self, name: InstanceName, status: std::process::ExitStatus) -> anyhow::Result<()> {
        let Daemon::Worker(_) = name.daemon else { return Ok(()) };
        let (result, code, text) = match (status.code(), status.signal().map(Signal::try_from)) {
            (Some(0), _) => ("success", "exited", "0".to_owned()),
            (Some(code), _) => ("exit-code", "exited", code.to_string()),
            (None, Some(Ok(signal))) => {
                let dumped = status.core_dumped();
                (if dumped { "core-dump" } else { "signal" }, if dumped { "dumped" } else { "killed" }, signal.as_str().replace("SIG", ""))
            }
            (None, _) => bail!("{name} ended with {status}"),
        };
        let (binary, args) = program(name);
        let mut command = Command::new(bin_dir()?.join(binary));
        command.arg("--config").arg(self.dir.path().join("wukongim.yaml")).args(args).arg("--ended");
        command.env_clear().env("SERVICE_RESULT", result).env("EXIT_CODE", code).env("EXIT_STATUS", text);
        let ended = command.status().await?;
        anyhow::ensure!(ended.success(), "--ended of {name}: {ended}");
        Ok(())
    }

    /// `kill -9`, and the next life as systemd would start it.
    ///
    /// # Errors
    /// As [`Native::spawn`] and [`Native::ready`].
    pub async fn kill_and_restart(&mut self, name: InstanceName) -> anyhow::Result<()> {
        self.end(name, Signal::SIGKILL).await?;
        self.spawn(name)?;
        self.ready(name).await
    }

    /// Waits for the end of a daemon that nobody asked to end.
    ///
    /// # Errors
    /// It does not end within `limit`.
    pub async fn ended(&mut self, name: InstanceName, limit: Duration) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(limit, self.unit(name)?.child.wait()).await;
        let status = ended.with_context(|| format!("{name} lives"))??;
        self.units.remove(&name);
        self.after(name, status).await
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It has ended.
    pub fn stop(&mut self, name: InstanceName) -> anyhow::Result<()> {
        self.signal(name, Signal::SIGSTOP)
    }

    /// Follows the node table.
    #[must_use]
    pub fn table(&self) -> TableWatch {
        wk_rpc::table::watch(self.runtime().join(wk_rpc::table::NODE_SOCKET), "test", 0)
    }

    /// Waits until the row of an instance satisfies the condition.
    ///
    /// # Errors
    /// Not in time.
    pub async fn row(&self, name: InstanceName, what: &str, fits: impl Fn(&Row) -> bool) -> anyhow::Result<Row> {
        let mut table = self.table();
        let wait = table.wait_for(|t| t.instance(name).filter(|row| fits(row)).cloned());
        tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{name} is not {what}\n{}", story(self.dir.path())))
    }

    /// Waits until an instance is ready in the table.
    ///
    /// # Errors
    /// Not in time.
    pub async fn row_ready(&self, name: InstanceName) -> anyhow::Result<Row> {
        self.row(name, "ready", |row| row.state == RowState::Ready).await
    }

    fn address(&self, at: usize) -> anyhow::Result<SocketAddr> {
        Ok(self.listeners.get(at).context("no such listener")?.1.local_addr()?)
    }

    /// Address for clients, TCP.
    ///
    /// # Errors
    /// None: the listener is ours.
    pub fn tcp(&self) -> anyhow::Result<SocketAddr> {
        self.address(0)
    }

    /// The business API.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn api(&self) -> anyhow::Result<Api> {
        Api::new(format!("http://{}", self.address(2)?))
    }

    /// Ends of all logs, for messages of failing tests.
    #[must_use]
    pub fn story(&self) -> String {
        story(self.dir.path())
    }

    /// Processes that name this node's folder: must be empty after a stop.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn leftovers(&self) -> anyhow::Result<Vec<u32>> {
        with_marker(self.dir.path())
    }
}

/// Program of a unit, and its arguments.
fn program(name: InstanceName) -> (&'static str, Vec<String>) {
    match name.daemon {
        Daemon::Cluster => ("wk-cluster", vec![]),
        Daemon::Gateway => ("wk-gateway", vec![]),
        Daemon::Api => ("wk-api", vec![]),
        Daemon::Worker(pool) => {
            ("wk-worker", vec!["--pool".to_owned(), pool.name().to_owned(), "--slot".to_owned(), name.slot.to_string()])
        }
        Daemon::PluginHost => ("wk-plugin-host", vec![]),
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        for pid in self.leftovers().unwrap_or_default() {
            if let Ok(pid) = i32::try_from(pid) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}
