//! Liveness and our own lateness.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use wk_types::Daemon;

use super::{FactSender, Msg};
use crate::limits::{LIVE_EVERY, LIVE_TIMEOUT};
use crate::metrics::Counters;
use crate::rounds::Rounds;
use crate::spec::Spec;
use crate::table::{Fact, Probe};

/// The host stood still for a while: the daemon could not answer, and we could not ask.
#[tokio::test(start_paused = true)]
async fn row_14_a_check_that_we_were_late_for_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, mut rx) = mpsc::channel(8);
    let facts = FactSender { tx, name: "api@0".parse().unwrap(), generation: 1 };
    let began = Instant::now();
    let nobody = wk_rpc::dial_lazy(dir.path().join("nobody.sock"));
    let counters = Arc::new(Counters::default());
    let rounds = Rounds::new(began, Spec::standard(Duration::ZERO).liveness());
    let live = tokio::spawn(crate::ready::live(nobody, facts, std::process::id(), rounds.of(Daemon::Api), counters.clone()));
    tokio::task::yield_now().await;
    let stall = LIVE_EVERY + LIVE_TIMEOUT * 2;
    tokio::time::advance(stall).await;
    let first = rx.recv().await;
    assert!(matches!(first, Some(Msg::Fact(_, 1, Fact::Alive(Probe::Silent)))), "{first:?}");
    assert!(began.elapsed() >= LIVE_EVERY * 2, "the late check was counted: {:?}", began.elapsed());
    assert!(began.elapsed() < LIVE_EVERY * 2 + Duration::from_secs(5));
    assert!(counters.engine_lag.get_sample_sum() >= (LIVE_TIMEOUT * 2).as_secs_f64(), "and it is seen that we were late");
    live.abort();
}

/// It stood still between question and answer.
#[tokio::test(start_paused = true)]
async fn row_14_a_check_that_we_heard_too_late_of_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("silent.sock");
    // Takes connections, and says nothing.
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (tx, mut rx) = mpsc::channel(8);
    let facts = FactSender { tx, name: "api@0".parse().unwrap(), generation: 1 };
    let began = Instant::now();
    let counters = Arc::new(Counters::default());
    let rounds = Rounds::new(began, Spec::standard(Duration::ZERO).liveness());
    let live =
        tokio::spawn(crate::ready::live(wk_rpc::dial_lazy(path), facts, std::process::id(), rounds.of(Daemon::Api), counters.clone()));
    tokio::task::yield_now().await;
    tokio::time::advance(LIVE_EVERY).await;
    while counters.engine_lag.get_sample_count() == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(LIVE_TIMEOUT * 2).await;
    let first = rx.recv().await;
    assert!(matches!(first, Some(Msg::Fact(_, 1, Fact::Alive(Probe::Silent)))), "{first:?}");
    assert!(began.elapsed() >= LIVE_EVERY * 2 + LIVE_TIMEOUT, "the answer was given up too early: {:?}", began.elapsed());
    live.abort();
}
