//! PING and PONG: what the gateway alone costs.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::LocalSet;
use wk_wire::encode;

use crate::Load;
use crate::client::Client;
use crate::cpu::{Account, process_ns, share};
use crate::report::{Borders, Counts, Report};

pub(crate) async fn run(load: &Load) -> anyhow::Result<Report> {
    let cpu_share = share();
    let (count, stop) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(false)));
    let mut clients = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        clients.push(Client::connect(load.addr, index, &format!("{}{index}", load.prefix), false).await?);
    }
    let local = LocalSet::new();
    let borders = local.run_until(async {
        let mut tasks = tokio::task::JoinSet::new();
        for client in clients {
            tasks.spawn_local(ping(client, Rc::clone(&count), Rc::clone(&stop)));
        }
        tokio::time::sleep(load.time() / 4).await;
        count.set(0);
        let (before, client_before, began) = (Account::read(&load.pids), process_ns(std::process::id()), Instant::now());
        tokio::time::sleep(load.time()).await;
        let elapsed = began.elapsed();
        let messages = count.get();
        let after = Account::read(&load.pids);
        let client_ns = process_ns(std::process::id()) - client_before;
        stop.set(true);
        (Borders { before, after, client_ns, elapsed, cpu_share }, messages)
    });
    let (borders, messages) = borders.await;
    Ok(Report::new("echo", load.connections, 1, Counts { messages, ..Counts::default() }, &borders))
}

async fn ping(mut client: Client, count: Rc<Cell<u64>>, stop: Rc<Cell<bool>>) -> anyhow::Result<()> {
    while !stop.get() {
        encode::ping(&mut client.outbox);
        client.flush().await?;
        client.read(|_, _| Ok(())).await?;
        count.set(count.get() + 1);
    }
    Ok(())
}
