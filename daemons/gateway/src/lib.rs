//! Gateway daemon: client connections on io_uring reactors.
