//! Life of a daemon process: passed descriptors, readiness, drain, exit codes.
//!
//! [`run()`] behind [`with_cli`] is the whole `main` of a daemon. Order: arguments and environment → descriptors and configuration ([`Launch`]) → logs → panic hook
//! → current-thread runtime → health, lifecycle and admin services on the socket `health` → the daemon's own service function with a
//! [`Context`] → SIGTERM cancels the shutdown token → the function drains and returns → exit code.
//!
//! Invariants: every health name exists before the first request is served; ready is said once and taken back when draining begins;
//! descriptors outside the contract are closed; only this crate decides exit codes. Absent on purpose: restart policy (the supervisor's),
//! and daemonising.

mod args;
mod context;
mod exit;
mod fd;
mod health;
mod hooks;
mod last_end;
mod launch;
mod member;
mod notify;
mod panic;
mod rpc;
mod run;

pub use args::{Args, with_cli};
pub use context::{Context, InFlight, Phase};
pub use exit::{Exit, Failure, OrExit};
pub use fd::{FdError, NamedFds, sealed_text};
pub use health::Component;
pub use hooks::Hook;
pub use last_end::LastEnd;
pub use launch::{HARD_STOP_DEFAULT, Launch, LaunchError, STOP_TIMEOUT_DEFAULT, hard_stop_timeout, stop_timeout};
pub use panic::{Panicked, guarded};
pub use run::{Spec, run};
