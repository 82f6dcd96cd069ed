//! Plugin host daemon: plugins as processes.
//!
//! This version keeps an empty registry: it starts last, holds nothing back, and drains at once. Absent on purpose: plugin processes and
//! their protocol (`spec/plugin-protocol.md`), which come with the hooks of the workers; a configured plugin is refused by a warning, never
//! silently ignored.

mod metrics;
pub mod service;
