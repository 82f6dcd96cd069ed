//! Pool `user`: owns uids. CONNECT, kick rules, presence, decryption of SEND, and the rows of (uid, type 1).
//!
//! Rooms: [`events`] what comes in, [`handle`] decisions, [`out`] what goes out, [`cache`] rows and presence; `connect`, [`login`], [`kick`],
//! [`send`] and [`lookup`] hold one decision each.
//!
//! Invariants
//! - A CONNECT is settled only when presence knows the connection and the gateway has its CONNACK.
//! - Items of one uid are handled in the order they came, also when rows must be fetched first.
//! - No kick and no online answer before the sessions of every live gateway are known.

pub mod cache;
mod connect;
pub mod events;
pub mod handle;
pub mod kick;
pub mod login;
pub mod lookup;
pub mod out;
pub mod park;
pub mod send;
