//! Building the programs of a node.

use std::path::{Path, PathBuf};

use crate::steps::{cargo, loud};

/// Packages whose programs make a node, and the load generator.
const PROGRAMS: [&str; 6] = ["wk-supervisor", "wk-cluster", "wk-gateway", "wk-api", "wk-worker", "wk-plugin-host"];

/// Builds every program of a node and `extra` packages; returns the folder they lie in. One cargo call, so that features are resolved once.
pub(crate) fn programs(root: &Path, release: bool, extra: &[&str]) -> anyhow::Result<PathBuf> {
    let mut command = cargo(root)?;
    command.args(["build", "--bins"]);
    for package in PROGRAMS.iter().chain(extra) {
        command.args(["--package", package]);
    }
    if release {
        command.arg("--release");
    }
    loud(&mut command)?;
    Ok(folder(root, release))
}

/// Folder in which the programs lie.
pub(crate) fn folder(root: &Path, release: bool) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the variable is cargo's")]
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join(if release { "release" } else { "debug" })
}
