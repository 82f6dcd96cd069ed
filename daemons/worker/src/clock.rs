//! The only place of this daemon that reads clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::origin::Now;

/// Both clocks now.
#[must_use]
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono_ms: wk_rpc::clock::monotonic_ms(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
}
