//! Where the sockets of a node live (`spec/config.md` §5).

use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::schema::Config;

/// Longest base folder: socket paths are limited to 107 bytes. Unit: bytes.
pub const RUNTIME_BASE_BYTES_MAX: usize = 60;

/// No usable runtime folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The chosen base is too long for socket paths.
    #[error("runtime folder {} is longer than {RUNTIME_BASE_BYTES_MAX} bytes: set supervisor.runtimeDir", .0.display())]
    TooLong(PathBuf),
}

/// Candidates for the base, strongest first: `supervisor.runtimeDir` alone when set; else `/run/wukongim`, `$XDG_RUNTIME_DIR/wukongim`,
/// `<tmp>/wukongim-<uid>`.
#[must_use]
pub fn runtime_bases(config: &Config, env: &Env, uid: u32) -> Vec<PathBuf> {
    if !config.supervisor.runtime_dir.is_empty() {
        return vec![PathBuf::from(&config.supervisor.runtime_dir)];
    }
    let mut bases = vec![PathBuf::from("/run/wukongim")];
    bases.extend(env.get("XDG_RUNTIME_DIR").filter(|d| d.starts_with('/')).map(|d| Path::new(d).join("wukongim")));
    let tmp = env.get("TMPDIR").filter(|d| d.starts_with('/')).unwrap_or("/tmp");
    bases.push(Path::new(tmp).join(format!("wukongim-{uid}")));
    bases
}

/// The runtime folder of the node: `<base>/<nodeId>`. `usable` says whether a base exists (or can be created) and may be written by us;
/// the last candidate is taken when none is. The caller creates it with mode 0700 and checks the owner.
///
/// # Errors
/// [`RuntimeError::TooLong`] when the base is longer than [`RUNTIME_BASE_BYTES_MAX`].
pub fn runtime_dir(config: &Config, env: &Env, uid: u32, usable: impl Fn(&Path) -> bool) -> Result<PathBuf, RuntimeError> {
    let bases = runtime_bases(config, env, uid);
    let base = bases.iter().find(|b| usable(b)).or(bases.last()).cloned().unwrap_or_default();
    if base.as_os_str().len() > RUNTIME_BASE_BYTES_MAX {
        return Err(RuntimeError::TooLong(base));
    }
    Ok(base.join(config.cluster.node_id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_in_order() {
        let mut config = Config::default();
        let env = Env::from_pairs([("XDG_RUNTIME_DIR", "/run/user/7"), ("TMPDIR", "/t")]);
        let dir = |c: &Config, usable: &str| runtime_dir(c, &env, 7, |p| p == Path::new(usable));
        assert_eq!(dir(&config, "/run/wukongim"), Ok("/run/wukongim/1001".into()));
        assert_eq!(dir(&config, "/run/user/7/wukongim"), Ok("/run/user/7/wukongim/1001".into()));
        assert_eq!(dir(&config, "none"), Ok("/t/wukongim-7/1001".into()));
        config.supervisor.runtime_dir = "/x".into();
        assert_eq!(dir(&config, "none"), Ok("/x/1001".into()));
        config.supervisor.runtime_dir = "/".repeat(61);
        assert!(dir(&config, "none").is_err());
    }
}
