//! Who this node is: the lock on its data folder and the identity file in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use wk_types::NodeId;

const LOCK_FILE: &str = "lock";
const IDENTITY_FILE: &str = "identity";
const HEAD: &str = "wukongim cluster identity 1";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process uses the folder.
    #[error("data folder {} is in use by process {holder}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Process id of the holder as it wrote it, or "unknown".
        holder: String,
    },
    /// The folder belongs to another node.
    #[error("data folder {} belongs to node {found}, cluster.nodeId is {wanted}: use that node id or another folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Node id in the identity file.
        found: NodeId,
        /// Node id of the configuration.
        wanted: NodeId,
    },
    /// The identity file is damaged or of another version.
    #[error("identity file {} is not readable", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The folder has databases but no identity.
    #[error("data folder {} has data but no identity file: restore the file or choose an empty folder", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("{step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn io_at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { step, path, source }
}

/// The lock on the data folder. Held until dropped; the kernel drops it with the process.
#[derive(Debug)]
pub struct DataLock {
    _file: Flock<File>,
}

impl DataLock {
    /// Locks a folder, making it when it is missing.
    ///
    /// # Errors
    /// [`IdentityError::Locked`] with the holder, [`IdentityError::Io`].
    pub fn take(folder: &Path) -> Result<Self, IdentityError> {
        fs::create_dir_all(folder).map_err(io_at("create folder", folder))?;
        let path = folder.join(LOCK_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io_at("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let pid = std::process::id();
                file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{pid}")).map_err(io_at("write", &path))?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let holder = match file.read_to_string(&mut text) {
                    Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
                    _ => "unknown".to_owned(),
                };
                Err(IdentityError::Locked { path: folder.to_owned(), holder })
            }
            Err((_, errno)) => Err(IdentityError::Io { step: "lock", path, source: errno.into() }),
        }
    }
}

/// Identity of a node in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Random, made at bootstrap, equal on all nodes of a cluster. 32 hex digits.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Life of this node id, from 1: a node that lost its folder comes back with the next one.
    pub incarnation: u32,
}

impl Identity {
    /// Reads the identity of `folder`, or makes one when the folder is fresh (`has_data` false).
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load_or_create(folder: &Path, node: NodeId, has_data: bool) -> Result<Self, IdentityError> {
        let path = folder.join(IDENTITY_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let identity = Self::parse(&text).ok_or_else(|| IdentityError::Damaged { path: path.clone() })?;
                if identity.node == node {
                    return Ok(identity);
                }
                Err(IdentityError::Foreign { path: folder.to_owned(), found: identity.node, wanted: node })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_data => Err(IdentityError::Missing { path: folder.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut random = [0; 16];
                getrandom::fill(&mut random).map_err(|_| IdentityError::Io {
                    step: "read random bytes for",
                    path: path.clone(),
                    source: io::ErrorKind::Other.into(),
                })?;
                let cluster = random.iter().map(|byte| format!("{byte:02x}")).collect();
                let identity = Self { cluster, node, incarnation: 1 };
                identity.write(folder)?;
                Ok(identity)
            }
            Err(error) => Err(io_at("read", &path)(error)),
        }
    }

    /// Written whole or not at all: a new file, synced, then renamed over, then the folder synced.
    fn write(&self, folder: &Path) -> Result<(), IdentityError> {
        let (path, fresh) = (folder.join(IDENTITY_FILE), folder.join("identity.new"));
        let text = format!("{HEAD}\ncluster {}\nnode {}\nincarnation {}\n", self.cluster, self.node, self.incarnation);
        let mut file = File::create(&fresh).map_err(io_at("create", &fresh))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_at("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(io_at("rename to", &path))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_at("sync", folder))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let cluster = lines.next()?.strip_prefix("cluster ")?.to_owned();
        let node = NodeId(lines.next()?.strip_prefix("node ")?.parse().ok()?);
        let incarnation = lines.next()?.strip_prefix("incarnation ")?.parse().ok()?;
        let hex = cluster.len() == 32 && cluster.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then_some(Self { cluster, node, incarnation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_stays_and_foreign_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(folder.path(), NodeId(7), false).unwrap();
        assert_eq!(Identity::load_or_create(folder.path(), NodeId(7), true).unwrap(), first);
        let error = Identity::load_or_create(folder.path(), NodeId(8), true).unwrap_err();
        assert!(matches!(error, IdentityError::Foreign { found: NodeId(7), wanted: NodeId(8), .. }));
        fs::write(folder.path().join(IDENTITY_FILE), "x").unwrap();
        assert!(matches!(Identity::load_or_create(folder.path(), NodeId(7), true), Err(IdentityError::Damaged { .. })));
        fs::remove_file(folder.path().join(IDENTITY_FILE)).unwrap();
        assert!(matches!(Identity::load_or_create(folder.path(), NodeId(7), true), Err(IdentityError::Missing { .. })));
    }

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let lock = DataLock::take(folder.path()).unwrap();
        let error = DataLock::take(folder.path()).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        DataLock::take(folder.path()).unwrap();
    }
}
