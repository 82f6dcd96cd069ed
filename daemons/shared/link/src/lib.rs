//! Message path streams between the processes of a node.
//!
//! A **link** carries items from one sending process to one slot of a receiving pool. It promises: what was pushed is handed to the slot's
//! process in order; an item is kept by the sender until the receiver says *settled* (its outcome would survive the receiver's death); after
//! the receiver died, what is not settled is replayed to its next life in the original order, before anything new.
//!
//! Planes
//! - [`codec`], [`item`], [`record`]: the bytes. Own frames inside one `bytes` field, decoded without copying.
//! - [`ring`], [`inbox`]: the two ends as pure state machines. No sockets, no clocks.
//! - [`sender`], [`receiver`]: carry them out over gRPC streams on Unix sockets; [`blackbox`]: what a receiver died of; [`quarantine`]: what receivers died of twice.
//!
//! Invariants
//! - A receiver never waits for another link before it confirms receipt: so no cycle of processes can block (architecture §5a).
//! - No timer ever delays a batch: what is there leaves as soon as fewer than two batches are in flight.
//! - Positions of one sender incarnation are never used twice.
//!
//! Deliberately absent: requests with answers (the cluster's `Data` stream has them), timers for business rules, knowledge of what items mean.

pub mod blackbox;
pub mod codec;
pub mod inbox;
pub mod item;
pub mod quarantine;
pub mod receiver;
pub mod record;
pub mod ring;
pub mod routes;
pub mod sender;

pub use blackbox::{BlackBox, Past};
pub use codec::DecodeError;
pub use item::Kind;
pub use quarantine::Quarantine;
pub use receiver::{Delivery, Handler, LinkServer, Peer, PeerEvent};
pub use ring::{Keep, Outgoing, Position};
pub use sender::{LinkHooks, LinkSet, LinkSetConfig, Preamble};
