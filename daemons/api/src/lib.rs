//! API daemon: HTTP for applications and operators, webhooks.
//!
//! Planes
//! - *Outside*: [`routes`] decode a request, make one domain call, encode the answer. [`dto`] is what travels, with the decoding rules of the
//!   original server; [`auth`] and [`status`] stand before the routes.
//! - *Decisions*: [`users`], [`channels`], [`sending`], [`history`] check requests and say what has to be written or read.
//! - *Edges*: [`backend`] reaches cluster and owners, [`ids`] fetches message ids ahead, [`webhook`] follows the journal, [`gather`] reads the
//!   metrics of the other daemons, [`listen`] takes connections.
//!
//! Invariants
//! - A row is written through the worker that owns its key, never around it (architecture §7a). Reads go to the cluster.
//! - A request is taken only while the node is admitted and not quiescing; everything else is answered 503.
//! - A webhook cursor moves only after the backend answered 200 for everything before it.
//!
//! Deliberately absent: caches of rows (the owners have them), a queue of webhooks (the journal is it), conversations, message events, login
//! of the manager (later issues).

pub mod auth;
pub mod backend;
pub mod channels;
pub mod config;
pub mod dto;
pub mod error;
pub mod gather;
pub mod history;
pub mod ids;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod owners;
pub mod routes;
pub mod sending;
pub mod service;
pub mod status;
mod text;
pub mod users;
pub mod webhook;
