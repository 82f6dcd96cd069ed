//! The same boot in a virtual machine with Debian's own kernel: all controllers of control groups version 2 are there, whatever this machine
//! has. The processor is emulated, which is slow, unless KVM is asked for: a `/dev/kvm` that is there may not boot this kernel (nested machines).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::{INPUT, PATIENCE_S};
use crate::deb;
use crate::steps::{quiet, spinner};

/// Names the newest kernel for virtual machines. NVMe and ext4 are built into it: no initramfs is needed.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Room on the disk, most of it a hole. The package, its data and the journal are small.
const DISK: &str = "2G";
/// Second serial port: what the script says.
pub(super) const LOG_DEVICE: &str = "/dev/ttyS1";

/// What keeps this machine from it.
pub(super) fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the machine is of another architecture".into());
    }
    let there = |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let tools = [("qemu-system-x86_64", "qemu-system-x86"), ("mke2fs", "e2fsprogs"), ("debugfs", "e2fsprogs"), ("apt-get", "apt")];
    let (_, package) = tools.into_iter().find(|(name, _)| !there(name))?;
    Some(format!("the Debian package {package} is not installed"))
}

/// Boots the tree from a disk made of it; returns when it has powered off. What the script said is in `out/log`.
pub(super) fn boot(tree: &Path, work: &Path, kvm: bool) -> anyhow::Result<()> {
    let (kernel, disk) = (kernel()?, work.join("disk"));
    quiet(Command::new("mke2fs").args(["-q", "-t", "ext4", "-m", "0", "-d"]).arg(tree).arg(&disk).arg(DISK))?;
    fill(&disk, work)?;
    let bar = spinner("booting Debian in a virtual machine, running both ways: some minutes");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", PATIENCE_S, "qemu-system-x86_64", "-machine", "q35"]);
    command.args(["-accel", if kvm { "kvm" } else { "tcg,thread=multi" }]);
    command.args(["-cpu", "max", "-smp", "2", "-m", "2048", "-nodefaults", "-nic", "none", "-display", "none", "-no-reboot", "-kernel"]);
    command.arg(kernel).args(["-append", &arguments()]);
    command.args(["-device", "nvme,drive=root,serial=root", "-drive"]);
    command.arg(format!("file={},if=none,id=root,format=raw,cache=unsafe", disk.display()));
    command.arg("-serial").arg(format!("file:{}", work.join("out/console").display()));
    command.arg("-serial").arg(format!("file:{}", work.join("out/log").display()));
    let output = command.stdin(Stdio::null()).output().context("run qemu-system-x86_64");
    bar.finish_and_clear();
    let output = output?;
    if !output.status.success() {
        let console = fs::read(work.join("out/console")).unwrap_or_default();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&console));
        bail!("the virtual machine ended with {}\n{}", output.status, text.trim_end());
    }
    Ok(())
}

/// For the kernel and systemd. There is no udev, which a console would wait for.
fn arguments() -> String {
    "root=/dev/nvme0n1 rw console=ttyS0 panic=-1 quiet systemd.mask=serial-getty@ttyS0.service systemd.wants=wk-boot.service".into()
}

/// Puts the input of the script into the disk.
fn fill(disk: &Path, work: &Path) -> anyhow::Result<()> {
    let input = work.join("in");
    let mut commands = String::from("mkdir /wk\nmkdir /wk/in\n");
    for name in INPUT {
        commands += &format!("write {} /wk/in/{name}\n", input.join(name).display());
    }
    commands += &format!("write {} /etc/systemd/system/wk-boot.service\n", input.join("wk-boot.service").display());
    let file = work.join("fill");
    fs::write(&file, commands)?;
    quiet(Command::new("debugfs").args(["-w", "-f"]).arg(file).arg(disk))
}

/// Debian's kernel, unpacked and never installed here; once per machine.
fn kernel() -> anyhow::Result<PathBuf> {
    let cache = deb::cache()?.join("kernel");
    let (image, new) = (cache.join("vmlinuz"), cache.join("new"));
    if image.exists() {
        return Ok(image);
    }
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    let bar = spinner("Debian's kernel, once per machine");
    let depends = Command::new("apt-cache").args(["depends", KERNEL]).output().context("run apt-cache")?;
    let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
    let package =
        depends.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).with_context(|| format!("apt does not know {KERNEL}"))?;
    quiet(Command::new("apt-get").args(["download", package]).current_dir(&new))?;
    let archive = only(&new, "linux-image")?;
    quiet(Command::new("dpkg-deb").arg("-x").arg(archive).arg(new.join("tree")))?;
    fs::rename(only(&new.join("tree/boot"), "vmlinuz")?, &image)?;
    fs::remove_dir_all(&new)?;
    bar.finish_and_clear();
    Ok(image)
}

/// The file of a folder whose name begins so.
fn only(dir: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let mut files = fs::read_dir(dir)?.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    files.next().map(|e| e.path()).with_context(|| format!("no {prefix} in {}", dir.display()))
}
