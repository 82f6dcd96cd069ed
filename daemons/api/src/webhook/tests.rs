//! Feeds over a journal in memory and a backend that fails, hangs and recovers. Time is paused, so pauses cost nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use wk_link::record::{Message, Stored, encode_message, encode_row};

use super::*;
use crate::config::Target;

/// A journal in memory.
#[derive(Default)]
struct Memory {
    entries: Mutex<BTreeMap<u32, Vec<pb::JournalEntry>>>,
    saved: Mutex<BTreeMap<u32, u64>>,
    applied: Mutex<Vec<u64>>,
    grew: Notify,
    saves_fail: AtomicBool,
}

impl Memory {
    /// Adds one entry with messages of these ids to channel `g` of the group.
    fn append(&self, group: u32, index: u64, channel_type: u32, ids: &[i64]) {
        let mut records = BytesMut::new();
        for &message_id in ids {
            let message = Message {
                message_id,
                flags: 0,
                setting: 0,
                expire: 0,
                client_seq: 0,
                from_uid: "u1",
                client_msg_no: "",
                topic: "",
                stream_no: "",
                payload: b"hi",
            };
            Stored::encode_from_row(&mut records, 1, &encode_row(1, &encode_message(&message)));
        }
        let channel = pb::ChannelRef { id: "g".into(), r#type: channel_type };
        let count = u32::try_from(ids.len()).unwrap();
        let entry = pb::JournalEntry { index, channel: Some(channel), count, records: records.to_vec().into(), ..Default::default() };
        self.entries.lock().entry(group).or_default().push(entry);
        self.grew.notify_waiters();
    }

    async fn saved(&self, group: u32, index: u64) {
        let seen = async {
            while self.saved.lock().get(&group) != Some(&index) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(600), seen).await.unwrap_or_else(|_| unreachable!("saved: {:?}", self.saved.lock()));
    }
}

#[tonic::async_trait]
impl Journal for Memory {
    async fn read(&self, request: pb::JournalRequest) -> Result<pb::JournalReply, CallError> {
        let look = async {
            loop {
                let grew = self.grew.notified();
                let found: Vec<_> = self
                    .entries
                    .lock()
                    .get(&request.group)
                    .into_iter()
                    .flatten()
                    .filter(|e| e.index > request.after)
                    .take(usize::try_from(request.limit).unwrap())
                    .cloned()
                    .collect();
                if !found.is_empty() {
                    return found;
                }
                grew.await;
            }
        };
        let entries = timeout(Duration::from_millis(request.wait_ms), look).await.unwrap_or_default();
        let upto = entries.last().map_or(request.after, |e| e.index);
        Ok(pb::JournalReply { entries, upto, groups: 2 })
    }

    async fn save(&self, cursors: Vec<pb::Cursor>) -> Result<(), CallError> {
        if self.saves_fail.load(Ordering::Relaxed) {
            return Err(CallError::NotSent);
        }
        let mut saved = self.saved.lock();
        for cursor in cursors {
            assert_eq!((cursor.consumer.as_str(), cursor.bucket), (CONSUMER, NO_BUCKET));
            if cursor.remove {
                saved.remove(&cursor.group);
            } else {
                saved.insert(cursor.group, cursor.index);
            }
        }
        Ok(())
    }

    async fn load(&self) -> Result<pb::LoadCursorsReply, CallError> {
        let cursors = self.saved.lock().iter().map(|(&group, &index)| cursor(group, index)).collect();
        Ok(pb::LoadCursorsReply { cursors, applied: self.applied.lock().clone() })
    }
}

/// A backend that keeps what it confirmed; the first `failures` requests fail, those with id `hang_on` never end.
#[derive(Default)]
struct Sink {
    confirmed: Mutex<Vec<(bool, Vec<i64>)>>,
    failures: AtomicUsize,
    hang_on: AtomicUsize,
    attempts: AtomicUsize,
}

impl Sink {
    fn ids(&self) -> Vec<i64> {
        self.confirmed.lock().iter().flat_map(|(_, ids)| ids.clone()).collect()
    }
}

#[tonic::async_trait]
impl Sender for Sink {
    async fn send(&self, body: Bytes, agent: bool) -> Result<(), SenderError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let messages: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        let ids: Vec<i64> = messages.iter().map(|m| m["message_id"].as_i64().unwrap()).collect();
        let hang_on = i64::try_from(self.hang_on.load(Ordering::Relaxed)).unwrap();
        if hang_on != 0 && ids.contains(&hang_on) {
            std::future::pending::<()>().await;
        }
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(SenderError::Status(500));
        }
        self.confirmed.lock().push((agent, ids));
        Ok(())
    }
}

