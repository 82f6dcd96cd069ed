//! Messages to systemd, when it is the one that started us.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use wk_config::Env;

use crate::health::Board;

/// Says what systemd wants to hear; does nothing under the supervisor or when nobody listens.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    on: bool,
    /// For what may get lost.
    socket: Option<SocketAddr>,
}

/// A path, or an abstract name after `@`. Source: sd_notify(3).
fn address(socket: &str) -> io::Result<SocketAddr> {
    match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

impl Notifier {
    pub(crate) fn new(env: &Env, supervised: bool) -> Self {
        let socket = env.get("NOTIFY_SOCKET").filter(|_| !supervised);
        Self { on: socket.is_some(), socket: socket.and_then(|s| address(s).ok()) }
    }

    pub(crate) fn ready(&self) {
        self.send(&NotifyState::Ready);
    }

    /// One line for people.
    pub(crate) fn status(&self, text: &str) {
        self.offer(&format!("STATUS={text}\n"));
    }

    pub(crate) fn stopping(&self) {
        self.offer("STOPPING=1\n");
    }

    /// Sends keep-alives for ever, at a third of the interval systemd asked for, as long as the daemon lives; pends when it asked for none.
    pub(crate) async fn watchdog(self, board: Arc<Board>) {
        let Some(every) = sd_notify::watchdog_enabled().filter(|d| self.on && *d > Duration::ZERO) else {
            return std::future::pending().await;
        };
        let mut tick = tokio::time::interval(every / 3);
        loop {
            tick.tick().await;
            board.alive().await;
            self.offer("WATCHDOG=1\n");
        }
    }

    /// A line for people, or a ping that is followed by another: a reader that is busy is not waited for.
    fn offer(&self, text: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = UnixDatagram::unbound().and_then(|from| {
            from.set_nonblocking(true)?;
            from.send_to_addr(text.as_bytes(), socket)
        });
        match sent {
            Err(err) if err.kind() != io::ErrorKind::WouldBlock => tracing::warn!(%err, "notify systemd"),
            _ => {}
        }
    }

    fn send(&self, state: &NotifyState<'_>) {
        if self.on
            && let Err(err) = sd_notify::notify(std::slice::from_ref(state))
        {
            tracing::warn!(%err, "notify systemd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue that nobody empties takes nothing more, and whoever writes goes on.
    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(&Env::from_pairs([("NOTIFY_SOCKET", path.to_str().unwrap())]), false);
        for _ in 0..2_000 {
            notifier.status("ready");
        }
        notifier.stopping();
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(buffer.get(..length), Some(b"STATUS=ready\n".as_slice()));
        assert!(address("@abstract").is_ok());
        Notifier::new(&Env::from_pairs([("NOTIFY_SOCKET", path.to_str().unwrap())]), true).status("below the supervisor");
    }
}
