//! The epoch on disk. The cluster refuses owners of an older one, so it never falls, whoever hosts the node.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// `<data>/supervisor/epoch`: one number.
#[derive(Debug, Clone)]
pub struct EpochFile {
    path: PathBuf,
}

impl EpochFile {
    /// The file of a node with this data folder.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self { path: data.join("supervisor").join("epoch") }
    }

    /// The last epoch that was published; 0: none.
    ///
    /// # Errors
    /// The file is there and cannot be read as a number: a lower epoch would be refused by the cluster, so this is not guessed.
    pub fn last(&self) -> io::Result<u64> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text.trim().parse::<u64>().map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// The epoch to begin with: above every one that was ever published; it is durable when this returns.
    ///
    /// # Errors
    /// As [`Self::last`], or the data folder cannot be written.
    pub fn next(&self) -> io::Result<u64> {
        let next = self.last()? + 1;
        self.save(next)?;
        Ok(next)
    }

    /// Makes an epoch durable; to be called before it is published.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn save(&self, epoch: u64) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let next = self.path.with_extension("new");
        let mut file = File::create(&next)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_falls_and_never_guesses() {
        let dir = tempfile::tempdir().unwrap();
        let file = EpochFile::of(dir.path());
        assert_eq!(file.next().unwrap(), 1);
        file.save(7).unwrap();
        assert_eq!(EpochFile::of(dir.path()).next().unwrap(), 8);
        fs::write(file.path(), "seven").unwrap();
        assert!(file.next().is_err());
    }
}
