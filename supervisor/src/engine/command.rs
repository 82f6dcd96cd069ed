//! Commands from the control thread.

use tokio::sync::{mpsc, oneshot};
use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

use super::reload::Reloaded;
use super::{Engine, Msg};
use std::os::fd::OwnedFd;

use crate::backoff;
use crate::config::Config;
use crate::events::Cause;
use crate::listeners::Listeners;
use crate::mend;
use crate::notify::Passed;
use crate::roles::Actor;
use crate::table::plan::{Experience, Plan};
use crate::table::{InstanceView, Kind, Refusal, Request};

/// An answer that says in a sentence what was done.
pub type Done = oneshot::Sender<Result<String, Refusal>>;

/// What is done to single instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Leave it alone.
    Hold,
    /// Take that back.
    Unhold,
    /// Forget its crashes.
    Reset,
    /// Send a signal.
    Signal(i32),
}

/// Why an instance is in its state.
#[derive(Debug, Clone)]
pub struct Why {
    /// From the instance down to what is at fault.
    pub chain: Vec<InstanceView>,
    /// Age of the end of the last generation.
    pub last_end_ago: Option<std::time::Duration>,
    /// Where the lines of the last generation begin in its log.
    pub log_from: u64,
    /// Its pauses, as they are configured now.
    pub backoff: backoff::Policy,
}

/// From the control thread.
#[derive(Debug)]
pub enum Command {
    /// The runtime folder was cleaned and one of our sockets made again: a copy for a successor.
    Rebound(mend::Socket, OwnedFd),
    /// Begin or join an operation.
    Op {
        /// What.
        request: Request,
        /// End the supervisor when the stop is over.
        supervisor_too: bool,
        /// End the operation when its caller leaves.
        cancel_on_disconnect: bool,
        /// Who asks.
        actor: Actor,
        /// Events until the end, or why not.
        answer: oneshot::Sender<Result<mpsc::Receiver<pb::OpEvent>, Refusal>>,
    },
    /// What an operation would do.
    Plan {
        /// What.
        request: Request,
        /// The plan, or why it would be refused.
        answer: oneshot::Sender<Result<Plan, Refusal>>,
    },
    /// Listen to an operation.
    WaitOp {
        /// Number.
        op: u64,
        /// Events until the end, or why not.
        answer: oneshot::Sender<Result<mpsc::Receiver<pb::OpEvent>, Refusal>>,
    },
    /// Take an operation back.
    CancelOp {
        /// Number.
        op: u64,
        /// Who asks.
        actor: Actor,
        /// What happens now.
        answer: Done,
    },
    /// Hold, unhold, reset, signal.
    Mark {
        /// What.
        mark: Mark,
        /// Daemons or instances.
        names: Vec<String>,
        /// Who asks.
        actor: Actor,
        /// What was done.
        answer: Done,
    },
    /// Explain an instance.
    Why {
        /// Which.
        name: InstanceName,
        /// `None`: there is none.
        answer: oneshot::Sender<Option<Why>>,
    },
    /// Follow another configuration.
    Reload {
        /// Which.
        config: Box<Config>,
        /// Replace what is behind it.
        apply: bool,
        /// Only say what would change.
        dry_run: bool,
        /// Who asks.
        actor: Actor,
        /// What changed.
        answer: oneshot::Sender<Result<Reloaded, Refusal>>,
    },
    /// Put the binary that lies there now in our place; there is an answer only when that fails.
    Reexec {
        /// Who asks.
        actor: Actor,
        /// Why not.
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A link makes no progress.
    Stall {
        /// The other end.
        name: InstanceName,
        /// Its life.
        incarnation: u64,
    },
    /// A process has done what the node table of an epoch asks.
    Met {
        /// Who.
        name: InstanceName,
        /// Its life.
        incarnation: u64,
        /// Of the table.
        epoch: u64,
    },
}

/// A caller that left meanwhile does not stop anything.
fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    if answer.send(value).is_err() {
        tracing::debug!("caller left before its answer");
    }
}

