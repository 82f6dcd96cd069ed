//! Measures a whole node: starts one on the release binaries, runs the load generator several times, prints medians as one JSON line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::build::programs;
use crate::steps::{say, spinner};
use crate::workspace::root;

/// From the start of the supervisor to a ready node.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_parser = ["send", "echo", "fanout", "idle"])]
    what: String,
    /// Runs; the line has medians and the spread of the rate
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Connections
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Messages under way per sending connection
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Plain payload. Unit: bytes
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Measured time of a run. Unit: seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Folder for the node's data; default: a new one below the target folder
    #[arg(long)]
    data: Option<PathBuf>,
    /// Lines added to the node's configuration
    #[arg(long, default_value = "")]
    config: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let root = root();
    let bin = programs(&root, true, &["wk-load"])?;
    let dir = options.data.clone().unwrap_or_else(|| bin.join(format!("bench-{}", std::process::id())));
    let mut node = BenchNode::start(&bin, &dir, &options.config)?;
    let outcome = measure(options, &bin, &node);
    node.stop()?;
    let line = summary(options, &outcome?)?;
    if options.data.is_none() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn measure(options: &Options, bin: &Path, node: &BenchNode) -> anyhow::Result<Vec<Value>> {
    let status = node.status()?;
    let addr = address(&status, "tcp").context("the node names no TCP address")?;
    let mut runs = Vec::new();
    for run in 0..options.runs {
        let prefix = format!("b{run}x");
        if options.what == "fanout" {
            let api = address(&status, "api").context("the node names no API address")?;
            make_group(&api, &prefix, options.connections)?;
        }
        let bar = spinner(&format!("{} run {} of {}", options.what, run + 1, options.runs));
        let mut load = Command::new(bin.join("wk-load"));
        load.arg(&options.what).args(["--addr", &addr, "--prefix", &prefix, "--group", &prefix]);
        load.args(["--connections", &options.connections.to_string(), "--in-flight", &options.in_flight.to_string()]);
        load.args(["--payload", &options.payload.to_string(), "--seconds", &options.seconds.to_string()]);
        for (name, pid) in pids(&status) {
            load.args(["--pid", &format!("{name}={pid}")]);
        }
        let output = load.stderr(Stdio::inherit()).output().context("run wk-load")?;
        bar.finish_and_clear();
        ensure!(output.status.success(), "wk-load ended with {}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout).context("read the report of wk-load")?;
        say(&format!("  run {}: {report}", run + 1));
        runs.push(report);
    }
    Ok(runs)
}

/// Medians of every number of the reports, and the spread of the rate.
fn summary(options: &Options, runs: &[Value]) -> anyhow::Result<Value> {
    let first = runs.first().and_then(Value::as_object).context("no run")?;
    let mut line = serde_json::Map::new();
    for (key, value) in first {
        let median = match value {
            Value::Number(_) => json!(median(runs.iter().filter_map(|r| r.get(key)?.as_f64()).collect())),
            Value::Object(parts) => {
                let part = |name: &String| {
                    let values = runs.iter().filter_map(|r| r.get(key)?.get(name)?.as_f64()).collect();
                    (name.clone(), json!(median(values)))
                };
                Value::Object(parts.keys().map(part).collect())
            }
            other => other.clone(),
        };
        line.insert(key.clone(), median);
    }
    let rates: Vec<f64> = runs.iter().filter_map(|r| r.get("rate_per_s")?.as_f64()).collect();
    let (low, high) = rates.iter().fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(*r), h.max(*r)));
    line.insert("rate_spread".into(), json!([low, high]));
    line.insert("runs".into(), json!(runs.len()));
    line.insert("payload".into(), json!(options.payload));
    line.insert("machine".into(), json!(machine()));
    line.insert("commit".into(), json!(commit()));
    Ok(Value::Object(line))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.to_owned()));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} x {}, Linux {}", model.unwrap_or_default(), kernel.trim())
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root()).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// A node of its own: ports chosen by the kernel, folder given.
struct BenchNode {
    bin: PathBuf,
    runtime: PathBuf,
    supervisor: Child,
}

