//! All metric names of this daemon. Decisions count in plain numbers; the pools' tasks bring the counters up to date with each tick.

use wk_telemetry::{CounterVec, IntCounter, IntGauge, Metrics};

use crate::channel::handle::Channels;
use crate::push::handle::Push;
use crate::user::handle::Users;

/// Raises a counter to a total.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn gauge(gauge: &IntGauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Metrics of the user pool.
#[derive(Debug, Clone)]
pub struct UserMetrics {
    /// Items received.
    pub items: IntCounter,
    /// Lookup requests.
    pub lookups: IntCounter,
    /// Items refused after two deaths.
    pub poisoned: IntCounter,
    logins: CounterVec,
    kicks: IntCounter,
    refused_sends: IntCounter,
    broken: IntCounter,
    unsettled: IntGauge,
    waiting: IntGauge,
    rows: IntGauge,
    send_packets: IntCounter,
    send_bytes: IntCounter,
    users: IntGauge,
    devices: IntGauge,
}

impl UserMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(m: &Metrics) -> Self {
        Self {
            items: m.counter("wk_worker_user_items_total", "Items received from gateways."),
            lookups: m.counter("wk_worker_user_lookups_total", "Lookup requests to the cluster."),
            poisoned: m.counter("wk_worker_user_poisoned_total", "Items refused because two receivers died holding them."),
            logins: m.counter_vec("wk_worker_user_logins_total", "CONNECTs answered.", "result", &["ok", "refused"]),
            kicks: m.counter("wk_worker_user_kicks_total", "Connections kicked."),
            refused_sends: m.counter("wk_worker_user_refused_sends_total", "SENDs refused before the channel."),
            broken: m.counter("wk_worker_user_broken_total", "Items that could not be read."),
            unsettled: m.gauge("wk_worker_user_unsettled_items", "Items received and not settled."),
            waiting: m.gauge("wk_worker_user_waiting_items", "Items that wait for rows or sessions."),
            rows: m.gauge("wk_worker_user_rows", "Rows held."),
            send_packets: m.counter("app_send_packet_count_total", "SENDs handled."),
            send_bytes: m.counter("app_send_packet_bytes_total", "Payload bytes of SENDs handled. Unit: bytes."),
            users: m.gauge("app_online_user_count_total", "Users with a connection."),
            devices: m.gauge("app_online_device_count_total", "Connections of users."),
        }
    }

    pub(crate) fn update(&self, users: &Users, unsettled: u64) {
        let c = users.counts();
        raise(self.logins.at(0), c.logins);
        raise(self.logins.at(1), c.refused_logins);
        raise(&self.kicks, c.kicks);
        raise(&self.refused_sends, c.refused_sends);
        raise(&self.broken, c.broken);
        raise(&self.send_packets, c.sends + c.refused_sends);
        raise(&self.send_bytes, c.send_bytes);
        self.unsettled.set(i64::try_from(unsettled).unwrap_or(i64::MAX));
        gauge(&self.waiting, users.waiting());
        gauge(&self.rows, users.rows_len());
        gauge(&self.users, users.presence().users());
        gauge(&self.devices, users.presence().len());
    }
}

/// Metrics of the channel pool.
#[derive(Debug, Clone)]
pub struct ChannelMetrics {
    /// Items received.
    pub items: IntCounter,
    /// Items refused after two deaths.
    pub poisoned: IntCounter,
    messages: CounterVec,
    appends: IntCounter,
    append_retries: IntCounter,
    delivers: IntCounter,
    tags: IntCounter,
    queries: IntCounter,
    replayed: IntCounter,
    broken: IntCounter,
    unsettled: IntGauge,
    channels: IntGauge,
    jobs: IntGauge,
    undistributed: IntGauge,
}

