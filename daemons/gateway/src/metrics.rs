//! Metrics of the gateway. Names of the original (`app_*`, `system_*`) keep existing dashboards alive, `wk_gateway_*` are ours. SEND, RECV and
//! RECVACK are counted under their `app_*` names by the workers that handle them; a sum over the daemons must not count them twice.

use wk_telemetry::{CounterVec, IntCounter, IntGauge};

use crate::exchange::CloseReason;

/// Packets and their bytes.
#[derive(Debug, Clone)]
pub struct Packets {
    /// Packets.
    pub count: IntCounter,
    /// Bytes.
    pub bytes: IntCounter,
}

impl Packets {
    /// One packet of `len` bytes.
    pub fn add(&self, len: usize) {
        self.count.inc();
        self.bytes.inc_by(len as u64);
    }
}

macro_rules! metrics {
    ($(#[$doc:meta])* counters { $($counter:ident = $cname:literal, $chelp:literal;)* }
     gauges { $($gauge:ident = $gname:literal, $ghelp:literal;)* }
     packets { $($packets:ident = $pcount:literal, $pbytes:literal, $phelp:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct Metrics {
            $(#[doc = $chelp] pub $counter: IntCounter,)*
            $(#[doc = $ghelp] pub $gauge: IntGauge,)*
            $(#[doc = $phelp] pub $packets: Packets,)*
            /// Connections that ended, by reason: see [`CloseReason`].
            pub closed: CounterVec,
        }

        impl Metrics {
            /// Registers everything.
            #[must_use]
            pub fn new(registry: &wk_telemetry::Metrics) -> Self {
                Self {
                    $($counter: registry.counter($cname, $chelp),)*
                    $($gauge: registry.gauge($gname, $ghelp),)*
                    $($packets: Packets { count: registry.counter($pcount, $phelp), bytes: registry.counter($pbytes, $phelp) },)*
                    closed: registry.counter_vec(
                        "wk_gateway_conns_closed_total",
                        "Connections that ended, by reason.",
                        "reason",
                        &CloseReason::NAMES,
                    ),
                }
            }
        }
    };
}

metrics! {
    /// Counters of one gateway. Cheap to clone.
    counters {
        bytes_in = "system_extranet_incoming_bytes_total", "Bytes received from clients.";
        bytes_out = "system_extranet_outgoing_bytes_total", "Bytes sent to clients.";
        accepted = "wk_gateway_conns_accepted_total", "Connections accepted.";
        accept_errors = "wk_gateway_accept_errors_total", "Accepts that failed.";
        rounds = "wk_gateway_reactor_rounds_total", "Rounds of the reactors: one wait and what followed.";
        sends = "wk_gateway_socket_sends_total", "Send requests: one per connection and round.";
        buffers_dry = "wk_gateway_receive_buffers_dry_total", "Receives that ended because all shared buffers were in use.";
        reads_paused = "wk_gateway_reads_paused_total", "Connections not read for a while because too much of theirs waits.";
        sends_starved = "wk_gateway_sends_starved_total", "SENDs held back for a full link or for want of message ids.";
        sends_ignored = "wk_gateway_sends_ignored_total", "SENDs of connections that are being kicked.";
        recvacks_ignored = "wk_gateway_recvacks_ignored_total", "RECVACKs of connections without an unacknowledged RECV: dropped.";
        sends_late = "wk_gateway_sends_late_total", "SENDs answered with reason 15 by the gateway because their deadline passed.";
        answers_late = "wk_gateway_answers_late_total", "SENDACKs that came after the gateway had answered, or twice: dropped.";
        output_orphans = "wk_gateway_output_orphans_total", "Items of workers for connections that are gone: dropped.";
        poisoned = "wk_gateway_items_poisoned_total", "Items that two workers died of: refused and written to quarantine.";
        item_errors = "wk_gateway_item_errors_total", "Items of workers that could not be decoded: dropped.";
        id_blocks = "wk_gateway_id_blocks_total", "Blocks of message ids fetched.";
        id_errors = "wk_gateway_id_errors_total", "Fetches of message ids that failed and were repeated.";
    }
    gauges {
        conns = "app_conn_count_total", "Open client connections of this gateway.";
        sessions = "wk_gateway_sessions", "Authenticated connections.";
        in_flight = "wk_gateway_sends_in_flight", "SENDs handed over and not answered.";
        ids = "wk_gateway_ids", "Message ids in stock, without those lent to the reactors.";
        output_bytes = "wk_gateway_output_bytes", "Output that waits for all connections. Bound: limits.outboundTotalBytes.";
        events = "wk_gateway_events", "Events taken by the hub in its last round.";
        held = "wk_gateway_held", "1 while SENDs are held back because a link to a worker is full.";
    }
    packets {
        connect = "app_conn_packet_count_total", "app_conn_packet_bytes_total", "CONNECTs.";
        connack = "app_connack_packet_count_total", "app_connack_packet_bytes_total", "CONNACKs.";
        send = "wk_gateway_send_packets_total", "wk_gateway_send_bytes_total", "SENDs handed over.";
        sendack = "app_sendack_packet_count_total", "app_sendack_packet_bytes_total", "SENDACKs.";
        recv = "wk_gateway_recv_packets_total", "wk_gateway_recv_bytes_total", "RECVs taken from push workers.";
        recvack = "wk_gateway_recvack_packets_total", "wk_gateway_recvack_bytes_total", "RECVACKs handed over.";
        ping = "app_ping_count_total", "app_ping_bytes_total", "PINGs.";
        pong = "app_pong_count_total", "app_pong_bytes_total", "PONGs.";
    }
}
