use bytes::BytesMut;
use proptest::prelude::*;
use wk_link::record::{Message, encode_message, encode_row};

use super::*;
use crate::backend::BackendError;

/// A log of `last` messages, as the cluster reads it; pages hold at most `page` messages.
struct Log {
    last: u64,
    page: u32,
}

fn records(seqs: impl Iterator<Item = u64>) -> BytesMut {
    let mut out = BytesMut::new();
    for seq in seqs {
        let message = Message {
            message_id: i64::try_from(seq).unwrap() + 100,
            flags: 0,
            setting: 0,
            expire: 0,
            client_seq: 0,
            from_uid: "u1",
            client_msg_no: "",
            topic: "",
            stream_no: "",
            payload: b"x",
        };
        Stored::encode_from_row(&mut out, seq, &encode_row(1, &encode_message(&message)));
    }
    out
}

#[tonic::async_trait]
impl Backend for Log {
    async fn lookup(&self, queries: Vec<pb::Query>) -> Result<Vec<pb::Answer>, BackendError> {
        Ok(queries.iter().map(|_| pb::Answer { number: self.last, ..Default::default() }).collect())
    }

    async fn read(&self, r: pb::ReadRequest) -> Result<pb::ReadReply, BackendError> {
        if r.limit > self.page {
            let error = pb::Error { code: pb::Code::TooLarge.into(), ..Default::default() };
            return Err(wk_rpc::CallError::from(error).into());
        }
        let last = if r.last == 0 { self.last } else { r.last.min(self.last) };
        let all: Vec<u64> = (r.first..=last).collect();
        let limit = usize::try_from(r.limit).unwrap().min(all.len());
        let page = if r.newest { &all[all.len() - limit..] } else { &all[..limit] };
        let bytes = records(page.iter().copied());
        Ok(pb::ReadReply { count: u32::try_from(limit).unwrap(), records: bytes.to_vec().into(), last_seq: self.last })
    }

    async fn scan(&self, _: pb::ScanRequest) -> Result<pb::ScanReply, BackendError> {
        Err(BackendError::NoId)
    }
    async fn set_token(&self, _: wk_proto::worker::v1::SetTokenRequest) -> Result<u32, BackendError> {
        Err(BackendError::NoId)
    }
    async fn quit(&self, _: wk_proto::worker::v1::QuitRequest) -> Result<(), BackendError> {
        Err(BackendError::NoId)
    }
    async fn online(&self, _: Vec<String>) -> Result<Vec<wk_proto::worker::v1::OnlineConn>, BackendError> {
        Err(BackendError::NoId)
    }
    async fn change_user(&self, _: &str, _: Vec<pb::Command>) -> Result<(), BackendError> {
        Err(BackendError::NoId)
    }
    async fn change_channel(&self, _: &str, _: Vec<pb::Command>) -> Result<(), BackendError> {
        Err(BackendError::NoId)
    }
    async fn message_id(&self) -> Result<i64, BackendError> {
        Err(BackendError::NoId)
    }
    async fn send(&self, _: wk_types::Bucket, _: bytes::Bytes) -> Result<(), BackendError> {
        Err(BackendError::NoId)
    }
}

fn ask(start: u64, end: u64, limit: i64, pull_mode: i64) -> MessageSync {
    MessageSync {
        login_uid: "u1".into(),
        channel_id: "g1".into(),
        channel_type: 2,
        start_message_seq: start,
        end_message_seq: end,
        limit,
        pull_mode,
        event_summary_mode: String::new(),
    }
}

/// (sequences, more, start, end) of an answer.
fn answer(log: &Log, request: MessageSync) -> (Vec<u64>, u8, u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(sync(log, request)).unwrap();
    let seqs = answer.messages.iter().map(|m| m.message_seq).collect();
    (seqs, answer.more, answer.start_message_seq, answer.end_message_seq)
}

#[test]
fn scenario_rows_of_the_specification() {
    let log = Log { last: 5, page: 500 };
    assert_eq!(answer(&log, ask(3, 0, 2, 1)), (vec![3, 4], 1, 3, 0));
    assert_eq!(answer(&log, ask(3, 0, 2, 0)), (vec![2, 3], 1, 3, 0));
    assert_eq!(answer(&log, ask(3, 1, 10, 0)), (vec![2, 3], 0, 3, 1));
}

#[test]
fn the_newest_without_bounds() {
    let log = Log { last: 5, page: 500 };
    assert_eq!(answer(&log, ask(0, 0, 2, 0)), (vec![4, 5], 1, 0, 0));
    assert_eq!(answer(&log, ask(0, 0, 2, 1)), (vec![4, 5], 1, 0, 0));
    assert_eq!(answer(&log, ask(0, 0, 9, 0)), (vec![1, 2, 3, 4, 5], 0, 0, 0));
}

