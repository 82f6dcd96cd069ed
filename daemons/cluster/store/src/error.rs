//! Errors that cross the border of this crate.

use std::path::PathBuf;

/// What the storage engine said. Only text: nobody branches on it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(String);

impl From<rocksdb::Error> for EngineError {
    fn from(error: rocksdb::Error) -> Self {
        Self(error.into_string())
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A database could not be opened. The daemon ends with a plain message: it never repairs silently.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder could not be made.
    #[error("folder {path} cannot be created")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The engine refused: locked by another process, corrupt, or no space.
    #[error("database {path} cannot be opened")]
    Engine {
        /// Folder of the database.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: EngineError,
    },
    /// The database was written by a program with another key layout.
    #[error("database {path} has key format {found}, this program knows {known}: use the program that wrote it, or another data folder")]
    Format {
        /// Folder of the database.
        path: PathBuf,
        /// Version found on disk.
        found: u32,
        /// Version of this program.
        known: u32,
    },
}

/// An operation on an open database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A read failed: device error or checksum mismatch.
    #[error("read failed")]
    Read(#[source] EngineError),
    /// A write into the write-ahead log or the memtable failed.
    #[error("write failed")]
    Write(#[source] EngineError),
    /// A sync of the write-ahead log failed.
    #[error("sync failed")]
    Sync(#[source] EngineError),
    /// A flush of memtables into files failed.
    #[error("flush failed")]
    Flush(#[source] EngineError),
    /// A stored key or value does not have the shape this program writes.
    #[error("stored {what} has an unknown shape")]
    Shape {
        /// What was read.
        what: &'static str,
    },
    /// The writer stopped, after an earlier failure or at shutdown.
    #[error("log writer is stopped")]
    Stopped,
}
