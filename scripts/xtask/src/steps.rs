//! Steps with progress on a terminal and one line each elsewhere.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Writes a line to standard error: standard output belongs to results.
pub(crate) fn say(line: &str) {
    // Nobody left to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Outcome of a set of steps that all run, whatever the others say.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
    done: usize,
}

impl Steps {
    /// Runs one step and reports it; its error text is shown at once.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        let started = Instant::now();
        let spinner = spinner(name);
        let outcome = step();
        spinner.finish_and_clear();
        let took = started.elapsed();
        self.done += 1;
        match outcome {
            Ok(()) => say(&format!("  ok    {name} ({:.1} s)", took.as_secs_f64())),
            Err(err) => {
                say(&format!("  FAIL  {name} ({:.1} s)\n{err:#}", took.as_secs_f64()));
                self.failed.push(name.to_owned());
            }
        }
    }

    /// The verdict.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        if self.failed.is_empty() {
            say(&format!("{} checks passed", self.done));
            return Ok(());
        }
        bail!("{} of {} checks failed: {}", self.failed.len(), self.done, self.failed.join(", "))
    }
}

/// A spinner with elapsed time; a plain line where nobody watches.
pub(crate) fn spinner(name: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        say(&format!("  ...   {name}"));
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// `cargo` in the root of the tree, with RocksDB built once per machine (`scripts/rocksdb`) unless the caller's environment names one: without
/// it every target folder would compile it again.
pub(crate) fn cargo(root: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    #[expect(clippy::disallowed_methods, reason = "a variable of the build, not of a daemon")]
    if std::env::var_os("ROCKSDB_LIB_DIR").is_none() {
        static LIBRARY: OnceLock<Option<String>> = OnceLock::new();
        let dir = LIBRARY.get_or_init(|| rocksdb(root)).clone().context("scripts/rocksdb failed")?;
        command.env("ROCKSDB_LIB_DIR", dir).env("ROCKSDB_STATIC", "1");
    }
    Ok(command)
}

/// Folder of the library: the script prints `export ROCKSDB_LIB_DIR='...' ROCKSDB_STATIC=1`; its progress goes to standard error.
fn rocksdb(root: &Path) -> Option<String> {
    let output = Command::new(root.join("scripts/rocksdb")).stderr(Stdio::inherit()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let dir = text.lines().find_map(|l| l.strip_prefix("export ROCKSDB_LIB_DIR='")?.split_once('\''))?.0;
    output.status.success().then(|| dir.to_owned())
}

/// Runs a command with its output hidden; shows it when the command fails.
pub(crate) fn quiet(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {}", shown(command)))?;
    if output.status.success() {
        return Ok(());
    }
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    bail!("{} ended with {}\n{}", shown(command), output.status, text.trim_end())
}

/// Runs a command with its own output, which shows progress by itself.
pub(crate) fn loud(command: &mut Command) -> anyhow::Result<()> {
    say(&format!("$ {}", shown(command)));
    let status = command.status().with_context(|| format!("run {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
