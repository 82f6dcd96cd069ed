//! Whether requests are taken: admission, quiesce, and what stands in the way.

use serde::Serialize;
use tokio::sync::watch;
use wk_rpc::{RowState, Table};

/// What the daemon does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not admitted yet: 503.
    Starting,
    /// Requests are taken.
    Open,
    /// A stop is under way: 503 on new requests, those under way are finished.
    Quiescing,
}

/// The phase, shared by listeners, routes and the lifecycle. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    phase: watch::Sender<Phase>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { phase: watch::channel(Phase::Starting).0 }
    }
}

impl Gate {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Takes requests from now on. After [`Gate::quiesce`] it does nothing: a stop is not taken back.
    pub fn open(&self) {
        self.phase.send_if_modified(|phase| {
            let opens = *phase == Phase::Starting;
            if opens {
                *phase = Phase::Open;
            }
            opens
        });
    }

    /// Refuses requests from now on, for good.
    pub fn quiesce(&self) {
        self.phase.send_replace(Phase::Quiescing);
    }
}

/// Body of `/readyz`.
#[derive(Debug, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct Readiness {
    /// `ready`, `starting` or `quiescing`.
    pub status: &'static str,
    /// What is not ready, when something is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocking: Vec<Blocking>,
}

/// One component that is not ready.
#[derive(Debug, Serialize, PartialEq, Eq, utoipa::ToSchema)]
pub struct Blocking {
    /// Instance: `worker.user@0`, or `node table`.
    pub component: String,
    /// Its state.
    pub state: String,
}

/// Answer of `/readyz`: ready exactly when requests are taken.
#[must_use]
pub fn readiness(phase: Phase, table: &Table) -> Readiness {
    let status = match phase {
        Phase::Open if !table.quiescing => return Readiness { status: "ready", blocking: Vec::new() },
        Phase::Starting => "starting",
        Phase::Open | Phase::Quiescing => "quiescing",
    };
    let mut blocking: Vec<Blocking> = table
        .instances()
        .filter(|row| !matches!(row.state, RowState::Ready | RowState::Degraded))
        .map(|row| Blocking { component: row.name.to_string(), state: state_name(row.state) })
        .collect();
    if table.epoch == 0 {
        blocking.push(Blocking { component: "node table".into(), state: "out of reach".into() });
    }
    Readiness { status, blocking }
}

/// `STATE_BACKOFF` becomes `backoff`.
fn state_name(state: RowState) -> String {
    state.as_str_name().trim_start_matches("STATE_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use wk_proto::node::v1 as pb;

    use super::*;

    fn table(state: pb::State) -> Table {
        let row = pb::Instance { name: "worker.user@0".into(), generation: 1, incarnation: 7, state: state.into(), ..Default::default() };
        Table::from(pb::Table { epoch: 1, node_id: 1, admitted: true, instances: vec![row], ..Default::default() })
    }

    #[test]
    fn a_stop_is_not_taken_back() {
        let gate = Gate::default();
        assert_eq!(gate.phase(), Phase::Starting);
        gate.open();
        assert_eq!(gate.phase(), Phase::Open);
        gate.quiesce();
        gate.open();
        assert_eq!(gate.phase(), Phase::Quiescing);
    }

    #[test]
    fn names_what_blocks() {
        let starting = readiness(Phase::Starting, &table(pb::State::Backoff));
        assert_eq!(starting.status, "starting");
        assert_eq!(starting.blocking, [Blocking { component: "worker.user@0".into(), state: "backoff".into() }]);
        assert_eq!(readiness(Phase::Open, &table(pb::State::Ready)).status, "ready");
        assert_eq!(readiness(Phase::Starting, &Table::default()).blocking[0].component, "node table");
    }
}
