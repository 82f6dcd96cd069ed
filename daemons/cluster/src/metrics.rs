//! All metrics of the cluster daemon.
//!
//! The names of `spec/metrics.md` §3 that a node without neighbours can feed are here; the traffic between nodes comes with the transport.

use std::time::Duration;

use wk_telemetry::{CounterVec, GaugeVec, Histogram, IntCounter, IntGauge, Metrics as Registry};

/// Upper bounds of the propose histograms. Unit: ms, as the existing dashboards expect.
const LATENCY_MS: &[f64] = &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 125.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0];
/// Upper bounds of batch sizes.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// The two latency counters split here. Source: `spec/metrics.md` §3.
const SLOW: Duration = Duration::from_millis(500);

/// Reasons of refused work, in the order of [`Refused`].
const REFUSED: [&str; 5] = ["queue", "disk", "fenced", "invalid", "reader"];

/// Why work was refused; the index into [`REFUSED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The queue of a channel group is full.
    Queue = 0,
    /// The disk is nearly full.
    Disk = 1,
    /// The sender is not the owner any more.
    Fenced = 2,
    /// The request makes no sense.
    Invalid = 3,
    /// Too many reads wait.
    Reader = 4,
}

/// Metrics of one kind of group's proposals.
#[derive(Debug, Clone)]
pub struct ProposeMetrics {
    count: IntCounter,
    failed: IntCounter,
    latency_ms: Histogram,
    /// (over, under) 500 ms.
    split: Option<(IntCounter, IntCounter)>,
}

impl ProposeMetrics {
    /// One proposal has ended.
    pub fn ended(&self, took: Duration, ok: bool) {
        self.count.inc();
        if !ok {
            self.failed.inc();
        }
        self.latency_ms.observe(took.as_secs_f64() * 1000.0);
        if let Some((over, under)) = &self.split {
            if took > SLOW { over.inc() } else { under.inc() }
        }
    }
}

/// Metrics of one kind of group's apply.
#[derive(Debug, Clone)]
pub struct ApplyMetrics {
    entries: IntCounter,
    bytes: IntCounter,
    batch: Histogram,
}

impl ApplyMetrics {
    /// A batch of entries was applied.
    pub fn applied(&self, entries: usize, bytes: usize) {
        self.entries.inc_by(entries as u64);
        self.bytes.inc_by(bytes as u64);
        if entries > 0 {
            self.batch.observe(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
        }
    }

    /// Metrics that nobody gathers, for tests of a machine alone.
    #[must_use]
    pub fn detached() -> Self {
        Self::register(&Registry::new(), "test")
    }

    fn register(registry: &Registry, kind: &str) -> Self {
        Self {
            entries: registry.counter(&format!("wk_cluster_{kind}_apply_entries_total"), "Entries applied."),
            bytes: registry.counter(&format!("wk_cluster_{kind}_apply_bytes_total"), "Bytes of rows written by apply."),
            batch: registry.histogram(&format!("wk_cluster_{kind}_apply_batch_entries"), "Entries applied together.", SIZES),
        }
    }
}

/// Metrics of the log writer and the databases, read once a second.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Synced batches.
    pub syncs: IntCounter,
    /// Items in them.
    pub sync_items: IntCounter,
    /// Bytes in them.
    pub sync_bytes: IntCounter,
    /// Time spent in synced writes. Unit: µs.
    pub sync_micros: IntCounter,
    /// Longest synced write so far. Unit: µs.
    pub sync_micros_max: IntGauge,
    /// Items waiting for the log writer.
    pub queue_items: IntGauge,
    /// Bytes waiting for the log writer.
    pub queue_bytes: IntGauge,
    /// Items the log writer refused.
    pub queue_refused: IntCounter,
    /// Bytes in memtables of both databases.
    pub memtable_bytes: IntGauge,
    /// Bytes in files of both databases.
    pub disk_bytes: IntGauge,
    /// Bytes of state not flushed yet.
    pub unflushed_bytes: IntGauge,
    /// Bytes free on the data disk.
    pub disk_free_bytes: IntGauge,
    /// Flushes.
    pub flushes: IntCounter,
    /// Time of the last flush. Unit: ms.
    pub flush_last_ms: IntGauge,
}

/// Every metric of this process.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Proposals of slot groups.
    pub slot_propose: ProposeMetrics,
    /// Proposals of channel groups.
    pub channel_propose: ProposeMetrics,
    /// Apply of slot groups.
    pub slot_apply: ApplyMetrics,
    /// Apply of channel groups.
    pub channel_apply: ApplyMetrics,
    /// Open channel groups.
    pub channel_active: IntGauge,
    /// Messages that were stored.
    pub messages: IntCounter,
    /// Messages that were stored before.
    pub duplicates: IntCounter,
    /// Messages per entry of a channel group.
    pub entry_messages: Histogram,
    /// Messages that wait for their channel group.
    pub queue_messages: IntGauge,
    /// Requests by kind, in the order of the contract.
    pub requests: CounterVec,
    /// Requests that are not answered yet, by [`OPEN_KINDS`].
    pub requests_open: GaugeVec,
    /// Refused work by [`Refused`].
    pub refused: CounterVec,
    /// Ids handed out.
    pub ids: IntCounter,
    /// Groups this node leads, by kind: node, slot, channel.
    pub leaders: GaugeVec,
    /// Log writer and databases.
    pub store: StoreMetrics,
}

