//! A real boot: Debian with systemd as PID 1 in a container (systemd-nspawn) or a virtual machine, where `boot.sh` installs the package, runs
//! it both ways, kills, stops and removes. Nothing of it stays on this machine but the cached tree and the kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::deb;
use crate::steps::{quiet, say, spinner};

mod vm;

/// What runs inside.
const SCRIPT: &str = include_str!("boot.sh");
/// The part of it about limits.
const LIMITS: &str = include_str!("boot/limits.sh");
/// What the script finds in its folder.
const INPUT: [&str; 3] = ["wukongim.deb", "boot.sh", "limits.sh"];
/// Packages of the tree beside those of a minimal system.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,procps,libstdc++6";
/// The unit that runs the script and then powers off. `LOG`: where its words go.
const UNIT: &str = "[Unit]\nDescription=boot test\nAfter=multi-user.target\n\n[Service]\nType=oneshot\nExecStart=/bin/bash /wk/in/boot.sh\n\
StandardOutput=file:LOG\nStandardError=inherit\nExecStopPost=/bin/systemctl poweroff --no-block\nTimeoutStartSec=2000\n";
/// The whole boot. Unit: s.
const PATIENCE_S: &str = "2400";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Release profile
    #[arg(long)]
    release: bool,
    /// In a virtual machine, with every controller of control groups: limits are tested too
    #[arg(long)]
    vm: bool,
    /// The virtual machine uses KVM instead of emulating the processor
    #[arg(long, requires = "vm")]
    kvm: bool,
    /// Release of Debian
    #[arg(long, value_enum, default_value_t)]
    suite: Suite,
}

/// Releases of Debian that are booted.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Suite {
    /// 12, systemd 252: the oldest that is supported
    #[default]
    Bookworm,
    /// 13, systemd 257
    Trixie,
}

impl Suite {
    /// Its name, and that of its tree.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Bookworm => ("bookworm", "debian12"),
            Self::Trixie => ("trixie", "debian13"),
        }
    }
}

/// Builds the package, boots, and shows what the script said. Says so and does nothing where that cannot be done.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(reason) = missing(options.vm) {
        say(&format!("boot test skipped: {reason}"));
        return Ok(());
    }
    let work = tempfile::tempdir()?;
    let (input, output) = (work.path().join("in"), work.path().join("out"));
    fs::create_dir_all(&output)?;
    fs::create_dir_all(&input)?;
    deb::build(!options.release, Some(&input.join("wukongim.deb")))?;
    let tree = tree(options.suite)?;
    fs::write(input.join("boot.sh"), SCRIPT)?;
    fs::write(input.join("limits.sh"), LIMITS)?;
    fs::write(input.join("wk-boot.service"), UNIT.replace("LOG", if options.vm { vm::LOG_DEVICE } else { "/wk/out/log" }))?;
    let began = Instant::now();
    let booted = if options.vm { vm::boot(&tree, work.path(), options.kvm) } else { boot(&tree, work.path()) };
    // A serial line ends lines in two characters.
    let log = String::from_utf8_lossy(&fs::read(output.join("log")).unwrap_or_default()).replace('\r', "");
    say(log.trim_end());
    say(&format!("up for {:.0} s", began.elapsed().as_secs_f64()));
    if log.trim_end().ends_with("boot test passed") {
        return Ok(());
    }
    booted?;
    bail!("the boot test failed")
}

/// What keeps this machine from booting a container, or a virtual machine.
fn missing(vm: bool) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".into());
    }
    let tool =
        |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    let tools = [("debootstrap", "debootstrap"), ("systemd-nspawn", "systemd-container")];
    let lacks = tools.into_iter().take(if vm { 1 } else { 2 }).find(|(name, _)| !tool(name));
    if let Some((_, package)) = lacks {
        return Some(format!("the Debian package {package} is not installed"));
    }
    if vm {
        return vm::missing();
    }
    // A namespace of its own with mounts is what it takes; machines inside other containers often refuse.
    let isolated = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stderr(Stdio::null())
        .status();
    (!isolated.is_ok_and(|s| s.success())).then(|| "this machine does not allow mounts in a namespace of its own".into())
}

/// The tree of Debian, made once per machine from the mirror that apt uses.
fn tree(suite: Suite) -> anyhow::Result<PathBuf> {
    let ((suite, folder), cache) = (suite.names(), deb::cache()?);
    let tree = cache.join(folder);
    if !tree.join("usr/bin/pgrep").exists() {
        let new = cache.join(format!("{folder}.new"));
        for old in [&tree, &new] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        fs::create_dir_all(&cache)?;
        let bar = spinner(&format!("debootstrap {suite}, once per machine"));
        let made =
            quiet(Command::new("debootstrap").args(["--variant=minbase", &format!("--include={PACKAGES}"), suite]).arg(&new).arg(mirror()));
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
    let bar = spinner("booting Debian, running both ways");
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
