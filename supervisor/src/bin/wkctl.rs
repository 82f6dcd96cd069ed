//! Control tool of a node.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(wk_supervisor::ctl::main(&wk_config::Env::process()))
}
