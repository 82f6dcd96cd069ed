//! Events as native entries of the systemd journal: fields to filter by, and a message id per kind that the catalog
//! (`systemd/wukongim.catalog`) explains with `journalctl -x`. Source: systemd.io, "Native Journal Protocol".
//!
//! One datagram per event, never waited for. The kernel keeps few of them for a reader (`net.unix.max_dgram_qlen`, 10 where nobody changed
//! it), less than one start of a node has events: what finds no room waits here, bounded, and is tried again. What is lost all the same is
//! counted; the event file has everything.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wk_config::Env;
use wk_proto::supervisor::v1 as pb;

use super::KIND_CRASH_LOOP;
use crate::limits::EVENT_RING;

/// First pause until entries that found no room are tried again. A socket that is sent to by path cannot tell when there is room.
const RETRY: Duration = Duration::from_millis(100);
/// Longest: a journal that stands still must not keep us awake.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Name that the entries appear under, as do lines of standard output.
const IDENTIFIER: &str = "wksupervisor";
/// Longest text; a longer one is cut, so that an entry fits in a datagram. Unit: bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Kinds of entries. The ids are fixed for ever: catalogs and filters name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An instance entered another state.
    State,
    /// An instance ended by itself and will be restarted.
    Crash,
    /// An instance is not restarted, or cannot be killed.
    GivenUp,
    /// An instance entered a crash loop, or its loop ends the node.
    Loop,
    /// An operation began or ended.
    Operation,
    /// An operator's command.
    Command,
    /// A peer without the right to.
    Denied,
    /// The supervisor itself.
    Supervisor,
}

impl Kind {
    fn of(event: &pb::Event) -> Self {
        match (event.kind.as_str(), event.to.as_str()) {
            ("state", "backoff") => Self::Crash,
            ("state", "failed" | "stuck") => Self::GivenUp,
            ("state", _) => Self::State,
            (KIND_CRASH_LOOP, _) => Self::Loop,
            ("operation", _) => Self::Operation,
            ("command", _) => Self::Command,
            ("denied", _) => Self::Denied,
            _ => Self::Supervisor,
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::State => "56d289f2546c4440b6c2721749e1020b",
            Self::Crash => "31f4dddc3b3c45dbb8c5ba3e72d99437",
            Self::GivenUp => "05386694fb424c04b464b9d51e0c6384",
            Self::Loop => "7b94003ebbdf4a5aac811544de5c6c94",
            Self::Operation => "1c981e9661294bd898c1b130b7ffe5f3",
            Self::Command => "853a4bf8e3184dba9aebf2e6df9c171c",
            Self::Denied => "179ec852e32c42f0ac828a3a6da36308",
            Self::Supervisor => "824d4d3007e84efd94de00a93fe13ecf",
        }
    }
}

/// As in syslog: 3 someone must act, 4 handled, 5 by order, 6 life cycle.
fn priority(event: &pb::Event) -> u8 {
    match Kind::of(event) {
        Kind::GivenUp | Kind::Loop => 3,
        Kind::Crash if event.cause == "oom" => 3,
        Kind::Crash | Kind::Denied => 4,
        Kind::State if matches!(event.to.as_str(), "degraded" | "suspect" | "stopping") => 4,
        Kind::Operation | Kind::Command => 5,
        Kind::State | Kind::Supervisor => 6,
    }
}

/// The way to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Found no room yet, in order. The ring holds the same events, so they take no memory of their own.
    waiting: VecDeque<Arc<pb::Event>>,
    /// Since when nothing was taken, while something waits.
    stuck: Option<Instant>,
}

