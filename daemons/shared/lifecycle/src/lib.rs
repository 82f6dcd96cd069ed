//! Life of a daemon process: passed descriptors, readiness, drain, exit codes.
