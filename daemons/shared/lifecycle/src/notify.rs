//! Messages to systemd, when it is the one that started us.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use wk_config::Env;

use crate::health::Board;

/// Says what systemd wants to hear; does nothing under the supervisor or when nobody listens.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    on: bool,
}

impl Notifier {
    pub(crate) fn new(env: &Env, supervised: bool) -> Self {
        Self { on: !supervised && env.get("NOTIFY_SOCKET").is_some() }
    }

    pub(crate) fn ready(&self) {
        self.send(&NotifyState::Ready);
    }

    /// One line for people.
    pub(crate) fn status(&self, text: &str) {
        self.send(&NotifyState::Status(text));
    }

    pub(crate) fn stopping(&self) {
        self.send(&NotifyState::Stopping);
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
            self.send(&NotifyState::Watchdog);
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
