//! A node of its own: ports chosen by the kernel, folder given, its start timed by the supervisor's own READY.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::proc::Pids;
use crate::steps::spinner;

/// From the start of the supervisor to a ready node, and for answers over HTTP.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often the end of a supervisor that does not get ready is looked for.
const POLL: Duration = Duration::from_millis(200);

/// A running node. It is stopped with [`BenchNode::stop`]; a drop kills the supervisor, which ends everything.
#[derive(Debug)]
pub(super) struct BenchNode {
    bin: PathBuf,
    runtime: PathBuf,
    supervisor: Child,
    /// From spawn to READY.
    pub(super) start: Duration,
    status: Value,
}

impl BenchNode {
    /// Starts a node on the data in `dir`, which may be empty; returns when it is ready.
    pub(super) fn start(bin: &Path, dir: &Path, extra: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        // Socket paths are short: the runtime folder is not below the target folder.
        let base = std::env::temp_dir().join(format!("wk-bench-{}", std::process::id()));
        fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
        let file = dir.join("wukongim.yaml");
        fs::write(&file, configuration(dir, extra)).with_context(|| format!("write {}", file.display()))?;
        let told = base.join("notify");
        fs::remove_file(&told).ok();
        let ready = UnixDatagram::bind(&told).context("bind the readiness socket")?;
        ready.set_read_timeout(Some(POLL))?;
        let log = File::create(dir.join("supervisor.out"))?;
        let mut command = Command::new(bin.join("wksupervisor"));
        // Measured is what was built for it, whatever the caller runs elsewhere.
        command.args(["run", "--config"]).arg(&file).arg("--runtime").arg(&base).env("NOTIFY_SOCKET", &told).env("WK_BIN_DIR", bin);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let supervisor = command.spawn().context("start wksupervisor")?;
        let runtime = base.join("1001");
        let mut node = Self { bin: bin.to_owned(), runtime, supervisor, start: Duration::ZERO, status: Value::Null };
        let bar = spinner("start a node");
        let outcome = node.wait_ready(&ready, began).and_then(|()| node.ask());
        bar.finish_and_clear();
        match outcome {
            Ok(status) => node.status = status,
            Err(err) => {
                let story = fs::read_to_string(dir.join("supervisor.out")).unwrap_or_default();
                bail!("{err:#}\n{story}");
            }
        }
        Ok(node)
    }

    fn wait_ready(&mut self, ready: &UnixDatagram, began: Instant) -> anyhow::Result<()> {
        let mut text = [0; 1024];
        while began.elapsed() < READY_WITHIN {
            // An error is the timeout: then the supervisor is looked at.
            let told = ready.recv(&mut text).unwrap_or(0);
            if text.get(..told).is_some_and(|t| t.split(|b| *b == b'\n').any(|line| line == b"READY=1")) {
                self.start = began.elapsed();
                return Ok(());
            }
            if let Some(status) = self.supervisor.try_wait()? {
                bail!("wksupervisor ended with {status}");
            }
        }
        bail!("the node is not ready after {} s", READY_WITHIN.as_secs())
    }

    fn wkctl(&self) -> Command {
        let mut command = Command::new(self.bin.join("wkctl"));
        command.arg("--runtime").arg(&self.runtime);
        command
    }

    fn ask(&self) -> anyhow::Result<Value> {
        let output = self.wkctl().args(["status", "-o", "json"]).output().context("run wkctl")?;
        serde_json::from_slice(&output.stdout).context("read the status")
    }

    /// Where the node listens for `kind`: `tcp`, `ws`, `api`.
    pub(super) fn address(&self, kind: &str) -> anyhow::Result<String> {
        address(&self.status, kind).with_context(|| format!("the node names no {kind} address"))
    }

    /// All processes of the node.
    pub(super) fn pids(&self) -> Pids {
        pids(&self.status)
    }

    /// `POST /channel`: a group with members `<prefix>0..`.
    pub(super) fn make_group(&self, prefix: &str, members: usize) -> anyhow::Result<()> {
        let uids: Vec<String> = (0..members).map(|n| format!("{prefix}{n}")).collect();
        let body = json!({"channel_id": prefix, "channel_type": 2, "subscribers": uids}).to_string();
        let api = self.address("api")?;
        let mut stream = TcpStream::connect(&api).with_context(|| format!("connect to {api}"))?;
        stream.set_read_timeout(Some(READY_WITHIN))?;
        let head = format!("POST /channel HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        write!(stream, "{head}Connection: close\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "POST /channel: {}", answer.lines().next().unwrap_or("no answer"));
        Ok(())
    }

    /// Stops the node and waits for its end.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let bar = spinner("stop the node");
        let asked = self.wkctl().args(["stop", "--supervisor"]).stdout(Stdio::null()).status();
        let clean = asked.is_ok_and(|s| s.success());
        if !clean {
            self.supervisor.kill().ok();
        }
        self.supervisor.wait().context("wait for wksupervisor")?;
        bar.finish_and_clear();
        ensure!(clean, "the node did not stop cleanly");
        Ok(())
    }
}

impl Drop for BenchNode {
    fn drop(&mut self) {
        if matches!(self.supervisor.try_wait(), Ok(None)) {
            self.supervisor.kill().ok();
            self.supervisor.wait().ok();
        }
    }
}

fn configuration(dir: &Path, extra: &str) -> String {
    let data = dir.display();
    // A mapping may stand once only: an extra `cluster:` replaces ours.
    let cluster = if extra.contains("cluster:") { "" } else { "cluster: {addr: \"127.0.0.1:0\"}\n" };
    format!(
        "mode: release\nrootDir: {data}\ndataDir: {data}/data\naddr: 127.0.0.1:0\nwsAddr: 127.0.0.1:0\nhttpAddr: 127.0.0.1:0\n\
         manager: {{addr: \"127.0.0.1:0\"}}\n{cluster}{extra}\n"
    )
}

/// Address of a kind in the status: "tcp 127.0.0.1:5100".
fn address(status: &Value, kind: &str) -> Option<String> {
    let all = status.get("addresses")?.as_array()?.iter().filter_map(Value::as_str);
    all.filter_map(|a| a.split_once(' ')).find(|(k, _)| *k == kind).map(|(_, a)| a.trim().to_owned())
}

/// Processes to charge, by instance.
fn pids(status: &Value) -> Pids {
    let instances = status.get("instances").and_then(Value::as_array).cloned().unwrap_or_default();
    let pid = |i: &Value| Some((i.get("name")?.as_str()?.to_owned(), i.get("pid")?.as_u64().filter(|p| *p != 0)?));
    let mut pids: Pids = instances.iter().filter_map(pid).collect();
    pids.extend(status.get("supervisor_pid").and_then(Value::as_u64).map(|p| ("supervisor".to_owned(), p)));
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_status() {
        let status = json!({"addresses": ["tcp 127.0.0.1:1", "api 127.0.0.1:2"], "supervisor_pid": 5,
            "instances": [{"name": "cluster@0", "pid": 7}, {"name": "api@0", "pid": 0}]});
        assert_eq!(address(&status, "api").as_deref(), Some("127.0.0.1:2"));
        assert_eq!(pids(&status).into_iter().collect::<Vec<_>>(), [("cluster@0".to_owned(), 7), ("supervisor".to_owned(), 5)]);
    }

    #[test]
    fn an_extra_cluster_replaces_ours() {
        let dir = Path::new("/d");
        assert_eq!(configuration(dir, "").matches("cluster:").count(), 1);
        assert_eq!(configuration(dir, "cluster: {slotGroupCount: 4}").matches("cluster:").count(), 1);
    }
}
