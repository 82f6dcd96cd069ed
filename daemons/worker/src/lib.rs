//! Event pools: user, channel and push workers. One binary, a module folder per pool, the same rooms in each.
//!
//! # Planes
//! - **In**: links ([`wk_link::LinkServer`]) and control calls ([`rpc`]) put events into a pool's [`inbox`].
//! - **Decide**: [`user::handle`], [`channel::handle`], [`push::handle`] are pure: no sockets, clocks or randomness (key agreement excepted).
//! - **Out**: the pools' `out` rooms push to links and settle; calls to the cluster are futures of the pool's one task.
//!
//! # Invariants
//! - One task per pool drains everything that is there, decides, and sends one lookup and one append request for the whole drain. There is no
//!   task, lock or timer per message.
//! - An item is settled only when its outcome would survive our death; what is unsettled is replayed to the next life.
//! - All state is rebuildable: sessions come from the gateways, rows and log from the cluster.
//!
//! # Deliberately absent
//! Durable state, client sockets, consensus, knowledge of other nodes.

pub mod cache;
pub mod channel;
pub mod clock;
pub mod config;
pub mod fault;
pub mod gateways;
pub mod inbox;
pub mod limits;
pub mod metrics;
pub mod origin;
pub mod peers;
pub mod push;
pub mod rpc;
pub mod service;
pub mod state;
pub mod user;
