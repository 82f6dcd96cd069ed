//! Metrics of the api daemon.

use wk_telemetry::{CounterVec, Histogram, IntCounter, IntGauge, LATENCY_BUCKETS_S, Metrics};

/// Answers by class.
const CLASSES: [&str; 5] = ["ok", "refused", "unauthorized", "unavailable", "failed"];
/// Why a request was not taken.
const UNAVAILABLE: [&str; 4] = ["starting", "quiescing", "requests", "bodies"];

/// Class of an answer; the order is that of the labels.
#[derive(Debug, Clone, Copy)]
pub enum Class {
    /// 1xx to 3xx.
    Ok,
    /// 4xx.
    Refused,
    /// 401.
    Unauthorized,
    /// 503.
    Unavailable,
    /// Other 5xx.
    Failed,
}

/// Why a request was answered 503; the order is that of the labels.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// Not admitted yet.
    Starting,
    /// A stop is under way.
    Quiescing,
    /// [`crate::limits::REQUESTS_MAX`].
    Requests,
    /// [`crate::limits::BODIES_KIB_MAX`].
    Bodies,
}

/// All metrics of this daemon.
#[derive(Debug, Clone)]
pub struct ApiMetrics {
    requests: CounterVec,
    unavailable: CounterVec,
    /// Time from head to answer. Unit: s.
    pub request_seconds: Histogram,
    /// Requests under way.
    pub requests_in_flight: IntGauge,
    /// Connections held, both ports.
    pub connections: IntGauge,
    /// Calls on owners that were made again.
    pub owner_retries: IntCounter,
    /// Messages the backend confirmed.
    pub webhook_messages: IntCounter,
    /// Webhook requests that failed; each is made again.
    pub webhook_failures: IntCounter,
    /// Journal records that could not be read and were passed over.
    pub webhook_poison: IntCounter,
    /// Messages read from the journal and not confirmed yet.
    pub webhook_pending: IntGauge,
    /// Time of one webhook request. Unit: s.
    pub webhook_seconds: Histogram,
    /// Daemons that did not answer when metrics were gathered.
    pub gather_failures: IntCounter,
}

impl ApiMetrics {
    /// Registers all.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counter_vec("wk_api_requests_total", "Answered requests by class of the answer.", "class", &CLASSES),
            unavailable: metrics.counter_vec("wk_api_unavailable_total", "Requests answered 503, by reason.", "reason", &UNAVAILABLE),
            request_seconds: metrics.histogram("wk_api_request_seconds", "Time from request to answer. Unit: s.", LATENCY_BUCKETS_S),
            requests_in_flight: metrics.gauge("wk_api_requests_in_flight", "Requests under way."),
            connections: metrics.gauge("wk_api_connections", "HTTP connections held."),
            owner_retries: metrics.counter("wk_api_owner_retries_total", "Calls on owners that were made again."),
            webhook_messages: metrics.counter("wk_api_webhook_messages_total", "Messages that the backend confirmed."),
            webhook_failures: metrics.counter("wk_api_webhook_failures_total", "Webhook requests that failed."),
            webhook_poison: metrics.counter("wk_api_webhook_poison_total", "Journal records that could not be read."),
            webhook_pending: metrics.gauge("wk_api_webhook_pending", "Messages read from the journal and not confirmed."),
            webhook_seconds: metrics.histogram("wk_api_webhook_seconds", "Time of one webhook request. Unit: s.", LATENCY_BUCKETS_S),
            gather_failures: metrics.counter("wk_api_gather_failures_total", "Daemons that did not answer a metrics request."),
        }
    }

    /// Counts an answer.
    pub fn answered(&self, class: Class) {
        self.requests.at(class as usize).inc();
    }

    /// Counts a 503.
    pub fn refused(&self, bound: Bound) {
        self.unavailable.at(bound as usize).inc();
    }
}
