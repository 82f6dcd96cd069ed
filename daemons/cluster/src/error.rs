//! Refusals: what a caller of this daemon is told, as one closed set of codes.

use std::borrow::Cow;

use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_raft::{ProposeError, ReadError};
use wk_store::StoreError;

/// Pause asked for when a queue is full. Unit: ms.
const RETRY_OVERLOADED_MS: u64 = 20;
/// Pause asked for when a group has no leader or is not open yet. Unit: ms.
const RETRY_NO_LEADER_MS: u64 = 250;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {detail}")]
pub struct Refusal {
    /// Closed set; decides whether the caller tries again.
    pub code: Code,
    /// For the caller's log.
    pub detail: Cow<'static, str>,
    /// Pause before a retry; 0: none asked for. Unit: ms.
    pub retry_after_ms: u64,
}

impl Refusal {
    /// The request makes no sense: trying it again does not help.
    #[must_use]
    pub fn rejected(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Rejected, detail: detail.into(), retry_after_ms: 0 }
    }

    /// Something in the request is larger than its bound.
    #[must_use]
    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::TooLarge, detail: detail.into(), retry_after_ms: 0 }
    }

    /// A queue or the disk is full; nothing was written.
    #[must_use]
    pub fn overloaded(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Overloaded, detail: detail.into(), retry_after_ms: RETRY_OVERLOADED_MS }
    }

    /// The daemon is starting or stopping; nothing was written.
    #[must_use]
    pub fn not_ready(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::NotReady, detail: detail.into(), retry_after_ms: RETRY_NO_LEADER_MS }
    }

    /// The sender is not the owner any more.
    #[must_use]
    pub fn fenced(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Fenced, detail: detail.into(), retry_after_ms: 0 }
    }

    /// The write may or may not have happened.
    #[must_use]
    pub fn unknown(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::UnknownOutcome, detail: detail.into(), retry_after_ms: 0 }
    }

    /// The refusal as it travels inside a reply.
    #[must_use]
    pub fn to_proto(&self) -> pb::Error {
        pb::Error { code: self.code.into(), detail: self.detail.clone().into_owned(), retry_after_ms: self.retry_after_ms }
    }

    /// The refusal as the status of a unary call.
    #[must_use]
    pub fn to_status(&self) -> tonic::Status {
        wk_rpc::status::with_code(self.code, self.detail.clone().into_owned())
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        let detail = Cow::Owned(error.to_string());
        match error {
            ProposeError::NotLeader { .. } => Self { code: Code::NotLeader, detail, retry_after_ms: 0 },
            ProposeError::NoLeader => Self { code: Code::NoLeader, detail, retry_after_ms: RETRY_NO_LEADER_MS },
            ProposeError::Overloaded => Self::overloaded(detail),
            ProposeError::Fatal | ProposeError::UnknownOutcome => Self::unknown(detail),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let detail = Cow::Owned(error.to_string());
        match error {
            ReadError::NotLeader { .. } => Self { code: Code::NotLeader, detail, retry_after_ms: 0 },
            ReadError::NoLeader => Self { code: Code::NoLeader, detail, retry_after_ms: RETRY_NO_LEADER_MS },
            ReadError::Fatal => Self::not_ready(detail),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(err = %error, "read of the data database failed");
        Self::not_ready("data database cannot be read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_outcomes_are_never_called_refused() {
        for error in [ProposeError::Fatal, ProposeError::UnknownOutcome] {
            assert_eq!(Refusal::from(error).code, Code::UnknownOutcome);
        }
        assert!(Refusal::from(ProposeError::Overloaded).retry_after_ms > 0);
        assert_eq!(wk_rpc::status::code_of(&Refusal::fenced("x").to_status()), Some(Code::Fenced));
    }
}
