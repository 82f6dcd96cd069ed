//! Consensus: the only user of openraft.
