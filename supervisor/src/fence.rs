//! What a daemon may write, whatever its user may: rules of Landlock (Linux 5.13) that hold for the daemon and for all that it starts. Reading
//! and executing are not narrowed. So a gateway that was taken over changes no message store, and nobody the configuration or a program.
//! Source: `design/supervisor.md` §4.13.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr};
use wk_types::Daemon;

use crate::config::Config;

/// Rights of files and folders that are about writing. Later versions add devices and sockets.
const WRITES: ABI = ABI::V3;

/// The rules of a daemon; none where they are switched off or the kernel has no Landlock. Made anew for each generation: a folder may have been
/// replaced by another of its name.
///
/// # Errors
/// A folder can be neither made nor opened, or the kernel refuses a rule.
pub(crate) fn of(config: &Config, daemon: Daemon) -> io::Result<Option<OwnedFd>> {
    if config.sandbox { fence(&folders(config, daemon), &files(daemon)) } else { Ok(None) }
}

/// Folders below which a daemon may write: sockets and black boxes lie in the runtime folder, messages that killed their receiver in quarantine.
fn folders(config: &Config, daemon: Daemon) -> Vec<PathBuf> {
    let own = match daemon {
        Daemon::Cluster => vec![config.data_dir.join("cluster"), config.raft_dir.clone()],
        Daemon::Gateway | Daemon::Api | Daemon::Worker(_) => vec![config.data_dir.join("quarantine")],
        Daemon::PluginHost => Vec::new(),
    };
    std::iter::once(config.runtime_dir.clone()).chain(own).collect()
}

/// Places with files that may be written but not made.
fn files(daemon: Daemon) -> Vec<&'static Path> {
    // The store names its threads there.
    let names = (daemon == Daemon::Cluster).then_some("/proc");
    ["/dev/null"].into_iter().chain(names).map(Path::new).collect()
}

/// The kernel, and what stands between it and us, has Landlock.
pub(crate) fn available() -> bool {
    empty().is_ok_and(|rules| Option::<OwnedFd>::from(rules).is_some())
}

fn empty() -> io::Result<RulesetCreated> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_write(WRITES));
    rules.and_then(Ruleset::create).map_err(io::Error::other)
}

/// Rules that forbid all writing but below these folders, which are made, and to what lies in these places.
pub(crate) fn fence(folders: &[PathBuf], files: &[&Path]) -> io::Result<Option<OwnedFd>> {
    let mut rules = empty()?;
    let named = |path: &Path, e: &dyn std::error::Error| io::Error::other(format!("{}: {e}", path.display()));
    for path in folders {
        fs::create_dir_all(path).map_err(|e| named(path, &e))?;
        let folder = PathFd::new(path).map_err(|e| named(path, &e))?;
        rules = rules.add_rule(PathBeneath::new(folder, AccessFs::from_write(WRITES))).map_err(|e| named(path, &e))?;
    }
    for path in files {
        let file = PathFd::new(path).map_err(|e| named(path, &e))?;
        rules = rules.add_rule(PathBeneath::new(file, AccessFs::WriteFile)).map_err(|e| named(path, &e))?;
    }
    Ok(rules.into())
}
