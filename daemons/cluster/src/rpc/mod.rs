//! What neighbours call: decode → one call → encode. Decisions are elsewhere.

pub mod admin;
pub mod data;
pub mod lock;
mod reads;

pub use data::{DataService, Dispatch};
