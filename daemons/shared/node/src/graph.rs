//! The graph of `architecture.md` §3.

use wk_types::{Daemon, Pool};

use Daemon::{Api, Cluster, Gateway, PluginHost, Worker};

const USER: Daemon = Worker(Pool::User);
const CHANNEL: Daemon = Worker(Pool::Channel);
const PUSH: Daemon = Worker(Pool::Push);

/// Daemons that must be ready before this one is activated, and that stop after it.
#[must_use]
pub fn requires(daemon: Daemon) -> &'static [Daemon] {
    match daemon {
        Cluster => &[],
        Gateway => &[Cluster],
        Api => &[Cluster, Gateway],
        Worker(Pool::User | Pool::Channel) => &[Cluster, Gateway, Api],
        Worker(Pool::Push) => &[Cluster, Gateway, Api, CHANNEL],
        PluginHost => &[Cluster, Gateway, Api, USER, CHANNEL, PUSH],
    }
}

/// True when admission waits for it.
#[must_use]
pub fn required(daemon: Daemon) -> bool {
    daemon != PluginHost
}

/// True when it takes clients' work: it is admitted, and quiesced before anything else at a stop.
#[must_use]
pub fn admits(daemon: Daemon) -> bool {
    matches!(daemon, Gateway | Api)
}

/// True when it has links to workers: each step of a move of buckets waits for it.
#[must_use]
pub fn linked(daemon: Daemon) -> bool {
    matches!(daemon, Gateway | Api | Worker(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_lead_to_daemons_that_start_earlier() {
        for (index, daemon) in Daemon::ALL.into_iter().enumerate() {
            assert!(requires(daemon).iter().all(|edge| Daemon::ALL[..index].contains(edge)), "{daemon}");
        }
    }
}
