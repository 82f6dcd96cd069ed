//! What a node consists of: daemons, their order, and the table that tells them of each other.
//!
//! Two programs host a node: the supervisor, and the cluster daemon where systemd supervises each daemon by itself. Both decide with the
//! functions here, so that a node behaves the same either way: who requires whom ([`graph`]), when a daemon is activated and clients are
//! admitted ([`rules`]), how buckets move between the slots of a pool ([`shares`]), what the node table says ([`table`]), the epoch that never
//! falls ([`epoch`]), and when a daemon counts as hung ([`probe`]).
//!
//! Absent on purpose: processes, sockets, restarts (the hosts' business).

pub mod epoch;
pub mod graph;
pub mod probe;
pub mod rules;
pub mod shares;
pub mod table;

pub use epoch::EpochFile;