/// Kinds of requests, in the order of `Request.op`.
pub const REQUEST_KINDS: [&str; 9] =
    ["append", "lookup", "read", "propose", "alloc_ids", "journal", "save_cursors", "scan", "load_cursors"];

/// Requests that are open: writes must end before a stop, everything else may be dropped (long polls have no end of their own).
pub const OPEN_KINDS: [&str; 2] = ["write", "other"];

impl Metrics {
    /// Appends and proposals that are not answered yet.
    #[must_use]
    pub fn writes_open(&self) -> &IntGauge {
        self.requests_open.at(0)
    }

    /// All other requests that are not answered yet.
    #[must_use]
    pub fn others_open(&self) -> &IntGauge {
        self.requests_open.at(1)
    }

    /// Registers everything.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            slot_propose: ProposeMetrics {
                count: registry.counter("wk_cluster_slot_propose_total", "Proposals of slot groups."),
                failed: registry.counter("wk_cluster_slot_propose_failed_total", "Proposals of slot groups without success."),
                latency_ms: registry.histogram("cluster_slot_propose_latency", "Time of a slot proposal. Unit: ms.", LATENCY_MS),
                split: None,
            },
            channel_propose: Self::channel_propose(registry),
            slot_apply: ApplyMetrics::register(registry, "slot"),
            channel_apply: ApplyMetrics::register(registry, "channel"),
            channel_active: registry.gauge("cluster_channel_active_count", "Open channel groups."),
            messages: registry.counter("wk_cluster_messages_stored_total", "Messages stored."),
            duplicates: registry.counter("wk_cluster_messages_duplicate_total", "Messages that were stored before."),
            entry_messages: registry.histogram("wk_cluster_entry_messages", "Messages in one entry of a channel group.", SIZES),
            queue_messages: registry.gauge("wk_cluster_append_queue_messages", "Messages waiting for their channel group."),
            requests: registry.counter_vec("wk_cluster_requests_total", "Requests of the data stream.", "kind", &REQUEST_KINDS),
            requests_open: registry.gauge_vec("wk_cluster_requests_open", "Requests without an answer.", "kind", &OPEN_KINDS),
            refused: registry.counter_vec("wk_cluster_refused_total", "Refused work.", "reason", &REFUSED),
            ids: registry.counter("wk_cluster_ids_total", "Message ids handed out."),
            leaders: registry.gauge_vec("wk_cluster_group_leaders", "Groups this node leads.", "kind", &["node", "slot", "channel"]),
            store: Self::store(registry),
        }
    }

    fn channel_propose(registry: &Registry) -> ProposeMetrics {
        ProposeMetrics {
            count: registry.counter("cluster_channel_propose_count_total", "Proposals of channel groups."),
            failed: registry.counter("cluster_channel_propose_failed_count_total", "Proposals of channel groups without success."),
            latency_ms: registry.histogram("cluster_channel_propose_latency", "Time of a channel proposal. Unit: ms.", LATENCY_MS),
            split: Some((
                registry.counter("cluster_channel_propose_latency_over_500ms_total", "Proposals that took over 500 ms."),
                registry.counter("cluster_channel_propose_latency_under_500ms_total", "Proposals that took 500 ms at most."),
            )),
        }
    }

    fn store(registry: &Registry) -> StoreMetrics {
        StoreMetrics {
            syncs: registry.counter("wk_cluster_log_syncs_total", "Synced batches of the raft log."),
            sync_items: registry.counter("wk_cluster_log_items_total", "Items written to the raft log."),
            sync_bytes: registry.counter("wk_cluster_log_bytes_total", "Bytes written to the raft log."),
            sync_micros: registry.counter("wk_cluster_log_sync_microseconds_total", "Time in synced writes. Unit: us."),
            sync_micros_max: registry.gauge("wk_cluster_log_sync_max_microseconds", "Longest synced write. Unit: us."),
            queue_items: registry.gauge("wk_cluster_log_queue_items", "Items waiting for the log writer."),
            queue_bytes: registry.gauge("wk_cluster_log_queue_bytes", "Bytes waiting for the log writer."),
            queue_refused: registry.counter("wk_cluster_log_queue_refused_total", "Items the log writer refused."),
            memtable_bytes: registry.gauge("db_memtable_size", "Bytes in memtables of both databases."),
            disk_bytes: registry.gauge("db_disk_space_usage", "Bytes in files of both databases."),
            unflushed_bytes: registry.gauge("wk_cluster_data_unflushed_bytes", "Bytes of state not flushed yet."),
            disk_free_bytes: registry.gauge("wk_cluster_disk_free_bytes", "Bytes free on the data disk."),
            flushes: registry.counter("db_flush_count_total", "Flushes of the data database."),
            flush_last_ms: registry.gauge("wk_cluster_flush_last_milliseconds", "Time of the last flush. Unit: ms."),
        }
    }

    /// Counts refused work.
    pub fn refuse(&self, why: Refused) {
        self.refused.at(why as usize).inc();
    }
}
