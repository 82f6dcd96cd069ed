//! One storm: a node, the load on it, faults, the quiet after them, the judgement.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::task::JoinSet;
use wk_testkit::http::Api;
use wk_testkit::node::{Node, Options};
use wk_testkit::sink::Sink;

use crate::check::{Evidence, Findings, check};
use crate::field::{Field, Phase};
use crate::plan::{Channel, Plan};
use crate::poison::POISONER;
use crate::record::{Entry, Key, Notified};
use crate::source::{Talker, Wire, backend, stuck};

/// Time for the open sends: a SEND is answered within 5 s whatever happens.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);
/// Without any new record for this long, what is missing is missing. Longer than one webhook retry (10 s without an answer).
const SILENCE: Duration = Duration::from_secs(15);
/// The same where something is known to be missing.
const SILENCE_WHEN_BROKEN: Duration = Duration::from_secs(4);
/// Groups made at the same time.
const GROUPS_AT_ONCE: usize = 40;
/// Everything must have arrived after this.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// A running storm.
pub(crate) struct Storm {
    pub node: Node,
    pub sink: Arc<Sink>,
    pub field: Arc<Field>,
    api: Api,
    tasks: JoinSet<()>,
}

impl Storm {
    /// Starts a node with this configuration added, makes the groups, logs everybody in and waits until all of them send.
    pub(crate) async fn start(plan: Plan, seed: u64, extra: &str) -> anyhow::Result<Self> {
        Self::start_with_env(plan, seed, extra, &[]).await
    }

    /// As [`Storm::start`], with variables added to the node's environment.
    pub(crate) async fn start_with_env(plan: Plan, seed: u64, extra: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let field = Field::new(plan);
        let sink = {
            let field = Arc::clone(&field);
            Arc::new(Sink::start_with(Box::new(move |name, body| field.notified(notified(name, &body)))).await?)
        };
        let webhook = format!("webhook:\n  httpAddr: \"{}\"\n  msgNotifyEventPushInterval: 100ms\n  focusEvents: [msg.notify]", sink.url());
        let node = Node::start_with_env(&Options { extra: format!("{webhook}\n{extra}") }, env).await?;
        let api = node.api().await?;
        let mut storm = Self { node, sink, field, api, tasks: JoinSet::new() };
        storm.populate(seed).await.map_err(|e| e.context(storm.node.story()))?;
        Ok(storm)
    }

    async fn populate(&mut self, seed: u64) -> anyhow::Result<()> {
        let plan = &self.field.plan;
        let groups = plan.channels.iter().filter_map(|channel| match channel {
            Channel::Group { id, members, offline } => {
                let names = members.iter().map(|&m| plan.users[m].as_str()).chain(offline.iter().map(String::as_str));
                Some((id, names.collect::<Vec<_>>()))
            }
            Channel::Person(..) => None,
        });
        // Many at a time: each waits for a write, which may be a slow one.
        let making = groups.map(|(id, names)| {
            let api = self.api.clone();
            async move { api.group(id, &names).await }
        });
        stream::iter(making).buffer_unordered(GROUPS_AT_ONCE).try_collect::<Vec<_>>().await?;
        let (tcp, ws) = (self.node.tcp().await?, self.node.ws().await?);
        let mut wires = Vec::new();
        for number in 0..plan.conns.len() {
            wires.push(
                Wire::connect(plan, number, tcp, &ws).await.with_context(|| format!("connection {number} {:?}", plan.conns[number]))?,
            );
        }
        for (number, wire) in wires.into_iter().enumerate() {
            if plan.conns[number].stuck {
                self.tasks.spawn(stuck(Arc::clone(&self.field), wire));
            } else {
                self.tasks.spawn(Talker::new(Arc::clone(&self.field), number, wire, seed).run());
            }
        }
        for number in plan.conns.len()..plan.sources() {
            self.tasks.spawn(backend(Arc::clone(&self.field), number, self.api.clone(), seed));
        }
        self.field
            .flowing(0, wk_testkit::PATIENCE)
            .await
            .map_err(|sources| anyhow::anyhow!("no first acknowledgement for sources {sources:?}"))
    }

