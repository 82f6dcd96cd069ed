//! What runs beside the requests: id ceiling, free space, gauges, flush and purge.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use tokio_util::sync::CancellationToken;
use wk_raft::Groups;
use wk_store::limits::FLUSH_BYTES;
use wk_store::{DataDb, LogWriter, RaftDb, WriterStats, abort_process};
use wk_telemetry::{IntCounter, IntGauge};

use crate::engine::blocking_flush;
use crate::limits::STATS_EVERY;
use crate::metrics::Metrics;
use crate::rpc::{Dispatch, admin};

/// How often the flusher looks at what is unflushed.
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(250);

/// The once-a-second work.
#[derive(Debug)]
pub struct Upkeep {
    /// Ids and groups.
    pub dispatch: Arc<Dispatch>,
    /// Log writer, for its counters.
    pub writer: LogWriter,
    /// Log database, for its sizes.
    pub log: RaftDb,
    /// A folder on the data disk.
    pub folder: PathBuf,
    /// Writes are refused below this. Unit: bytes.
    pub disk_reserve_bytes: u64,
    /// Where that is said.
    pub disk_full: Arc<AtomicBool>,
}

impl Upkeep {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(STATS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last = WriterStats::default();
        loop {
            // Cancel-safe: both only wait.
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(refusal) = self.dispatch.ids.keep_ahead().await {
                tracing::error!(err = %refusal, "id ceiling cannot be raised");
            }
            self.disk();
            self.failed_groups();
            last = self.gauges(&last);
        }
    }

    /// A half-dead node is worse than a dead one.
    fn failed_groups(&self) {
        if let Some(group) = self.dispatch.shards.groups().list().iter().find(|group| group.has_failed()) {
            tracing::error!(group = group.id().0, "group has failed, aborting");
            std::process::abort();
        }
    }

    fn disk(&self) {
        match statvfs(&self.folder) {
            Ok(stat) => {
                let free = stat.blocks_available().saturating_mul(stat.fragment_size());
                set(&self.dispatch.metrics.store.disk_free_bytes, free);
                let full = free < self.disk_reserve_bytes;
                if self.disk_full.swap(full, Ordering::Relaxed) != full {
                    if full {
                        tracing::error!(free, reserve = self.disk_reserve_bytes, "disk is nearly full, refusing writes");
                    } else {
                        tracing::info!(free, "disk has room again");
                    }
                }
            }
            Err(err) => tracing::warn!(%err, "free space cannot be read"),
        }
    }

    fn gauges(&self, last: &WriterStats) -> WriterStats {
        let metrics = &self.dispatch.metrics;
        let store = &metrics.store;
        let now = self.writer.stats();
        let grown = |counter: &IntCounter, new: u64, old: u64| counter.inc_by(new.saturating_sub(old));
        grown(&store.syncs, now.syncs, last.syncs);
        grown(&store.sync_items, now.items, last.items);
        grown(&store.sync_bytes, now.bytes, last.bytes);
        grown(&store.sync_micros, now.sync_micros, last.sync_micros);
        grown(&store.queue_refused, now.refused, last.refused);
        set(&store.sync_micros_max, now.sync_micros_max);
        set(&store.queue_items, now.queue_items);
        set(&store.queue_bytes, now.queue_bytes);
        let (data, log) = (self.dispatch.shards.db().stats(), self.log.stats());
        set(&store.memtable_bytes, data.memtables_bytes + log.memtables_bytes);
        set(&store.disk_bytes, data.files_bytes + log.files_bytes);
        set(&store.unflushed_bytes, data.unflushed_bytes);
        let mut leaders = [0, 0, 0];
        for group in self.dispatch.shards.groups().list().iter().filter(|group| group.is_leader()) {
            let kind = match admin::kind(group.id().0) {
                "node" => &mut leaders[0],
                "slot" => &mut leaders[1],
                _ => &mut leaders[2],
            };
            *kind += 1;
        }
        leaders.into_iter().enumerate().for_each(|(kind, count)| metrics.leaders.at(kind).set(count));
        now
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Flushes the state when enough of it, or old enough, is only in memory, and lets the log be purged up to there.
pub async fn flush_loop(groups: Groups, db: DataDb, every: Duration, metrics: Metrics, stop: CancellationToken) {
    let mut last = Instant::now();
    loop {
        // Cancel-safe: both only wait.
        tokio::select! {
            () = tokio::time::sleep(FLUSH_LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let unflushed = db.unflushed_bytes();
        let due = unflushed >= FLUSH_BYTES || (last.elapsed() >= every && unflushed > 0);
        if !due {
            continue;
        }
        let began = Instant::now();
        if let Err(error) = groups.flush_and_purge(async || blocking_flush(&db).await).await {
            abort_process(&error);
        }
        last = Instant::now();
        metrics.store.flushes.inc();
        set(&metrics.store.flush_last_ms, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
}
