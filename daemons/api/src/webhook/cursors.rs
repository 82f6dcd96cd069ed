//! Positions that were confirmed and are not saved yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Journal, cursor};
use crate::limits::CURSOR_SAVE_EVERY;

/// Group → confirmed index, of groups that moved since the last save. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursors {
    moved: Arc<Mutex<BTreeMap<u32, u64>>>,
}

impl Cursors {
    /// Everything of the group up to `index` is confirmed.
    pub(super) fn moved(&self, group: u32, index: u64) {
        self.moved.lock().insert(group, index);
    }

    /// Saves what moved; a failure keeps it for the next time.
    pub(super) async fn save(&self, journal: &dyn Journal) {
        let moved = std::mem::take(&mut *self.moved.lock());
        if moved.is_empty() {
            return;
        }
        if let Err(err) = journal.save(moved.iter().map(|(&group, &index)| cursor(group, index)).collect()).await {
            tracing::warn!(%err, "webhook cursors were not saved");
            let mut now = self.moved.lock();
            for (group, index) in moved {
                // A newer position of the meantime stays.
                now.entry(group).or_insert(index);
            }
        }
    }

    /// Saves every [`CURSOR_SAVE_EVERY`] for ever. Cancelling between saves loses nothing; during one, the positions of that save are saved
    /// again by whoever moves next, or the messages are sent again.
    pub(super) async fn keep_saving(&self, journal: &dyn Journal) {
        let mut tick = tokio::time::interval(CURSOR_SAVE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.save(journal).await;
        }
    }
}