impl Engine {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Stall { name, incarnation } => {
                self.counters.stalls.inc();
                self.table.stall(name, incarnation);
            }
            Command::Met { name, incarnation, epoch } => self.table.met(name, incarnation, epoch),
            Command::Op { request, supervisor_too, cancel_on_disconnect, actor, answer } => {
                let begun = self.begin_for(request, Some(&actor), supervisor_too).and_then(|id| self.listen(id, cancel_on_disconnect));
                reply(answer, begun);
            }
            Command::Plan { request, answer } => {
                let experience = Experience::of(&self.starts);
                reply(answer, self.table.plan(&request, &experience));
            }
            Command::WaitOp { op, answer } => {
                let found = self.listen(op, false);
                reply(answer, found);
            }
            Command::CancelOp { op, actor, answer } => {
                let done = self.table.cancel(self.now(), op, &actor.to_string());
                if let Ok(text) = &done {
                    self.event(Some(&actor), "command", Cause::Command, None, format!("operation {op} cancelled: {text}"));
                }
                reply(answer, done);
            }
            Command::Mark { mark, names, actor, answer } => {
                let done = self.mark(mark, &names, &actor);
                // Who hears that it is done and asks for the status must see it.
                self.publish();
                reply(answer, done);
            }
            Command::Reload { config, apply, dry_run, actor, answer } => {
                if !dry_run {
                    self.notifier.reloading();
                }
                let done = self.reload(*config, apply, dry_run, Some(&actor));
                // Nothing was begun by a dry run, so nothing ends.
                self.notifier.reloaded();
                // Who hears that it is done and asks for the status must see it.
                self.publish();
                reply(answer, done);
            }
            Command::Reexec { actor, answer } => {
                self.event(Some(&actor), "command", Cause::Supervisor, None, "exchange of the supervisor's binary".into());
                self.reexec(Some(answer));
            }
            Command::Rebound(which, socket) => self.rebound(which, socket),
            Command::Why { name, answer } => {
                let why = self.why(name);
                reply(answer, why);
            }
        }
    }

    fn listen(&mut self, op: u64, cancel_on_disconnect: bool) -> Result<mpsc::Receiver<pb::OpEvent>, Refusal> {
        let (tx, rx) = self.book.listen(op).ok_or_else(|| Refusal::new(4, format!("operation {op} is not known (any more)")))?;
        if cancel_on_disconnect {
            let engine = self.tx.clone();
            self.watchers.spawn(async move {
                tx.closed().await;
                engine.send(Msg::CallerLeft(op)).await.unwrap_or_default();
            });
        }
        Ok(rx)
    }

    /// The caller of an operation that is to end with it has left.
    pub(super) fn caller_left(&mut self, op: u64) {
        if let Ok(text) = self.table.cancel(self.now(), op, "the end of its caller") {
            self.event(None, "command", Cause::Command, None, format!("operation {op} cancelled, its caller has left: {text}"));
        }
    }

    pub(super) fn begin(&mut self, request: Request) -> Result<u64, Refusal> {
        self.begin_for(request, None, false)
    }

    fn begin_for(&mut self, request: Request, actor: Option<&Actor>, supervisor_too: bool) -> Result<u64, Refusal> {
        // A retry after the end: the same answer, not the same work.
        if let Some(id) = self.book.by_key(&request.key) {
            return Ok(id);
        }
        if self.leave && request.kind != Kind::Stop {
            return Err(Refusal::new(75, "the supervisor is ending"));
        }
        if let Kind::Scale(daemon, slots) = request.kind {
            self.afford(daemon, slots)?;
        }
        for (daemon, slots) in self.table.surge_need(&request) {
            self.afford(daemon, slots)?;
        }
        if request.kind == Kind::Start && self.listeners.is_closed() {
            let opened = Listeners::open(&self.config.public, &mut self.passed);
            self.listeners = opened.map_err(|e| Refusal::new(6, format!("start failed: {e}; nothing was started")))?;
            self.listeners.each(|name, listener| self.notifier.store(&Passed::listener_name(name), listener));
        }
        let id = self.table.begin(self.now(), request.clone())?;
        self.leave |= supervisor_too;
        if self.book.request(id).is_none() {
            self.book.open(id, &request, actor);
            let what = match request.kind {
                Kind::Scale(daemon, slots) => format!("{daemon}={slots}"),
                _ if request.names.is_empty() => "everything".to_owned(),
                _ => request.names.join(", "),
            };
            let cause = op_cause(request.kind);
            self.event(actor, "operation", cause, None, format!("operation {id}: {} {what}", request.kind.name()));
        }
        Ok(id)
    }

    fn mark(&mut self, mark: Mark, names: &[String], actor: &Actor) -> Result<String, Refusal> {
        let (done, word) = match mark {
            Mark::Hold => (self.table.hold(names)?, "held"),
            Mark::Unhold => (self.table.unhold(names)?, "no longer held"),
            Mark::Reset => (self.table.reset(names)?, "reset"),
            Mark::Signal(signal) => (self.send_signal(names, signal)?, "signalled"),
        };
        for name in &done {
            let text = match mark {
                Mark::Signal(signal) => format!("signal {signal} sent"),
                _ => word.to_owned(),
            };
            self.event(Some(actor), "command", Cause::Command, Some(*name), text);
        }
        let list: Vec<String> = done.iter().map(ToString::to_string).collect();
        Ok(if list.is_empty() { format!("nothing was to be {word}") } else { format!("{word}: {}", list.join(", ")) })
    }

    fn send_signal(&mut self, names: &[String], signal: i32) -> Result<Vec<InstanceName>, Refusal> {
        let found = self.table.resolve(names)?;
        let mut done = Vec::new();
        for name in found {
            let Some(child) = self.children.get(&name) else { continue };
            child.process.deliver(signal).map_err(|e| Refusal::new(70, format!("{name}: {e}")))?;
            done.push(name);
        }
        if done.is_empty() { Err(Refusal::new(3, "none of them has a process")) } else { Ok(done) }
    }

    fn why(&self, name: InstanceName) -> Option<Why> {
        let now = self.now();
        let chain = self.table.chain(now, name);
        let last_end_ago = chain.first()?.last_end.map(|end| now.saturating_sub(end.at));
        let backoff = self.config.spec.backoff(name.daemon);
        Some(Why { chain, last_end_ago, log_from: self.log_offsets.get(&name).copied().unwrap_or(0), backoff })
    }
}

/// Word of an operation in events.
pub(super) fn op_cause(kind: Kind) -> Cause {
    match kind {
        Kind::Start => Cause::Start,
        Kind::Stop => Cause::Stop,
        Kind::Restart => Cause::Restart,
        Kind::Roll => Cause::Roll,
        Kind::Scale(..) => Cause::Scale,
    }
}
