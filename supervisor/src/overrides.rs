//! Slots that a command has set: they hold until they equal the configuration again or its number is changed, across restarts of the
//! supervisor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wk_types::Daemon;

use crate::config::Config;
use crate::limits::SLOTS_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    slots: u16,
    /// What the configuration said then: another number there is a later word.
    configured: u16,
}

/// The file, as it was last written.
#[derive(Debug)]
pub struct Overrides {
    path: PathBuf,
    written: BTreeMap<String, Entry>,
}

impl Overrides {
    /// Reads the file. What cannot be understood is left out: the configuration says what holds without it.
    #[must_use]
    pub fn open(config: &Config) -> Self {
        Self::read(config.data_dir.join("supervisor").join("overrides.json"))
    }

    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let parsed: Result<BTreeMap<String, Entry>, _> = serde_json::from_str(&text);
        if let Some(err) = parsed.as_ref().err().filter(|_| !text.is_empty()) {
            tracing::warn!(%err, path = %path.display(), "overrides not understood, the configuration holds");
        }
        Self { path, written: parsed.unwrap_or_default() }
    }

    /// What holds over this configuration.
    #[must_use]
    pub fn over(&self, configured: &BTreeMap<Daemon, u16>) -> BTreeMap<Daemon, u16> {
        let valid = |(name, entry): (&String, &Entry)| {
            let daemon = name.parse::<Daemon>().ok()?;
            let same = configured.get(&daemon) == Some(&entry.configured);
            let fits = matches!(daemon, Daemon::Worker(_)) && (1..=SLOTS_MAX).contains(&entry.slots);
            (same && fits).then_some((daemon, entry.slots))
        };
        self.written.iter().filter_map(valid).collect()
    }

    /// Writes the file when something has changed; removes it when nothing is overridden.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&mut self, slots: &BTreeMap<Daemon, u16>, configured: &BTreeMap<Daemon, u16>) -> io::Result<()> {
        let entry = |(daemon, slots): (&Daemon, &u16)| {
            let configured = configured.get(daemon).copied().unwrap_or(1);
            (daemon.name().to_owned(), Entry { slots: *slots, configured })
        };
        let now: BTreeMap<String, Entry> = slots.iter().map(entry).collect();
        if now == self.written {
            return Ok(());
        }
        if now.is_empty() {
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        } else {
            replace(&self.path, serde_json::to_string(&now)?.as_bytes())?;
        }
        self.written = now;
        Ok(())
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("new");
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Pool;

    #[test]
    fn survives_in_the_file_until_the_configuration_says_another_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overrides.json");
        let channel = Daemon::Worker(Pool::Channel);
        let (slots, configured) = (BTreeMap::from([(channel, 4)]), BTreeMap::from([(channel, 1)]));
        let open = || Overrides::read(path.clone());
        assert!(open().over(&configured).is_empty());
        open().save(&slots, &configured).unwrap();
        assert_eq!(open().over(&configured), slots);
        assert!(open().over(&BTreeMap::from([(channel, 2)])).is_empty(), "the file has a later word");
        for text in ["{", r#"{"api":{"slots":3,"configured":1},"worker.channel":{"slots":9999,"configured":1}}"#] {
            fs::write(&path, text).unwrap();
            assert!(open().over(&configured).is_empty(), "{text}");
        }
        open().save(&BTreeMap::new(), &configured).unwrap();
        assert!(!path.exists());
    }
}
