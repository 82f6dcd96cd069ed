//! Whole-system tests: the real binaries, the published SDKs, real sockets, `kill -9`. Run by `cargo xtask e2e`, which builds the binaries and
//! sets `WK_BIN_DIR` and `WK_SDK_DIR`.

mod adopt;
mod bad_input;
mod chat;
mod crash;
mod load;
mod native;
mod posts;
mod roll_worker;
mod rolls;
mod scale;
mod start;
mod stop;
mod talk;
mod webhook;
mod windows;
