//! The three pools over real links and sockets, between a played gateway and a played cluster.

mod chat;
mod cluster;
mod deaths;
mod gateway;
mod node;
