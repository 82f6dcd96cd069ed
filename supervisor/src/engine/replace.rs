//! `wkctl reexec` and SIGUSR2: trial of the new binary, then exec.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child as Trial, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{mpsc, oneshot};

use super::{Engine, Msg};
use crate::limits::TRIAL_TIMEOUT;
use crate::mend;
use crate::process::Process;
use crate::reexec::{Kept, Origin};
use crate::service::EXIT_CONFIG;
use crate::table::Refusal;

/// What survives the exec beside children and listeners.
#[derive(Debug)]
pub struct Sockets {
    /// How we were started.
    pub origin: Origin,
    /// Socket for `wkctl`.
    pub control: std::os::fd::OwnedFd,
    /// Socket for the daemons.
    pub nodes: std::os::fd::OwnedFd,
}

/// Who waits for the outcome; nobody after a signal.
pub(super) type Waiter = Option<oneshot::Sender<Result<(), Refusal>>>;

impl Engine {
    /// Begins the exchange: the trial runs beside us.
    pub(super) fn reexec(&mut self, waiter: Waiter) {
        let refusal = match &self.sockets {
            None => Some(Refusal::new(70, "this supervisor cannot be exchanged")),
            Some(_) if self.trial.is_some() => Some(Refusal::new(75, "an exchange of the supervisor is under way")),
            Some(_) if self.table.is_busy() || self.first.is_some() => Some(Refusal::new(75, "an operation is under way, try later")),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            return tell(waiter, refusal);
        }
        match self.begin_trial() {
            Ok(trial) => {
                let number = trial.id();
                self.tries.spawn(watch(trial, self.tx.clone()));
                self.trial = Some((number, waiter));
            }
            Err(err) => tell(waiter, Refusal::new(6, format!("the new binary does not start: {err}"))),
        }
    }

    /// The runtime folder was cleaned: the record goes there again, and a successor gets the new socket.
    pub(super) fn rebound(&mut self, which: mend::Socket, socket: std::os::fd::OwnedFd) {
        self.console.line("warning: the runtime folder was cleaned; socket and record are made again");
        if let Some(sockets) = &mut self.sockets {
            match which {
                mend::Socket::Control => sockets.control = socket,
                mend::Socket::Nodes => sockets.nodes = socket,
            }
        }
        self.ledger.begin_anew();
        self.record();
        self.keep();
    }

    fn begin_trial(&mut self) -> io::Result<Trial> {
        let state = self.kept().and_then(|kept| kept.state())?;
        let origin = self.sockets.as_ref().map(|s| &s.origin).ok_or(io::ErrorKind::NotFound)?;
        origin.trial(state, &self.config.source).spawn()
    }

    /// The trial is over: goes, or says why not.
    pub(super) fn tried(&mut self, outcome: Result<(), Refusal>) {
        let Some((_, waiter)) = self.trial.take() else { return };
        let refusal = match outcome {
            Err(refusal) => refusal,
            Ok(()) if self.table.is_busy() => Refusal::new(75, "an operation has begun meanwhile, try later"),
            Ok(()) => {
                self.console.line("exchanging the supervisor");
                let error = self.exec();
                Refusal::new(6, format!("exec failed: {error}; the old binary goes on"))
            }
        };
        self.console.failed(&refusal.message, &[]);
        tell(waiter, refusal);
    }

    fn exec(&mut self) -> io::Error {
        // The next binary does not know them.
        self.graves.bury();
        self.record();
        self.console.flush();
        let exec = || {
            let kept = self.kept()?;
            let state = kept.state()?;
            let sockets = self.sockets.as_ref().ok_or(io::ErrorKind::NotFound)?;
            Ok(kept.exec(&sockets.origin, &state))
        };
        exec().unwrap_or_else(|error: io::Error| error)
    }

    fn kept(&self) -> io::Result<Kept<'_>> {
        let sockets = self.sockets.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(Kept {
            record: self.ledger.text()?,
            own: crate::reload::own(&self.config.json),
            config: self.config.json.clone(),
            locks: self.runtime.locks(),
            control: sockets.control.as_fd(),
            nodes: sockets.nodes.as_fd(),
            listeners: self.listeners.by_key().map(|(key, l)| (key.to_owned(), l.as_fd())).collect(),
            children: self.children.iter().map(|(name, c)| (name.to_string(), c.process.pidfd())).collect(),
        })
    }
}

fn tell(waiter: Waiter, refusal: Refusal) {
    tracing::warn!(%refusal, "supervisor not exchanged");
    if let Some(waiter) = waiter {
        // A caller that left meanwhile need not know.
        waiter.send(Err(refusal)).unwrap_or_default();
    }
}

async fn watch(trial: Trial, tx: mpsc::Sender<Msg>) {
    let outcome = judge(trial).await;
    tx.send(Msg::Tried(outcome)).await.unwrap_or_default();
}

async fn judge(trial: Trial) -> Result<(), Refusal> {
    match end(trial).await {
        Ok((status, _)) if status.success() => Ok(()),
        Ok((status, text)) if status.code() == Some(EXIT_CONFIG.into()) => {
            Err(Refusal::new(EXIT_CONFIG.into(), format!("{text}; correct it and try again; the old supervisor goes on")))
        }
        Ok((status, text)) => Err(refused(&format!("{status} {text}"))),
        Err(text) => Err(refused(&text)),
    }
}

fn refused(text: &str) -> Refusal {
    Refusal::new(6, format!("the new binary was tried and refused: {text}; the old one goes on"))
}

/// Status of a trial and what it said.
async fn end(mut trial: Trial) -> Result<(ExitStatus, String), String> {
    let pid = Pid::from_child(&trial);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| e.to_string())?;
    let ended = tokio::time::timeout(TRIAL_TIMEOUT, Process::new(pid, pidfd, "").ended()).await;
    let late = !matches!(ended, Ok(Ok(())));
    if late {
        trial.kill().map_err(|e| e.to_string())?;
    }
    let status = trial.wait().map_err(|e| e.to_string())?;
    if late {
        return Err(format!("no answer within {} s", Duration::as_secs(&TRIAL_TIMEOUT)));
    }
    let mut text = String::new();
    if let Some(mut errors) = trial.stderr.take() {
        // What it wrote before its end is in the pipe: this does not wait. A helper that it left may hold the pipe open, so not to its end.
        let mut bytes = [0; 4096];
        let count = if status.success() { 0 } else { errors.read(&mut bytes).unwrap_or(0) };
        text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).trim().to_owned();
    }
    Ok((status, text))
}
