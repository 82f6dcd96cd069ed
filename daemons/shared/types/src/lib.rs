//! Identifiers, buckets and limits that cross process borders.
//!
//! Layer 0: no I/O, no async, no clocks, no randomness. Everything here is a value or a pure function, so that every process computes the
//! same owner, the same internal channel id and the same limits from the same input.

pub mod bucket;
pub mod channel;
pub mod id_stock;
pub mod ids;
pub mod instance;
pub mod limits;
pub mod reason;

pub use bucket::{BUCKETS, Bucket, owner_slot};
pub use channel::{ChannelKey, ChannelType, DeviceFlag, DeviceLevel, SYSTEM_UID};
pub use id_stock::{IdRun, IdStock};
pub use ids::{ConnId, Incarnation, MessageId, MessageSeq, NodeId};
pub use instance::{Daemon, InstanceName, Pool};
pub use reason::Reason;
