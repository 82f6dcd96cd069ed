//! The real supervisor and control tool against daemons that misbehave on command (`tests/fault-child`).

mod adopt;
mod chaos;
mod commands;
mod control;
mod crash;
mod faults;
mod forms;
mod journal;
mod metrics;
mod names;
mod node;
mod numbers;
mod pending;
mod policies;
mod process;
mod reexec;
mod refused;
mod roll;
mod start;
mod stop;
mod systemd;