struct Run {
    journal: Arc<Memory>,
    sink: Arc<Sink>,
    metrics: ApiMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn config(batch_messages: usize) -> Config {
    let target = Target { url: "http://127.0.0.1:1/".into(), agent_url: Some("http://127.0.0.1:2/".into()) };
    Config { target: Some(target), push_interval: Duration::from_millis(500), batch_messages }
}

impl Run {
    fn start(journal: Arc<Memory>, sink: Arc<Sink>, batch_messages: usize, starts: Vec<u64>) -> Self {
        let metrics = ApiMetrics::new(&wk_telemetry::Metrics::new());
        let webhooks = Webhooks {
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
            sender: Arc::clone(&sink) as Arc<dyn Sender>,
            config: config(batch_messages),
            metrics: metrics.clone(),
            starts,
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        webhooks.start(&tasks, &stop);
        Self { journal, sink, metrics, tasks, stop }
    }

    async fn end(self) -> (Arc<Memory>, Arc<Sink>) {
        self.stop.cancel();
        self.tasks.close();
        timeout(Duration::from_secs(60), self.tasks.wait()).await.unwrap();
        assert_eq!(self.metrics.webhook_pending.get(), 0);
        (self.journal, self.sink)
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_in_commit_order() {
    let journal = Arc::new(Memory::default());
    journal.append(0, 3, 2, &[1, 2, 3]);
    journal.append(0, 5, 2, &[4]);
    journal.append(0, 6, 2, &[5]);
    let run = Run::start(journal, Arc::default(), 2, vec![0]);
    run.journal.saved(0, 6).await;
    assert_eq!(run.metrics.webhook_messages.get(), 5);
    let (_, sink) = run.end().await;
    let batches: Vec<Vec<i64>> = sink.confirmed.lock().iter().map(|(_, ids)| ids.clone()).collect();
    assert_eq!(batches, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dropped_while_the_backend_fails() {
    let journal = Arc::new(Memory::default());
    let sink = Arc::new(Sink { failures: AtomicUsize::new(20), ..Sink::default() });
    journal.append(0, 1, 2, &[1]);
    let run = Run::start(journal, sink, 100, vec![0]);
    run.journal.append(0, 2, 2, &[2]);
    run.journal.saved(0, 2).await;
    assert_eq!(run.metrics.webhook_failures.get(), 20);
    assert_eq!(run.end().await.1.ids(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_moves_only_after_the_backend_confirmed() {
    let journal = Arc::new(Memory::default());
    let sink = Arc::new(Sink { hang_on: AtomicUsize::new(2), ..Sink::default() });
    journal.append(0, 1, 2, &[1]);
    journal.append(0, 2, 2, &[2]);
    let run = Run::start(journal, sink, 1, vec![0]);
    run.journal.saved(0, 1).await;
    let (journal, sink) = run.end().await;
    assert_eq!(journal.saved.lock().get(&0), Some(&1));
    assert_eq!(sink.ids(), [1]);
    // The next life begins at the cursor and brings the rest.
    sink.hang_on.store(0, Ordering::Relaxed);
    journal.applied.lock().push(2);
    let (starts, fresh) = starts(&journal.load().await.unwrap());
    assert_eq!((starts.as_slice(), fresh.len()), (&[1][..], 0));
    let run = Run::start(journal, sink, 1, starts);
    run.journal.saved(0, 2).await;
    assert_eq!(run.end().await.1.ids(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_hangs_does_not_hold_the_others() {
    let journal = Arc::new(Memory::default());
    let sink = Arc::new(Sink { hang_on: AtomicUsize::new(1), ..Sink::default() });
    journal.append(0, 1, 2, &[1]);
    journal.append(1, 1, 2, &[11]);
    let run = Run::start(journal, sink, 100, vec![0, 0]);
    run.journal.saved(1, 1).await;
    run.journal.append(1, 2, 2, &[12]);
    run.journal.saved(1, 2).await;
    let (journal, sink) = run.end().await;
    assert_eq!(sink.ids(), [11, 12]);
    assert_eq!(journal.saved.lock().get(&0), None);
}

#[tokio::test(start_paused = true)]
async fn agent_channels_have_a_target_of_their_own() {
    let journal = Arc::new(Memory::default());
    journal.append(0, 1, 2, &[1]);
    journal.append(0, 2, 11, &[2, 3]);
    journal.append(0, 3, 2, &[4]);
    let run = Run::start(journal, Arc::default(), 100, vec![0]);
    run.journal.saved(0, 3).await;
    let (_, sink) = run.end().await;
    assert_eq!(*sink.confirmed.lock(), [(false, vec![1]), (true, vec![2, 3]), (false, vec![4])]);
}

#[tokio::test(start_paused = true)]
async fn broken_entries_are_passed_over_and_counted() {
    let journal = Arc::new(Memory::default());
    let entry = pb::JournalEntry { index: 1, count: 1, records: vec![9, 9, 9, 9, 9].into(), ..Default::default() };
    journal.entries.lock().entry(0).or_default().push(entry);
    let run = Run::start(journal, Arc::default(), 100, vec![0]);
    run.journal.saved(0, 1).await;
    assert_eq!(run.metrics.webhook_poison.get(), 1);
    assert_eq!(run.end().await.1.attempts.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn positions_survive_a_failed_save() {
    let journal = Arc::new(Memory::default());
    journal.saves_fail.store(true, Ordering::Relaxed);
    journal.append(0, 1, 2, &[1]);
    let run = Run::start(journal, Arc::default(), 100, vec![0]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    run.journal.saves_fail.store(false, Ordering::Relaxed);
    run.journal.saved(0, 1).await;
    run.end().await;
}

#[tokio::test]
async fn registration_begins_where_the_groups_are() {
    let journal = Arc::new(Memory::default());
    journal.applied.lock().extend([7, 9]);
    journal.saved.lock().insert(1, 4);
    let metrics = ApiMetrics::new(&wk_telemetry::Metrics::new());
    let webhooks = prepare(Arc::clone(&journal) as Arc<dyn Journal>, &config(1), &metrics).await.unwrap().unwrap();
    assert_eq!(webhooks.starts, [7, 4]);
    assert_eq!(*journal.saved.lock(), BTreeMap::from([(0, 7), (1, 4)]));
    // Switched off, nothing of ours holds the journal.
    let off = Config { target: None, ..config(1) };
    assert!(prepare(Arc::clone(&journal) as Arc<dyn Journal>, &off, &metrics).await.unwrap().is_none());
    assert!(journal.saved.lock().is_empty());
}

#[tokio::test]
async fn over_http_only_200_is_success() {
    use axum::extract::{RawQuery, State};
    use axum::http::{HeaderMap, StatusCode};
    type Seen = Arc<Mutex<Vec<(String, String, Bytes)>>>;
    async fn hook(State(seen): State<Seen>, RawQuery(query): RawQuery, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
        let mut seen = seen.lock();
        seen.push((query.unwrap_or_default(), headers["content-type"].to_str().unwrap().to_owned(), body));
        ([StatusCode::OK, StatusCode::CREATED, StatusCode::NO_CONTENT, StatusCode::INTERNAL_SERVER_ERROR][seen.len() - 1], "answer")
    }
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?k=v", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/hook", axum::routing::post(hook)).with_state(Arc::clone(&seen));
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let sender = HttpSender::new(&Target { url, agent_url: None }).unwrap();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(sender.send(Bytes::from_static(b"[]"), false).await.map_err(|err| err.to_string()));
    }
    server.abort();
    let answered = |n: u16| Err(format!("backend answered {n}"));
    assert_eq!(statuses, [Ok(()), answered(201), answered(204), answered(500)]);
    let first = seen.lock().remove(0);
    assert_eq!(first, ("k=v&event=msg.notify".into(), "application/json".into(), Bytes::from_static(b"[]")));
    assert!(matches!(sender.send(Bytes::new(), false).await, Err(SenderError::Http(_))), "the backend is gone");
}
