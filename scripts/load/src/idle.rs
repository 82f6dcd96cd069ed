//! Connections that log in and stay silent: how many are held, and what the server's processes spend on them.

use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::Load;
use crate::client::Client;
use crate::cpu::{Account, process_ns, share};
use crate::report::{Borders, Counts, Report};

/// A login that takes longer is refused.
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// Logins under way at the same time.
const LOGINS: usize = 32;

pub(crate) async fn run(load: &Load) -> anyhow::Result<Report> {
    let cpu_share = share();
    let (clients, _) = connect(load).await?;
    let (before, client_before, began) = (Account::read(&load.pids), process_ns(std::process::id()), Instant::now());
    tokio::time::sleep(load.time()).await;
    let after = Account::read(&load.pids);
    let client_ns = process_ns(std::process::id()) - client_before;
    let borders = Borders { before, after, client_ns, elapsed: began.elapsed(), cpu_share };
    let counts = Counts { messages: u64::try_from(clients.len())?, ..Counts::default() };
    Ok(Report::new("idle", clients.len(), 0, counts, &borders))
}

/// Says how many connections there are, holds them until standard input ends and fails when one of them was closed meanwhile.
pub(crate) async fn hold(load: &Load) -> anyhow::Result<()> {
    let (clients, refused) = connect(load).await?;
    let why = refused.map(|err| format!("{err:#}")).unwrap_or_default();
    crate::say(format!("{} {why}", clients.len()).trim());
    let mut input = std::io::stdin();
    // The runtime has nothing else to do: the clients are silent, and the kernel answers for them.
    std::io::copy(&mut input, &mut std::io::sink())?;
    drop(clients);
    Ok(())
}

/// Logs in until all are there or one is refused, and why; the first must succeed.
async fn connect(load: &Load) -> anyhow::Result<(Vec<Client>, Option<anyhow::Error>)> {
    let mut clients = Vec::with_capacity(load.connections);
    let mut logins = futures_util::stream::iter(load.first..load.first + load.connections)
        .map(|index| async move {
            let uid = format!("{}{index}", load.prefix);
            let login = Client::connect(load.addr, index, &uid, load.web_socket);
            tokio::time::timeout(LOGIN_WITHIN, login).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no CONNACK in time")))
        })
        .buffered(LOGINS);
    while let Some(login) = logins.next().await {
        match login {
            Ok(client) => clients.push(client),
            Err(err) if !clients.is_empty() => return Ok((clients, Some(err))),
            Err(err) => return Err(err),
        }
    }
    Ok((clients, None))
}
