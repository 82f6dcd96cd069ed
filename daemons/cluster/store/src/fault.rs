//! Fault injection at the I/O calls of the durable path.
//!
//! Production uses [`NoFaults`]; tests hand in a failing twin. A fault at [`IoPoint::LogSync`] is raised after the
//! bytes were written: the caller must treat the outcome as unknown, as with a real failed sync.

use std::io;

/// One I/O call of the durable path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoPoint {
    /// Before a batch is written into the log database.
    LogWrite,
    /// After the write, in place of the sync.
    LogSync,
    /// Before a batch is written into the data database.
    DataWrite,
    /// Before the data database is flushed.
    DataFlush,
    /// Before a row or an entry is read.
    Read,
}

/// Decides whether an I/O call fails.
pub trait Faults: Send + Sync + std::fmt::Debug {
    /// Called at each point.
    ///
    /// # Errors
    /// The error the call shall fail with.
    fn check(&self, point: IoPoint) -> io::Result<()>;
}

/// No call fails.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn check(&self, _point: IoPoint) -> io::Result<()> {
        Ok(())
    }
}
