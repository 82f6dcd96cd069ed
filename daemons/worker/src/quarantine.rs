//! Items that two receivers died of, kept for people: `<data>/quarantine/<instance>.jsonl`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wk_link::sender::Poisoned;
use wk_types::InstanceName;

/// Largest quarantine file; more is counted and logged only. Unit: bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The file of one instance; made with its first line.
#[derive(Debug, Clone)]
pub struct Quarantine {
    path: PathBuf,
}

impl Quarantine {
    /// The file below the data folder.
    #[must_use]
    pub fn new(data: &Path, me: InstanceName) -> Self {
        Self { path: data.join("quarantine").join(format!("{me}.jsonl")) }
    }

    /// Appends a line. Failures are logged: the item is refused either way.
    pub fn keep(&self, item: &Poisoned, unix_ms: i64) {
        if let Err(err) = self.write(item, unix_ms) {
            tracing::error!(%err, path = %self.path.display(), "quarantine file cannot be written");
        }
    }

    fn write(&self, item: &Poisoned, unix_ms: i64) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        if file.metadata()?.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("quarantine file is full"));
        }
        let line = serde_json::json!({
            "time_ms": unix_ms,
            "kind": format!("{:?}", item.kind),
            "bucket": item.bucket.index(),
            "receiver_slot": item.slot,
            "body": STANDARD.encode(&item.body),
        });
        writeln!(file, "{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_link::Kind;
    use wk_types::{Bucket, Daemon};

    #[test]
    fn one_line_per_item() {
        let dir = tempfile::tempdir().expect("temp dir");
        let q = Quarantine::new(dir.path(), InstanceName { daemon: Daemon::Api, slot: 2 });
        let item = Poisoned { slot: 1, kind: Kind::Deliver, bucket: Bucket::of("x"), body: bytes::Bytes::from_static(b"hi"), token: 0 };
        q.keep(&item, 5);
        q.keep(&item, 6);
        let text = fs::read_to_string(dir.path().join("quarantine/api@2.jsonl")).expect("file");
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("\"body\":\"aGk=\""), "{text}");
    }
}
