//! Switches for storm tests: a payload with these bytes ends the process as a bug would; a bug that was fixed is put back, so that the tests can
//! show that they would see it. Off unless the configuration's mode is `test`.

/// Name of the environment variable: `<pool>:<bytes>`, as in `channel:die-now`.
pub const ENV: &str = "WK_FAULT_ABORT_PAYLOAD";

/// Name of the environment variable that puts a bug back: the name of a [`Bug`].
pub const BUG_ENV: &str = "WK_FAULT_BUG";

/// A bug that was fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `early-settlement`: a push worker settles a Deliver when it has it, not when the gateways have its RECVs.
    EarlySettlement,
    /// `no-fence`: a channel worker reads the journal without taking the buckets over: what its earlier life has sent may land later.
    NoFence,
    /// `no-cursor`: a channel worker starts at the end of the journal, not at the stored cursors.
    NoCursor,
}

impl Bug {
    /// The bug with this name.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "early-settlement" => Self::EarlySettlement,
            "no-fence" => Self::NoFence,
            "no-cursor" => Self::NoCursor,
            _ => return None,
        })
    }
}

/// Bytes that end the process.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    needle: Option<Box<[u8]>>,
}

impl Fault {
    /// The switch for `pool`, from the variable's value.
    #[must_use]
    pub fn parse(value: Option<&str>, pool: wk_types::Pool) -> Self {
        let needle = value.and_then(|v| v.split_once(':')).filter(|(p, n)| *p == pool.name() && !n.is_empty());
        Self { needle: needle.map(|(_, n)| n.as_bytes().into()) }
    }

    /// Ends the process when the payload holds the bytes.
    pub fn check(&self, payload: &[u8]) {
        if self.hits(payload) {
            tracing::error!("fault switch: payload asks for an abort");
            std::process::abort();
        }
    }

    fn hits(&self, payload: &[u8]) -> bool {
        self.needle.as_ref().is_some_and(|n| payload.windows(n.len()).any(|w| w == &**n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Pool;

    #[test]
    fn bugs_have_names() {
        assert_eq!(Bug::parse("no-fence"), Some(Bug::NoFence));
        assert_eq!(Bug::parse(""), None);
    }

    #[test]
    fn only_its_own_pool_and_bytes() {
        let fault = Fault::parse(Some("push:boom"), Pool::Push);
        assert!(fault.hits(b"a boom b") && !fault.hits(b"boo"));
        assert!(!Fault::parse(Some("push:boom"), Pool::User).hits(b"boom"));
        assert!(!Fault::parse(None, Pool::Push).hits(b"boom"));
        assert!(!Fault::parse(Some("push:"), Pool::Push).hits(b"x"));
    }
}
