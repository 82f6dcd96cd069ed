//! A real boot: Debian 12 with systemd as PID 1 in a container (systemd-nspawn), where `boot.sh` installs the package, runs it both ways,
//! kills, stops and removes. Nothing of it stays on this machine but the cached tree.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::deb;
use crate::steps::{quiet, say, spinner};

/// What runs inside.
const SCRIPT: &str = include_str!("boot.sh");
/// Packages of the tree beside those of a minimal system.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,procps,libstdc++6";
/// The unit that runs the script and then powers the container off.
const UNIT: &str = "[Unit]\nDescription=boot test\nAfter=multi-user.target\n\n[Service]\nType=oneshot\nExecStart=/bin/bash /wk/in/boot.sh\n\
StandardOutput=file:/wk/out/log\nStandardError=inherit\nExecStopPost=/bin/systemctl poweroff --no-block\nTimeoutStartSec=900\n";
/// The whole boot. Unit: s.
const PATIENCE_S: &str = "1200";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Release profile
    #[arg(long)]
    release: bool,
}

/// Builds the package, boots, and shows what the script said. Says so and does nothing where containers cannot be booted.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(reason) = missing() {
        say(&format!("boot test skipped: {reason}"));
        return Ok(());
    }
    let work = tempfile::tempdir()?;
    let (input, output) = (work.path().join("in"), work.path().join("out"));
    fs::create_dir_all(&output)?;
    fs::create_dir_all(&input)?;
    deb::build(!options.release, Some(&input.join("wukongim.deb")))?;
    let tree = tree()?;
    fs::write(input.join("boot.sh"), SCRIPT)?;
    fs::write(input.join("wk-boot.service"), UNIT)?;
    let booted = boot(&tree, work.path());
    let log = fs::read_to_string(output.join("log")).unwrap_or_default();
    say(log.trim_end());
    if log.trim_end().ends_with("boot test passed") {
        return Ok(());
    }
    booted?;
    bail!("the boot test failed")
}

/// What keeps this machine from booting a container.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".into());
    }
    let tool =
        |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    let lacks = [("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap")].into_iter().find(|(name, _)| !tool(name));
    if let Some((_, package)) = lacks {
        return Some(format!("the Debian package {package} is not installed"));
    }
    // A namespace of its own with mounts is what it takes; machines inside other containers often refuse.
    let isolated = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stderr(Stdio::null())
        .status();
    (!isolated.is_ok_and(|s| s.success())).then(|| "this machine does not allow mounts in a namespace of its own".into())
}

/// The tree of Debian 12, made once per machine from the mirror that apt uses.
fn tree() -> anyhow::Result<PathBuf> {
    let cache = deb::cache()?;
    let tree = cache.join("debian12");
    if !tree.join("usr/bin/pgrep").exists() {
        let new = cache.join("debian12.new");
        for old in [&tree, &new] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        fs::create_dir_all(&cache)?;
        let bar = spinner("debootstrap bookworm, once per machine");
        let made = quiet(
            Command::new("debootstrap").args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&new).arg(mirror()),
        );
        bar.finish_and_clear();
        made?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(&new, &tree)?;
    }
    Ok(tree)
}

/// First mirror of Debian that apt knows.
fn mirror() -> String {
    let lists = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path());
    let text: String =
        std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(lists).filter_map(|p| fs::read_to_string(p).ok()).collect();
    let found = text.split_whitespace().find(|w| w.starts_with("http") && w.trim_end_matches('/').ends_with("/debian"));
    found.unwrap_or("http://deb.debian.org/debian").to_owned()
}

/// Boots the tree with a volatile layer over it; returns when it has powered off.
fn boot(tree: &Path, work: &Path) -> anyhow::Result<()> {
    let bind = |kind: &str, from: &str, to: &str| format!("--{kind}={}:{to}", work.join(from).display());
    let bar = spinner("booting Debian 12, running both ways");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", PATIENCE_S, "systemd-nspawn", "--quiet", "--boot", "--private-network", "--volatile=overlay"]);
    command.args(["--register=no", "--keep-unit", &format!("--machine=wkboot{}", std::process::id())]).arg("--directory").arg(tree);
    command.args([bind("bind-ro", "in", "/wk/in"), bind("bind", "out", "/wk/out")]);
    command.arg(bind("bind-ro", "in/wk-boot.service", "/etc/systemd/system/wk-boot.service")).arg("systemd.wants=wk-boot.service");
    let output = command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").stdin(Stdio::null()).output().context("run systemd-nspawn");
    bar.finish_and_clear();
    let output = output?;
    if !output.status.success() {
        bail!("systemd-nspawn ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
