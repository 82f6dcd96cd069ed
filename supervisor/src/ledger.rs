//! What a successor needs to go on with our processes: one line per change, each with its checksum.
//!
//! The file lies on the runtime folder (tmpfs) and is void after a reboot. A line that is torn, or of another version, ends the reading of
//! it or of the whole file: what it would have said is found again by the marker in the environment of the processes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wk_types::InstanceName;

use crate::limits::LEDGER_LINES_MAX;
use crate::table::{Desired, Instance};

/// Version of the lines. Rule: version n reads n and n-1; what it cannot read is adopted by marker.
const VERSION: u32 = 3;
/// The oldest that is read. What its lines do not say is unknown: which configuration a process has read, whether it ends with us.
const OLDEST: u32 = 2;

/// A public listener, so that a successor finds the same socket among the descriptors of our children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRecord {
    /// Key in the configuration.
    pub key: String,
    /// Address as configured.
    pub wanted: String,
    /// Number of the socket, as in `/proc/<pid>/fd`.
    pub inode: u64,
}

/// The node as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Zero of the clock of the table. Unit: ns of `CLOCK_MONOTONIC`.
    pub zero_ns: u64,
    /// Short hash of the configuration.
    pub config_hash: String,
    /// Slots as configured, by daemon name: a change of the file wins over a scale.
    pub configured: BTreeMap<String, u16>,
    /// Desired set, admission, epoch.
    pub desired: Desired,
    /// The first start is over.
    pub started: bool,
    /// Open public listeners.
    pub listeners: Vec<ListenerRecord>,
}

/// Written before a fork: the marker that the process will carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Instance.
    pub name: String,
    /// Spawn counter.
    pub generation: u64,
    /// Random identity.
    pub incarnation: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Head { version: u32, boot_id: String },
    Node(Box<NodeRecord>),
    Intent(Intent),
    Instance { instance: Box<Instance>, start_time: u64 },
    Gone { name: String },
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// The node.
    pub node: NodeRecord,
    /// Its instances, with the start time of their process (0: none).
    pub instances: BTreeMap<InstanceName, (Instance, u64)>,
    /// Forks whose result was not written down.
    pub intents: Vec<Intent>,
}

impl Saved {
    /// Folds the lines of a file; `None` when it is of another boot or version, or says nothing about the node.
    #[must_use]
    pub fn parse(text: &str, boot_id: &str) -> Option<Self> {
        let mut lines = text.lines().map_while(decode);
        match lines.next()? {
            Line::Head { version, boot_id: theirs } if (OLDEST..=VERSION).contains(&version) && theirs == boot_id => {}
            _ => return None,
        }
        let mut saved = Self::default();
        let mut node = None;
        for line in lines {
            match line {
                Line::Head { .. } => return None,
                Line::Node(record) => node = Some(*record),
                Line::Intent(intent) => saved.intents.push(intent),
                Line::Instance { instance, start_time } => {
                    let spawned = |i: &Intent| i.name == instance.name.to_string() && i.generation <= instance.generation;
                    if instance.run.is_some() || !matches!(instance.rest, crate::table::Rest::Spawning) {
                        saved.intents.retain(|i| !spawned(i));
                    }
                    saved.instances.insert(instance.name, (*instance, start_time));
                }
                Line::Gone { name } => {
                    if let Ok(name) = name.parse::<InstanceName>() {
                        saved.instances.remove(&name);
                    }
                }
            }
        }
        saved.node = node?;
        Some(saved)
    }
}

/// Identity of this boot of the machine.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// FNV-1a: finds torn and foreign lines, protects against nobody.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn encode(line: &Line) -> io::Result<String> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:016x} {json}\n", checksum(json.as_bytes())))
}

