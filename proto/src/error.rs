//! Which error codes may be retried.

use crate::cluster::v1::Code;

impl Code {
    /// True when the same request, unchanged, may succeed later.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::NotLeader
                | Self::NoLeader
                | Self::StaleRoute
                | Self::Overloaded
                | Self::LeaseExpired
                | Self::UnknownOutcome
                | Self::NotReady
        )
    }
}
