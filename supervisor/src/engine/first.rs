//! The first start, which is tried again before the supervisor gives up.

use std::time::{Duration, Instant};

use super::{Engine, REFRESH};

/// The first start, with its retries.
#[derive(Debug)]
pub(super) struct First {
    pub(super) op: u64,
    retries: u16,
    pause: Duration,
    pub(super) again_at: Option<Instant>,
}

impl First {
    /// Nothing was tried yet.
    pub(super) fn new(retries: u16) -> Self {
        Self { op: 0, retries, pause: REFRESH, again_at: None }
    }
}

impl Engine {
    pub(super) fn first_start(&mut self) {
        let begun = self.begin(self.start_request());
        let Some(first) = &mut self.first else { return };
        first.again_at = None;
        match begun {
            Ok(id) => first.op = id,
            Err(refusal) => {
                self.console.failed(&refusal.message, &[]);
                self.retry_or_leave();
            }
        }
    }

    pub(super) fn retry_or_leave(&mut self) {
        let Some(first) = &mut self.first else { return };
        if first.retries == 0 {
            self.exit = Some(crate::service::EXIT_START_FAILED);
            return;
        }
        first.retries -= 1;
        first.again_at = Some(Instant::now() + first.pause);
        self.console.line(&format!("next attempt in {:.0} s, {} left after it", first.pause.as_secs_f64(), first.retries));
        first.pause = (first.pause * 2).min(crate::limits::BACKOFF_CAP);
    }
}
