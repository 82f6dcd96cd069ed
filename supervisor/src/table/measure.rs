//! What the table knows of durations and counts, for the metrics.

use std::time::Duration;

use super::Times;
use crate::cause::Cause;

/// Something to be counted, about one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// Another generation begins after a crash with this cause.
    Restarted(Cause),
    /// It is ready for the first time.
    Started(Times),
    /// It ended by order, this long after the first signal.
    Stopped(Duration),
    /// SIGKILL, because a milder signal did not end it in time.
    Escalated,
    /// A liveness check or a probe was not answered.
    Missed,
}
