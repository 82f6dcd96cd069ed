//! Which words follow from the state of the node. No clock, no socket.

use std::fmt;
use std::time::{Duration, Instant};

use wk_types::InstanceName;

use crate::engine::Snapshot;
use crate::table::{Overall, State};

/// Pause between two status lines, and between two requests for time.
const EVERY: Duration = Duration::from_secs(1);
/// Time asked for at once.
const MORE: Duration = Duration::from_secs(30);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// All that is required is ready.
    Ready,
    /// A stop has begun.
    Stopping,
    /// A reload has begun at this monotonic time. Unit: µs.
    Reloading(u64),
    /// One line for people.
    Status(String),
    /// Do not give up on us before this time has passed.
    Extend(Duration),
    /// Engine and control thread live.
    Watchdog,
}

impl Word {
    /// As much as is asked for at once.
    pub(super) fn more_time() -> Self {
        Self::Extend(MORE)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1\n"),
            Self::Stopping => f.write_str("STOPPING=1\n"),
            Self::Reloading(at) => write!(f, "RELOADING=1\nMONOTONIC_USEC={at}\n"),
            Self::Status(text) => writeln!(f, "STATUS={text}"),
            Self::Extend(time) => writeln!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Self::Watchdog => f.write_str("WATCHDOG=1\n"),
        }
    }
}

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Words {
    ready: bool,
    stopping: bool,
    /// `RELOADING=1` was said, and no `READY=1` since.
    reloading: bool,
    status: String,
    spoken: Option<Instant>,
    /// A newer status waits for its second.
    waiting: bool,
    extended: Option<Instant>,
    /// What was there at the last request for time.
    seen: Vec<(InstanceName, u64, State)>,
    under_way: bool,
}

impl Words {
    /// `STOPPING=1`, the first time.
    pub(super) fn stopping(&mut self) -> Option<Word> {
        (!std::mem::replace(&mut self.stopping, true)).then_some(Word::Stopping)
    }

    /// `RELOADING=1`; nothing before the first `READY=1`, which must mean that clients are served, and nothing at a stop.
    pub(super) fn reloading(&mut self, at: u64) -> Option<Word> {
        self.reloading = self.ready && !self.stopping;
        self.reloading.then_some(Word::Reloading(at))
    }

    /// The `READY=1` that systemd waits for after `RELOADING=1`.
    pub(super) fn reloaded(&mut self) -> Option<Word> {
        (std::mem::take(&mut self.reloading) && !self.stopping).then_some(Word::Ready)
    }

    /// What to say now.
    pub(super) fn turn(&mut self, now: Instant, snapshot: &Snapshot, bounded: bool) -> Vec<Word> {
        let mut words = Vec::new();
        if snapshot.admitted && !self.stopping && !std::mem::replace(&mut self.ready, true) {
            words.push(Word::Ready);
        }
        self.under_way = self.stopping || !self.ready;
        words.extend(self.extend(now, snapshot, bounded));
        let due = self.spoken.is_none_or(|at| now >= at + EVERY);
        let status = status(snapshot);
        self.waiting = status != self.status;
        if due && self.waiting {
            self.waiting = false;
            self.spoken = Some(now);
            self.status.clone_from(&status);
            words.push(Word::Status(status));
        }
        words
    }

    /// When to be asked again.
    pub(super) fn next(&self) -> Option<Instant> {
        let status = self.spoken.filter(|_| self.waiting).map(|at| at + EVERY);
        let extension = self.extended.filter(|_| self.under_way).map(|at| at + EVERY);
        [status, extension].into_iter().flatten().min()
    }

    /// More time while a start or stop makes progress, or waits for something that has a deadline of our own.
    fn extend(&mut self, now: Instant, snapshot: &Snapshot, bounded: bool) -> Option<Word> {
        if !self.under_way || self.extended.is_some_and(|at| now < at + EVERY) {
            return None;
        }
        self.extended = Some(now);
        let there: Vec<_> = snapshot.instances.iter().map(|i| (i.name, i.generation, i.state)).collect();
        let moved = std::mem::replace(&mut self.seen, there) != self.seen;
        (moved || bounded).then_some(Word::Extend(MORE))
    }
}

/// `5/6 ready · waiting: plugin-host@0 (starting 12 s) · restarts 2`.
fn status(snapshot: &Snapshot) -> String {
    let wanted = snapshot.instances.iter().filter(|i| i.wanted);
    let ready = wanted.clone().filter(|i| i.state == State::Ready).count();
    let mut text = match snapshot.overall {
        Overall::Down => "down".to_owned(),
        Overall::Stopping => "stopping".to_owned(),
        _ => format!("{ready}/{} ready", wanted.count()),
    };
    let slow = |i: &&crate::table::InstanceView| !matches!(i.state, State::Ready | State::Down);
    let waiting: Vec<String> = snapshot
        .instances
        .iter()
        .filter(slow)
        .map(|i| match i.up.as_secs() {
            0 => format!("{} ({})", i.name, i.state.name()),
            up => format!("{} ({} {up} s)", i.name, i.state.name()),
        })
        .collect();
    if !waiting.is_empty() {
        text += &format!(" · waiting: {}", waiting.join(", "));
    }
    let restarts: u32 = snapshot.instances.iter().map(|i| i.restarts).sum();
    if restarts > 0 {
        text += &format!(" · restarts {restarts}");
    }
    text
}

