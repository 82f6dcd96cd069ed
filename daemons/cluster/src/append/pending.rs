//! A request under way over several channel groups.

use parking_lot::Mutex;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::reply::Result as ReplyResult;

use crate::answer::Answer;
use crate::error::Refusal;

/// Collects the results of one request's channels and answers when the last is there.
#[derive(Debug)]
pub(super) struct PendingAppend {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    channels: Vec<pb::ChannelAppended>,
    left: usize,
    answer: Option<Answer>,
}

impl PendingAppend {
    /// A request of `channels` channels.
    pub(super) fn new(channels: usize, answer: Answer) -> Self {
        let state = State { channels: vec![pb::ChannelAppended::default(); channels], left: channels, answer: Some(answer) };
        Self { state: Mutex::new(state) }
    }

    /// Takes the result of channel `at`. Each channel has exactly one.
    pub(super) fn complete(&self, at: usize, result: pb::ChannelAppended) {
        let mut state = self.state.lock();
        if let Some(slot) = state.channels.get_mut(at) {
            *slot = result;
        }
        state.left = state.left.saturating_sub(1);
        if state.left == 0
            && let Some(answer) = state.answer.take()
        {
            let channels = std::mem::take(&mut state.channels);
            drop(state);
            answer.done(ReplyResult::Append(pb::AppendReply { channels }));
        }
    }

    /// Channel `at` was not stored.
    pub(super) fn refuse(&self, at: usize, refusal: &Refusal) {
        self.complete(at, pb::ChannelAppended { error: Some(refusal.to_proto()), ..pb::ChannelAppended::default() });
    }
}
