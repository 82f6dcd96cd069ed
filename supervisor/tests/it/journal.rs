//! Events in the systemd journal: a socket of the test stands for it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure here is a failure of the test")]

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::node::Plan;

type Entry = BTreeMap<String, String>;

/// Entries until one fits.
fn read_until(journal: &UnixDatagram, fits: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let (until, mut entries) = (Instant::now() + Duration::from_secs(60), Vec::new());
    let mut buffer = [0; 32 << 10];
    while Instant::now() < until {
        let Ok(length) = journal.recv(&mut buffer) else { continue };
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let entry: Entry = text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let found = fits(&entry);
        entries.push(entry);
        if found {
            return entries;
        }
    }
    panic!("not in the journal: {entries:?}")
}

fn with_journal() -> (Plan, UnixDatagram) {
    let plan = Plan::new("");
    let path = plan.path().join("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    (plan.configure(&format!("supervisor: {{journal: {}}}", path.display())), journal)
}

fn has<'a>(entry: &'a Entry, field: &str) -> &'a str {
    entry.get(field).map_or("", String::as_str)
}

#[tokio::test]
async fn a_crash_is_an_entry_with_its_fields() {
    let (plan, journal) = with_journal();
    let node = plan.spawn();
    let ready = read_until(&journal, |e| has(e, "WK_INSTANCE") == "api@0" && has(e, "WK_TO") == "ready");
    let ready = ready.last().unwrap();
    assert_eq!((has(ready, "WK_DAEMON"), has(ready, "WK_CAUSE"), has(ready, "PRIORITY")), ("api", "serving", "6"), "{ready:?}");
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal("api@0", Signal::SIGKILL).await;
    let entries = read_until(&journal, |e| has(e, "WK_TO") == "backoff");
    let crash = entries.last().unwrap();
    let fields = ["WK_INSTANCE", "WK_GENERATION", "WK_FROM", "WK_CAUSE", "PRIORITY", "SYSLOG_IDENTIFIER"].map(|f| has(crash, f));
    assert_eq!(fields, ["api@0", "1", "ready", "signal", "4", "wksupervisor"], "{crash:?}");
    assert_eq!(has(crash, "MESSAGE_ID").len(), 32);
    assert!(has(crash, "MESSAGE").starts_with("api@0: ready -> backoff (signal): signal 9"), "{crash:?}");
    // Those that need it hear of it, and that it is back.
    let entries = read_until(&journal, |e| has(e, "WK_INSTANCE") == "plugin-host@0" && has(e, "WK_TO") == "ready");
    let lacks = entries.iter().find(|e| has(e, "WK_INSTANCE") == "plugin-host@0" && has(e, "WK_TO") == "degraded").unwrap();
    assert!(has(lacks, "WK_CAUSE") == "dependency" && has(lacks, "MESSAGE").contains("what it needs is away: api@0 is"), "{lacks:?}");
    node.wait_back("api@0", 1).await;
    node.must_wkctl(&["hold", "api"]).await;
    let entries = read_until(&journal, |e| has(e, "WK_KIND") == "command");
    assert!(has(entries.last().unwrap(), "WK_ACTOR").contains("uid"), "{entries:?}");
}

/// It stands still, and nothing else does; when it reads again it gets what waited, in order.
#[tokio::test]
async fn a_journal_that_does_not_read_is_not_waited_for() {
    let (plan, journal) = with_journal();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"filling", plan.path().join("journal")).is_ok() {}
    let node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.must_wkctl(&["hold", "plugin-host"]).await;
    let entries = read_until(&journal, |e| has(e, "WK_KIND") == "command");
    assert_eq!(has(entries.last().unwrap(), "WK_INSTANCE"), "plugin-host@0", "{entries:?}");
    let numbers: Vec<u64> = entries.iter().filter_map(|e| e.get("WK_SEQ")?.parse().ok()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let page = node.must_wkctl(&["metrics"]).await;
    let line = page.lines().find(|l| l.starts_with("wk_supervisor_journal_dropped_total{")).unwrap();
    assert_eq!(line.rsplit_once(' ').unwrap().1, "0", "{line}");
}
