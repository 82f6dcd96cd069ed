//! What tests share: a node of real processes, clients, SDK drivers, a webhook sink.
//!
//! Waiting is always for a condition, with a deadline that only a broken build meets. Nothing here sleeps to "let things settle".

pub mod client;
pub mod http;
pub mod json;
pub mod native;
pub mod node;
pub mod sdk;
pub mod sink;

use std::time::Duration;

/// How long a condition may take on the busiest machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);
