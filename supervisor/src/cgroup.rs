//! A leaf control group (v2) for each instance: every process of it in one list, dead with one write, bounded in memory, processes and CPU.
//!
//! Used where a part of the tree was delegated to us: by systemd (`Delegate=`), or by name (`supervisor.cgroup`). Elsewhere the group of the
//! leader and the list of orphans that the kernel gives us take its place ([`crate::process`]), and status says so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use wk_types::InstanceName;

use crate::limits::LEAF_EMPTY_WAIT;

mod own;

pub use own::take_back;

/// What bounds a leaf.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// What `supervisor.cgroup` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// What was delegated to us, if anything.
    Auto,
    /// None.
    Off,
    /// This folder of the tree.
    Dir(PathBuf),
}

impl Choice {
    /// Reads `auto`, `off`, or a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "auto" | "" => Self::Auto,
            "off" => Self::Off,
            path => Self::Dir(path.into()),
        }
    }
}

/// Bounds of one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Unit: bytes.
    pub memory_max: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// Share of the CPU, 1 to 10,000; 100 is usual.
    pub cpu_weight: Option<u16>,
}

/// The part of the tree that is ours.
#[derive(Debug, Clone)]
pub struct Cgroups {
    base: PathBuf,
    controllers: Vec<String>,
    /// Leaves of a predecessor have lost their limits.
    renewed: bool,
}

impl Cgroups {
    /// Finds our part of the tree.
    ///
    /// # Errors
    /// Why there is none, in words: processes are found by other means then.
    pub fn open(choice: &Choice) -> Result<Self, String> {
        let base = match choice {
            Choice::Off => return Err("switched off".into()),
            Choice::Dir(dir) => dir.clone(),
            Choice::Auto => own::delegated()?,
        };
        let said = |step: &'static str| {
            let base = base.display().to_string();
            move |e: io::Error| format!("{step} {base}: {e}")
        };
        fs::create_dir_all(&base).map_err(said("create"))?;
        if !base.join("cgroup.kill").exists() {
            return Err(format!("{} is not a group of version 2 with cgroup.kill (Linux 5.14)", base.display()));
        }
        let vacated = match choice {
            Choice::Auto => own::vacate(&base),
            Choice::Off | Choice::Dir(_) => Ok(()),
        };
        if let Err(err) = &vacated {
            tracing::warn!(%err, group = %base.display(), "we cannot leave the delegated group: its leaves get no limits");
        }
        let (offered, before) = (words(&base.join("cgroup.controllers")), words(&base.join("cgroup.subtree_control")));
        let mut controllers = Vec::new();
        for name in CONTROLLERS.iter().filter(|c| vacated.is_ok() && offered.iter().any(|o| o == *c)) {
            match fs::write(base.join("cgroup.subtree_control"), format!("+{name}")) {
                Ok(()) => controllers.push((*name).to_owned()),
                Err(err) => tracing::warn!(%err, controller = name, "not handed down to the leaves"),
            }
        }
        let renewed = controllers.iter().any(|c| !before.contains(c));
        Ok(Self { base, controllers, renewed })
    }

    /// The folder that [`Self::open`] would use, which need not exist, and the controllers that are there for it; changes nothing.
    ///
    /// # Errors
    /// Why there is none.
    pub fn possible(choice: &Choice) -> Result<(PathBuf, Vec<String>), String> {
        let base = match choice {
            Choice::Off => return Err("switched off".into()),
            Choice::Dir(dir) => dir.clone(),
            Choice::Auto => own::delegated()?,
        };
        let there = base.ancestors().find(|p| p.exists()).unwrap_or(&base);
        let ours = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok() && there.join("cgroup.procs").exists();
        if !ours {
            return Err(format!("{} cannot be written by us", base.display()));
        }
        let controllers = words(&there.join("cgroup.controllers"));
        Ok((base, controllers))
    }

    /// Folder and controllers, for status.
    #[must_use]
    pub fn describe(&self) -> String {
        let list = if self.controllers.is_empty() { "none".into() } else { self.controllers.join(", ") };
        format!("cgroup {}, limits by: {list}", self.base.display())
    }

    /// The leaf of an instance, which need not exist.
    #[must_use]
    pub fn leaf(&self, name: InstanceName) -> Leaf {
        Leaf { dir: self.base.join(name.to_string()) }
    }

    /// The leaves that are there.
    #[must_use]
    pub fn leaves(&self) -> Vec<(InstanceName, Leaf)> {
        leaves(&self.base)
    }

    /// The leaves below what [`Self::open`] would find; changes nothing.
    #[must_use]
    pub fn left(choice: &Choice) -> Vec<(InstanceName, Leaf)> {
        match choice {
            Choice::Off => Vec::new(),
            Choice::Dir(dir) => leaves(dir),
            Choice::Auto => own::delegated().map_or_else(|_| Vec::new(), |dir| leaves(&dir)),
        }
    }

    /// Makes an empty leaf with these limits. Returns `cgroup.procs`: what writes `0` to it moves there.
    ///
    /// # Errors
    /// Processes of the last generation are still in it: they are killed, so that a later try succeeds. Or the kernel refuses. Limits whose controller is missing are left out.
    pub fn make(&self, leaf: &Leaf, limits: &Limits) -> io::Result<File> {
        // Counters begin with the generation.
        if let Err(busy) = leaf.remove() {
            leaf.kill()?;
            return Err(busy);
        }
        fs::create_dir(&leaf.dir)?;
        self.bound(leaf, limits)?;
        OpenOptions::new().write(true).open(leaf.dir.join("cgroup.procs"))
    }

    /// Sets the limits of a leaf of a predecessor again, when they went with the controllers.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn renew(&self, leaf: &Leaf, limits: &Limits) -> io::Result<()> {
        if self.renewed { self.bound(leaf, limits) } else { Ok(()) }
    }

    fn bound(&self, leaf: &Leaf, limits: &Limits) -> io::Result<()> {
        let has = |c: &str| self.controllers.iter().any(|have| have == c);
        let mut set = Vec::new();
        if has("memory") {
            set.extend(limits.memory_max.map(|max| ("memory.max", max.to_string())));
            set.push(("memory.oom.group", "1".into()));
        }
        set.extend(limits.pids_max.filter(|_| has("pids")).map(|max| ("pids.max", max.to_string())));
        set.extend(limits.cpu_weight.filter(|_| has("cpu")).map(|weight| ("cpu.weight", weight.to_string())));
        set.into_iter().try_for_each(|(file, value)| fs::write(leaf.dir.join(file), value))
    }
}

