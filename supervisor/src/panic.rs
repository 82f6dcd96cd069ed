//! A panic ends the process, in whichever thread it happens: a half-dead supervisor is worse than a dead one, whose children are adopted.

use std::panic;

/// Installs the hook: the usual text, a line in the log, abort.
pub fn abort_on_panic() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        usual(info);
        tracing::error!(%info, "panic");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use wk_config::Env;

    const VARIABLE: &str = "WK_TEST_PANIC";

    /// Runs itself once more; that run panics in a thread that nobody joins.
    #[test]
    fn row_33_a_panic_in_any_thread_ends_the_process() {
        if Env::process().get(VARIABLE).is_some() {
            super::abort_on_panic();
            std::thread::spawn(|| assert!(Env::process().get(VARIABLE).is_none(), "as told"));
            loop {
                std::thread::park();
            }
        }
        let name = "panic::tests::row_33_a_panic_in_any_thread_ends_the_process";
        let mut again = Command::new(std::env::current_exe().unwrap());
        let status = again.args(["--exact", name]).env(VARIABLE, "1").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT));
    }
}
