//! One group: the first member sends with a few under way, all others receive and acknowledge. Counted are deliveries.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::LocalSet;
use wk_types::ChannelType;
use wk_wire::{Recvack, ServerFrame, encode};

use crate::Load;
use crate::client::{Client, VERSION};
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
        let mut clients = clients.into_iter();
        if let Some(sender) = clients.next() {
            tasks.spawn_local(talk(sender, load.clone(), Rc::clone(&stop)));
        }
        for client in clients {
            tasks.spawn_local(listen(client, Rc::clone(&count), Rc::clone(&stop)));
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
    Ok(Report::new("fanout", load.connections, load.in_flight, Counts { messages, ..Counts::default() }, &borders))
}

async fn talk(mut client: Client, load: Load, stop: Rc<Cell<bool>>) -> anyhow::Result<()> {
    let payload = vec![b'x'; load.payload];
    let (mut under_way, mut n) = (0_usize, 0_u64);
    while !stop.get() {
        while under_way < load.in_flight {
            n += 1;
            client.queue_send(&load.group, ChannelType::GROUP, &format!("{}-{n}", load.prefix), &payload)?;
            under_way += 1;
        }
        client.flush().await?;
        client
            .read(|frame, _| {
                under_way -= usize::from(matches!(frame, ServerFrame::Sendack(_)));
                Ok(())
            })
            .await?;
    }
    Ok(())
}

async fn listen(mut client: Client, count: Rc<Cell<u64>>, stop: Rc<Cell<bool>>) -> anyhow::Result<()> {
    while !stop.get() {
        client
            .read(|frame, out| {
                if let ServerFrame::Recv(recv) = frame {
                    count.set(count.get() + 1);
                    let receipt = Recvack { flags: recv.flags, message_id: recv.message_id, message_seq: recv.message_seq };
                    encode::recvack(out, &receipt, VERSION);
                }
                Ok(())
            })
            .await?;
        client.flush().await?;
    }
    Ok(())
}
