//! Timing of the last full starts, kept so that a dry run knows what to expect.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::limits::STARTS_KEPT;
use crate::timing::Timing;

/// Latest first; nothing where the file is missing or of another version.
#[must_use]
pub fn load(path: &Path) -> Vec<Timing> {
    let mut starts: Vec<Timing> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    starts.truncate(STARTS_KEPT);
    starts
}

/// Replaces the file.
///
/// # Errors
/// The folder cannot be written.
pub fn save(path: &Path, starts: &[Timing]) -> io::Result<()> {
    let next = path.with_extension("new");
    File::create(&next)?.write_all(&serde_json::to_vec(starts)?)?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn keeps_the_last_ones_and_ignores_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("starts.json");
        assert!(load(&path).is_empty());
        let starts: Vec<Timing> = (0..9).map(|n| Timing { rows: Vec::new(), total: Duration::from_millis(n), overhead: None }).collect();
        save(&path, &starts).unwrap();
        assert_eq!(load(&path), starts[..STARTS_KEPT]);
        fs::write(&path, "[{").unwrap();
        assert!(load(&path).is_empty());
    }
}
