//! The supervisors beside which ours is measured, each as its manual says, each with the child as the service itself (no shell between).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::process::Signal;

/// Slots of a pool at most.
const SLOTS_MAX: usize = 64;
/// Daemons of a node that have one slot: cluster, gateway, api, plugin-host.
const SINGLES: usize = 4;

/// How many children, and how ours has them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A node of so many processes.
    Node(usize),
    /// Ours alone: a node with so many workers that do not depend on one another, half in the user pool, half in the push pool.
    Pools(usize),
    /// The same, but the workers are children that only wait (`trivial.S`), in the file `trivial` beside the child.
    Waiting(usize),
}

impl Shape {
    /// Slots of the pools user, channel, push.
    fn slots(self) -> [usize; 3] {
        match self {
            Self::Pools(count) | Self::Waiting(count) => [count / 2, 1, count - count / 2],
            Self::Node(count) => {
                let workers = count.saturating_sub(SINGLES);
                [2, 1, 0].map(|more| ((workers + more) / 3).clamp(1, SLOTS_MAX))
            }
        }
    }

    /// Processes.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Node(count) => count,
            Self::Pools(_) | Self::Waiting(_) => SINGLES + self.slots().iter().sum::<usize>(),
        }
    }
}

/// Who supervises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    /// This repository's.
    Ours,
    S6,
    Runit,
    Supervisord,
    Dinit,
}

impl Rival {
    pub(super) const ALL: [Self; 5] = [Self::Ours, Self::S6, Self::Runit, Self::Supervisord, Self::Dinit];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "wksupervisor",
            Self::S6 => "s6",
            Self::Runit => "runit",
            Self::Supervisord => "supervisord",
            Self::Dinit => "dinit",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Ours => "wksupervisor",
            Self::S6 => "s6-svscan",
            Self::Runit => "runsvdir",
            Self::Supervisord => "supervisord",
            Self::Dinit => "dinit",
        }
    }

    /// Where its program lies: beside our own binaries, or in the search path.
    pub(super) fn find(self, bin: &Path) -> Option<PathBuf> {
        if self == Self::Ours {
            return Some(bin.join(self.program())).filter(|p| p.is_file());
        }
        #[expect(clippy::disallowed_methods, reason = "a tool that looks for programs as a shell does")]
        let path = std::env::var_os("PATH")?;
        // Debian keeps daemons where users do not look.
        let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
        std::env::split_paths(&path).chain(more).map(|dir| dir.join(self.program())).find(|p| p.is_file())
    }

    /// Folder in which the children find the socket for their stamps.
    pub(super) fn stamps(self, dir: &Path) -> PathBuf {
        if self == Self::Ours { dir.join("r/1001") } else { dir.join("services") }
    }

    /// Signal that ends it together with its children.
    pub(super) fn end(self) -> Signal {
        // The manual of runsvdir: HUP sends TERM to every runsv, TERM leaves them alone.
        if self == Self::Runit { Signal::HUP } else { Signal::TERM }
    }

    /// Writes its configuration for copies of `child` into `dir`.
    pub(super) fn prepare(self, dir: &Path, child: &Path, shape: Shape) -> anyhow::Result<()> {
        fs::create_dir_all(self.stamps(dir))?;
        let services: Vec<PathBuf> = (0..shape.count()).map(|n| dir.join(format!("services/c{n}"))).collect();
        match self {
            Self::Ours => ours(dir, child, shape)?,
            Self::S6 | Self::Runit => {
                for service in &services {
                    fs::create_dir_all(service)?;
                    symlink(child, service.join("run"))?;
                }
            }
            Self::Supervisord => supervisord(dir, child, &services)?,
            Self::Dinit => dinit(dir, child, &services)?,
        }
        Ok(())
    }

    /// How it is started on what [`Self::prepare`] wrote.
    pub(super) fn command(self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        match self {
            Self::Ours => {
                command.args(["run", "--config"]).arg(dir.join("wukongim.yaml")).arg("--runtime").arg(dir.join("r"));
                command.env("WK_BIN_DIR", dir.join("bin")).env_remove("NOTIFY_SOCKET");
            }
            // Room for 100 services: the default of 2.11 is 500, of later versions 1,000.
            Self::S6 => {
                command.arg(dir.join("services"));
            }
            Self::Runit => {
                command.arg("-P").arg(dir.join("services"));
            }
            Self::Supervisord => {
                command.arg("-n").arg("-c").arg(dir.join("supervisord.conf"));
            }
            Self::Dinit => {
                command.args(["--user", "--services-dir"]).arg(dir.join("dinit.d"));
                command.arg("--socket-path").arg(dir.join("dinit.sock")).arg("boot");
            }
        }
        command
    }
}

fn ours(dir: &Path, child: &Path, shape: Shape) -> anyhow::Result<()> {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["wk-cluster", "wk-gateway", "wk-api", "wk-worker", "wk-plugin-host"] {
        let waits = matches!(shape, Shape::Waiting(_)) && name == "wk-worker";
        let program = if waits { child.with_file_name("trivial") } else { child.to_owned() };
        symlink(program, bin.join(name))?;
    }
    let (root, [user, channel, push]) = (dir.display(), shape.slots());
    let text = format!(
        "mode: release\nrootDir: {root}\naddr: 127.0.0.1:0\nwsAddr: 127.0.0.1:0\nhttpAddr: 127.0.0.1:0\nmanager: {{addr: \"127.0.0.1:0\"}}\n\
         workers: {{user: {user}, channel: {channel}, push: {push}}}\n"
    );
    fs::write(dir.join("wukongim.yaml"), text).context("write the configuration")
}

fn supervisord(dir: &Path, child: &Path, services: &[PathBuf]) -> anyhow::Result<()> {
    let root = dir.display();
    let mut text = format!("[supervisord]\nlogfile={root}/log\npidfile={root}/pid\nchildlogdir={root}\nuser=root\n");
    for service in services {
        fs::create_dir_all(service)?;
        let (name, folder) = (service.file_name().unwrap_or_default().to_string_lossy(), service.display());
        // No log files of the children: its own pipes and readers would be measured, which the others do not have.
        text += &format!(
            "[program:{name}]\ncommand={}\ndirectory={folder}\nautorestart=true\nstdout_logfile=NONE\nstderr_logfile=NONE\n",
            child.display()
        );
    }
    fs::write(dir.join("supervisord.conf"), text).context("write the configuration")
}

fn dinit(dir: &Path, child: &Path, services: &[PathBuf]) -> anyhow::Result<()> {
    let folder = dir.join("dinit.d");
    fs::create_dir_all(&folder)?;
    let mut boot = "type = internal\n".to_owned();
    for service in services {
        fs::create_dir_all(service)?;
        let name = service.file_name().unwrap_or_default().to_string_lossy();
        boot += &format!("waits-for = {name}\n");
        let text = format!(
            "type = process\ncommand = {}\nworking-dir = {}\nrestart = true\nsmooth-recovery = true\nrestart-delay = 0\n",
            child.display(),
            service.display()
        );
        fs::write(folder.join(&*name), text)?;
    }
    fs::write(folder.join("boot"), boot).context("write the configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_make_up_the_number() {
        assert_eq!([10, 11, 12, 100].map(|n| Shape::Node(n).slots()), [[2, 2, 2], [3, 2, 2], [3, 3, 2], [32, 32, 32]]);
        assert_eq!((Shape::Pools(100).slots(), Shape::Pools(100).count()), ([50, 1, 50], 105));
    }
}
