//! Storage: the only user of RocksDB.
