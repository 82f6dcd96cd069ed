//! Panics end the process, except inside a guard.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A guarded closure panicked; the panic was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("panicked")]
pub struct Panicked;

/// Logs and aborts on every panic that is not inside [`guarded`]: a half-dead process is worse than a restart (style §5).
pub(crate) fn install_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let guarded = GUARDED.get();
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
        tracing::error!(thread = thread.name().unwrap_or("?"), place, text, guarded, "panic");
        if !guarded {
            default(info);
            std::process::abort();
        }
    }));
}

/// Runs `work` on this thread so that a panic ends only it. For the gateway's connection guard: whatever `work` may have left half done must
/// be thrown away by the caller.
///
/// # Errors
/// [`Panicked`] when it did.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    result.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_ends_with_its_closure() {
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(guarded(|| guarded(|| std::panic::resume_unwind(Box::new("x")))), Ok(Err::<(), _>(Panicked)));
        assert!(!GUARDED.get());
    }
}
