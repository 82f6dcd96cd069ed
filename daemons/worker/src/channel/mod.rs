//! Pool `channel`: owns channels. Permission, append, SENDACK, receiver tags, distribution, dispatch cursors.
//!
//! Rooms: [`events`] what comes in, [`handle`] decisions, [`out`] what goes out, [`cache`] channels and what is known of them. [`permission`],
//! [`cursor`] and [`tag`] are decisions of their own; [`append`], [`facts`] and [`distribute`] are the three stations of a message.
//!
//! Invariants
//! - Messages of a channel are appended in the order in which they came; one append of a channel is in flight, and one whose outcome is
//!   unknown is repeated unchanged before anything later.
//! - SENDACKs of a channel leave in the order of its SENDs; stored and unstored messages share one distribution queue.
//! - A bucket's cursor never passes a journal entry with an unsettled Deliver, nor one that an append under way may still get.
//! - No bucket takes its first append before its cursor is stored: what is acknowledged is found again by the next owner.

pub mod activate;
pub mod append;
pub mod cache;
pub mod cursor;
pub mod distribute;
pub mod events;
pub mod facts;
pub mod handle;
pub mod out;
pub mod permission;
mod share;
pub mod tag;
