//! Gateway daemon: client connections on io_uring reactors.
//!
//! The gateway is the authority for which connections exist. It splits and decodes client frames, answers PING itself, hands CONNECTs and
//! SENDs to the user worker of the uid, RECVACKs to the push worker, and writes what the workers send back. It holds no business rule.
//!
//! Planes: [`reactor`] (threads with sockets, each on its own ring) and the hub (one thread: session registry, SENDs without answer, links,
//! life cycle). They meet in [`exchange`].
//!
//! Invariants
//! - Nothing that was accepted is dropped in silence: at a bound the client is not read, or its connection is closed with a counted reason.
//! - Every SEND that was handed over is answered once, by a worker or after its deadline by the gateway.
//! - CONNACK is written only after the push worker has received the connection.
//! - A connection id of one life of the gateway never names a connection of another.
//!
//! Deliberately absent: permissions, encryption, message storage, TLS (`wss` is not served yet), hand-over of sockets to a next generation.

pub mod answers;
pub mod config;
pub mod exchange;
pub mod hub;
pub mod inflight;
pub mod limits;
pub mod metrics;
pub mod reactor;
pub mod service;
pub mod session;
pub mod uplink;
