//! New connections while gateway and api are replaced again and again: the sockets are the supervisor's, nobody is refused.
//!
//! `WK_ROLLS` and `WK_ROLL_RATE` (connections a second) make it longer and harder by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use wk_testkit::PATIENCE;
use wk_testkit::client::{Client, Login};
use wk_testkit::node::{Node, Options};

const ROLLS: u32 = 4;
const RATE: u32 = 200;

/// What became of the connections to one port.
#[derive(Debug, Default)]
struct Tally {
    served: u32,
    slowest: Duration,
    failed: Vec<String>,
}

type Shared = Arc<Mutex<Tally>>;

#[tokio::test]
async fn no_connection_is_refused_while_gateway_and_api_are_replaced() -> anyhow::Result<()> {
    let (rolls, rate) = (number("WK_ROLLS", ROLLS), number("WK_ROLL_RATE", RATE));
    let mut node = Node::start(&Options::default()).await?;
    let (tcp, http) = (node.tcp().await?, node.address("api").await?.parse()?);
    let (clients, callers) = (Shared::default(), Shared::default());
    let stop = Arc::new(Notify::new());
    let load = tokio::spawn(arrive(rate, Arc::clone(&stop), tcp, http, (Arc::clone(&clients), Arc::clone(&callers))));
    for _ in 0..rolls {
        for daemon in ["gateway", "api"] {
            node.must_wkctl(&["restart", daemon]).await?;
            served_again(&clients).await?;
            served_again(&callers).await?;
        }
    }
    stop.notify_one();
    load.await?;
    for (port, tally) in [("tcp", clients), ("api", callers)] {
        let tally = tally.lock();
        println!("{port}: {} served, slowest {:?}, {} failed", tally.served, tally.slowest, tally.failed.len());
        assert_eq!(tally.failed, Vec::<String>::new(), "{port}\n{}", node.story());
        assert!(tally.served > rolls, "{port}: nobody came");
    }
    assert_eq!(node.stop().await?, Some(0), "{}", node.story());
    Ok(())
}

fn number(name: &str, default: u32) -> u32 {
    wk_config::Env::process().get(name).and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Waits until someone who came after this moment was served.
async fn served_again(tally: &Shared) -> anyhow::Result<()> {
    let before = tally.lock().served;
    let mut look = interval(Duration::from_millis(10));
    let served = async {
        while tally.lock().served == before {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.context("nobody is served any more")
}

/// Connections to both ports in turn, `rate` a second in all, each in a task of its own; ends when all are answered.
async fn arrive(rate: u32, stop: Arc<Notify>, tcp: SocketAddr, http: SocketAddr, (clients, callers): (Shared, Shared)) {
    let mut clock = interval(Duration::from_secs(1) / rate);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    for n in 0_u64.. {
        tokio::select! {
            _ = clock.tick() => {}
            () = stop.notified() => break,
        }
        let tally = Arc::clone(if n % 2 == 0 { &clients } else { &callers });
        open.spawn(async move {
            let began = Instant::now();
            let outcome = if n % 2 == 0 { log_in(tcp, n).await } else { ask(http).await };
            let mut tally = tally.lock();
            match outcome {
                Ok(()) => tally.served += 1,
                Err(err) => tally.failed.push(format!("number {n} after {:?}: {err:#}", began.elapsed())),
            }
            tally.slowest = tally.slowest.max(began.elapsed());
        });
        while open.try_join_next().is_some() {}
    }
    open.join_all().await;
}

async fn log_in(tcp: SocketAddr, n: u64) -> anyhow::Result<()> {
    Client::connect(tcp, &Login::new(&format!("caller{n}"))).await.map(drop)
}

async fn ask(http: SocketAddr) -> anyhow::Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(http).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200 "), "answer {answer:?}");
        Ok(())
    };
    tokio::time::timeout(PATIENCE, exchange).await?
}
