//! One supervisor with fault children, in a folder of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure here is a failure of the test")]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;
use wk_proto::supervisor::v1::{HelloRequest, InstanceStatus, Snapshot, StatusRequest};

/// Folder of the faults, below a plan: in the runtime folder, where every daemon may write.
pub(crate) const FAULTS: &str = "r/1001/faults";

/// Upper bound of every wait; a loaded machine needs a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const BINARIES: [&str; 5] = ["wk-cluster", "wk-gateway", "wk-api", "wk-worker", "wk-plugin-host"];

pub(crate) struct Node {
    dir: tempfile::TempDir,
    supervisor: Child,
}

/// Folder, configuration and binaries of a node that does not run yet.
pub(crate) struct Plan {
    dir: tempfile::TempDir,
}

impl Plan {
    pub(crate) fn new(extra: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wks").tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(dir.path().join(FAULTS)).unwrap();
        let tools = Path::new(env!("CARGO_BIN_EXE_wksupervisor")).parent().unwrap();
        let child = tools.join("examples/wk-fault-child");
        assert!(child.exists(), "{} is missing: run the tests of the whole package, which build it", child.display());
        for name in BINARIES {
            symlink(&child, bin.join(name)).unwrap();
        }
        let root = dir.path().display();
        let text = format!(
            "rootDir: {root}\naddr: tcp://127.0.0.1:0\nwsAddr: ws://127.0.0.1:0\nhttpAddr: 127.0.0.1:0\nmanager:\n  addr: 127.0.0.1:0\n{extra}\n"
        );
        std::fs::write(dir.path().join("wukongim.yaml"), text).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// With more configuration.
    pub(crate) fn configure(self, text: &str) -> Self {
        let path = self.dir.path().join("wukongim.yaml");
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{old}{text}\n")).unwrap();
        self
    }

    /// Faults of one instance.
    pub(crate) fn fault(self, instance: &str, words: &str) -> Self {
        std::fs::write(self.dir.path().join(FAULTS).join(instance), words).unwrap();
        self
    }

    /// With changes to the command that runs the supervisor.
    pub(crate) fn spawn_as(self, change: impl FnOnce(Command) -> Command) -> Node {
        let supervisor = spawn_command(self.dir.path(), change(command(self.dir.path())));
        Node { dir: self.dir, supervisor }
    }

    /// With its output on a terminal.
    pub(crate) fn spawn_on(self, terminal: std::fs::File) -> Node {
        let supervisor = command(self.dir.path()).stdout(terminal).stderr(Stdio::null()).spawn().unwrap();
        Node { dir: self.dir, supervisor }
    }

    pub(crate) fn spawn(self) -> Node {
        let supervisor = spawn(self.dir.path());
        Node { dir: self.dir, supervisor }
    }
}

fn spawn(dir: &Path) -> Child {
    spawn_command(dir, command(dir))
}

fn spawn_command(dir: &Path, mut command: Command) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("out")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Copies a program, by a process of its own: a descriptor that is open for writing here would be inherited for a moment by what another test
/// starts, and the kernel executes no file that somebody may write.
pub(crate) fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = std::process::Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(copied.success(), "cp {} {}", from.as_ref().display(), to.as_ref().display());
}

