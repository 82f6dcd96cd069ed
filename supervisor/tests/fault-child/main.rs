//! A daemon that misbehaves on command. It speaks the whole contract of a daemon (health, lifecycle, admin) and reads its faults from
//! `$WK_FAULTS/<instance>`: words separated by blanks. What it is told goes to `$WK_FAULTS/events`, one line each.
//!
//! | word | effect |
//! |---|---|
//! | `once` | the other words hold for generation 1 only |
//! | `log=TEXT` | writes TEXT (`_` is a blank) to standard error at the start |
//! | `exit=CODE` | ends before it serves anything |
//! | `exit-on-usr1=CODE` | says so and ends with that code on SIGUSR1 |
//! | `crash=MS` | ends with code 1 that long after its activation |
//! | `never-ready` | is activated and says nothing |
//! | `slow-init=MS` | serves nothing before |
//! | `busy=MS` | burns CPU that long before it serves anything |
//! | `hang-on-usr1` | blocks its executor for ever on SIGUSR1 |
//! | `health-closes=MS` | closes its health socket that long after its start, and lives on |
//! | `flood=MIB` | writes that much to standard error at the start |
//! | `unready-after=MS` | ready after its activation, and not any more that long after it |
//! | `ignore-term` | does not end on SIGTERM |
//! | `drain=MS` | takes that long to end |
//! | `wrong-nonce` | answers as somebody else |
//! | `grandchild` | leaves a process in its group behind |
//! | `grandchild-session` | the same, in a session of its own |
//! | `grandchild-hidden` | the same, without our marker in its environment |
//! | `orphan` | starts a process whose parent ends at once and that ends soon after |
//! | `daemonise` | leaves a process behind and ends with 0, before it serves anything |
//! | `writes=PATH` | tries to make that file at the start and says whether it could |
//! | `unsettled=N` | reports work that never ends |

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wk_config::Env;
use wk_lifecycle::NamedFds;
use wk_proto::lifecycle::v1 as pb;
use wk_proto::lifecycle::v1::admin_server::{Admin, AdminServer};
use wk_proto::lifecycle::v1::lifecycle_server::{Lifecycle, LifecycleServer};

#[derive(Clone)]
struct Child {
    instance: String,
    generation: String,
    folder: PathBuf,
    words: Arc<Vec<String>>,
    health: HealthReporter,
    activated: Arc<watch::Sender<bool>>,
}