/// A node that serves.
#[cfg(test)]
pub(super) fn ready() -> Snapshot {
    tests::snapshot(true, Overall::Ready, Vec::new())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::Spec;
    use crate::table::{InstanceView, Table};

    fn view(name: &str, state: State, up: u64) -> InstanceView {
        InstanceView {
            name: name.parse().unwrap(),
            state,
            pid: 1,
            generation: 1,
            incarnation: 1,
            up: Duration::from_secs(up),
            restarts: 1,
            last_restart: None,
            why: String::new(),
            crash_loop: false,
            wanted: true,
            adopted: false,
            held: false,
            last_end: None,
            crashes: 0,
            next_attempt: None,
        }
    }

    pub(super) fn snapshot(admitted: bool, overall: Overall, instances: Vec<InstanceView>) -> Snapshot {
        let table = Table::new(Spec::standard(Duration::ZERO), BTreeMap::new(), 1, 1);
        Snapshot { overall, admitted, instances, ..Snapshot::of(&table, Duration::ZERO) }
    }

    #[test]
    fn status_names_who_is_waited_for() {
        let there = vec![view("cluster@0", State::Ready, 60), view("plugin-host@0", State::Starting, 12)];
        let text = status(&snapshot(true, Overall::Degraded, there));
        assert_eq!(text, "1/2 ready · waiting: plugin-host@0 (starting 12 s) · restarts 2");
        let leaving = status(&snapshot(true, Overall::Stopping, vec![view("gateway@0", State::Draining, 0)]));
        assert_eq!(leaving, "stopping · waiting: gateway@0 (draining) · restarts 1");
    }

    #[test]
    fn a_reload_is_told_in_pairs_and_only_between_ready_and_stopping() {
        let (mut words, start) = (Words::default(), Instant::now());
        assert_eq!((words.reloading(7), words.reloaded()), (None, None), "a start is no reload, and nothing is ready yet");
        words.turn(start, &ready(), false);
        assert_eq!((words.reloading(8), words.reloaded()), (Some(Word::Reloading(8)), Some(Word::Ready)));
        assert_eq!(words.reloaded(), None);
        words.reloading(9);
        words.stopping();
        assert_eq!((words.reloaded(), words.reloading(10), words.reloaded()), (None, None, None), "it leaves");
    }

    #[test]
    fn ready_is_said_once_and_a_status_a_second() {
        let (mut words, start) = (Words::default(), Instant::now());
        let starting = snapshot(false, Overall::Starting, vec![view("cluster@0", State::Starting, 0)]);
        let ready = snapshot(true, Overall::Ready, vec![view("cluster@0", State::Ready, 0)]);
        let first = words.turn(start, &starting, true);
        assert!(matches!(first.as_slice(), [Word::Extend(_), Word::Status(_)]), "{first:?}");
        assert_eq!(words.turn(start, &ready, false), [Word::Ready]);
        assert_eq!(words.next(), Some(start + EVERY), "the newer status waits");
        assert_eq!(words.turn(start + EVERY, &ready, false), [Word::Status("1/1 ready · restarts 1".into())]);
        assert_eq!(words.turn(start + EVERY * 2, &ready, false), []);
        assert_eq!(words.next(), None);
    }

    #[test]
    fn more_time_only_with_progress_or_a_deadline_of_ours() {
        let (mut words, start) = (Words::default(), Instant::now());
        let stuck = snapshot(false, Overall::Starting, vec![view("cluster@0", State::Starting, 0)]);
        let extends = |words: Vec<Word>| words.iter().any(|w| matches!(w, Word::Extend(_)));
        assert!(extends(words.turn(start, &stuck, false)), "the first look is progress");
        assert!(!extends(words.turn(start + EVERY, &stuck, false)));
        assert!(extends(words.turn(start + EVERY * 2, &stuck, true)));
        let moved = snapshot(false, Overall::Starting, vec![view("cluster@0", State::Ready, 0)]);
        assert!(extends(words.turn(start + EVERY * 3, &moved, false)));
        let ready = snapshot(true, Overall::Ready, vec![view("cluster@0", State::Ready, 0)]);
        assert!(!extends(words.turn(start + EVERY * 4, &ready, true)), "nothing is under way");
        assert_eq!(words.stopping(), Some(Word::Stopping));
        assert!(extends(words.turn(start + EVERY * 5, &ready, true)));
    }
}
