//! `check` and `fix`.

use crate::rules::{duplicates, layers, length, licences, metrics, units, unsafe_code};
use crate::steps::{Steps, cargo, loud, quiet, say};
use crate::workspace::{Metadata, root, sources};

/// Every check runs; the end names those that failed.
pub(crate) fn check(quick: bool, tests: bool) -> anyhow::Result<()> {
    let root = root();
    let metadata = Metadata::load(&root)?;
    let sources = sources(&root)?;
    let mut steps = Steps::default();
    steps.run("format", || quiet(cargo(&root)?.args(["fmt", "--all", "--", "--check", "-l"])));
    steps.run("layers", || layers::check(&metadata));
    steps.run("unsafe code", || unsafe_code::check(&sources));
    steps.run("licences", || licences::check(&metadata));
    steps.run("duplicates", || duplicates::check(&metadata));
    steps.run("metrics", || metrics::check(&sources));
    steps.run("systemd units", || units::check(&root));
    for warning in length::warnings(&sources) {
        say(&format!("  warn  {warning}"));
    }
    if !quick {
        steps.run("clippy", || {
            quiet(cargo(&root)?.args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--features",
                "wk-supervisor/e2e",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]))
        });
        steps.run("documentation", || {
            quiet(
                cargo(&root)?
                    .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )
        });
    }
    if tests {
        steps.run("tests", || quiet(cargo(&root)?.args(["test", "--workspace", "--quiet"])));
    }
    steps.end()
}

/// Writes what tools can write.
pub(crate) fn fix() -> anyhow::Result<()> {
    let root = root();
    loud(cargo(&root)?.args(["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]))?;
    loud(cargo(&root)?.args(["fmt", "--all"]))
}