fn decode(line: &str) -> Option<Line> {
    let (sum, json) = line.split_once(' ')?;
    let sum = u64::from_str_radix(sum, 16).ok()?;
    if sum != checksum(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// The file, open for appending, and what it says.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    said: Saved,
}

impl Ledger {
    /// Nothing is written before there is something to say. `said`: the record of a predecessor, which is repeated until we know better.
    #[must_use]
    pub fn new(path: PathBuf, said: Saved) -> Self {
        Self { path, file: None, lines: 0, said }
    }

    /// What a predecessor left; `None` when there is nothing usable.
    #[must_use]
    pub fn read(path: &Path) -> Option<Saved> {
        Saved::parse(&fs::read_to_string(path).ok()?, &boot_id())
    }

    /// Writes down what differs from what the file says.
    ///
    /// # Errors
    /// The runtime folder cannot be written; the next call writes everything anew.
    pub fn save<'a>(&mut self, node: NodeRecord, instances: impl Iterator<Item = (&'a Instance, u64)>) -> io::Result<()> {
        let mut lines = Vec::new();
        // All instances are told: what became of the forks of a predecessor is known.
        self.said.intents.clear();
        if self.file.is_none() || self.said.node != node {
            lines.push(Line::Node(Box::new(node.clone())));
            self.said.node = node;
        }
        let mut absent: Vec<InstanceName> = self.said.instances.keys().copied().collect();
        for (instance, start_time) in instances {
            absent.retain(|n| *n != instance.name);
            let same = self.said.instances.get(&instance.name).is_some_and(|(i, s)| i == instance && *s == start_time);
            if !same || self.file.is_none() {
                self.said.instances.insert(instance.name, (instance.clone(), start_time));
                lines.push(Line::Instance { instance: Box::new(instance.clone()), start_time });
            }
        }
        for name in absent {
            self.said.instances.remove(&name);
            lines.push(Line::Gone { name: name.to_string() });
        }
        if lines.is_empty() { Ok(()) } else { self.append(&lines) }
    }

    /// To be called before a fork.
    ///
    /// # Errors
    /// The runtime folder cannot be written.
    pub fn intend(&mut self, intent: Intent) -> io::Result<()> {
        self.append(&[Line::Intent(intent)])
    }

    /// Everything, as one text: for a successor that gets it on a descriptor.
    ///
    /// # Errors
    /// Cannot be encoded.
    pub fn text(&self) -> io::Result<String> {
        let mut text = encode(&Line::Head { version: VERSION, boot_id: boot_id() })?;
        text += &encode(&Line::Node(Box::new(self.said.node.clone())))?;
        for (instance, start_time) in self.said.instances.values() {
            text += &encode(&Line::Instance { instance: Box::new(instance.clone()), start_time: *start_time })?;
        }
        for intent in &self.said.intents {
            text += &encode(&Line::Intent(intent.clone()))?;
        }
        Ok(text)
    }

    /// The file is gone: the next [`Self::save`] writes everything.
    pub fn begin_anew(&mut self) {
        self.file = None;
    }

    /// The node has ended in order: nothing is left to take over.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&mut self) -> io::Result<()> {
        self.file = None;
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let written = self.try_append(lines);
        if written.is_err() {
            self.file = None;
        }
        written
    }

    fn try_append(&mut self, lines: &[Line]) -> io::Result<()> {
        self.lines += lines.len();
        if let Some(file) = self.file.as_mut().filter(|_| self.lines <= LEDGER_LINES_MAX) {
            let text = lines.iter().map(encode).collect::<io::Result<String>>()?;
            return file.write_all(text.as_bytes());
        }
        // A new file: whole, then renamed over the old one. Not synced: it is void after a reboot anyway.
        let next = self.path.with_extension("new");
        let mut text = self.text()?;
        for line in lines.iter().filter(|l| matches!(l, Line::Intent(_))) {
            text += &encode(line)?;
        }
        fs::write(&next, text)?;
        fs::rename(&next, &self.path)?;
        self.lines = lines.len();
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Run;
    use std::time::Duration;

    fn instance(name: &str, generation: u64, pid: u32) -> Instance {
        let run = Run::new(pid, 5, Duration::ZERO, Duration::ZERO);
        Instance { generation, run: Some(run), ..Instance::new(name.parse().unwrap()) }
    }

    fn node() -> NodeRecord {
        NodeRecord { config_hash: "abc".into(), ..NodeRecord::default() }
    }

    #[test]
    fn reads_what_was_written_and_only_differences_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut ledger = Ledger::new(path.clone(), Saved::default());
        let (a, b) = (instance("api@0", 1, 10), instance("cluster@0", 3, 11));
        ledger.save(node(), [(&a, 7), (&b, 8)].into_iter()).unwrap();
        let size = fs::metadata(&path).unwrap().len();
        ledger.save(node(), [(&a, 7), (&b, 8)].into_iter()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size, "nothing new, nothing written");
        let later = instance("api@0", 2, 12);
        ledger.intend(Intent { name: "api@0".into(), generation: 2, incarnation: 9 }).unwrap();
        let torn = fs::read_to_string(&path).unwrap();
        ledger.save(node(), [(&later, 9)].into_iter()).unwrap();
        let saved = Ledger::read(&path).unwrap();
        assert_eq!(saved.instances.into_values().collect::<Vec<_>>(), [(later, 9)]);
        assert!(saved.intents.is_empty(), "answered");
        let open = Saved::parse(&torn, &boot_id()).unwrap();
        assert_eq!(open.intents.len(), 1);
        assert_eq!(open.instances.len(), 2);
    }

    #[test]
    fn row_42_a_successor_that_dies_after_its_first_fork_leaves_the_record_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let read = || Ledger::read(&path).unwrap();
        Ledger::new(path.clone(), Saved::default()).save(node(), [(&instance("api@0", 4, 10), 7)].into_iter()).unwrap();
        let before = read();
        let intents = ["cluster@0", "gateway@0"].map(|name| Intent { name: name.into(), generation: 3, incarnation: 9 });
        for intent in &intents {
            Ledger::new(path.clone(), read()).intend(intent.clone()).unwrap();
        }
        assert_eq!(read(), Saved { intents: intents.into(), ..before });
    }

    #[test]
    fn row_45_another_boot_is_void() {
        let mut ledger = Ledger::new("/nowhere/state".into(), Saved::default());
        assert!(ledger.save(node(), std::iter::empty()).is_err());
        let text = ledger.text().unwrap();
        assert!(Saved::parse(&text, &boot_id()).is_some());
        assert_eq!(Saved::parse(&text, "another"), None);
    }

    #[test]
    fn row_46_a_torn_file_ends_where_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path().join("state"), Saved::default());
        let (a, b) = (instance("api@0", 1, 10), instance("cluster@0", 3, 11));
        ledger.save(node(), [(&a, 7), (&b, 8)].into_iter()).unwrap();
        let text = fs::read_to_string(dir.path().join("state")).unwrap();
        for cut in 0..text.len() {
            let saved = Saved::parse(text.get(..cut).unwrap(), &boot_id());
            assert!(saved.is_none_or(|s| s.instances.len() <= 2 && s.node == node()));
        }
        let foreign = text.replacen("api@0", "api@1", 1);
        assert_eq!(Saved::parse(&foreign, &boot_id()).unwrap().instances.len(), 1, "checksum");
        assert_eq!(Saved::parse("{\"version\":1}", &boot_id()), None);
    }

    /// Files of real nodes, never edited: seven daemons, one of which had crashed once.
    #[test]
    fn this_version_and_the_one_before_are_read() {
        const BOOT: &str = "fd6f98dc-8dff-4dd7-a07c-dda74216483e";
        for (version, text) in [(2, include_str!("../testdata/ledger/v2")), (3, include_str!("../testdata/ledger/v3"))] {
            let saved = Saved::parse(text, BOOT).unwrap_or_else(|| panic!("version {version}"));
            let runs: Vec<&Run> = saved.instances.values().filter_map(|(i, _)| i.run.as_ref()).collect();
            assert_eq!((runs.len(), saved.node.desired.admitted), (7, true), "version {version}");
            assert!(runs.iter().all(|r| r.reads.is_some() == (version > 2) && !r.bound), "version {version}");
            let (push, started) = &saved.instances[&"worker.push@0".parse().unwrap()];
            assert!((push.generation, push.restarts) == (2, 1) && *started > 0, "version {version}");
        }
        let next = encode(&Line::Head { version: VERSION + 1, boot_id: BOOT.into() }).unwrap();
        assert_eq!(Saved::parse(&next, BOOT), None);
    }

    #[test]
    fn a_long_file_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path().join("state"), Saved::default());
        for generation in 0..3 * LEDGER_LINES_MAX as u64 {
            ledger.save(node(), [(&instance("api@0", generation, 10), 7)].into_iter()).unwrap();
        }
        let text = fs::read_to_string(dir.path().join("state")).unwrap();
        assert!(text.lines().count() <= LEDGER_LINES_MAX + 4, "{}", text.lines().count());
    }
}