impl Child {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }

    fn ms(&self, key: &str) -> Option<Duration> {
        self.value(key).map(|v| Duration::from_millis(v.parse().expect("a number of milliseconds")))
    }

    fn event(&self, what: &str) {
        let line = format!("{} {} {what}\n", self.instance, self.generation);
        let file = OpenOptions::new().create(true).append(true).open(self.folder.join("events"));
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the folder of faults can be written");
    }

    fn writes(&self) {
        for path in self.words.iter().filter_map(|w| w.strip_prefix("writes=")) {
            let could = fs::write(path, "x");
            self.event(&format!("writes {path} {}", if could.is_ok() { "done" } else { "refused" }));
        }
    }

    /// Held as long as this process lives. Whoever finds it held tells: two of an instance live at a time.
    fn alone(&self) -> anyhow::Result<fs::File> {
        let file = fs::File::create(self.folder.join(format!("{}.alone", self.instance)))?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            self.event("not alone");
        }
        Ok(file)
    }

    async fn say(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("wk.ready", status).await;
    }

    /// What follows the activation.
    async fn live(&self) {
        let mut activated = self.activated.subscribe();
        activated.wait_for(|a| *a).await.expect("the sender is our own");
        if !self.has("never-ready") {
            self.say(true).await;
        }
        if let Some(after) = self.ms("unready-after") {
            tokio::time::sleep(after).await;
            self.say(false).await;
        }
        if let Some(after) = self.ms("crash") {
            tokio::time::sleep(after).await;
            std::process::exit(1);
        }
    }

    fn start_others(&self) -> anyhow::Result<()> {
        let start = |program: &str, args: &[&str]| anyhow::Ok(std::process::Command::new(program).args(args).spawn()?.id());
        if self.has("grandchild") {
            self.event(&format!("grandchild {}", start("sleep", &["1000"])?));
        }
        if self.has("grandchild-session") {
            self.event(&format!("grandchild {}", start("setsid", &["sleep", "1000"])?));
        }
        if self.has("grandchild-hidden") {
            let hidden = std::process::Command::new("setsid").args(["sleep", "1000"]).env_clear().spawn()?;
            self.event(&format!("grandchild {}", hidden.id()));
        }
        if self.has("orphan") {
            start("sh", &["-c", "(sleep 0.1; exit 3) & exit 0"])?;
        }
        if self.has("daemonise") {
            self.event(&format!("grandchild {}", start("setsid", &["sleep", "1000"])?));
            std::process::exit(0);
        }
        Ok(())
    }

    fn burn(&self) {
        let until = std::time::Instant::now() + self.ms("busy").unwrap_or_default();
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    fn flood(&self) -> anyhow::Result<()> {
        let Some(mib) = self.value("flood") else { return Ok(()) };
        let line = [b'x'; 1023];
        for _ in 0..mib.parse::<u32>()? * 1024 {
            std::io::stderr().write_all(&line)?;
            std::io::stderr().write_all(b"\n")?;
        }
        Ok(())
    }

    async fn health_closes(&self) {
        match self.ms("health-closes") {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    }

    fn hang_on_usr1(&self) -> anyhow::Result<()> {
        if self.has("hang-on-usr1") {
            let mut usr1 = signal(SignalKind::user_defined1())?;
            let child = self.clone();
            tokio::spawn(async move {
                usr1.recv().await;
                child.event("hangs");
                loop {
                    std::thread::park();
                }
            });
        }
        Ok(())
    }

    fn exit_on_usr1(&self) -> anyhow::Result<()> {
        if let Some(code) = self.value("exit-on-usr1") {
            let code: i32 = code.parse()?;
            let mut usr1 = signal(SignalKind::user_defined1())?;
            tokio::spawn(async move {
                usr1.recv().await;
                drop(writeln!(std::io::stderr(), "the last word: {code}"));
                std::process::exit(code);
            });
        }
        Ok(())
    }

    async fn ended(&self) {
        let mut term = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
        while term.recv().await.is_some() {
            self.event("term");
            if !self.has("ignore-term") {
                break;
            }
        }
        self.say(false).await;
        tokio::time::sleep(self.ms("drain").unwrap_or_default()).await;
        self.event("end");
    }
}

#[tonic::async_trait]
impl Lifecycle for Child {
    async fn activate(&self, _: Request<pb::ActivateRequest>) -> Result<Response<pb::ActivateReply>, Status> {
        self.event("activate");
        self.activated.send_replace(true);
        Ok(Response::new(pb::ActivateReply {}))
    }

    async fn admit(&self, _: Request<pb::AdmitRequest>) -> Result<Response<pb::AdmitReply>, Status> {
        self.event("admit");
        Ok(Response::new(pb::AdmitReply {}))
    }

    async fn stop_accept(&self, _: Request<pb::StopAcceptRequest>) -> Result<Response<pb::StopAcceptReply>, Status> {
        Ok(Response::new(pb::StopAcceptReply {}))
    }

    async fn quiesce(&self, _: Request<pb::QuiesceRequest>) -> Result<Response<pb::QuiesceReply>, Status> {
        self.event("quiesce");
        Ok(Response::new(pb::QuiesceReply {}))
    }

    async fn in_flight(&self, _: Request<pb::InFlightRequest>) -> Result<Response<pb::InFlightReply>, Status> {
        let unsettled = self.value("unsettled").map_or(0, |v| v.parse().expect("a number"));
        Ok(Response::new(pb::InFlightReply { unsettled, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl Admin for Child {
    async fn metrics(&self, _: Request<pb::MetricsRequest>) -> Result<Response<pb::MetricsReply>, Status> {
        Ok(Response::new(pb::MetricsReply { text: "# HELP fault_up Text.\n# TYPE fault_up gauge\nfault_up 1\n".into() }))
    }

    async fn components(&self, _: Request<pb::ComponentsRequest>) -> Result<Response<pb::ComponentsReply>, Status> {
        let components = vec![pb::Component { name: "wk.fault.part".into(), serving: true }];
        Ok(Response::new(pb::ComponentsReply { components }))
    }

    async fn set_log_filter(&self, _: Request<pb::SetLogFilterRequest>) -> Result<Response<pb::SetLogFilterReply>, Status> {
        Ok(Response::new(pb::SetLogFilterReply {}))
    }
}

fn words(folder: &std::path::Path, instance: &str, generation: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join(instance)).unwrap_or_default();
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if words.iter().any(|w| w == "once") && generation != "1" { Vec::new() } else { words }
}

fn main() -> anyhow::Result<()> {
    let env = Env::process();
    let var = |name: &str| env.get(name).map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{name} is missing"));
    let mut fds = NamedFds::inherit(&var("WK_LISTEN_FDS")?, &var("WK_LISTEN_FDNAMES")?)?;
    let identity = var("WK_INSTANCE")?;
    let mut parts = identity.split('/').map(str::to_owned);
    let (instance, generation) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let incarnation = u64::from_str_radix(&parts.next().unwrap_or_default(), 16)?;
    let node_sock = PathBuf::from(var("WK_RUNTIME")?).join(wk_rpc::table::NODE_SOCKET);
    let folder = PathBuf::from(var("WK_FAULTS")?);
    let words = words(&folder, &instance, &generation);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // It has no links, so it meets every epoch as soon as it hears of it.
        let _table = wk_rpc::table::watch(node_sock, &instance, incarnation);
        let (health, health_service) = tonic_health::server::health_reporter();
        let child = Child { instance, generation, folder, words: Arc::new(words), health, activated: Arc::new(watch::channel(false).0) };
        child.event(&format!("spawn {} {}", std::process::id(), var("WK_LISTEN_FDNAMES")?));
        let _alone = child.alone()?;
        if let Some(text) = child.value("log") {
            writeln!(std::io::stderr(), "{}", text.replace('_', " "))?;
        }
        child.writes();
        if let Some(code) = child.value("exit") {
            std::process::exit(code.parse()?);
        }
        child.flood()?;
        child.start_others()?;
        child.burn();
        child.hang_on_usr1()?;
        tokio::time::sleep(child.ms("slow-init").unwrap_or_default()).await;
        child.say(false).await;
        child.health.set_service_status("wk.live", ServingStatus::Serving).await;
        let identity = if child.has("wrong-nonce") { "somebody/1/else".to_owned() } else { identity };
        let routes =
            Routes::new(health_service).add_service(LifecycleServer::new(child.clone())).add_service(AdminServer::new(child.clone()));
        let listener = fds.take("health").ok_or_else(|| anyhow::anyhow!("no health listener"))?;
        child.exit_on_usr1()?;
        let options = wk_rpc::ServeOptions { identity: Some(identity) };
        let serve = wk_rpc::serve(listener.into(), routes, options, std::future::pending());
        let serve = async {
            tokio::select! {
                served = serve => served,
                () = child.health_closes() => {
                    // All its connections: those have tasks of their own.
                    for fd in 3..1024 {
                        let name = nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(fd);
                        if name.is_ok_and(|n| n.path().is_some_and(|p| p.components().any(|c| c.as_os_str() == "h"))) {
                            nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both).unwrap_or_default();
                        }
                    }
                    std::future::pending().await
                }
            }
        };
        let live = async {
            child.live().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serve => served.map_err(Into::into),
            () = live => Ok(()),
            () = child.ended() => Ok(()),
        }
    })
}
