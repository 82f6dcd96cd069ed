//! Catalogue row 13: whether the gateway lives is answered by the threads that do its work.

use std::time::Duration;

use wk_gateway::exchange::Command;

use crate::rig::{Rig, settings};

#[test]
fn a_gateway_lives_only_while_every_reactor_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for reactors in [1, 3] {
        let rig = Rig::closed(settings(), reactors);
        let pulse = rig.reactors.pulse.clone();
        let felt = |ms| runtime.block_on(async { tokio::time::timeout(Duration::from_millis(ms), pulse.felt()).await.is_ok() });
        assert!(felt(10_000), "{reactors} reactors turn");
        // Its answer is an event, which the reactor cannot deliver. What it takes together with the order it still answers.
        let held = rig.hold_up();
        rig.reactors.main.post_one(Command::StopAccept);
        assert!((0..30).any(|_| !felt(300)), "one of {reactors} stands still");
        drop(held);
        assert!(felt(10_000), "it goes on");
        rig.reactors.drain();
        assert!(felt(10_000), "who has ended is not missed");
    }
}