#[test]
fn edges_of_ranges() {
    let log = Log { last: 5, page: 500 };
    // Down needs end below start.
    assert_eq!(answer(&log, ask(2, 4, 10, 0)), (vec![], 0, 2, 4));
    assert_eq!(answer(&log, ask(0, 4, 10, 0)), (vec![], 0, 0, 4));
    assert_eq!(answer(&log, ask(3, 3, 10, 0)), (vec![], 0, 3, 3));
    // Down from beyond the end begins at the end.
    assert_eq!(answer(&log, ask(100, 0, 2, 0)), (vec![4, 5], 1, 100, 0));
    assert_eq!(answer(&log, ask(1, 0, 10, 0)), (vec![1], 0, 1, 0));
    // Up excludes the end.
    assert_eq!(answer(&log, ask(2, 4, 10, 1)), (vec![2, 3], 0, 2, 4));
    assert_eq!(answer(&log, ask(0, 1, 10, 1)), (vec![], 0, 0, 1));
    assert_eq!(answer(&log, ask(6, 0, 10, 1)), (vec![], 0, 6, 0));
    assert_eq!(answer(&log, ask(0, 3, 2, 1)), (vec![1, 2], 1, 0, 3));
    // Without a limit: "maybe more" always; up reads on, down and newest read nothing.
    assert_eq!(answer(&log, ask(1, 0, 0, 1)), (vec![1, 2, 3, 4, 5], 1, 1, 0));
    assert_eq!(answer(&log, ask(3, 0, 0, 0)), (vec![], 1, 3, 0));
    assert_eq!(answer(&log, ask(0, 0, 0, 0)), (vec![], 1, 0, 0));
    assert_eq!(answer(&log, ask(0, 0, -7, 0)), (vec![], 1, 0, 0));
}

#[test]
fn a_channel_without_a_log_answers_zeros() {
    let log = Log { last: 0, page: 500 };
    for request in [ask(3, 7, 2, 1), ask(3, 1, 2, 0), ask(0, 0, 10, 0), ask(2, 4, 10, 0), ask(1, 0, 0, 1)] {
        assert_eq!(answer(&log, request), (vec![], 0, 0, 0));
    }
    let json = serde_json::to_string(&SyncedMessages::default()).unwrap();
    assert_eq!(json, r#"{"start_message_seq":0,"end_message_seq":0,"more":0,"messages":[]}"#);
}

#[test]
fn long_pages_are_read_in_parts() {
    let log = Log { last: 2345, page: 60 };
    let (seqs, more, ..) = answer(&log, ask(0, 0, 1200, 0));
    assert_eq!((seqs, more), ((1146..=2345).collect(), 1));
    let (seqs, more, ..) = answer(&log, ask(5, 0, 20_000, 1));
    assert_eq!((seqs, more), ((5..=2345).collect(), 0));
}

#[test]
fn refuses_empty_names() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refused = |request| runtime.block_on(sync(&Log { last: 0, page: 1 }, request)).unwrap_err().to_string();
    assert_eq!(refused(MessageSync { channel_id: " ".into(), ..ask(0, 0, 1, 0) }), "channel_id不能为空！");
    assert_eq!(refused(MessageSync { login_uid: String::new(), ..ask(0, 0, 1, 0) }), "login_uid不能为空！");
}

#[test]
fn logs_of_queries() {
    let id = |channel, kind, login, internal| named_log(channel, ChannelType(kind), login, internal).map(|key| key.id.to_string());
    assert_eq!(id("u2", 1, "u1", false), Ok("u2@u1".into()));
    assert_eq!(id("u2@u1", 1, "", true), Ok("u2@u1".into()));
    assert_eq!(id("g1", 2, "", false), Ok("g1".into()));
    assert_eq!(id("u2", 1, "", false), Err(ApiError::text("login_uid不能为空")));
    assert_eq!(id("", 2, "u1", false), Err(ApiError::text("channel_id不能为空")));
}

/// The rules of semantics.md §8, over a log that is a list.
fn model(last: u64, start: u64, end: u64, limit: u64, up: bool) -> (Vec<u64>, u8) {
    let log: Vec<u64> = (1..=last).collect();
    let newest = |all: Vec<u64>| {
        let keep = usize::try_from(limit).unwrap().min(all.len());
        all[all.len() - keep..].to_vec()
    };
    let seqs: Vec<u64> = if start == 0 && end == 0 {
        newest(log)
    } else if up {
        let all = log.into_iter().filter(|&s| s >= start && (end == 0 || s < end));
        all.take(usize::try_from(if limit == 0 { SYNC_LIMIT_MAX } else { limit }).unwrap()).collect()
    } else if end <= start {
        newest(log.into_iter().filter(|&s| s > end && s <= start).collect())
    } else {
        Vec::new()
    };
    let edge = if up { seqs.last() } else { seqs.first() };
    let more = u64::try_from(seqs.len()).unwrap() >= limit && (end == 0 || edge != Some(&end));
    (seqs, more.into())
}

proptest! {
    #[test]
    fn agrees_with_the_rules(last in 1_u64..40, start in 0_u64..50, end in 0_u64..50, limit in 0_i64..30, up: bool, page in 1_u32..10) {
        let log = Log { last, page };
        let (seqs, more, ..) = answer(&log, ask(start, end, limit, i64::from(up)));
        prop_assert_eq!((seqs, more), model(last, start, end, u64::try_from(limit).unwrap(), up));
    }
}
