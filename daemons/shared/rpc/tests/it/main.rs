//! Table watch and cluster client against servers that die and come back.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod cluster;
mod fake;
mod table;
