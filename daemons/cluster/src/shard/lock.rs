//! Locks with fencing tokens: what a request does to the lock's row.
//!
//! Time is the leader's lock clock inside the command, made non-decreasing by the machine. That clock runs only while a leader runs and
//! continues after a restart where the group's last lock command stood, so neither a step of the wall clock nor a restart frees a lock early.

use wk_proto::cluster::v1 as pb;

use super::rows::LockRow;

/// What happens to the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// Nothing.
    Keep,
    /// This is stored.
    Put(LockRow),
    /// It goes.
    Delete,
}

/// Takes the lock when it is free, expired or the requester's own. `index` is the token of a new acquisition.
#[must_use]
pub fn acquire(row: Option<LockRow>, request: &pb::AcquireRequest, now_ms: i64, index: u64) -> (RowChange, pb::LockReply) {
    let until = now_ms.saturating_add_unsigned(request.ttl_ms);
    match row.filter(|row| row.expires_ms > now_ms) {
        Some(row) if *row.owner != *request.owner => (RowChange::Keep, reply(Some(&row), false, now_ms)),
        Some(row) => {
            // A retry of an acquisition whose answer was lost gets the same token.
            let row = LockRow { expires_ms: row.expires_ms.max(until), ..row };
            let answer = reply(Some(&row), true, now_ms);
            (RowChange::Put(row), answer)
        }
        None => {
            let row = LockRow { owner: request.owner.as_str().into(), token: index, expires_ms: until };
            let answer = reply(Some(&row), true, now_ms);
            (RowChange::Put(row), answer)
        }
    }
}

/// Prolongs a lock that is still held with this token.
#[must_use]
pub fn renew(row: Option<LockRow>, request: &pb::RenewRequest, now_ms: i64) -> (RowChange, pb::LockReply) {
    match row.filter(|row| row.expires_ms > now_ms) {
        Some(row) if *row.owner == *request.owner && row.token == request.token => {
            let until = now_ms.saturating_add_unsigned(request.ttl_ms);
            let row = LockRow { expires_ms: row.expires_ms.max(until), ..row };
            let answer = reply(Some(&row), true, now_ms);
            (RowChange::Put(row), answer)
        }
        other => (RowChange::Keep, reply(other.as_ref(), false, now_ms)),
    }
}

/// Gives the lock back when it is held with this token.
#[must_use]
pub fn release(row: Option<LockRow>, request: &pb::ReleaseRequest, now_ms: i64) -> (RowChange, pb::LockReply) {
    match row {
        Some(row) if *row.owner == *request.owner && row.token == request.token => (RowChange::Delete, reply(None, false, now_ms)),
        other => (RowChange::Keep, reply(other.filter(|row| row.expires_ms > now_ms).as_ref(), false, now_ms)),
    }
}

/// State of a lock for a reply.
#[must_use]
pub fn reply(row: Option<&LockRow>, held: bool, now_ms: i64) -> pb::LockReply {
    match row {
        Some(row) => pb::LockReply {
            held,
            owner: row.owner.to_string(),
            token: row.token,
            expires_in_ms: u64::try_from(row.expires_ms.saturating_sub(now_ms)).unwrap_or(0),
        },
        None => pb::LockReply { held, ..pb::LockReply::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(owner: &str) -> pb::AcquireRequest {
        pb::AcquireRequest { name: "l".into(), owner: owner.into(), ttl_ms: 1000 }
    }

    fn put(change: RowChange) -> Option<LockRow> {
        match change {
            RowChange::Put(row) => Some(row),
            _ => None,
        }
    }

    #[test]
    fn one_owner_at_a_time_and_tokens_grow() {
        let (change, answer) = acquire(None, &take("a"), 10, 5);
        let row = put(change);
        assert_eq!((answer.held, answer.token, answer.expires_in_ms), (true, 5, 1000));
        let (change, answer) = acquire(row.clone(), &take("b"), 1009, 6);
        assert_eq!((change, answer.held, answer.owner.as_str(), answer.expires_in_ms), (RowChange::Keep, false, "a", 1));
        let (change, answer) = acquire(row.clone(), &take("a"), 500, 7);
        assert_eq!((put(change).map(|r| r.expires_ms), answer.token), (Some(1500), 5), "a retry keeps the token");
        let (change, answer) = acquire(row, &take("b"), 1010, 8);
        assert_eq!((put(change).map(|r| r.token), answer.held), (Some(8), true), "expired locks can be taken");
    }

    #[test]
    fn renew_and_release_need_the_token() {
        let row = put(acquire(None, &take("a"), 0, 5).0);
        let ask = |token| pb::RenewRequest { name: "l".into(), owner: "a".into(), token, ttl_ms: 2000 };
        assert!(!renew(row.clone(), &ask(4), 1).1.held);
        assert_eq!(put(renew(row.clone(), &ask(5), 1).0).map(|r| r.expires_ms), Some(2001));
        assert!(!renew(row.clone(), &ask(5), 1000).1.held, "an expired lock is not prolonged");
        let give = |token| pb::ReleaseRequest { name: "l".into(), owner: "a".into(), token };
        assert_eq!(release(row.clone(), &give(4), 1).0, RowChange::Keep);
        assert_eq!(release(row, &give(5), 1).0, RowChange::Delete);
    }
}
