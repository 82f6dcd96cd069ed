//! Our own place in the tree: what systemd has delegated to us, and the leaf in which we sit ourselves.
//!
//! A group that hands controllers down holds no processes (kernel, "no internal processes"). From systemd 254 the supervisor is started in a
//! leaf (`DelegateSubgroup=`). Before, it is started in the delegated group itself, moves into a leaf, and hands the controllers down then.
//! The next one is again started in the delegated group, after a crash too, and 252 does not take the controllers back: the kernel would
//! refuse it (EBUSY, 219/CGROUP). So `wksupervisor reap`, which runs in `.control` between the two, takes them back ([`take_back`]); with
//! them go the limits of the daemons that live on, until the next supervisor sets them again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Leaf into which systemd puts the supervisor (`DelegateSubgroup=`).
const GIVEN_LEAF: &str = "supervisor";
/// Leaf into which a supervisor moves itself. Another name, so that the controllers are taken back only where they are in the way.
const MOVED_LEAF: &str = "supervisor-moved";
/// Group of `ExecStopPost=` in a delegated unit. Source: systemd, `exec_params_get_cgroup_path`.
const CONTROL_LEAF: &str = ".control";
/// Attributes by which systemd marks what it delegates. Source: systemd.resource-control(5) and its sources, `cg_set_xattr`.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];
/// Processes of the delegated group are moved as long as there are some, a child may be born meanwhile.
const SWEEPS_MAX: usize = 8;

/// The group that systemd has delegated to us.
pub(super) fn delegated() -> Result<PathBuf, String> {
    let own = own_group().ok_or("no control groups of version 2")?;
    candidates(&own).into_iter().find(|dir| marked(dir)).ok_or_else(|| "not delegated".into())
}

/// Leaves the delegated group when we sit in it, so that it can hand controllers down.
///
/// # Errors
/// The kernel refuses the leaf, or a process stays in the group.
pub(super) fn vacate(base: &Path) -> io::Result<()> {
    if own_group().as_deref() != Some(base) {
        if own_group().is_some_and(|own| own == base.join(GIVEN_LEAF)) {
            // Of a supervisor before an upgrade of systemd. It may never have been there.
            drop(fs::remove_dir(base.join(MOVED_LEAF)));
        }
        return Ok(());
    }
    sweep(base, &base.join(MOVED_LEAF))
}

/// Takes the controllers back that a supervisor of ours handed down from a group in which systemd starts the next one.
///
/// # Errors
/// The kernel refuses.
pub fn take_back() -> io::Result<()> {
    delegated().map_or(Ok(()), |base| take_back_from(&base))
}

fn take_back_from(base: &Path) -> io::Result<()> {
    if !base.join(MOVED_LEAF).exists() {
        return Ok(());
    }
    let file = base.join("cgroup.subtree_control");
    let handed = fs::read_to_string(&file)?;
    let words: Vec<String> = handed.split_whitespace().map(|c| format!("-{c}")).collect();
    if words.is_empty() { Ok(()) } else { fs::write(file, words.join(" ")) }
}

/// Moves every process of a group into a leaf below it.
fn sweep(base: &Path, leaf: &Path) -> io::Result<()> {
    fs::create_dir(leaf).or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })?;
    for _ in 0..SWEEPS_MAX {
        let text = fs::read_to_string(base.join("cgroup.procs"))?;
        if text.trim().is_empty() {
            return Ok(());
        }
        for pid in text.lines() {
            match fs::write(leaf.join("cgroup.procs"), pid) {
                Err(e) if e.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => return Err(e),
                _ => {}
            }
        }
    }
    Err(io::Error::other("processes are born there all the time"))
}

/// Where the delegated group may be, seen from the group of a process of the unit.
fn candidates(own: &Path) -> Vec<PathBuf> {
    let leaf = [GIVEN_LEAF, MOVED_LEAF, CONTROL_LEAF].iter().any(|leaf| own.ends_with(leaf));
    let above = own.parent().filter(|_| leaf);
    [Some(own), above].into_iter().flatten().map(Path::to_path_buf).collect()
}

fn marked(dir: &Path) -> bool {
    DELEGATED.iter().any(|name| matches!(xattr(dir, name).as_deref(), Some(b"1")))
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
    fn the_delegated_group_is_ours_or_the_one_above_a_leaf_of_the_unit() {
        let of = |own: &str| candidates(Path::new(own));
        for leaf in ["supervisor", "supervisor-moved", ".control"] {
            assert_eq!(of(&format!("/c/u.service/{leaf}")), [PathBuf::from(format!("/c/u.service/{leaf}")), "/c/u.service".into()]);
        }
        assert_eq!(of("/c/u.service/worker.push@0"), [PathBuf::from("/c/u.service/worker.push@0")]);
    }

    #[test]
    fn controllers_are_taken_back_only_where_a_supervisor_moved_itself() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("cgroup.subtree_control");
        fs::write(&control, "cpu memory pids\n").unwrap();
        take_back_from(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "cpu memory pids\n");
        fs::create_dir(dir.path().join(MOVED_LEAF)).unwrap();
        take_back_from(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "-cpu -memory -pids");
    }
}