impl Journal {
    /// `choice` is `supervisor.journal`: `auto` (below systemd), `off`, or the path of a socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open(choice: &str, env: &Env) -> io::Result<Option<Self>> {
        match choice {
            "off" => Ok(None),
            "auto" | "" if is_below_systemd(env, own_output().as_deref()) => Self::at(SOCKET.into()).map(Some),
            "auto" | "" => Ok(None),
            path => Self::at(path.into()).map(Some),
        }
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, waiting: VecDeque::new(), stuck: None })
    }

    /// Sends one entry, behind those that wait. Returns how many are lost by it.
    #[must_use]
    pub fn write(&mut self, now: Instant, event: Arc<pb::Event>) -> u64 {
        self.waiting.push_back(event);
        let lost = self.send(now);
        let over = self.waiting.len().saturating_sub(EVENT_RING);
        self.waiting.drain(..over);
        lost + over as u64
    }

    /// Sends what waits, as far as there is room. By path, so that a journal that was restarted is found again. Returns how many are lost:
    /// there is no journal.
    #[must_use]
    pub fn send(&mut self, now: Instant) -> u64 {
        let (mut lost, before) = (0, self.waiting.len());
        while let Some(event) = self.waiting.front() {
            match self.socket.send_to(&entry(event), &self.path) {
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => lost += 1,
            }
            self.waiting.pop_front();
        }
        let moved = self.waiting.len() < before;
        self.stuck = if self.waiting.is_empty() { None } else { self.stuck.filter(|_| !moved).or(Some(now)) };
        lost
    }

    /// How many entries wait for room.
    #[must_use]
    pub fn behind(&self) -> usize {
        self.waiting.len()
    }

    /// When to try again. The longer nothing was taken, the longer the pause.
    #[must_use]
    pub fn retry(&self, now: Instant) -> Option<Instant> {
        self.stuck.map(|since| now + (now.saturating_duration_since(since) / 4).clamp(RETRY, RETRY_MAX))
    }
}

