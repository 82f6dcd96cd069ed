//! Items that two workers died of, for people to look at: one JSON line each in `<data>/quarantine/gateway.jsonl`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wk_link::sender::Poisoned;

/// The file stops growing at this size; later items are only logged and counted. Unit: bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The file. It is opened for each line: there is hardly ever one.
#[derive(Debug, Clone)]
pub struct Quarantine {
    path: PathBuf,
}

impl Quarantine {
    /// The file below a data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self { path: data.join("quarantine").join("gateway.jsonl") }
    }

    /// Appends an item; a failure is logged with the item's kind, and the item is refused all the same.
    pub fn keep(&self, item: &Poisoned, unix_ms: i64) {
        if let Err(err) = self.append(item, unix_ms) {
            tracing::error!(%err, path = %self.path.display(), kind = ?item.kind, "poisoned item was not written to quarantine");
        }
    }

    fn append(&self, item: &Poisoned, unix_ms: i64) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        if file.metadata()?.len() >= FILE_BYTES_MAX {
            return Err(io::Error::other("quarantine is full"));
        }
        let body: String = item.body.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = serde_json::json!({
            "unix_ms": unix_ms,
            "kind": format!("{:?}", item.kind),
            "slot": item.slot,
            "bucket": item.bucket.index(),
            "token": item.token,
            "body": body,
        });
        file.write_all(format!("{line}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wk_link::Kind;
    use wk_types::Bucket;

    use super::*;

    #[test]
    fn writes_one_line_each() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(folder.path());
        for token in 0..2 {
            let item = Poisoned { slot: 1, kind: Kind::Send, bucket: Bucket::of("u"), body: Bytes::from_static(b"\x00\xff"), token };
            quarantine.keep(&item, 5);
        }
        let text = std::fs::read_to_string(folder.path().join("quarantine/gateway.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["body"], "00ff");
        assert_eq!(lines[1]["token"], 1);
    }
}
