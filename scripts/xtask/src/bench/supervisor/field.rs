//! One supervisor with its children, begun in a folder of its own, and what they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use super::kernel::{self, now_ns};
use super::ledger;
use super::rival::{Rival, Shape};
use super::trivial;

/// Upper bound of every wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a file that tells of no change.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What one child told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    serving: bool,
    name: String,
    pid: u32,
    at_ns: u64,
}

impl Stamp {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let serving = words.next()? == "serving";
        Some(Self { serving, name: words.next()?.into(), pid: words.next()?.parse().ok()?, at_ns: words.next()?.parse().ok()? })
    }
}

/// A child that lives.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) pid: u32,
    handle: OwnedFd,
    began_ns: u64,
    serving_ns: Option<u64>,
}

/// One restart of a child. Unit: ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restart {
    /// From the kill to the first instruction of the next one.
    pub(super) first: f64,
    /// Ours alone: from the kill until the supervisor knows that it is ready, and from the daemon's word to that.
    pub(super) ready: Option<(f64, f64)>,
}

/// See the module. A drop kills everything.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) rival: Rival,
    pub(super) dir: PathBuf,
    program: PathBuf,
    stamps: UnixDatagram,
    supervisor: Child,
    pub(super) children: BTreeMap<String, Alive>,
    pub(super) began_ns: u64,
}

impl Field {
    /// Starts `program` with its children and waits until all live and, under ours, are ready.
    pub(super) fn start(rival: Rival, programs: (&Path, &Path), shape: Shape) -> anyhow::Result<Self> {
        let mut field = Self::begin(rival, programs, shape)?;
        field.collect(shape.count()).with_context(|| field.story())?;
        Ok(field)
    }

    /// The same without waiting for anybody.
    pub(super) fn begin(rival: Rival, (program, child): (&Path, &Path), shape: Shape) -> anyhow::Result<Self> {
        // In memory, as a runtime folder is, and with a short name, as sockets need one.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let dir = base.join(format!("wkb{}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir)?;
        // A name of its own: whoever executes it is of this measurement.
        let own = dir.join("child");
        fs::copy(child, &own).with_context(|| format!("copy {}", child.display()))?;
        if let Shape::Waiting(_) = shape {
            let waiting = child.with_file_name(trivial::PROGRAM);
            fs::copy(&waiting, dir.join("trivial")).with_context(|| format!("copy {}", waiting.display()))?;
        }
        rival.prepare(&dir, &own, shape).with_context(|| format!("prepare {}", rival.name()))?;
        let stamps = UnixDatagram::bind(rival.stamps(&dir).join(".stamps")).context("bind the socket of the stamps")?;
        stamps.set_read_timeout(Some(PATIENCE))?;
        let began_ns = now_ns();
        let supervisor = spawn(rival.command(program, &dir), &dir)?;
        Ok(Self { rival, dir, program: program.to_owned(), stamps, supervisor, children: BTreeMap::new(), began_ns })
    }

    fn collect(&mut self, count: usize) -> anyhow::Result<()> {
        let ours = self.rival == Rival::Ours;
        while self.children.len() < count || (ours && self.children.values().any(|c| c.serving_ns.is_none())) {
            self.hear()?;
        }
        if ours {
            self.wait_ready()?;
        }
        Ok(())
    }