/// Our standard output in the form of `JOURNAL_STREAM`.
fn own_output() -> Option<String> {
    let stat = rustix::fs::fstat(io::stdout().as_fd()).ok()?;
    Some(format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The variables of systemd are inherited by everything that a unit starts, also by shells: only these two tell that they mean us.
fn is_below_systemd(env: &Env, output: Option<&str>) -> bool {
    let main_process = env.get("INVOCATION_ID").is_some() && env.get("SYSTEMD_EXEC_PID") == Some(&std::process::id().to_string());
    main_process || output.is_some_and(|output| env.get("JOURNAL_STREAM") == Some(output))
}

fn entry(event: &pb::Event) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    let daemon = event.instance.split_once('@').map_or("", |(daemon, _)| daemon);
    let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    for (name, value) in [
        ("MESSAGE", message(event).as_str()),
        ("PRIORITY", &priority(event).to_string()),
        ("MESSAGE_ID", Kind::of(event).id()),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("WK_SEQ", &number(event.seq)),
        ("WK_KIND", &event.kind),
        ("WK_DAEMON", daemon),
        ("WK_INSTANCE", &event.instance),
        ("WK_GENERATION", &number(event.generation)),
        ("WK_FROM", &event.from),
        ("WK_TO", &event.to),
        ("WK_CAUSE", &event.cause),
        ("WK_ACTOR", &event.actor),
    ] {
        put(&mut bytes, name, value);
    }
    bytes
}

/// One line for people.
fn message(event: &pb::Event) -> String {
    let mut text = match event.kind.as_str() {
        "state" => format!("{}: {} -> {} ({})", event.instance, event.from, event.to, event.cause),
        _ => event.instance.clone(),
    };
    if !event.text.is_empty() {
        let sep = if text.is_empty() { "" } else { ": " };
        text = format!("{text}{sep}{}", event.text);
    }
    if !event.actor.is_empty() {
        text = format!("{text} (by {})", event.actor);
    }
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

/// Appends one field; an empty one is left out.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        // The other form of the protocol: length in 64 bits, little-endian.
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, to: &str, text: &str) -> pb::Event {
        let from = if kind == "state" { "ready" } else { "" };
        pb::Event {
            seq: 7,
            kind: kind.into(),
            instance: "worker.user@3".into(),
            generation: 2,
            from: from.into(),
            to: to.into(),
            cause: "exit".into(),
            text: text.into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_entry_has_its_fields_and_no_empty_ones() {
        let text = String::from_utf8(entry(&event("state", "backoff", "exit 1; next try in 0.2 s"))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "MESSAGE=worker.user@3: ready -> backoff (exit): exit 1; next try in 0.2 s",
                "PRIORITY=4",
                "MESSAGE_ID=31f4dddc3b3c45dbb8c5ba3e72d99437",
                "SYSLOG_IDENTIFIER=wksupervisor",
                "WK_SEQ=7",
                "WK_KIND=state",
                "WK_DAEMON=worker.user",
                "WK_INSTANCE=worker.user@3",
                "WK_GENERATION=2",
                "WK_FROM=ready",
                "WK_TO=backoff",
                "WK_CAUSE=exit",
            ]
        );
    }

    #[test]
    fn a_text_of_several_lines_carries_its_length_and_a_long_one_is_cut() {
        let bytes = entry(&event("supervisor", "", "a\nb"));
        let value = b"worker.user@3: a\nb";
        let want = [b"MESSAGE\n".as_slice(), &(value.len() as u64).to_le_bytes(), value, b"\n"].concat();
        assert_eq!(bytes.get(..want.len()), Some(want.as_slice()));
        let long = message(&event("supervisor", "", &"é".repeat(TEXT_BYTES_MAX)));
        assert!(long.len() <= TEXT_BYTES_MAX && long.len() > TEXT_BYTES_MAX - 4);
    }

    #[test]
    fn the_worse_the_lower() {
        let of = |kind, to, cause: &str| priority(&pb::Event { cause: cause.into(), ..event(kind, to, "") });
        assert_eq!((of("state", "failed", "exit"), of("state", "backoff", "oom"), of("crash-loop", "", "exit")), (3, 3, 3));
        assert_eq!(of("state", "backoff", "exit"), 4);
        assert_eq!((of("denied", "", "denied"), of("operation", "", "stop"), of("state", "ready", "serving")), (4, 5, 6));
    }

    /// Each id is explained in the catalog, and nothing else is.
    #[test]
    fn the_catalog_names_the_same_ids() {
        let catalog = include_str!("../../../systemd/wukongim.catalog");
        let mut named: Vec<&str> = catalog.lines().filter_map(|l| l.strip_prefix("-- ")).map(str::trim).collect();
        let all = [Kind::State, Kind::Crash, Kind::GivenUp, Kind::Loop, Kind::Operation, Kind::Command, Kind::Denied, Kind::Supervisor];
        let mut ids: Vec<&str> = all.into_iter().map(Kind::id).collect();
        named.sort_unstable();
        ids.sort_unstable();
        assert_eq!(named, ids);
    }

    #[test]
    fn inherited_variables_alone_do_not_make_us_a_service() {
        let own = std::process::id().to_string();
        let env = |pairs: &[(&str, &str)]| Env::from_pairs(pairs.iter().copied());
        assert!(is_below_systemd(&env(&[("INVOCATION_ID", "1"), ("SYSTEMD_EXEC_PID", &own)]), None));
        assert!(is_below_systemd(&env(&[("JOURNAL_STREAM", "8:1")]), Some("8:1")));
        assert!(!is_below_systemd(&env(&[("INVOCATION_ID", "1"), ("SYSTEMD_EXEC_PID", "1"), ("JOURNAL_STREAM", "8:1")]), Some("8:2")));
        assert!(!is_below_systemd(&env(&[]), None));
    }

    #[test]
    fn a_journal_that_does_not_read_is_not_waited_for_and_gets_the_last_entries_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(path.to_str().unwrap(), &Env::from_pairs([("", "")])).unwrap().unwrap();
        let numbered = |seq: usize| Arc::new(pb::Event { seq: seq as u64, ..event("state", "ready", "") });
        let begin = Instant::now();
        assert_eq!((journal.write(begin, numbered(1)), journal.retry(begin)), (1, None), "nobody is there");
        let reader = UnixDatagram::bind(&path).unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while journal.behind() == 0 {
            sent += 1;
            assert_eq!(journal.write(begin, numbered(sent)), 0);
        }
        let (taken, last) = (sent - 1, sent + EVENT_RING + 4);
        let lost: u64 = (sent + 1..=last).map(|seq| journal.write(begin, numbered(seq))).sum();
        assert_eq!(lost, 5, "one waited before: as many as the ring has places, and five more");
        // A journal that stands still for long is asked less often, one that reads again as before.
        let later = |secs: u64| begin + Duration::from_secs(secs);
        let pause = |journal: &Journal, now: Instant| journal.retry(now).unwrap() - now;
        let pauses = [0, 8, 3600].map(|secs| (journal.send(later(secs)), pause(&journal, later(secs))));
        assert_eq!(pauses, [(0, RETRY), (0, Duration::from_secs(2)), (0, RETRY_MAX)]);
        let mut buffer = [0; 2048];
        let mut seen = Vec::new();
        while let Ok(length) = reader.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            seen.extend(text.lines().find_map(|l| l.strip_prefix("WK_SEQ=")).map(|n| n.parse::<usize>().unwrap()));
            assert_eq!(journal.send(later(7200)), 0);
            assert!(journal.behind() == 0 || pause(&journal, later(7200)) == RETRY);
        }
        assert_eq!(seen, (1..=taken).chain(taken + 6..=last).collect::<Vec<_>>());
        assert_eq!((journal.behind(), journal.retry(later(7200))), (0, None));
    }
}
