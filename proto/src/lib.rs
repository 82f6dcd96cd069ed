//! Contracts between processes: generated code of the `.proto` files beside it, and the error codes. No logic.
//!
//! Packages are versioned; a change that old readers cannot ignore gets a new package.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    clippy::too_many_lines,
    clippy::default_trait_access,
    reason = "generated code; the documentation of fields and units stands in the .proto files"
)]

/// Cluster daemon: append, lookups, metadata, ids, journal, locks.
pub mod cluster {
    pub mod v1 {
        tonic::include_proto!("wk.cluster.v1");
    }
}

/// Supervisor to daemon: activation, admission, quiesce; metrics and logs.
pub mod lifecycle {
    pub mod v1 {
        tonic::include_proto!("wk.lifecycle.v1");
    }
}

/// Message path streams.
pub mod link {
    pub mod v1 {
        tonic::include_proto!("wk.link.v1");
    }
}

/// The table of a node's processes.
pub mod node {
    pub mod v1 {
        tonic::include_proto!("wk.node.v1");
    }
}

/// Control of a node.
pub mod supervisor {
    pub mod v1 {
        tonic::include_proto!("wk.supervisor.v1");
    }
}

/// Control calls on the owners of keys.
pub mod worker {
    pub mod v1 {
        tonic::include_proto!("wk.worker.v1");
    }
}

mod error;
