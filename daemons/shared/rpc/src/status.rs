//! Error codes inside `tonic::Status`: the closed set of `wk.cluster.v1.Code` travels as metadata `wk-code`.

use tonic::metadata::MetadataValue;
use tonic::{Code as GrpcCode, Status};
use wk_proto::cluster::v1::Code;

/// Metadata key of the code: its number in decimal.
pub const CODE_KEY: &str = "wk-code";

/// A status that carries `code`; its gRPC code follows from it ([`grpc_code`]). `detail` is for logs.
#[must_use]
pub fn with_code(code: Code, detail: impl Into<String>) -> Status {
    let mut status = Status::new(grpc_code(code), detail);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from(i32::from(code)));
    status
}

/// The code a status carries, or `None` when it has none (transport errors, other services).
#[must_use]
pub fn code_of(status: &Status) -> Option<Code> {
    let number: i32 = status.metadata().get(CODE_KEY)?.to_str().ok()?.parse().ok()?;
    Code::try_from(number).ok()
}

/// True when the same call may be made again: by the carried code, else by the gRPC code (a connection that was lost or refused).
#[must_use]
pub fn retryable(status: &Status) -> bool {
    match code_of(status) {
        Some(code) => code.retryable(),
        None => matches!(status.code(), GrpcCode::Unavailable | GrpcCode::DeadlineExceeded | GrpcCode::Cancelled),
    }
}

/// gRPC code that goes with one of ours.
#[must_use]
pub fn grpc_code(code: Code) -> GrpcCode {
    match code {
        Code::NotLeader | Code::StaleRoute | Code::Fenced | Code::LeaseExpired => GrpcCode::FailedPrecondition,
        Code::NoLeader | Code::NotReady => GrpcCode::Unavailable,
        Code::Overloaded => GrpcCode::ResourceExhausted,
        Code::UnknownOutcome => GrpcCode::Unknown,
        Code::Rejected | Code::TooLarge => GrpcCode::InvalidArgument,
        Code::Unspecified => GrpcCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_survives_the_trip() {
        let status = with_code(Code::Fenced, "generation 3 is over");
        assert_eq!(code_of(&status), Some(Code::Fenced));
        assert_eq!(status.code(), GrpcCode::FailedPrecondition);
        assert!(!retryable(&status));
        assert!(retryable(&with_code(Code::NotReady, "")));
        assert_eq!(code_of(&Status::internal("x")), None);
        assert!(retryable(&Status::unavailable("gone")));
    }
}
