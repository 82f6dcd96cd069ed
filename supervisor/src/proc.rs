//! Files of `/proc`: of no length that is known before, and read in one go.

use std::fs::File;
use std::io::{self, Read};

/// Room for nearly every environment.
const USUAL_BYTES: usize = 8 << 10;
/// No environment is larger (`ARG_MAX` of a default stack limit).
const BYTES_MAX: u64 = 2 << 20;

/// `/proc/<pid>/<name>`.
///
/// # Errors
/// It is not there, or not for us.
pub(crate) fn read(pid: u32, name: &str) -> io::Result<Vec<u8>> {
    from(&format!("/proc/{pid}/{name}"))
}

/// The same as text; what is no text is replaced.
///
/// # Errors
/// As [`read`].
pub(crate) fn text(pid: u32, name: &str) -> io::Result<String> {
    read(pid, name).map(|bytes| String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Any such file. The standard library asks for its length, hears zero, and begins with 32 bytes: eight calls for an environment.
///
/// # Errors
/// As [`read`].
pub(crate) fn from(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_files() {
        let me = std::process::id();
        assert_eq!(read(me, "cmdline").unwrap(), std::fs::read("/proc/self/cmdline").unwrap());
        assert_eq!(read(me, "environ").unwrap(), std::fs::read("/proc/self/environ").unwrap());
        assert!(text(me, "maps").unwrap().lines().any(|l| l.ends_with("[stack]")), "longer than the usual room");
        assert!(text(0, "stat").is_err());
    }
}
