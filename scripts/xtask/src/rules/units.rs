//! The shipped systemd units: correct for the systemd of this machine, and as closed as promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::steps::{quiet, say};

/// Highest exposure of a unit, times ten (`systemd-analyze security`). Source: `design/supervisor.md` §4.13.
const EXPOSURE: [(&str, u32); 9] = [
    ("wukongim.service", 16),
    ("wk-cluster.service", 12),
    ("wk-gateway.service", 12),
    ("wk-api.service", 12),
    ("wk-worker-user@.service", 12),
    ("wk-worker-channel@.service", 12),
    ("wk-worker-push@.service", 12),
    ("wk-plugin-host.service", 5),
    ("wk-quiesce.service", 5),
];

/// Verifies all units and measures the services. Without `systemd-analyze` it says that it did not.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        say("  skip  units: systemd-analyze is not installed (Debian package systemd)");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let units = copies(&root.join("systemd"), dir.path())?;
    let measured: Vec<&Path> = units.iter().map(PathBuf::as_path).filter(|u| u.extension().is_some_and(|e| e == "service")).collect();
    if measured.len() != EXPOSURE.len() {
        bail!("{} services are shipped, {} have a bound here", measured.len(), EXPOSURE.len());
    }
    let analyze = || {
        let mut command = Command::new("systemd-analyze");
        // The trailing colon keeps the machine's own units, which ours refer to.
        command.current_dir(dir.path()).env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()));
        command
    };
    // A template is verified through one of its instances.
    let names = units.iter().filter_map(|u| Some(u.file_name()?.to_str()?.replace("@.", "@0.")));
    let output = analyze().args(["verify", "--man=no", "--recursive-errors=one"]).args(names).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // Only what names our files: other units of this machine are not ours.
    let ours: Vec<&str> = text.lines().filter(|l| l.contains("wk-") || l.contains("wukongim")).collect();
    if !output.status.success() || !ours.is_empty() {
        bail!("systemd-analyze verify:\n{text}");
    }
    for (name, bound) in EXPOSURE {
        let bound = format!("--threshold={bound}");
        quiet(analyze().args(["security", "--offline=yes", "--no-pager", &bound]).arg(dir.path().join(name)))?;
    }
    Ok(())
}

/// Copies of the units with programs that exist here: `verify` asks for them.
fn copies(from: &Path, to: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut copied = Vec::new();
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let unit = path.extension().is_some_and(|e| e == "service" || e == "socket" || e == "target" || e == "slice");
        if !unit {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let text: Vec<String> = text.lines().map(with_program).collect();
        let copy = to.join(path.file_name().context("a file has a name")?);
        fs::write(&copy, text.join("\n") + "\n")?;
        copied.push(copy);
    }
    copied.sort();
    Ok(copied)
}

fn with_program(line: &str) -> String {
    let Some((key, command)) = line.split_once("=/usr/bin/w") else { return line.to_owned() };
    let arguments = command.split_once(' ').map_or("", |(_, a)| a);
    format!("{key}=/bin/true {arguments}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_replaced_and_arguments_kept() {
        assert_eq!(with_program("ExecStart=/usr/bin/wk-api --config x"), "ExecStart=/bin/true --config x");
        assert_eq!(with_program("ExecReload=/bin/kill -HUP $MAINPID"), "ExecReload=/bin/kill -HUP $MAINPID");
    }
}
