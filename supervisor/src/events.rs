//! What happened, for people and machines: one event per change of state, command and refusal.
//!
//! The engine makes events and hands them to the control thread through a bounded queue (a full one drops and counts). There they get into
//! a ring, a file of JSON lines, the systemd journal and to subscribers; a subscriber that is too slow hears how much it missed and is let
//! go. Lines of a crash loop are folded before all that.

mod fold;
mod journal;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;
use tokio::sync::{broadcast, mpsc};
use wk_proto::supervisor::v1 as pb;

use crate::limits::{EVENT_FILE_BYTES_MAX, EVENT_RING, EVENT_SUBSCRIBER_MAX, JOURNAL_LAST_PAUSE, JOURNAL_LAST_WORDS};
use crate::metrics::Counters;

use fold::Fold;
pub use journal::Journal;

/// Kind of an event about a crash loop as a whole; its crashes are states of their own.
pub const KIND_CRASH_LOOP: &str = "crash-loop";

/// Why something happened. A closed set: the word is part of the JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Wanted, so it is started.
    Start,
    /// By order: stop.
    Stop,
    /// By order: restart.
    Restart,
    /// By order: roll.
    Roll,
    /// By order: scale.
    Scale,
    /// A start failed and is turned round.
    Rollback,
    /// A requirement is not ready, or became so.
    Dependency,
    /// Says it can take work.
    Serving,
    /// Says it cannot.
    NotServing,
    /// A liveness check was not answered.
    LivenessMissed,
    /// Ended with a code.
    Exit,
    /// Killed by a signal.
    Signal,
    /// Killed by the kernel for lack of memory.
    Oom,
    /// It went to the background.
    Daemonised,
    /// Gone, nobody knows how.
    Unknown,
    /// Fork or exec failed.
    Spawn,
    /// Not ready in time.
    StartTimeout,
    /// Did not answer.
    Hang,
    /// Another process answered.
    Identity,
    /// Said for too long that it cannot take work.
    Unready,
    /// Did not end in time.
    Deadline,
    /// The kernel does not let it go.
    NotKillable,
    /// An operator said so: hold, unhold, reset, signal, cancel.
    Command,
    /// The configuration was read again.
    Reload,
    /// A peer without the right to.
    Denied,
    /// The supervisor itself.
    Supervisor,
}

impl Cause {
    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Roll => "roll",
            Self::Scale => "scale",
            Self::Rollback => "rollback",
            Self::Dependency => "dependency",
            Self::Serving => "serving",
            Self::NotServing => "not-serving",
            Self::LivenessMissed => "liveness-missed",
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Daemonised => "daemonised",
            Self::Unknown => "unknown",
            Self::Spawn => "spawn",
            Self::StartTimeout => "start-timeout",
            Self::Hang => "hang",
            Self::Identity => "identity",
            Self::Unready => "unready",
            Self::Deadline => "deadline",
            Self::NotKillable => "not-killable",
            Self::Command => "command",
            Self::Reload => "reload",
            Self::Denied => "denied",
            Self::Supervisor => "supervisor",
        }
    }

    /// Of a crash.
    #[must_use]
    pub fn of(cause: &crate::cause::Cause) -> Self {
        match cause.label() {
            "exit" => Self::Exit,
            "signal" => Self::Signal,
            "oom" => Self::Oom,
            "daemonised" => Self::Daemonised,
            "spawn" => Self::Spawn,
            "start-timeout" => Self::StartTimeout,
            "hang" => Self::Hang,
            "identity" => Self::Identity,
            "unready" => Self::Unready,
            _ => Self::Unknown,
        }
    }
}

/// A subscriber's view: what is kept, then what comes.
pub type Subscription = (Vec<Arc<pb::Event>>, broadcast::Receiver<Arc<pb::Event>>);

/// Ring, file and subscribers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
    news: broadcast::Sender<Arc<pb::Event>>,
}

#[derive(Debug)]
struct Inner {
    ring: VecDeque<Arc<pb::Event>>,
    file: Option<EventFile>,
    journal: Option<Journal>,
    fold: Fold,
    counters: Arc<Counters>,
}

impl Inner {
    /// Sends what waits for the journal. Returns when to try again, if some still does.
    fn send_waiting(&mut self, now: Instant) -> Option<Instant> {
        let journal = self.journal.as_mut()?;
        self.counters.journal_dropped.inc_by(journal.send(now));
        journal.retry(now)
    }
}

