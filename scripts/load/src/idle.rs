//! Connections that log in and stay silent: how many are held, and what the server's processes spend on them.

use std::time::Instant;

use crate::Load;
use crate::client::Client;
use crate::cpu::{Account, process_ns, share};
use crate::report::{Borders, Counts, Report};

pub(crate) async fn run(load: &Load) -> anyhow::Result<Report> {
    let cpu_share = share();
    let mut clients = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        match Client::connect(load.addr, index, &format!("{}{index}", load.prefix)).await {
            Ok(client) => clients.push(client),
            Err(_) if index > 0 => break,
            Err(err) => return Err(err),
        }
    }
    let (before, client_before, began) = (Account::read(&load.pids), process_ns(std::process::id()), Instant::now());
    tokio::time::sleep(load.time()).await;
    let after = Account::read(&load.pids);
    let client_ns = process_ns(std::process::id()) - client_before;
    let borders = Borders { before, after, client_ns, elapsed: began.elapsed(), cpu_share };
    let counts = Counts { messages: u64::try_from(clients.len())?, ..Counts::default() };
    Ok(Report::new("idle", clients.len(), 0, counts, &borders))
}
