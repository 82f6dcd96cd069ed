//! A runtime folder that somebody cleaned: our sockets are made again where they were (`design/supervisor.md`, row 50).
//!
//! Connections stay open without a path; the sockets of living daemons come back with their next generation.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::engine::Command;
use crate::limits::{ACCEPT_ERROR_PAUSE, MEND_EVERY};

/// One of our two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// For `wkctl`.
    Control,
    /// For the daemons.
    Nodes,
}

/// A socket, and how to make it again.
#[derive(Debug)]
pub struct Mended<B> {
    /// Which.
    pub which: Socket,
    /// Where it is.
    pub path: PathBuf,
    /// Makes folders and socket.
    pub bind: B,
    /// To the engine, which hands the socket on to a successor.
    pub commands: mpsc::Sender<Command>,
}

struct State<B> {
    listener: UnixListener,
    look: Interval,
    mended: Mended<B>,
}

/// Connections, for ever: an accept that fails is tried again after a pause, a path that is gone is made again.
///
/// # Errors
/// The runtime refuses the listener.
pub fn connections<B>(listener: StdListener, mended: Mended<B>) -> io::Result<impl Stream<Item = UnixStream>>
where
    B: Fn() -> io::Result<StdListener>,
{
    let listener = register(listener)?;
    let mut look = interval(MEND_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(stream::unfold(State { listener, look, mended }, |mut state| async move {
        loop {
            // Both are cancel-safe: an accept and a tick.
            tokio::select! {
                accepted = state.listener.accept() => match accepted {
                    Ok((stream, _)) => return Some((stream, state)),
                    Err(err) => {
                        tracing::warn!(%err, "accept failed");
                        tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                    }
                },
                _ = state.look.tick() => state.mend(),
            }
        }
    }))
}

fn register(listener: StdListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

impl<B: Fn() -> io::Result<StdListener>> State<B> {
    fn mend(&mut self) {
        if self.mended.path.exists() {
            return;
        }
        let made = (self.mended.bind)().and_then(|l| Ok((OwnedFd::from(l.try_clone()?), register(l)?)));
        match made {
            Ok((copy, listener)) => {
                tracing::warn!(path = %self.mended.path.display(), "socket was removed, made again");
                self.listener = listener;
                if self.mended.commands.try_send(Command::Rebound(self.mended.which, copy)).is_err() {
                    tracing::warn!("engine is not told of the new socket");
                }
            }
            Err(err) => tracing::error!(path = %self.mended.path.display(), %err, "socket was removed and cannot be made again"),
        }
    }
}

/// Pause that the limits promise: a look is cheap, a machine without cleaners pays nothing that can be measured.
const _: () = assert!(MEND_EVERY.as_millis() >= Duration::from_secs(1).as_millis(), "idle");
