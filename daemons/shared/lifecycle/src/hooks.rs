//! Requests of the supervisor that a daemon carries out before the call is answered.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

/// State of one kind of request.
#[derive(Debug)]
pub(crate) struct HookState {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    requested: bool,
    deadline: Option<Instant>,
    /// Handlers that have not acknowledged.
    waiting: usize,
}

impl Default for HookState {
    fn default() -> Self {
        Self { state: watch::channel(State::default()).0 }
    }
}

impl HookState {
    /// Makes the request (again) and waits until every handler has acknowledged.
    pub(crate) async fn request(&self, deadline: Option<Instant>) {
        self.state.send_modify(|s| {
            s.requested = true;
            s.deadline = s.deadline.or(deadline);
        });
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`: the wait ends by its condition.
        drop(state.wait_for(|s| s.waiting == 0).await);
    }

    pub(crate) fn requested(&self) -> bool {
        self.state.borrow().requested
    }

    /// Completes when the request was made, without taking part in its acknowledgement.
    pub(crate) async fn seen(&self) {
        let mut state = self.state.subscribe();
        drop(state.wait_for(|s| s.requested).await);
    }
}

/// A handler of one kind of request. The call of the supervisor is answered when every handler has called [`Hook::done`] or was dropped.
#[derive(Debug)]
pub struct Hook {
    hook: Arc<HookState>,
    done: bool,
}

impl Hook {
    pub(crate) fn register(hook: Arc<HookState>) -> Self {
        hook.state.send_modify(|s| s.waiting += 1);
        Self { hook, done: false }
    }

    /// Waits for the request and returns its deadline, if it has one. At once when it was made before; never after [`Hook::done`].
    ///
    /// # Cancel safety
    /// Cancelling loses nothing: use it freely in `select!`.
    pub async fn requested(&mut self) -> Option<Instant> {
        if self.done {
            std::future::pending::<()>().await;
        }
        self.hook.seen().await;
        self.hook.state.borrow().deadline
    }

    /// Acknowledges: what was asked for is done.
    pub fn done(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.hook.state.send_modify(|s| s.waiting -= 1);
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_waits_for_every_handler() {
        let state = Arc::new(HookState::default());
        let (mut a, b) = (Hook::register(Arc::clone(&state)), Hook::register(Arc::clone(&state)));
        let asking = tokio::spawn({
            let state = Arc::clone(&state);
            async move { state.request(None).await }
        });
        a.requested().await;
        assert!(!asking.is_finished());
        a.done();
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        drop(b);
        asking.await.unwrap();
        // A second request is answered at once.
        state.request(None).await;
    }
}