impl Hub {
    /// Opens the file in this folder and reads back what is at its end.
    #[must_use]
    pub fn open(logs: &Path, counters: Arc<Counters>) -> Self {
        let path = logs.join("events.jsonl");
        let ring = read_back(&path);
        let file = EventFile::open(path);
        let inner = Inner { ring, file, journal: None, fold: Fold::default(), counters };
        Self { inner: Arc::new(Mutex::new(inner)), news: broadcast::channel(EVENT_SUBSCRIBER_MAX).0 }
    }

    /// From now on also to the systemd journal.
    #[must_use]
    pub fn with_journal(self, journal: Option<Journal>) -> Self {
        if let Ok(mut inner) = self.inner.lock() {
            inner.journal = journal;
        }
        self
    }

    /// Last number that was given out.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.inner.lock().map_or(0, |i| i.ring.back().map_or(0, |e| e.seq))
    }

    /// Takes one event in.
    pub fn push(&self, event: pb::Event) {
        let Ok(mut inner) = self.inner.lock() else { return };
        let now = inner.fold.take(Instant::now(), event);
        if now.is_empty() {
            inner.counters.events_folded.inc();
        }
        self.write(&mut inner, now);
    }

    /// Numbers events and hands them on.
    fn write(&self, inner: &mut Inner, events: Vec<pb::Event>) {
        for event in events {
            let seq = inner.ring.back().map_or(0, |e| e.seq) + 1;
            let event = Arc::new(pb::Event { seq, ..event });
            if inner.ring.len() >= EVENT_RING {
                inner.ring.pop_front();
            }
            inner.ring.push_back(event.clone());
            if !inner.file.as_mut().is_some_and(|f| f.write(&event)) {
                inner.counters.events_unwritten.inc();
            }
            if let Some(journal) = &mut inner.journal {
                inner.counters.journal_dropped.inc_by(journal.write(Instant::now(), event.clone()));
            }
            // Nobody listens: nobody misses it.
            drop(self.news.send(event));
        }
    }

    /// Writes what has been held back long enough, or everything, and what the journal had no room for. Returns when to be called again.
    fn settle(&self, all: bool) -> Option<Instant> {
        let mut inner = self.inner.lock().ok()?;
        let now = Instant::now();
        let due = if all { inner.fold.rest(now) } else { inner.fold.due(now) };
        self.write(&mut inner, due);
        let retry = inner.send_waiting(now);
        inner.fold.next().into_iter().chain(retry).min()
    }

    /// What is kept and what comes, without a gap between.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        match self.inner.lock() {
            Ok(inner) => (inner.ring.iter().cloned().collect(), self.news.subscribe()),
            Err(_) => (Vec::new(), self.news.subscribe()),
        }
    }

    /// Carries events from the engine until it is gone.
    pub async fn run(self, mut events: mpsc::Receiver<pb::Event>) {
        loop {
            let next = self.settle(false);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Both are cancel-safe: a channel and a timer.
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.push(event),
                    None => break,
                },
                () = due => {}
            }
        }
        self.settle(true);
        self.last_words().await;
    }

    /// What the journal had no room for: it reads, and a stop has more events at once than it has places.
    async fn last_words(&self) {
        let until = tokio::time::Instant::now() + JOURNAL_LAST_WORDS;
        let behind = || self.inner.lock().map_or(0, |inner| inner.journal.as_ref().map_or(0, Journal::behind));
        while behind() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(JOURNAL_LAST_PAUSE).await;
            self.settle(true);
        }
        let lost = behind();
        if lost > 0 {
            tracing::warn!(lost, "the journal takes no entries, these are in the event file only");
        }
    }
}

/// One line of the file, and of `wkctl events -o json`.
#[must_use]
pub fn to_json(event: &pb::Event) -> serde_json::Value {
    json!({
        "seq": event.seq, "wall_ms": event.wall_ms, "mono_us": event.mono_us, "actor": event.actor, "kind": event.kind,
        "instance": event.instance, "generation": event.generation, "from": event.from, "to": event.to, "cause": event.cause,
        "text": event.text, "lagged": event.lagged,
    })
}

fn from_json(line: &str) -> Option<pb::Event> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let number = |key: &str| value.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Some(pb::Event {
        seq: value.get("seq")?.as_u64()?,
        wall_ms: value.get("wall_ms")?.as_i64()?,
        mono_us: number("mono_us"),
        actor: text("actor"),
        kind: text("kind"),
        instance: text("instance"),
        generation: number("generation"),
        from: text("from"),
        to: text("to"),
        cause: text("cause"),
        text: text("text"),
        lagged: 0,
    })
}

