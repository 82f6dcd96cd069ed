//! The child of `cargo xtask bench supervisor`: its first act is to tell when it began.
//!
//! Below `wksupervisor` it is the smallest daemon that gets ready: health and lifecycle on its health socket. Below any other supervisor
//! (no `WK_INSTANCE`) it does nothing but wait for a signal. As a client of the control socket it measures instead:
//! `wk-bench-child status SOCKET CALLS` prints the latencies of so many calls, one a line; `wk-bench-child stop|start SOCKET NAME...` does
//! that to these daemons and prints when it asked. Unit: ns.
//!
//! What it tells are datagrams `began|serving NAME PID NS`, where NS is `CLOCK_MONOTONIC`, to the socket `.stamps` in the folder of the
//! node, or beside the service's own folder.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use wk_config::Env;
use wk_lifecycle::NamedFds;
use wk_proto::lifecycle::v1 as pb;
use wk_proto::lifecycle::v1::lifecycle_server::{Lifecycle, LifecycleServer};
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;
use wk_proto::supervisor::v1::{OpRequest, StatusRequest, op_event};

const STAMPS: &str = ".stamps";
/// Calls before those that count.
const WARM_UP: usize = 20;

fn main() -> anyhow::Result<()> {
    let began = began()?;
    let env = Env::process();
    match (env.get("WK_INSTANCE"), std::env::args().nth(1).as_deref()) {
        (Some(identity), _) => daemon(&env, identity, began),
        (None, Some("status")) => status(),
        (None, Some(what @ ("start" | "stop"))) => order(what == "start"),
        (None, _) => plain(began),
    }
}

/// When the first instruction ran: `first.S` says so in the place of our name. Built without it, it is now.
fn began() -> anyhow::Result<Duration> {
    match std::env::args().next().and_then(|name| name.parse().ok()) {
        Some(ns) => Ok(Duration::from_nanos(ns)),
        None => Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into()),
    }
}

/// Tells who is meant to listen; a node that is not measured has nobody.
#[derive(Debug, Clone)]
struct Stamps {
    socket: PathBuf,
    name: String,
}

impl Stamps {
    fn tell(&self, what: &str, at: Duration) -> anyhow::Result<()> {
        let text = format!("{what} {} {} {}", self.name, std::process::id(), at.as_nanos());
        UnixDatagram::unbound()?.send_to(text.as_bytes(), &self.socket).with_context(|| self.socket.display().to_string())?;
        Ok(())
    }
}

/// Default actions for all signals, nothing to do.
fn plain(began: Duration) -> anyhow::Result<()> {
    let folder = std::env::current_dir()?;
    let name = folder.file_name().context("a service has a folder")?.to_string_lossy().into_owned();
    let socket = folder.parent().unwrap_or(Path::new("/")).join(STAMPS);
    Stamps { socket, name }.tell("began", began)?;
    loop {
        nix::unistd::pause();
    }
}

struct Child {
    active: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Lifecycle for Child {
    async fn activate(&self, _: Request<pb::ActivateRequest>) -> Result<Response<pb::ActivateReply>, Status> {
        self.active.send_replace(true);
        Ok(Response::new(pb::ActivateReply {}))
    }

    async fn admit(&self, _: Request<pb::AdmitRequest>) -> Result<Response<pb::AdmitReply>, Status> {
        Ok(Response::new(pb::AdmitReply {}))
    }

    async fn stop_accept(&self, _: Request<pb::StopAcceptRequest>) -> Result<Response<pb::StopAcceptReply>, Status> {
        Ok(Response::new(pb::StopAcceptReply {}))
    }

    async fn quiesce(&self, _: Request<pb::QuiesceRequest>) -> Result<Response<pb::QuiesceReply>, Status> {
        Ok(Response::new(pb::QuiesceReply {}))
    }

    async fn in_flight(&self, _: Request<pb::InFlightRequest>) -> Result<Response<pb::InFlightReply>, Status> {
        Ok(Response::new(pb::InFlightReply::default()))
    }
}

/// Ready as soon as it is told to be; ended by the default action of SIGTERM.
fn daemon(env: &Env, identity: &str, began: Duration) -> anyhow::Result<()> {
    let var = |name: &str| env.get(name).with_context(|| format!("{name} is missing"));
    let name = identity.split('/').next().unwrap_or_default().to_owned();
    let stamps = Stamps { socket: Path::new(var("WK_RUNTIME")?).join(STAMPS), name };
    stamps.tell("began", began)?;
    let mut fds = NamedFds::inherit(var("WK_LISTEN_FDS")?, var("WK_LISTEN_FDNAMES")?)?;
    let listener = fds.take("health").context("no health listener")?;
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let (health, service) = tonic_health::server::health_reporter();
        health.set_service_status("wk.ready", ServingStatus::NotServing).await;
        health.set_service_status("wk.live", ServingStatus::Serving).await;
        let (active, mut activated) = watch::channel(false);
        let routes = Routes::new(service).add_service(LifecycleServer::new(Child { active }));
        let options = wk_rpc::ServeOptions { identity: Some(identity.to_owned()) };
        let serve = wk_rpc::serve(listener.into(), routes, options, std::future::pending());
        let ready = async {
            activated.wait_for(|a| *a).await?;
            let at = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            health.set_service_status("wk.ready", ServingStatus::Serving).await;
            stamps.tell("serving", at.into())
        };
        let (served, told) = tokio::join!(serve, ready);
        told?;
        Ok(served?)
    })
}

/// Calls `Status` one after the other on one connection.
fn status() -> anyhow::Result<()> {
    let (Some(socket), Some(calls)) = (std::env::args().nth(2), std::env::args().nth(3)) else { anyhow::bail!("status SOCKET CALLS") };
    let calls: usize = calls.parse()?;
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let mut client = SupervisorClient::new(wk_rpc::dial(socket).await?);
        let mut times = Vec::with_capacity(calls);
        for call in 0..WARM_UP + calls {
            let began = Instant::now();
            client.status(StatusRequest::default()).await?;
            if call >= WARM_UP {
                times.push(began.elapsed().as_nanos());
            }
        }
        let text: String = times.iter().map(|t| format!("{t}\n")).collect();
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    })
}

/// One operation, to its end.
fn order(start: bool) -> anyhow::Result<()> {
    let socket = std::env::args().nth(2).context("start|stop SOCKET NAME...")?;
    let names = std::env::args().skip(3).collect();
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let mut client = SupervisorClient::new(wk_rpc::dial(socket).await?);
        let request = OpRequest { names, ..OpRequest::default() };
        let asked = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        let answer = if start { client.start(request).await } else { client.stop(request).await };
        let mut events = answer?.into_inner();
        writeln!(std::io::stdout(), "{}", asked.as_nanos())?;
        while let Some(event) = events.message().await? {
            if let Some(op_event::End::Done(end)) = event.end {
                anyhow::ensure!(end.code == 0, "{} ({})", end.message, end.code);
            }
        }
        Ok(())
    })
}
