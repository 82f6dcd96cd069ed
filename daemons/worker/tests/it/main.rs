//! The three pools over real links and sockets, between a played gateway and a played cluster.

#![expect(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

mod chat;
mod cluster;
mod deaths;
mod gateway;
mod node;