/// The end of the file that an earlier supervisor wrote: bounded by the ring and by one MiB.
fn read_back(path: &Path) -> VecDeque<Arc<pb::Event>> {
    const BYTES: u64 = 1 << 20;
    let mut ring = VecDeque::new();
    let Ok(mut file) = File::open(path) else { return ring };
    let start = file.metadata().map_or(0, |m| m.len().saturating_sub(BYTES));
    if file.seek(SeekFrom::Start(start)).is_err() {
        return ring;
    }
    for event in BufReader::new(file).lines().map_while(Result::ok).filter_map(|l| from_json(&l)) {
        if ring.len() >= EVENT_RING {
            ring.pop_front();
        }
        ring.push_back(Arc::new(event));
    }
    ring
}

#[derive(Debug)]
struct EventFile {
    path: PathBuf,
    file: File,
    inode: u64,
    len: u64,
}

impl EventFile {
    fn open(path: PathBuf) -> Option<Self> {
        match OpenOptions::new().create(true).append(true).open(&path) {
            Ok(file) => {
                let (inode, len) = file.metadata().map_or((0, 0), |m| (m.ino(), m.len()));
                Some(Self { path, file, inode, len })
            }
            Err(err) => {
                tracing::warn!(%err, path = %path.display(), "event file not opened, events are kept in memory only");
                None
            }
        }
    }

    /// Appends one line; a file over its bound becomes `.1` first. False: it was not written.
    fn write(&mut self, event: &pb::Event) -> bool {
        // A tool that rotates logs has moved it away: begin a new one.
        let moved = fs::metadata(&self.path).map_or(true, |m| m.ino() != self.inode);
        if moved && let Some(new) = Self::open(self.path.clone()) {
            *self = new;
        }
        if self.len >= EVENT_FILE_BYTES_MAX {
            let old = self.path.with_extension("jsonl.1");
            let rotated = fs::rename(&self.path, old).and_then(|()| OpenOptions::new().create(true).append(true).open(&self.path));
            match rotated {
                Ok(file) => {
                    self.inode = file.metadata().map_or(0, |m| m.ino());
                    (self.file, self.len) = (file, 0);
                }
                Err(_) => return false,
            }
        }
        let line = format!("{}\n", to_json(event));
        let written = self.file.write_all(line.as_bytes()).is_ok();
        self.len += line.len() as u64;
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> pb::Event {
        pb::Event { seq, wall_ms: 7, kind: "state".into(), instance: "api@0".into(), to: "ready".into(), ..Default::default() }
    }

    #[test]
    fn events_survive_in_the_file_and_the_ring_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::open(dir.path(), Arc::default());
        for seq in 1..=(EVENT_RING as u64 + 10) {
            hub.push(event(seq));
        }
        let (kept, _) = hub.subscribe();
        assert_eq!((kept.len(), kept.first().map(|e| e.seq)), (EVENT_RING, Some(11)));
        let again = Hub::open(dir.path(), Arc::default());
        assert_eq!(again.last_seq(), EVENT_RING as u64 + 10);
        assert_eq!(*again.subscribe().0[0], event(again.subscribe().0[0].seq));
    }

    #[test]
    fn a_file_over_its_bound_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut file = EventFile::open(path.clone()).unwrap();
        fs::write(&path, "old\n").unwrap();
        file.len = EVENT_FILE_BYTES_MAX;
        assert!(file.write(&event(1)));
        assert_eq!(fs::read_to_string(dir.path().join("events.jsonl.1")).unwrap(), "old\n");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_events_wait_for_a_journal_that_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let reader = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
        reader.set_nonblocking(true).unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"filling", &path).is_ok() {}
        let journal = Journal::open(path.to_str().unwrap(), &wk_config::Env::from_pairs([("", "")])).unwrap();
        let hub = Hub::open(dir.path(), Arc::default()).with_journal(journal);
        let (tx, rx) = mpsc::channel(8);
        for seq in 1..=2 {
            tx.send(event(seq)).await.unwrap();
        }
        drop(tx);
        let mut run = std::pin::pin!(hub.run(rx));
        assert!(futures_util::poll!(&mut run).is_pending(), "it did not wait");
        let mut buffer = [0; 2048];
        let mut read = || reader.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
        while read().is_some() {}
        run.await;
        let entries: Vec<String> = std::iter::from_fn(read).collect();
        assert!(entries.len() == 2 && entries[0].contains("WK_SEQ=1\n") && entries[1].contains("WK_SEQ=2\n"), "{entries:?}");
    }

    /// Catalogue row 26: a full disk costs lines, not the supervisor.
    #[test]
    fn row_26_a_file_that_cannot_be_written_is_counted() {
        let counters = Arc::new(Counters::default());
        let hub = Hub::open(Path::new("/nonexistent"), counters.clone());
        hub.push(event(1));
        assert_eq!((hub.last_seq(), counters.events_unwritten.get()), (1, 1));
    }
}
