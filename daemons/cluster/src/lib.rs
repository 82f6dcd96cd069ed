//! Cluster daemon: message log, metadata, ids, locks.
