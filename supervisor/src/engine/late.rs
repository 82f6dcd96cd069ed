//! Liveness and our own lateness.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{FactSender, Msg};
use crate::limits::{HEALTH_GRACE, LIVE_EVERY, LIVE_TIMEOUT};
use crate::metrics::Counters;
use crate::table::Fact;

/// The host stood still for a while: the daemon could not answer, and we could not ask.
#[tokio::test(start_paused = true)]
async fn row_14_a_check_that_we_were_late_for_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, mut rx) = mpsc::channel(8);
    let facts = FactSender { tx, name: "api@0".parse().unwrap(), generation: 1 };
    let began = Instant::now();
    let nobody = wk_rpc::dial_lazy(dir.path().join("nobody.sock"));
    let counters = Arc::new(Counters::default());
    let live = tokio::spawn(crate::ready::live(nobody, facts, std::process::id(), began, counters.clone()));
    tokio::task::yield_now().await;
    let stall = LIVE_EVERY + LIVE_TIMEOUT * 2;
    tokio::time::advance(stall).await;
    let first = rx.recv().await;
    assert!(matches!(first, Some(Msg::Fact(_, 1, Fact::Alive(false)))), "{first:?}");
    assert!(began.elapsed() >= LIVE_EVERY * 2, "the late check was counted: {:?}", began.elapsed());
    assert!(began.elapsed() < LIVE_EVERY * 2 + Duration::from_secs(5));
    assert!(counters.engine_lag.get_sample_sum() >= (LIVE_TIMEOUT * 2).as_secs_f64(), "and it is seen that we were late");
    live.abort();
}

/// The same while its health connection is away: five seconds of standing still are no five seconds of silence.
#[tokio::test(start_paused = true)]
async fn row_14_a_connection_that_is_away_while_we_stand_still_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, mut rx) = mpsc::channel(8);
    let facts = FactSender { tx, name: "api@0".parse().unwrap(), generation: 1 };
    let nobody = wk_rpc::dial_lazy(dir.path().join("nobody.sock"));
    let began = Instant::now();
    let watch = tokio::spawn(crate::ready::watch(nobody, "api@0/1/1".into(), facts, true));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stall = HEALTH_GRACE * 4;
    tokio::time::advance(stall).await;
    let lost = rx.recv().await;
    assert!(matches!(lost, Some(Msg::Fact(_, 1, Fact::HealthLost))), "{lost:?}");
    let after = began.elapsed().saturating_sub(stall);
    assert!(after >= HEALTH_GRACE - Duration::from_millis(500) && after < HEALTH_GRACE * 2, "{after:?}");
    watch.abort();
}
