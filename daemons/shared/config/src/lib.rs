//! The whole configuration file: schema, defaults, environment, validation.
//!
//! Key-compatible with the original's `wukongim.yaml` and its `WK_` environment names (`spec/config.md`), plus our own sections. The
//! supervisor loads once and hands the resolved [`Config`] to every daemon as JSON; a daemon without a supervisor loads the same way.
//! Everything here is pure over its inputs except [`Env::process`] and the reading of the file in [`load_file`].

#[macro_use]
mod section;

mod check;
mod env;
mod file;
mod load;
mod paths;
mod problem;
mod runtime;
mod schema;
mod unused;
mod value;

pub use env::Env;
pub use load::{Inputs, JsonError, Loaded, load, load_file};
pub use problem::{ConfigError, Problem};
pub use runtime::{RUNTIME_BASE_BYTES_MAX, RuntimeError, runtime_bases, runtime_dir};
pub use schema::*;
pub use value::{ByteSize, Exact, HostPort, ListenAddr, Orphans, PeerNode, Restart, Role, Secret};
