//! The real binary: ready without a supervisor, answers on its sockets, drains on SIGTERM.

mod drain;
