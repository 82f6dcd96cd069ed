//! Both clocks of the machine, read at the edges of the pools and passed inwards.

use wk_rpc::clock::{monotonic_ms, unix_ms};

use crate::origin::Now;

/// Both clocks now.
#[must_use]
pub fn now() -> Now {
    Now { mono_ms: monotonic_ms(), unix_ms: unix_ms() }
}
