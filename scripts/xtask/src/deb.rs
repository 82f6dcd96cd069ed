//! The Debian package: programs, pages and completions, then `cargo deb`, which is installed from crates.io once per machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::build::{folder, programs};
use crate::steps::{cargo, loud, quiet, say};
use crate::workspace::root;

/// Version of cargo-deb, so that every machine makes the same package.
const CARGO_DEB: &str = "3.8.0";
/// Shells whose completions are packed, with the names of the files (`supervisor/Cargo.toml`).
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Development profile: for tests of the package
    #[arg(long)]
    dev: bool,
    /// Where the package goes; default: target/debian
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Builds the package and says where it is.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    build(options.dev, options.output.as_deref())
}

/// The same; `dev`: development profile, stripped, compressed quickly.
pub(crate) fn build(dev: bool, output: Option<&Path>) -> anyhow::Result<()> {
    let root = root();
    programs(&root, !dev, &[])?;
    pages(&folder(&root, !dev))?;
    let tool = tool(&root)?;
    let mut command = cargo(&root)?;
    command.arg("deb").args(["--package", "wk-supervisor", "--no-build", "--profile", if dev { "dev" } else { "release" }]);
    if dev {
        command.args(["--strip", "--fast"]);
    }
    command.args(output.iter().flat_map(|o| [Path::new("--output"), o]));
    // `cargo deb` finds its program on the path.
    #[expect(clippy::disallowed_methods, reason = "the path of the shell, for a tool")]
    let path = std::env::var("PATH").unwrap_or_default();
    loud(command.env("PATH", format!("{}:{path}", tool.display())))
}

/// Manual pages and completions, from the definitions in the programs themselves.
fn pages(built: &Path) -> anyhow::Result<()> {
    let dir = built.join("deb");
    let man = dir.join("man");
    if man.exists() {
        fs::remove_dir_all(&man)?;
    }
    fs::create_dir_all(&man)?;
    for program in ["wkctl", "wksupervisor"] {
        quiet(Command::new(built.join(program)).arg("man").arg(&man))?;
    }
    for (program, shell) in ["wkctl", "wksupervisor"].into_iter().flat_map(|program| SHELLS.map(|shell| (program, shell))) {
        let output = Command::new(built.join(program)).args(["completion", shell]).output().with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!("{program} completion {shell} ended with {}", output.status);
        }
        fs::write(dir.join(format!("{program}.{shell}")), output.stdout)?;
    }
    Ok(())
}

/// Folder with cargo-deb, outside the clone.
fn tool(root: &Path) -> anyhow::Result<PathBuf> {
    let dir = cache()?.join("cargo-deb").join(CARGO_DEB);
    let bin = dir.join("bin");
    if !bin.join("cargo-deb").exists() {
        say(&format!("installing cargo-deb {CARGO_DEB} into {}, once per machine", dir.display()));
        // Built beside its place, not in the target folder of this tree.
        let build = dir.join("build");
        loud(
            Command::new("cargo")
                .current_dir(root)
                .args(["install", "cargo-deb", "--locked", "--version", CARGO_DEB, "--root"])
                .arg(&dir)
                .env("CARGO_TARGET_DIR", &build),
        )?;
        fs::remove_dir_all(build)?;
    }
    Ok(bin)
}

/// Where this machine keeps what is made once.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "variables of the shell, for tools")]
    let cache = std::env::var("WK_CACHE").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cache/wukongim")));
    Ok(PathBuf::from(cache.context("no HOME")?))
}
