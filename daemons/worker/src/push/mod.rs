//! Pool `push`: owns receivers. RECV per connection, RECVACK, resends, offline judgement.
//!
//! Rooms: [`events`] what comes in, [`handle`] decisions, [`out`] what goes out, [`cache`] sessions; [`recv`] builds one RECV, [`retry`] keeps
//! frames until their RECVACK.
//!
//! Invariants
//! - A Deliver is settled only when the gateways have received every RECV made of it.
//! - No Deliver is handled before the sessions of every live gateway are known: nobody is judged offline by mistake.
//! - RECVs of one channel reach a connection in the order of the Delivers; a message id reaches a connection once (not counting resends).

pub mod cache;
pub mod events;
pub mod handle;
pub mod out;
pub mod recv;
pub mod retry;