/// `wksupervisor run` for a folder.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wksupervisor"));
    command.arg("run").arg("--config").arg(dir.join("wukongim.yaml")).arg("--runtime").arg(dir.join("r"));
    command.env("WK_BIN_DIR", dir.join("bin")).env("WK_FAULTS", dir.join(FAULTS)).stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Node {
    pub(crate) async fn start() -> Self {
        let node = Plan::new("").spawn();
        node.wait("ready", |s| s.overall == "ready").await;
        node
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.dir.path().join("r/1001")
    }

    pub(crate) fn fault(&self, instance: &str, words: &str) {
        std::fs::write(self.dir.path().join(FAULTS).join(instance), words).unwrap();
    }

    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    /// Waits until the supervisor has said it: its words are written by a thread of their own, after its deeds.
    pub(crate) async fn said(&self, text: &str) {
        let look = async {
            while !self.out().contains(text) {
                // A file: nothing to wait on but time.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "{text}: not said\n{}", self.out());
    }

    /// Lines of what the children were told: (instance, generation, what).
    pub(crate) fn events(&self) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(self.dir.path().join(FAULTS).join("events")).unwrap_or_default();
        let split = |l: &str| {
            let mut parts = l.splitn(3, ' ').map(str::to_owned);
            Some((parts.next()?, parts.next()?, parts.next()?))
        };
        text.lines().filter_map(split).collect()
    }

    /// What is found in the events, as soon as it is there: children write after the supervisor has gone on.
    pub(crate) async fn seen<T>(&self, what: &str, find: impl Fn(&[(String, String, String)]) -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = find(&self.events()) {
                    return found;
                }
                // A file: nothing to wait on but time.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(found) => found,
            Err(_) => panic!("{what}: {:?}", self.events()),
        }
    }

    /// Position of the first such event.
    pub(crate) async fn at(&self, instance: &str, what: &str) -> usize {
        self.seen(&format!("{instance} {what}"), |events| events.iter().position(|(i, _, w)| i == instance && w == what)).await
    }

    pub(crate) async fn status(&self) -> Snapshot {
        let channel = wk_rpc::dial(self.runtime().join("control.sock")).await.unwrap();
        SupervisorClient::new(channel).status(StatusRequest::default()).await.unwrap().into_inner()
    }

    pub(crate) async fn instance(&self, name: &str) -> InstanceStatus {
        self.status().await.instances.into_iter().find(|i| i.name == name).unwrap()
    }

    /// Waits until a snapshot satisfies the condition.
    pub(crate) async fn wait(&self, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let watch = async {
            loop {
                if let Ok(channel) = wk_rpc::dial(self.runtime().join("control.sock")).await
                    && let Ok(stream) = SupervisorClient::new(channel).watch_status(StatusRequest::default()).await
                {
                    let mut stream = stream.into_inner();
                    while let Ok(Some(snapshot)) = stream.message().await {
                        if condition(&snapshot) {
                            return snapshot;
                        }
                    }
                }
                // There is no socket yet: nothing to wait on but time.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, watch).await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("not {what}:\n{}\n{:?}", self.out(), self.events()),
        }
    }

    pub(crate) async fn wait_instance(&self, name: &str, what: &str, condition: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let found = |s: &Snapshot| s.instances.iter().find(|i| i.name == name).filter(|i| condition(i)).cloned();
        let snapshot = self.wait(&format!("{name} {what}"), |s| found(s).is_some()).await;
        found(&snapshot).unwrap()
    }

    /// Waits for the next generation of an instance to be ready.
    pub(crate) async fn wait_back(&self, name: &str, after: u64) -> InstanceStatus {
        self.wait_instance(name, "back", |i| i.generation > after && i.state() == State::Ready).await
    }

    pub(crate) fn signal_supervisor(&self, signal: Signal) {
        let pid = self.supervisor.id().expect("the supervisor runs");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub(crate) async fn signal(&self, name: &str, signal: Signal) {
        let pid = self.instance(name).await.pid;
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.supervisor.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("the supervisor does not end:\n{}", self.out()),
        }
    }

    /// `kill -9` of the supervisor alone, then a new one on the same folder.
    pub(crate) async fn replace_killed_supervisor(&mut self) {
        self.supervisor.kill().await.unwrap();
        self.supervisor = spawn(self.dir.path());
    }

    /// The only child of what was spawned: the supervisor below a launcher.
    pub(crate) async fn supervisor_child(&self) -> u32 {
        let pid = self.supervisor.id().expect("the launcher runs");
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        list.trim().parse().unwrap()
    }

    /// Waits until a process has ended; who reaps it does not matter.
    pub(crate) async fn wait_gone(&self, pid: u32) {
        let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
        let look = async {
            while !gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "{pid} lives:\n{}", self.out());
    }

    /// Waits until another binary has taken the place of the one with this number.
    pub(crate) async fn seen_exec(&self, before: u64) {
        let look = async {
            loop {
                if let Ok(channel) = wk_rpc::dial(self.runtime().join("control.sock")).await
                    && let Ok(hello) = SupervisorClient::new(channel).hello(HelloRequest::default()).await
                    && hello.into_inner().exec != before
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "not exchanged:\n{}", self.out());
    }

    /// `kill -9` of the supervisor alone.
    pub(crate) async fn kill_supervisor(&mut self) {
        self.supervisor.kill().await.unwrap();
    }

    pub(crate) fn spawn_supervisor(&mut self) {
        self.supervisor = spawn(self.dir.path());
    }

    pub(crate) async fn wkctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wkctl"));
        let run = command.arg("--runtime").arg(self.runtime()).args(args).stdin(Stdio::null()).output();
        tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap()
    }

    pub(crate) async fn must_wkctl(&self, args: &[&str]) -> String {
        let output = self.wkctl(args).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "wkctl {args:?}: {}\n{text}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.out()
        );
        text
    }

    /// Output of a command that must end with `code`.
    pub(crate) async fn must_wkctl_code(&self, args: &[&str], code: i32) -> String {
        let output = self.wkctl(args).await;
        assert_eq!(output.status.code(), Some(code), "wkctl {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Processes that name our folder in their command line or environment, other than the supervisor.
    pub(crate) fn leftovers(&self) -> BTreeMap<u32, String> {
        leftovers(self.dir.path()).unwrap().into_iter().filter(|(pid, _)| Some(*pid) != self.supervisor.id()).collect()
    }
}

pub(crate) fn leftovers(dir: &Path) -> anyhow::Result<BTreeMap<u32, String>> {
    let mark = dir.as_os_str().as_encoded_bytes();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if pid != std::process::id() && environ.windows(mark.len()).any(|w| w == mark) {
            found.insert(pid, std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned());
        }
    }
    Ok(found)
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.supervisor.start_kill());
        for pid in leftovers(self.dir.path()).unwrap_or_default().into_keys() {
            if let Ok(pid) = i32::try_from(pid) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

/// Runs a supervisor that must end by itself.
pub(crate) async fn run_to_end(plan: &Plan) -> anyhow::Result<(i32, String)> {
    let output = tokio::time::timeout(PATIENCE, command(plan.path()).output()).await.context("the supervisor does not end")??;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let left = leftovers(plan.path())?;
    if !left.is_empty() {
        bail!("left behind: {left:?}\n{text}");
    }
    Ok((output.status.code().unwrap_or(-1), text))
}

/// Changes the configuration file of a node.
pub(crate) fn edit(node: &Node, from: &str, to: &str) {
    let path = node.dir().join("wukongim.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}