impl ChannelMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(m: &Metrics) -> Self {
        let results = ["received", "stored", "duplicate", "refused", "late"];
        Self {
            items: m.counter("wk_worker_channel_items_total", "Items received."),
            poisoned: m.counter("wk_worker_channel_poisoned_total", "Items refused because two receivers died holding them."),
            messages: m.counter_vec("wk_worker_channel_messages_total", "Messages by what became of them.", "result", &results),
            appends: m.counter("wk_worker_channel_appends_total", "Append requests."),
            append_retries: m.counter("wk_worker_channel_append_retries_total", "Channel batches that were sent again."),
            delivers: m.counter("wk_worker_channel_delivers_total", "Delivers sent to push workers."),
            tags: m.counter("wk_worker_channel_tags_total", "Receiver tags built."),
            queries: m.counter("wk_worker_channel_queries_total", "Queries in lookup requests."),
            replayed: m.counter("wk_worker_channel_replayed_total", "Messages distributed from the journal after a start."),
            broken: m.counter("wk_worker_channel_broken_total", "Items that could not be read."),
            unsettled: m.gauge("wk_worker_channel_unsettled_items", "Items received and not settled."),
            channels: m.gauge("wk_worker_channel_channels", "Channels in memory."),
            jobs: m.gauge("wk_worker_channel_distributing", "Messages whose Delivers are not settled."),
            undistributed: m.gauge("wk_worker_channel_undistributed_bytes", "Bytes of messages that wait for distribution."),
        }
    }

    pub(crate) fn update(&self, channels: &Channels, unsettled: u64) {
        let c = channels.counts();
        for (place, total) in [c.received, c.stored, c.duplicates, c.refused, c.late].into_iter().enumerate() {
            raise(self.messages.at(place), total);
        }
        raise(&self.appends, c.appends);
        raise(&self.append_retries, c.append_retries);
        raise(&self.delivers, c.delivers);
        raise(&self.tags, c.tags);
        raise(&self.queries, c.queries);
        raise(&self.replayed, c.replayed);
        raise(&self.broken, c.broken);
        self.unsettled.set(i64::try_from(unsettled).unwrap_or(i64::MAX));
        let (chans, jobs, bytes) = channels.sizes();
        gauge(&self.channels, chans);
        gauge(&self.jobs, jobs);
        gauge(&self.undistributed, bytes);
    }
}

/// Metrics of the push pool.
#[derive(Debug, Clone)]
pub struct PushMetrics {
    /// Items received.
    pub items: IntCounter,
    /// Items given up after two deaths.
    pub poisoned: IntCounter,
    delivers: IntCounter,
    resends: IntCounter,
    given_up: IntCounter,
    skipped: CounterVec,
    receivers: CounterVec,
    broken: IntCounter,
    unsettled: IntGauge,
    waiting: IntGauge,
    connections: IntGauge,
    unacked: IntGauge,
    recv_packets: IntCounter,
    recv_bytes: IntCounter,
    recvacks: IntCounter,
    recvack_bytes: IntCounter,
}

/// Size of a RECVACK up to version 5, which the original counts. Unit: bytes.
const RECVACK_BYTES: u64 = 14;

impl PushMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(m: &Metrics) -> Self {
        Self {
            items: m.counter("wk_worker_push_items_total", "Items received."),
            poisoned: m.counter("wk_worker_push_poisoned_total", "Frames given up because two gateways died holding them."),
            delivers: m.counter("wk_worker_push_delivers_total", "Delivers handled."),
            resends: m.counter("wk_worker_push_resends_total", "Frames sent again without a RECVACK."),
            given_up: m.counter("wk_worker_push_given_up_total", "Frames dropped without a RECVACK."),
            skipped: m.counter_vec("wk_worker_push_skipped_total", "RECVs not sent.", "reason", &["duplicate", "unsendable"]),
            receivers: m.counter_vec(
                "wk_worker_push_receivers_total",
                "Receivers by their standing.",
                "standing",
                &["offline", "online_slave", "online_master"],
            ),
            broken: m.counter("wk_worker_push_broken_total", "Items that could not be read."),
            unsettled: m.gauge("wk_worker_push_unsettled_items", "Items received and not settled."),
            waiting: m.gauge("wk_worker_push_waiting_delivers", "Delivers that wait for sessions or for room."),
            connections: m.gauge("wk_worker_push_connections", "Connections known."),
            unacked: m.gauge("wk_worker_push_unacked_frames", "Frames that wait for a RECVACK."),
            recv_packets: m.counter("app_recv_packet_count_total", "RECVs sent."),
            recv_bytes: m.counter("app_recv_packet_bytes_total", "Bytes of RECVs sent. Unit: bytes."),
            recvacks: m.counter("app_recvack_packet_count_total", "RECVACKs received."),
            recvack_bytes: m.counter("app_recvack_packet_bytes_total", "Bytes of RECVACKs received. Unit: bytes."),
        }
    }

    pub(crate) fn update(&self, push: &Push, unsettled: u64, unacked: u64) {
        let c = push.counts();
        raise(&self.delivers, c.delivers);
        raise(&self.resends, c.resends);
        raise(&self.given_up, c.given_up);
        raise(self.skipped.at(0), c.duplicates);
        raise(self.skipped.at(1), c.unsendable);
        for (place, total) in [c.offline, c.online_slave, c.online_master].into_iter().enumerate() {
            raise(self.receivers.at(place), total);
        }
        raise(&self.broken, c.broken);
        raise(&self.recv_packets, c.recvs);
        raise(&self.recv_bytes, c.recv_bytes);
        raise(&self.recvacks, c.recvacks);
        raise(&self.recvack_bytes, c.recvacks * RECVACK_BYTES);
        self.unsettled.set(i64::try_from(unsettled).unwrap_or(i64::MAX));
        gauge(&self.waiting, push.waiting().0);
        gauge(&self.connections, push.sessions().len());
        self.unacked.set(i64::try_from(unacked).unwrap_or(i64::MAX));
    }
}
