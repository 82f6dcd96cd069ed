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

/// Group below the delegated one that systemd puts the supervisor into (`DelegateSubgroup=`, from 254).
const OWN_LEAF: &str = "supervisor";
/// Attributes by which systemd marks what it delegates. Source: systemd.resource-control(5) and its sources, `cg_set_xattr`.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

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
            Choice::Auto => delegated()?,
        };
        let said = |step: &'static str| {
            let base = base.display().to_string();
            move |e: io::Error| format!("{step} {base}: {e}")
        };
        fs::create_dir_all(&base).map_err(said("create"))?;
        if !base.join("cgroup.kill").exists() {
            return Err(format!("{} is not a group of version 2 with cgroup.kill (Linux 5.14)", base.display()));
        }
        // A successor of ours is put into the delegated group itself by systemd before 254, which the kernel refuses once that group hands
        // controllers down: there the leaves only hold processes together.
        let bounds = matches!(choice, Choice::Dir(_)) || own_group().is_some_and(|own| own.ends_with(OWN_LEAF));
        let offered = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        let enable = |c: &&str| fs::write(base.join("cgroup.subtree_control"), format!("+{c}")).is_ok();
        let controllers =
            ["memory", "pids", "cpu"].into_iter().filter(|c| bounds && offered.split_whitespace().any(|o| o == *c)).filter(enable);
        let controllers = controllers.map(str::to_owned).collect();
        Ok(Self { base, controllers })
    }

    /// Whether [`Self::open`] would find a tree; changes nothing.
    ///
    /// # Errors
    /// Why there is none.
    pub fn possible(choice: &Choice) -> Result<String, String> {
        let base = match choice {
            Choice::Off => return Err("switched off".into()),
            Choice::Dir(dir) => dir.clone(),
            Choice::Auto => delegated()?,
        };
        let there = base.ancestors().find(|p| p.exists()).unwrap_or(&base);
        let ours = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok() && there.join("cgroup.procs").exists();
        if ours { Ok(format!("cgroup {}", base.display())) } else { Err(format!("{} cannot be written by us", base.display())) }
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
            Choice::Auto => delegated().map_or_else(|_| Vec::new(), |dir| leaves(&dir)),
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
        let has = |c: &str| self.controllers.iter().any(|have| have == c);
        let mut set = Vec::new();
        if has("memory") {
            set.extend(limits.memory_max.map(|max| ("memory.max", max.to_string())));
            set.push(("memory.oom.group", "1".into()));
        }
        set.extend(limits.pids_max.filter(|_| has("pids")).map(|max| ("pids.max", max.to_string())));
        set.extend(limits.cpu_weight.filter(|_| has("cpu")).map(|weight| ("cpu.weight", weight.to_string())));
        for (file, value) in set {
            fs::write(leaf.dir.join(file), value)?;
        }
        OpenOptions::new().write(true).open(leaf.dir.join("cgroup.procs"))
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

/// Value of a key in a flat file; 0 without one.
fn count(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

/// The group that systemd has delegated to us.
fn delegated() -> Result<PathBuf, String> {
    let own = own_group().ok_or("no control groups of version 2")?;
    let marked = |dir: &Path| DELEGATED.iter().any(|name| matches!(xattr(dir, name).as_deref(), Some(b"1")));
    let above = own.parent().filter(|_| own.ends_with(OWN_LEAF));
    [Some(own.as_path()), above].into_iter().flatten().find(|dir| marked(dir)).map(Path::to_path_buf).ok_or_else(|| "not delegated".into())
}

fn xattr(dir: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 8];
    let length = rustix::fs::getxattr(dir, name, &mut value).ok()?;
    value.get(..length).map(<[u8]>::to_vec)
}

/// Folder of the group that this process is in.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::"))?;
    Some(mounted(&mounts)?.join(path.trim_start_matches('/')))
}

/// Where version 2 is mounted. Source: proc_pid_mountinfo(5).
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_v2 = after.split(' ').next()? == "cgroup2";
        is_v2.then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_of_version_2() {
        let text = "30 24 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                    31 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("1 2 0:3 / / rw - ext4 /dev/sda rw"), None);
    }

    #[test]
    fn row_79_a_missing_tree_is_named() {
        assert_eq!(Cgroups::open(&Choice::Off).unwrap_err(), "switched off");
        let dir = tempfile::tempdir().unwrap();
        let error = Cgroups::open(&Choice::Dir(dir.path().into())).unwrap_err();
        assert!(error.contains("is not a group of version 2"), "{error}");
        assert_eq!((Choice::parse("auto"), Choice::parse("/x")), (Choice::Auto, Choice::Dir("/x".into())));
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
