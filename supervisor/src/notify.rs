//! What systemd hears from the supervisor (`design/supervisor.md` §4.5), and what it keeps for it.
//!
//! Only the engine speaks, so that a watchdog ping proves that it turns; the ping also needs the beat of the control thread. Without
//! `NOTIFY_SOCKET` nothing here does anything.

mod outbox;
mod passed;
mod words;

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use wk_config::Env;

use outbox::Outbox;
pub use passed::Passed;
use words::{Word, Words};

use crate::engine::Snapshot;

/// Pings per watchdog interval. Source: sd_watchdog_enabled(3) asks for two at least.
const PINGS: u32 = 3;
/// Beats of the control thread between two pings.
const BEATS: u32 = 2;

/// Sign of life of the control thread, read by the engine.
#[derive(Debug, Default)]
pub struct Beat(AtomicU64);

impl Beat {
    /// Beats for ever, often enough for the watchdog that systemd asked for; never without one.
    pub async fn run(&self, watchdog: Option<Duration>) {
        let Some(interval) = watchdog.filter(|d| !d.is_zero()) else { return std::future::pending().await };
        let mut tick = tokio::time::interval(interval / PINGS / BEATS);
        loop {
            tick.tick().await;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The way to systemd.
#[derive(Debug, Default)]
pub struct Notifier {
    out: Option<Outbox>,
    words: Words,
    pulse: Option<Pulse>,
    beat: Arc<Beat>,
}

impl Notifier {
    /// Connects to `NOTIFY_SOCKET`. `watchdog`: see [`watchdog`].
    #[must_use]
    pub fn new(env: &Env, watchdog: Option<Duration>, beat: Arc<Beat>) -> Self {
        let socket = env.get("NOTIFY_SOCKET").and_then(|path| {
            let connected = connect(path);
            connected.inspect_err(|err| tracing::warn!(%err, path, "systemd cannot be told anything")).ok()
        });
        let pulse = watchdog.filter(|d| !d.is_zero()).map(|interval| Pulse::new(interval / PINGS));
        Self { out: socket.map(Outbox::new), words: Words::default(), pulse, beat }
    }

    /// Says what follows from the state of the node: ready, status, more time, alive. `bounded`: what is under way has a deadline of ours.
    pub(crate) fn turn(&mut self, snapshot: &Snapshot, bounded: bool) {
        let now = Instant::now();
        let Some(out) = &mut self.out else { return };
        out.flush(now);
        for word in self.words.turn(now, snapshot, bounded) {
            self.say(&word);
        }
        if self.pulse.as_mut().is_some_and(|p| p.due(now, self.beat.count())) {
            self.say(&Word::Watchdog);
        }
    }

    /// When [`Self::turn`] has something to say again, whatever else happens.
    pub(crate) fn next(&self) -> Option<Instant> {
        let again = self.out.as_ref()?.next();
        [again, self.pulse.as_ref().map(|p| p.next), self.words.next()].into_iter().flatten().min()
    }

    /// A stop has begun.
    pub(crate) fn stopping(&mut self) {
        if let Some(word) = self.words.stopping() {
            self.say(&word);
        }
    }

    /// A reload has begun; to be followed by [`Self::reloaded`], whatever came of it. Before the first READY it is part of the start.
    pub fn reloading(&mut self) {
        if let Some(word) = self.words.reloading(monotonic()) {
            self.say(&word);
        }
    }

    /// A reload is over.
    pub fn reloaded(&mut self) {
        if let Some(word) = self.words.reloaded() {
            self.say(&word);
        }
    }

    /// Asks systemd to keep a copy of a descriptor over our death, under a name without `:`.
    pub fn store(&mut self, name: &str, fd: impl AsFd) {
        // Without FDPOLL=0 systemd drops a pidfd at the hang-up that follows the reaping.
        if let Some(out) = &mut self.out {
            out.store(format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n"), Some(fd.as_fd()));
        }
    }

    /// Asks systemd to close its copy.
    pub fn forget(&mut self, name: &str) {
        if let Some(out) = &mut self.out {
            out.store(format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None);
        }
    }

    fn say(&mut self, word: &Word) {
        if let Some(out) = &mut self.out {
            out.say(word);
        }
    }
}

/// Asks systemd for more time, where nobody else does: before the engine runs, and after it has ended.
pub fn more_time(env: &Env) {
    let said = env.get("NOTIFY_SOCKET").map(|path| connect(path)?.send(Word::more_time().to_string().as_bytes()));
    if let Some(Err(err)) = said {
        tracing::warn!(%err, "systemd was not asked for more time");
    }
}

/// Interval in which systemd wants to hear that this process lives: `WATCHDOG_USEC`, when it is meant for us.
#[must_use]
pub fn watchdog(env: &Env) -> Option<Duration> {
    let ours = env.get("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let interval = Duration::from_micros(env.get("WATCHDOG_USEC")?.parse().ok()?);
    (ours && !interval.is_zero()).then_some(interval)
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// CLOCK_MONOTONIC as systemd wants it. Unit: µs.
fn monotonic() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| u64::try_from(Duration::from(t).as_micros()).unwrap_or(0))
}

/// Decides when to ping.
#[derive(Debug)]
struct Pulse {
    every: Duration,
    next: Instant,
    /// Beat of the control thread at the last ping.
    seen: u64,
}

impl Pulse {
    fn new(every: Duration) -> Self {
        Self { every, next: Instant::now(), seen: 0 }
    }

    /// True when a ping is due and the control thread has lived since the last one. That we are asked is the engine's own sign of life.
    fn due(&mut self, now: Instant, beat: u64) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.every;
        let alive = beat != self.seen;
        if !alive {
            tracing::warn!("control thread does not tick, no ping to systemd");
        }
        self.seen = beat;
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_is_ours_or_nobodys() {
        let env = |pairs: &[(&str, &str)]| Env::from_pairs(pairs.iter().copied());
        let own = std::process::id().to_string();
        assert_eq!(watchdog(&env(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", &own)])), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(&env(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "1")])), None);
        assert_eq!(watchdog(&env(&[("WATCHDOG_USEC", "0")])), None);
        assert_eq!(watchdog(&env(&[])), None);
    }

    /// Row 34 of the fault catalogue.
    #[test]
    fn no_ping_while_the_control_thread_stands_still() {
        let mut pulse = Pulse::new(Duration::from_secs(1));
        let at = |ms| pulse_start() + Duration::from_millis(ms);
        fn pulse_start() -> Instant {
            use std::sync::OnceLock;
            static START: OnceLock<Instant> = OnceLock::new();
            *START.get_or_init(Instant::now)
        }
        pulse.next = at(0);
        assert!(pulse.due(at(0), 1));
        assert!(!pulse.due(at(500), 2), "not due yet");
        assert!(pulse.due(at(1000), 2));
        assert!(!pulse.due(at(2000), 2), "no beat since the last ping");
        assert!(!pulse.due(at(3000), 2));
        assert!(pulse.due(at(4000), 3), "it came back");
    }

    #[test]
    fn speaks_to_the_socket_and_hands_descriptors_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let env = Env::from_pairs([("NOTIFY_SOCKET", path.to_str().unwrap())]);
        let mut notifier = Notifier::new(&env, None, Arc::default());
        let heard = || {
            let mut buffer = [0; 256];
            let length = systemd.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        notifier.words.turn(Instant::now(), &words::ready(), false);
        notifier.reloading();
        assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.reloaded();
        assert_eq!(heard(), "READY=1\n");
        notifier.store("p.cluster@0", &systemd);
        assert_eq!(heard(), "FDSTORE=1\nFDPOLL=0\nFDNAME=p.cluster@0\n");
        notifier.forget("p.cluster@0");
        assert_eq!(heard(), "FDSTOREREMOVE=1\nFDNAME=p.cluster@0\n");
        notifier.stopping();
        notifier.stopping();
        notifier.store("l.tcp", &systemd);
        assert_eq!([heard(), heard()], ["STOPPING=1\n", "FDSTORE=1\nFDPOLL=0\nFDNAME=l.tcp\n"], "once");
    }
}