fn leaves(base: &Path) -> Vec<(InstanceName, Leaf)> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, Leaf { dir: e.path() }))).collect()
}

/// One instance's group.
#[derive(Debug, Clone)]
pub struct Leaf {
    dir: PathBuf,
}

impl Leaf {
    /// Processes in it, zombies not counted.
    #[must_use]
    pub fn processes(&self) -> usize {
        fs::read_to_string(self.dir.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    }

    /// This process is in it.
    #[must_use]
    pub fn holds(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().any(|line| line.parse() == Ok(pid))
    }

    /// A process is in it or below it.
    #[must_use]
    pub fn populated(&self) -> bool {
        count(&self.dir.join("cgroup.events"), "populated") > 0
    }

    /// Kills everything in it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }

    /// Kills everything in it, waits a moment for the end, and removes it. True when something was in it.
    ///
    /// # Errors
    /// The kernel refuses, or something does not end.
    pub fn empty(&self) -> io::Result<bool> {
        let populated = self.populated();
        if populated {
            self.kill()?;
            let until = Instant::now() + LEAF_EMPTY_WAIT;
            while self.populated() && Instant::now() < until {
                std::thread::park_timeout(LEAF_EMPTY_WAIT / 500);
            }
        }
        self.remove().map(|()| populated)
    }

    /// Processes of it that the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        count(&self.dir.join("memory.events"), "oom_kill")
    }

    /// Removes it. One that does not exist is not an error.
    ///
    /// # Errors
    /// A process is in it.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Words of a flat file; none without it.
pub(crate) fn words(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Value of a key in a flat file; 0 without one.
fn count(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_79_a_missing_tree_is_named() {
        assert_eq!(Cgroups::open(&Choice::Off).unwrap_err(), "switched off");
        let dir = tempfile::tempdir().unwrap();
        let error = Cgroups::open(&Choice::Dir(dir.path().into())).unwrap_err();
        assert!(error.contains("is not a group of version 2"), "{error}");
        assert_eq!((Choice::parse("auto"), Choice::parse("/x")), (Choice::Auto, Choice::Dir("/x".into())));
    }

    #[test]
    fn a_folder_that_is_to_be_made_gets_the_controllers_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("cgroup wukongim/a");
        assert!(Cgroups::possible(&Choice::Dir(deep.clone())).unwrap_err().contains("cannot be written"), "no group");
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let found = Cgroups::possible(&Choice::Dir(deep.clone())).unwrap();
        assert_eq!(found, (deep, vec!["cpu".to_owned(), "memory".to_owned()]));
    }

    #[test]
    fn row_6_kills_for_memory_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Leaf { dir: dir.path().into() };
        assert_eq!((leaf.oom_kills(), leaf.populated()), (0, false));
        fs::write(dir.path().join("memory.events"), "low 0\nhigh 3\nmax 9\noom 2\noom_kill 4\noom_group_kill 1\n").unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert_eq!((leaf.oom_kills(), leaf.populated()), (4, true));
    }
}