impl BenchNode {
    fn start(bin: &Path, dir: &Path, extra: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        // Socket paths are short: the runtime folder is not below the target folder.
        let runtime = std::env::temp_dir().join(format!("wk-bench-{}", std::process::id()));
        let file = dir.join("wukongim.yaml");
        let (data, base) = (dir.display(), runtime.display());
        let text = format!(
            "mode: release\nrootDir: {data}\ndataDir: {data}/data\naddr: 127.0.0.1:0\nwsAddr: 127.0.0.1:0\nhttpAddr: 127.0.0.1:0\n\
             manager: {{addr: \"127.0.0.1:0\"}}\ncluster: {{addr: \"127.0.0.1:0\"}}\nsupervisor: {{runtimeDir: {base}}}\n{extra}\n"
        );
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let log = File::create(dir.join("supervisor.out"))?;
        let mut command = Command::new(bin.join("wksupervisor"));
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let supervisor = command.spawn().context("start wksupervisor")?;
        let mut node = Self { bin: bin.to_owned(), runtime: runtime.join("1001"), supervisor };
        let bar = spinner("start a node");
        let ready = node.wait_ready();
        bar.finish_and_clear();
        if let Err(err) = ready {
            let story = fs::read_to_string(dir.join("supervisor.out")).unwrap_or_default();
            node.stop().ok();
            bail!("{err:#}\n{story}");
        }
        Ok(node)
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            if self.status().is_ok_and(|s| s.get("overall").and_then(Value::as_str) == Some("ready")) {
                return Ok(());
            }
            if let Some(status) = self.supervisor.try_wait()? {
                bail!("wksupervisor ended with {status}");
            }
            ensure!(Instant::now() < until, "the node is not ready after {} s", READY_WITHIN.as_secs());
            #[expect(clippy::disallowed_methods, reason = "a tool without a runtime that polls a program of its own")]
            std::thread::sleep(POLL);
        }
    }

    fn status(&self) -> anyhow::Result<Value> {
        let mut command = Command::new(self.bin.join("wkctl"));
        let output = command.arg("--runtime").arg(&self.runtime).args(["status", "-o", "json"]).output().context("run wkctl")?;
        serde_json::from_slice(&output.stdout).context("read the status")
    }

    /// Stops the node and waits for its end.
    fn stop(&mut self) -> anyhow::Result<()> {
        let bar = spinner("stop the node");
        let mut command = Command::new(self.bin.join("wkctl"));
        let asked = command.arg("--runtime").arg(&self.runtime).args(["stop", "--supervisor"]).stdout(Stdio::null()).status();
        if !asked.is_ok_and(|s| s.success()) {
            self.supervisor.kill().ok();
        }
        self.supervisor.wait().context("wait for wksupervisor")?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// Address of a kind (`tcp`, `api`) in the status: "tcp 127.0.0.1:5100".
fn address(status: &Value, kind: &str) -> Option<String> {
    let all = status.get("addresses")?.as_array()?.iter().filter_map(Value::as_str);
    all.filter_map(|a| a.split_once(' ')).find(|(k, _)| *k == kind).map(|(_, a)| a.trim().to_owned())
}

/// Processes to charge: name without its slot number to pid.
fn pids(status: &Value) -> BTreeMap<String, u64> {
    let instances = status.get("instances").and_then(Value::as_array).cloned().unwrap_or_default();
    let pid = |i: &Value| Some((i.get("name")?.as_str()?.to_owned(), i.get("pid")?.as_u64().filter(|p| *p != 0)?));
    let mut pids: BTreeMap<String, u64> = instances.iter().filter_map(pid).collect();
    pids.extend(status.get("supervisor_pid").and_then(Value::as_u64).map(|p| ("supervisor".to_owned(), p)));
    pids
}

/// `POST /channel`: the group with its members.
fn make_group(api: &str, prefix: &str, members: usize) -> anyhow::Result<()> {
    let uids: Vec<String> = (0..members).map(|n| format!("{prefix}{n}")).collect();
    let body = json!({"channel_id": prefix, "channel_type": 2, "subscribers": uids}).to_string();
    let mut stream = TcpStream::connect(api).with_context(|| format!("connect to {api}"))?;
    stream.set_read_timeout(Some(READY_WITHIN))?;
    let head = format!("POST /channel HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Connection: close\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "POST /channel: {}", answer.lines().next().unwrap_or("no answer"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_by_key() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_string(), "2");
        let status = json!({"addresses": ["tcp 127.0.0.1:1", "api 127.0.0.1:2"], "supervisor_pid": 5,
            "instances": [{"name": "cluster@0", "pid": 7}, {"name": "api@0", "pid": 0}]});
        assert_eq!(address(&status, "api").as_deref(), Some("127.0.0.1:2"));
        assert_eq!(pids(&status).into_iter().collect::<Vec<_>>(), [("cluster@0".to_owned(), 7), ("supervisor".to_owned(), 5)]);
    }
}