    /// Takes one stamp.
    fn hear(&mut self) -> anyhow::Result<Stamp> {
        let mut text = [0; 256];
        let length = match self.stamps.recv(&mut text) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                bail!("{} children, and no news for {} s", self.children.len(), PATIENCE.as_secs())
            }
            other => other?,
        };
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        let stamp = Stamp::parse(&text).with_context(|| format!("not a stamp: {text}"))?;
        if stamp.serving {
            if let Some(child) = self.children.get_mut(&stamp.name).filter(|c| c.pid == stamp.pid) {
                child.serving_ns = Some(stamp.at_ns);
            }
        } else {
            let handle = kernel::watch(stamp.pid)?;
            let child = Alive { pid: stamp.pid, handle, began_ns: stamp.at_ns, serving_ns: None };
            self.children.insert(stamp.name.clone(), child);
        }
        Ok(stamp)
    }

    /// The record of our supervisor, when it knows that every child is ready.
    fn wait_ready(&self) -> anyhow::Result<ledger::Ready> {
        let until = Instant::now() + PATIENCE;
        loop {
            let known = ledger::read(&self.dir.join("r/1001/state")).unwrap_or_default();
            if self.children.iter().all(|(name, child)| known.get(name).is_some_and(|(pid, _)| *pid == child.pid)) {
                return Ok(known);
            }
            ensure!(Instant::now() < until, "the supervisor does not learn that its children are ready");
            crate::bench::start::wait(LOOK_EVERY);
        }
    }

    /// From the start of the supervisor to the first instruction of the last child, and under ours until all are known to be ready. Unit: ms.
    pub(super) fn start_ms(&self) -> anyhow::Result<(f64, Option<f64>)> {
        let last = self.children.values().map(|c| c.began_ns).max().unwrap_or(0);
        let ready = match self.rival {
            Rival::Ours => self.wait_ready()?.values().map(|(_, at)| *at).max(),
            _ => None,
        };
        Ok((ms(self.began_ns, last), ready.map(|at| ms(self.began_ns, at))))
    }

    /// Kills one child and waits for the next one in its place.
    pub(super) fn restart(&mut self, name: &str) -> anyhow::Result<Restart> {
        let ours = self.rival == Rival::Ours;
        let old = self.children.get(name).context("no such child")?.pid;
        let killed = now_ns();
        kernel::signal(old, Signal::KILL)?;
        loop {
            self.hear().with_context(|| self.story())?;
            let Some(child) = self.children.get(name).filter(|c| c.pid != old) else { continue };
            let first = ms(killed, child.began_ns);
            if !ours {
                return Ok(Restart { first, ready: None });
            }
            let Some(serving) = child.serving_ns else { continue };
            let ready = self.wait_ready()?.get(name).map(|(_, at)| (ms(killed, *at), ms(serving, *at)));
            return Ok(Restart { first, ready });
        }
    }

    /// Processes of the supervisor itself.
    pub(super) fn own(&self) -> Vec<u32> {
        let children: BTreeSet<u32> = self.children.values().map(|c| c.pid).collect();
        kernel::tree(self.supervisor.id(), &children)
    }

    /// Ends everything. From the signal until no child lives. Unit: ms.
    pub(super) fn stop(mut self) -> anyhow::Result<f64> {
        let began = now_ns();
        kernel::signal(self.supervisor.id(), self.rival.end())?;
        kernel::all_ended(self.children.values().map(|c| &c.handle), PATIENCE).with_context(|| self.story())?;
        let took = ms(began, now_ns());
        if self.rival == Rival::Ours {
            let status = self.supervisor.wait()?;
            ensure!(status.success(), "{status}\n{}", self.story());
        }
        Ok(took)
    }

    /// Asks our supervisor to end these daemons, then to begin them again. From the question until none lives, until the last one begins.
    /// Unit: ms.
    pub(super) fn bounce(&mut self, names: &[&str]) -> anyhow::Result<(f64, f64)> {
        let leaving = |name: &str| names.iter().any(|n| name.split('@').next() == Some(n));
        let gone: BTreeMap<String, Alive>;
        (gone, self.children) = std::mem::take(&mut self.children).into_iter().partition(|(name, _)| leaving(name));
        let count = self.children.len() + gone.len();
        let stop = self.order("stop", names)?;
        kernel::all_ended(gone.values().map(|c| &c.handle), PATIENCE)?;
        let ended = now_ns();
        let stopped = ms(asked(stop)?, ended);
        let start = self.order("start", names)?;
        self.collect(count).with_context(|| self.story())?;
        let last = self.children.iter().filter(|(name, _)| leaving(name)).map(|(_, c)| c.began_ns).max().unwrap_or(0);
        Ok((stopped, ms(asked(start)?, last)))
    }

    /// Asks our supervisor for something; the answer is a process that prints when it asked.
    pub(super) fn order(&self, what: &str, names: &[&str]) -> anyhow::Result<Child> {
        let mut command = Command::new(self.dir.join("child"));
        command.arg(what).arg(self.dir.join("r/1001/control.sock")).args(names);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("ask the supervisor")
    }

    /// Kills the supervisor, and nothing else, and begins it anew.
    pub(super) fn replace_killed(&mut self) -> anyhow::Result<()> {
        self.supervisor.kill()?;
        self.supervisor.wait()?;
        self.supervisor = spawn(self.rival.command(&self.program, &self.dir), &self.dir)?;
        Ok(())
    }

    /// The same with ours, until the new one has written a record of its own in which every child was heard. Unit of the time: ms.
    pub(super) fn adopted(&mut self) -> anyhow::Result<f64> {
        let record = self.dir.join("r/1001/state");
        let file = || fs::metadata(&record).map(|m| m.ino()).ok();
        let (old, began, until) = (file(), now_ns(), Instant::now() + PATIENCE);
        self.replace_killed()?;
        while file() == old {
            ensure!(Instant::now() < until, "the new supervisor writes no record\n{}", self.story());
            crate::bench::start::wait(LOOK_EVERY);
        }
        self.wait_ready().with_context(|| self.story())?;
        Ok(ms(began, now_ns()))
    }

    /// Live processes of our children's program.
    pub(super) fn copies(&self) -> usize {
        kernel::copies(&self.dir.join("child"))
    }

    /// Nothing was started, and nobody has ended.
    pub(super) fn undisturbed(&self) -> anyhow::Result<bool> {
        self.stamps.set_nonblocking(true)?;
        let news = self.stamps.recv(&mut [0; 256]);
        self.stamps.set_nonblocking(false)?;
        Ok(news.is_err() && kernel::ended(self.children.values().map(|c| &c.handle))? == 0)
    }

    pub(super) fn story(&self) -> String {
        let log = fs::read_to_string(self.dir.join("supervisor.out")).unwrap_or_default();
        format!("{}:\n{log}", self.rival.name())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        self.supervisor.kill().ok();
        self.supervisor.wait().ok();
        kernel::sweep(&self.dir);
        // Processes may still be dying in it; the next field removes what is left.
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// When it asked, once it has its answer.
pub(super) fn asked(order: Child) -> anyhow::Result<u64> {
    let output = order.wait_with_output()?;
    ensure!(output.status.success(), "the supervisor refused: {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().parse().context("no time")
}

/// When it asked, once it was heard; it is not waited for.
pub(super) fn heard(mut order: Child) -> anyhow::Result<u64> {
    let mut line = String::new();
    BufReader::new(order.stdout.take().context("the output of an order is ours")?).read_line(&mut line)?;
    order.kill()?;
    order.wait()?;
    line.trim().parse().context("the supervisor refused")
}

fn spawn(mut command: Command, dir: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("supervisor.out"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().with_context(|| format!("run {command:?}"))
}

/// Between two stamps.
pub(super) fn ms(from_ns: u64, to_ns: u64) -> f64 {
    crate::bench::report::as_f64(to_ns.saturating_sub(from_ns)) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stamps() {
        let stamp = Stamp { serving: true, name: "api@0".into(), pid: 7, at_ns: 123 };
        assert_eq!(Stamp::parse("serving api@0 7 123"), Some(stamp));
        assert_eq!(Stamp::parse("began api@0 7"), None);
    }
}
