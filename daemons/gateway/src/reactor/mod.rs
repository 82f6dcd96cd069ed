//! Reactors: threads that own client sockets on io_uring rings.
//!
//! One reactor with listeners accepts; when there are several, the main reactor only accepts and spreads connections round robin over the sub
//! reactors. With a single sub reactor the accepts live on its own ring: one thread and one hand-over less.
//!
//! Planes: [`sys`] (the only unsafe code), `run` (the loop), `slot` (one socket), `conn` with `stream`, `frames`, `json` (one connection,
//! pure), [`ws`], [`upgrade`], [`timer`], [`buffer`] (pure).
//!
//! Invariants
//! - A reactor never waits for anything but its ring; what it produced in a round leaves as one batch.
//! - Nothing is shared between reactors on the message path.
//! - A socket is closed only after its last request has completed: an armed multishot receive would hold the socket and swallow the end of
//!   stream (machine-limits §1).

mod accept;
mod attend;
mod conn;
mod frames;
mod json;
mod pulse;
mod run;
mod slot;
mod stream;
mod sys;

pub mod buffer;
pub mod timer;
pub mod upgrade;
pub mod ws;

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

pub use accept::Addresses;
pub(crate) use conn::refusal;
use pulse::Beat;
pub use pulse::Pulse;
pub use sys::RingError;

use crate::config::Settings;
use crate::exchange::{Command, Event, Mailbox, Shared, Transport};
use crate::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, RING_COMPLETIONS, RING_ENTRIES};
use crate::metrics::Metrics;

/// A reactor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No event descriptor.
    #[error("make the wake-up descriptor")]
    Event(#[source] io::Error),
    /// No thread.
    #[error("start a reactor thread")]
    Thread(#[source] io::Error),
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The thread ended before it said whether its ring works.
    #[error("reactor thread ended at its start")]
    Died,
    /// An option of a listener could not be set.
    #[error("prepare a listener")]
    Listener(#[source] io::Error),
}

/// What every reactor gets.
#[derive(Debug, Clone)]
pub struct Common {
    /// Settings.
    pub settings: Arc<Settings>,
    /// Flags of the hub.
    pub shared: Arc<Shared>,
    /// Counters.
    pub metrics: Metrics,
    /// Where events go.
    pub hub: Arc<Mailbox<Event>>,
}

/// The running reactors. Dropping the handle does not stop them: send [`Command::Drain`] to each.
#[derive(Debug)]
pub struct Reactors {
    /// Reactors that hold connections; the index is [`crate::exchange::At::reactor`].
    pub subs: Vec<Arc<Mailbox<Command>>>,
    /// Accepts; the only sub reactor when there is one, an own thread otherwise.
    pub main: Arc<Mailbox<Command>>,
    /// Index the main reactor uses in its events.
    pub main_index: u16,
    /// Asks whether they turn.
    pub pulse: Pulse,
    threads: Vec<JoinHandle<()>>,
}

impl Reactors {
    /// Starts `count` sub reactors (at least one), and a main reactor when there is more than one.
    ///
    /// # Errors
    /// [`StartError`]; reactors that run already are drained and joined.
    pub fn start(count: u16, listeners: Vec<(Transport, TcpListener)>, common: &Common) -> Result<Self, StartError> {
        let count = count.max(1);
        for (_, listener) in &listeners {
            // Accepted sockets inherit it.
            socket2::SockRef::from(listener).set_tcp_nodelay(true).map_err(StartError::Listener)?;
        }
        let addresses = Arc::new(Addresses::new(common.settings.per_address_max));
        let (mut subs, mut threads, mut beats) = (Vec::new(), Vec::new(), Vec::new());
        let mut listeners = Some(listeners);
        let mut start = |index, listeners, targets| -> Result<Arc<Mailbox<Command>>, StartError> {
            let (beat, thread) = spawn(index, count, listeners, targets, common, &addresses)?;
            threads.push(thread);
            beats.push(beat.clone());
            Ok(beat.mailbox)
        };
        let result = (|| {
            for index in 0..count {
                let own = if count == 1 { listeners.take().unwrap_or_default() } else { Vec::new() };
                subs.push(start(index, own, Vec::new())?);
            }
            match subs.as_slice() {
                [only] => Ok((Arc::clone(only), 0)),
                _ => Ok((start(count, listeners.take().unwrap_or_default(), subs.clone())?, count)),
            }
        })();
        match result {
            Ok((main, main_index)) => Ok(Self { subs, main, main_index, pulse: Pulse(beats), threads }),
            Err(err) => {
                for sub in &subs {
                    sub.post_one(Command::Drain);
                }
                join(threads);
                Err(err)
            }
        }
    }

    /// Waits for the threads, which end after [`Command::Drain`].
    pub fn join(self) {
        join(self.threads);
    }

    /// Drains all reactors: each half-closes its connections, closes them and ends.
    pub fn drain(&self) {
        if usize::from(self.main_index) == self.subs.len() {
            self.main.post_one(Command::Drain);
        }
        for sub in &self.subs {
            sub.post_one(Command::Drain);
        }
    }

    /// Number of reactors, the main one included when it is a thread of its own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Never: there is at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a reactor thread panicked");
        }
    }
}

/// Starts a thread and waits until its ring stands.
fn spawn(
    index: u16,
    reactors: u16,
    listeners: Vec<(Transport, TcpListener)>,
    targets: Vec<Arc<Mailbox<Command>>>,
    common: &Common,
    addresses: &Arc<Addresses>,
) -> Result<(Beat, JoinHandle<()>), StartError> {
    let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).map_err(|e| StartError::Event(e.into()))?;
    let event = Arc::new(event);
    let waker = Arc::clone(&event);
    let mailbox = Arc::new(Mailbox::new(move || {
        if let Err(err) = waker.write(1) {
            tracing::error!(%err, "reactor was not woken");
        }
    }));
    let beat = Beat { mailbox, ended: Arc::default() };
    let (common, addresses, own) = (common.clone(), Arc::clone(addresses), beat.clone());
    let (report, started) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("reactor-{index}"))
        .spawn(move || {
            // The ring is made by the thread that uses it: single issuer.
            let buffers = if targets.is_empty() { RECEIVE_BUFFERS } else { 0 };
            let options =
                sys::RingOptions { entries: RING_ENTRIES, completions: RING_COMPLETIONS, buffers, buffer_bytes: RECEIVE_BUFFER_BYTES };
            let ring = sys::Uring::new(options);
            let place = run::Place { index, reactors, mailbox: own.mailbox, event, targets, addresses, ended: own.ended };
            let (reactor, told) = match ring {
                Ok(ring) => (Some(run::Reactor::new(ring, place, listeners, common)), Ok(())),
                Err(err) => (None, Err(err)),
            };
            // The starter waits for exactly this; when it is gone there is nobody to tell.
            drop(report.send(told));
            if let Some(reactor) = reactor {
                reactor.run();
            }
        })
        .map_err(StartError::Thread)?;
    started.recv().map_err(|_| StartError::Died)??;
    Ok((beat, thread))
}

/// Takes an accepted socket's peer address; the unspecified one when the peer is gone already.
fn peer_of(socket: &OwnedFd) -> std::net::SocketAddr {
    let unknown = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    socket2::SockRef::from(socket).peer_addr().ok().and_then(|a| a.as_socket()).unwrap_or(unknown)
}
