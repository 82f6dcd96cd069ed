//! Items that two receivers died of, for people to look at: one JSON line each in `<data>/quarantine/<instance>.jsonl`.
//!
//! A line is on disk before the owner of the item hears of it, so before the item is refused. It is written beside the runtime threads: a slow
//! disk delays the refusal and nothing else.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use wk_types::InstanceName;

use crate::sender::Poisoned;

/// The file stops growing at this size; later items are only logged and counted. Unit: bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The file of one instance; made with its first line, opened for each: there is hardly ever one. Clones share it.
#[derive(Debug, Clone)]
pub struct Quarantine {
    path: Arc<PathBuf>,
    /// Held while a line is written.
    writing: Arc<Mutex<()>>,
}

impl Quarantine {
    /// The file below the data folder.
    #[must_use]
    pub fn new(data: &Path, me: InstanceName) -> Self {
        Self { path: Arc::new(data.join("quarantine").join(format!("{me}.jsonl"))), writing: Arc::default() }
    }

    /// Appends a line and returns when it is on disk. A failure is logged: the item is refused all the same.
    pub(crate) async fn keep(&self, item: Poisoned) -> Poisoned {
        let this = self.clone();
        let line = line(&item, wk_rpc::clock::unix_ms());
        let written = tokio::task::spawn_blocking(move || this.append(&line)).await;
        if let Err(err) = written.map_err(io::Error::other).flatten() {
            tracing::error!(%err, path = %self.path.display(), kind = ?item.kind, "poisoned item was not written to quarantine");
        }
        item
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let _writing = self.writing.lock();
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&*self.path)?;
        if file.metadata()?.len() >= FILE_BYTES_MAX {
            return Err(io::Error::other("quarantine is full"));
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }
}

/// Kinds are names of ours and the body is hexadecimal: nothing needs escaping.
fn line(item: &Poisoned, unix_ms: i64) -> String {
    let Poisoned { slot, kind, bucket, body, token } = item;
    let bucket = bucket.index();
    let head = format!(r#"{{"unix_ms":{unix_ms},"kind":"{kind:?}","receiver_slot":{slot},"bucket":{bucket},"token":{token},"body":""#);
    let digits = body.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(u32::from(digit), 16));
    let mut line = String::with_capacity(head.len() + 2 * body.len() + 3);
    line.push_str(&head);
    line.extend(digits);
    line.push_str("\"}\n");
    line
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wk_types::{Bucket, Daemon};

    use super::*;
    use crate::item::Kind;

    #[tokio::test]
    async fn one_line_per_item_also_from_several_links() {
        let dir = tempfile::tempdir().expect("a folder");
        let quarantine = Quarantine::new(dir.path(), InstanceName { daemon: Daemon::Api, slot: 2 });
        let item =
            |token| Poisoned { slot: 1, kind: Kind::Deliver, bucket: Bucket::of("x"), body: Bytes::from_static(b"\x00\xffhi"), token };
        let kept = tokio::join!(quarantine.keep(item(7)), quarantine.keep(item(8)));
        assert_eq!((kept.0.token, kept.1.token), (7, 8));
        let text = std::fs::read_to_string(dir.path().join("quarantine/api@2.jsonl")).expect("the file");
        let mut lines: Vec<_> = text.lines().map(|line| line.split_once(",").expect("a time comes first").1).collect();
        lines.sort_unstable();
        let line = |token: u64| {
            let bucket = Bucket::of("x").index();
            format!(r#""kind":"Deliver","receiver_slot":1,"bucket":{bucket},"token":{token},"body":"00ff6869"}}"#)
        };
        assert_eq!(lines, [line(7), line(8)]);
    }

    #[tokio::test]
    async fn an_item_is_handed_on_also_when_the_disk_fails() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("quarantine"), b"a file where the folder should be").expect("a file");
        let quarantine = Quarantine::new(dir.path(), InstanceName { daemon: Daemon::Api, slot: 0 });
        let item = Poisoned { slot: 0, kind: Kind::Send, bucket: Bucket::of("x"), body: Bytes::new(), token: 3 };
        assert_eq!(quarantine.keep(item).await.token, 3);
    }
}
