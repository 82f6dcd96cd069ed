//! The last configuration that was accepted, kept beside the sockets for a successor that finds a refused one.
//!
//! Whoever follows a killed supervisor must look after its daemons whatever lies in the file by then. Their environment names the runtime
//! folder, so that it is found even when nothing of the file can be read. The folder is a tmpfs and the file ours alone: it holds secrets.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wk_config::Env;

use crate::adopt::Census;
use crate::config::{Config, LoadError, Source};
use crate::reload::own;
use crate::runtime::Runtime;

/// In the runtime folder.
const FILE: &str = "config";
/// Variables that say nothing about the node.
const ASIDE: [&str; 5] = ["WK_BIN_DIR", "WK_FAULT", "WK_LOG", "WK_REEXEC", "WK_INSTANCE"];

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    origin: Origin,
    json: String,
}

/// Where a configuration was read: two nodes of one machine differ in it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    paths: [Option<PathBuf>; 3],
    vars: Vec<(String, u64)>,
}

impl Origin {
    fn of(source: &Source, env: &Env) -> Self {
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| std::path::absolute(p).unwrap_or_else(|_| p.clone()));
        let counts = |name: &str| name.starts_with("WK_") && !ASIDE.iter().any(|a| name.starts_with(a));
        let hash = |text: &str| text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut vars: Vec<_> = env.iter().filter(|(name, _)| counts(name)).map(|(name, value)| (name.to_owned(), hash(value))).collect();
        vars.sort();
        Self { paths: [path(&source.file), path(&source.data), path(&source.runtime)], vars }
    }
}

/// Keeps the configuration that holds.
///
/// # Errors
/// The runtime folder cannot be written.
pub fn keep(config: &Config) -> io::Result<()> {
    let kept = Kept { origin: Origin::of(&config.source, &config.env), json: config.json.clone() };
    let (path, next) = (config.runtime_dir.join(FILE), config.runtime_dir.join("config.new"));
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    fs::rename(next, path)
}

/// Forgets it: nothing is left to be looked after.
///
/// # Errors
/// It cannot be removed.
pub fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads the configuration; where daemons of the same source live without a supervisor, with what keeps them ours: their runtime folder,
/// and, when the file is refused, all that held before. With the look at all processes, where it took one.
///
/// # Errors
/// The configuration is refused, and nothing lives that would need another.
pub fn load(source: &Source, env: &Env) -> Result<(Config, Option<Census>), LoadError> {
    let read = Config::load(source, env);
    if read.as_ref().is_ok_and(|config| Runtime::has_ledger(&config.runtime_dir)) {
        return read.map(|config| (config, None));
    }
    let census = Census::take();
    let config = match (orphaned(&census, source, env), read) {
        (None, read) => read,
        (Some((dir, _)), Ok(config)) if config.runtime_dir == dir => Ok(config),
        // Another folder would be another node beside the one that lives.
        (Some((_, json)), Ok(config)) => config.holding(&own(&json)),
        (Some((_, json)), Err(refused)) => Config::held(source, env, &json, &refused),
    };
    config.map(|config| (config, Some(census)))
}

/// Folder and configuration of daemons of this source that live and that nobody supervises.
fn orphaned(census: &Census, source: &Source, env: &Env) -> Option<(PathBuf, String)> {
    let origin = Origin::of(source, env);
    let uid = rustix::process::geteuid().as_raw();
    census.homes().into_iter().find_map(|dir| {
        let path = dir.join(FILE);
        let ours = fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.uid() == uid);
        let kept: Kept = serde_json::from_str(&fs::read_to_string(path).ok().filter(|_| ours)?).ok()?;
        (kept.origin == origin && !Runtime::is_held(dir)).then(|| (dir.to_path_buf(), kept.json))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_of_one_file_are_told_apart() {
        let source = |data: &str| Source { file: Some("/etc/x.yaml".into()), data: Some(data.into()), ..Source::default() };
        let env = |id: &str| Env::from_pairs([("WK_CLUSTER_NODEID", id), ("WK_LOG", id), ("PATH", id)]);
        assert_ne!(Origin::of(&source("/a"), &env("1")), Origin::of(&source("/b"), &env("1")));
        assert_ne!(Origin::of(&source("/a"), &env("1")), Origin::of(&source("/a"), &env("2")));
        let other = Env::from_pairs([("WK_CLUSTER_NODEID", "1"), ("WK_LOG", "debug")]);
        assert_eq!(Origin::of(&source("/a"), &env("1")), Origin::of(&source("/a"), &other));
    }
}
