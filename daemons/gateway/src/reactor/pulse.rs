//! Do all reactors still turn? Asked when somebody wants to know whether the gateway lives: a reactor that stands still is a gateway that
//! does, whatever its other threads answer. Costs nothing while nobody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::exchange::{Command, Mailbox};

/// How often an end is looked for that came together with the question.
const END_CHECK: Duration = Duration::from_millis(50);

/// One reactor.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    pub(super) mailbox: Arc<Mailbox<Command>>,
    /// It has been drained: nobody reads its mailbox any more.
    pub(super) ended: Arc<AtomicBool>,
}

/// All reactors.
#[derive(Debug, Clone)]
pub struct Pulse(pub(super) Vec<Beat>);

impl Pulse {
    /// Returns when every reactor has turned since the call, or has ended; never when one stands still.
    ///
    /// # Cancel safety
    /// A question that nobody waits for any more is answered to nobody.
    pub async fn felt(&self) {
        let asked: Vec<_> = self.0.iter().map(|beat| (beat, beat.ask())).collect();
        for (beat, mut answer) in asked {
            // An error means that the question was dropped unanswered, with a reactor that has ended.
            while timeout(END_CHECK, &mut answer).await.is_err() && !beat.ended.load(Ordering::Acquire) {}
        }
    }
}

impl Beat {
    fn ask(&self) -> oneshot::Receiver<()> {
        let (tell, answer) = oneshot::channel();
        self.mailbox.post_one(Command::Beat(tell));
        answer
    }
}
