//! The public API against the vectors of the specification, and against bytes that nobody would send on purpose.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod batches;
mod corpus;
mod crypto;
mod fixture;
mod frames;
mod json;
mod malformed;
mod round_trip;
