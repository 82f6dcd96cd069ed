//! Supervisor and control tool.