    /// Ends the sending, waits until everything has arrived everywhere (or nothing moves any more), and judges.
    pub(crate) async fn finish(self) -> anyhow::Result<Outcome> {
        self.finish_within(SILENCE).await
    }

    /// As [`Storm::finish`], for a storm that is expected to break promises: what is missing is not waited for so long.
    pub(crate) async fn finish_broken(self) -> anyhow::Result<Outcome> {
        self.finish_within(SILENCE_WHEN_BROKEN).await
    }

    async fn finish_within(mut self, silence: Duration) -> anyhow::Result<Outcome> {
        self.field.set_phase(Phase::Drain);
        self.field.all_answered(ANSWERS_WITHIN).await;
        let findings = self.settle(silence).await;
        self.field.set_phase(Phase::Stop);
        while self.tasks.join_next().await.is_some() {}
        let findings = findings.map_err(|e| e.context(self.node.story()))?;
        let (sources, _) = self.field.records();
        Ok(Outcome { findings, sources, node: self.node })
    }

    async fn settle(&self, silence: Duration) -> anyhow::Result<Findings> {
        let deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
        let mut look = tokio::time::interval(Duration::from_millis(500));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut logs, mut logs_stale) = (Vec::new(), true);
        let (mut volume, mut moved) = (0, tokio::time::Instant::now());
        loop {
            look.tick().await;
            if logs_stale {
                logs = self.logs().await?;
            }
            let (sources, sink) = self.field.records();
            let findings = check(&Evidence { plan: &self.field.plan, sources: &sources, logs: &logs, sink: &sink });
            let now = tokio::time::Instant::now();
            if self.field.volume() != volume {
                (volume, moved) = (self.field.volume(), now);
            }
            let settled = !findings.violations.iter().any(crate::check::Violation::pending);
            if settled || now >= deadline || now - moved >= silence {
                // A message whose answer was "unknown" may have been stored meanwhile.
                let again = self.logs().await?;
                if again == logs {
                    return Ok(findings);
                }
                logs = again;
            }
            // A message seen that the log read earlier lacks: read it again.
            logs_stale = findings.violations.iter().any(|v| !v.pending());
        }
    }

    /// All channels as the API returns them.
    async fn logs(&self) -> anyhow::Result<Vec<Vec<Entry>>> {
        let plan = &self.field.plan;
        let mut logs = Vec::with_capacity(plan.channels.len());
        for (number, channel) in plan.channels.iter().enumerate() {
            let user = channel.someone();
            let (id, channel_type) = plan.name_for(number, user);
            let history = self.api.history(&plan.users[user], &id, channel_type).await?;
            logs.push(history.iter().map(entry).collect());
        }
        Ok(logs)
    }

    /// Memory of each process of the node. Unit: KiB resident.
    pub(crate) async fn memory(&self) -> anyhow::Result<HashMap<String, u64>> {
        let status = self.node.status().await?;
        let resident = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches("kB").trim().parse().ok()
        };
        Ok(status.instances.iter().filter_map(|i| Some((i.name.clone(), resident(i.pid)?))).collect())
    }
}

/// What is left after a storm.
pub(crate) struct Outcome {
    pub findings: Findings,
    pub sources: Vec<crate::record::Source>,
    pub node: Node,
}

fn key_of(message: &Value) -> Option<Key> {
    Key::of_payload(&STANDARD.decode(message["payload"].as_str()?).ok()?)
}

fn entry(message: &Value) -> Entry {
    Entry {
        seq: message["message_seq"].as_u64().unwrap_or(0),
        id: message["message_id"].as_i64().unwrap_or(0),
        key: key_of(message),
        from: message["from_uid"].as_str().unwrap_or_default().to_owned(),
    }
}

fn notified(name: &str, body: &Value) -> Vec<Notified> {
    if name != "msg.notify" {
        return Vec::new();
    }
    let one =
        |m: &Value| Notified { key: key_of(m), id: m["message_id"].as_i64().unwrap_or(0), seq: m["message_seq"].as_u64().unwrap_or(0) };
    body.as_array().map(|all| all.iter().filter(|m| m["from_uid"] != POISONER).map(one).collect()).unwrap_or_default()
}
