//! Streams that have no end of their own: events and logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use wk_proto::supervisor::v1 as pb;

use crate::engine::Snapshot;
use crate::events::Hub;
use crate::limits::{LOG_FOLLOW_BYTES, LOG_FOLLOW_EVERY, LOG_STREAM_MAX, STATUS_EVERY};
use crate::logs::Cuts;
use crate::names;

/// A picture now, with each change, and at least every [`STATUS_EVERY`].
pub(super) fn pictures(snapshot: watch::Receiver<Arc<Snapshot>>) -> impl Stream<Item = Arc<Snapshot>> {
    futures_util::stream::unfold((snapshot, false), |(mut snapshot, waits)| async move {
        // Time over is a picture as well; only an engine that is gone ends the stream.
        if waits && matches!(tokio::time::timeout(STATUS_EVERY, snapshot.changed()).await, Ok(Err(_))) {
            return None;
        }
        let picture = snapshot.borrow_and_update().clone();
        Some((picture, (snapshot, true)))
    })
}

type Out<T> = mpsc::Sender<Result<T, Status>>;

/// Sends what is kept and, when asked to, what comes. A reader that is too slow hears what it missed, then the stream ends: the engine and
/// other readers never wait for it.
pub(super) async fn events(hub: Hub, request: pb::EventsRequest, out: Out<pb::Event>) {
    let (kept, mut news) = hub.subscribe();
    let oldest = match request.since_ms {
        0 => i64::MIN,
        since => wk_rpc::clock::unix_ms().saturating_sub(i64::try_from(since).unwrap_or(i64::MAX)),
    };
    let named = |e: &pb::Event| request.names.is_empty() || request.names.iter().any(|n| names::means(n, &e.instance));
    for event in kept.iter().filter(|e| e.wall_ms >= oldest && named(e)) {
        if out.send(Ok((**event).clone())).await.is_err() {
            return;
        }
    }
    drop(kept);
    if !request.follow {
        return;
    }
    loop {
        let event: Result<Arc<pb::Event>, RecvError> = tokio::select! {
            event = news.recv() => event,
            () = out.closed() => return,
        };
        match event {
            Ok(event) if named(&event) => {
                if out.send(Ok((*event).clone())).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(lagged)) => {
                let text = format!("lagged({lagged}): this reader was too slow");
                let marker = pb::Event { kind: "lagged".into(), wall_ms: wk_rpc::clock::unix_ms(), lagged, text, ..Default::default() };
                // Gone already, or told: either way this is its last event.
                out.send(Ok(marker)).await.unwrap_or_default();
                return;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// One log that is being read.
struct Tail {
    path: PathBuf,
    inode: u64,
    /// Counted from the first byte ever.
    at: u64,
    rest: Vec<u8>,
    cuts: Arc<Cuts>,
}

impl Tail {
    fn new(path: PathBuf, cuts: Arc<Cuts>) -> Self {
        let (inode, at) = cuts.hold(&path, |gone| std::fs::metadata(&path).map_or((0, gone), |m| (m.ino(), gone + m.len())));
        Self { path, inode, at, rest: Vec::new(), cuts }
    }

    /// Whole lines since the last time; a file that somebody else moved aside or cut is begun anew.
    fn more(&mut self) -> Vec<String> {
        let cuts = self.cuts.clone();
        let Some(bytes) = cuts.hold(&self.path.clone(), |gone| self.read(gone)) else { return Vec::new() };
        self.rest.extend(bytes);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(crate::logs::printable).collect()
    }

    /// What was added, while nothing is cut. `gone`: bytes that we took from its head.
    fn read(&mut self, gone: u64) -> Option<Vec<u8>> {
        let mut file = File::open(&self.path).ok()?;
        let meta = file.metadata().ok()?;
        if meta.ino() != self.inode || gone + meta.len() < self.at {
            (self.inode, self.at) = (meta.ino(), gone);
            self.rest.clear();
        }
        // A reader that lagged behind a cut goes on with what is left; the rest is in the old file.
        self.at = self.at.max(gone);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.at - gone)).ok()?;
        file.take(LOG_FOLLOW_BYTES).read_to_end(&mut bytes).ok()?;
        self.at += bytes.len() as u64;
        Some(bytes)
    }
}

/// The last lines of each log and, with `follow`, what is added. `logs`: instance names with their files.
pub(super) async fn logs(logs: Vec<(String, PathBuf)>, lines: usize, follow: Option<Arc<Cuts>>, out: Out<pb::LogLine>) {
    let mut tails: BTreeMap<String, Tail> = BTreeMap::new();
    for (instance, path) in logs.into_iter().take(LOG_STREAM_MAX) {
        // The position is taken before the last lines are read: none is missed, one may come twice at worst.
        let tail = follow.clone().map(|cuts| Tail::new(path.clone(), cuts));
        for text in last(&path, lines) {
            if out.send(Ok(pb::LogLine { instance: instance.clone(), text })).await.is_err() {
                return;
            }
        }
        tails.extend(tail.map(|tail| (instance, tail)));
    }
    if follow.is_none() {
        return;
    }
    loop {
        for (instance, tail) in &mut tails {
            for text in tail.more() {
                if out.send(Ok(pb::LogLine { instance: instance.clone(), text })).await.is_err() {
                    return;
                }
            }
        }
        let pause: Duration = LOG_FOLLOW_EVERY;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = out.closed() => return,
        }
    }
}

fn last(path: &Path, lines: usize) -> Vec<String> {
    crate::logs::last(path, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn follows_whole_lines_through_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "old\n").unwrap();
        let mut tail = Tail::new(path.clone(), Arc::default());
        let append =
            |text: &str| std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        append("one\ntw");
        assert_eq!(tail.more(), ["one"]);
        append("o\n");
        assert_eq!(tail.more(), ["two"]);
        std::fs::rename(&path, dir.path().join("a.log.1")).unwrap();
        append("three\n");
        assert_eq!(tail.more(), ["three"]);
        assert!(tail.more().is_empty());
    }

    #[test]
    fn follows_whole_lines_through_a_cut_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api@0.log");
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        log.write_all("old line\n".repeat(1000).as_bytes()).unwrap();
        let cuts = Arc::new(Cuts::default());
        let mut tail = Tail::new(path.clone(), cuts.clone());
        log.write_all(b"one\ntw").unwrap();
        assert_eq!(tail.more(), ["one"]);
        crate::logs::rotate(&path, 1 << 20, &cuts).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 9000);
        assert!(tail.more().is_empty(), "nothing comes twice");
        log.write_all(b"o\nthree\n").unwrap();
        assert_eq!(tail.more(), ["two", "three"]);
    }

    /// Catalogue row 55: a stuck subscriber is told how much it missed and let go.
    #[tokio::test]
    async fn row_55_a_slow_subscriber_gets_a_lagged_marker_and_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::open(dir.path(), Arc::default());
        let (tx, mut rx) = mpsc::channel(1);
        let reader = tokio::spawn(events(hub.clone(), pb::EventsRequest { follow: true, ..Default::default() }, tx));
        tokio::task::yield_now().await;
        let pushed = crate::limits::EVENT_SUBSCRIBER_MAX as u64 + 100;
        for _ in 0..pushed {
            hub.push(pb::Event::default());
        }
        let mut got = Vec::new();
        while let Some(event) = rx.recv().await {
            got.push(event.unwrap());
        }
        let last = got.last().unwrap();
        assert_eq!(last.kind, "lagged");
        assert!(last.lagged >= 100, "{last:?}");
        reader.await.unwrap();
        assert_eq!(hub.last_seq(), pushed, "nobody waited for it");
    }
}
