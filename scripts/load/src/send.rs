//! Pairs of users: each sends to its peer with a fixed number under way, acknowledges what it receives, and times SEND to SENDACK.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::LocalSet;
use wk_types::ChannelType;
use wk_wire::{Recvack, ServerFrame, encode};

use crate::Load;
use crate::client::{Client, VERSION};
use crate::cpu::{Account, process_ns, share};
use crate::report::{Borders, Counts, Report};

/// Runs before the measured time begins, so that channels are open and caches warm. Unit: part of the measured time.
const WARM_UP_PART: u32 = 4;

#[derive(Default)]
struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    counts: RefCell<Counts>,
}

pub(crate) async fn run(load: &Load) -> anyhow::Result<Report> {
    let cpu_share = share();
    let shared = Rc::new(Shared::default());
    let mut clients = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        clients.push(Client::connect(load.addr, index, &format!("{}{index}", load.prefix)).await?);
    }
    let local = LocalSet::new();
    let pairs = local.run_until(async {
        let mut tasks = tokio::task::JoinSet::new();
        for (index, client) in clients.into_iter().enumerate() {
            let peer = format!("{}{}", load.prefix, index ^ 1);
            tasks.spawn_local(user(client, index, peer, load.clone(), Rc::clone(&shared)));
        }
        tokio::time::sleep(load.time() / WARM_UP_PART).await;
        shared.measuring.set(true);
        let (before, client_before, began) = (Account::read(&load.pids), process_ns(std::process::id()), Instant::now());
        tokio::time::sleep(load.time()).await;
        shared.measuring.set(false);
        let elapsed = began.elapsed();
        let after = Account::read(&load.pids);
        let client_ns = process_ns(std::process::id()) - client_before;
        shared.stop.set(true);
        let borders = Borders { before, after, client_ns, elapsed, cpu_share };
        while let Some(task) = tasks.try_join_next() {
            task??;
        }
        anyhow::Ok(borders)
    });
    let borders = pairs.await?;
    let counts = shared.counts.take();
    Ok(Report::new("send", load.connections, load.in_flight, counts, &borders))
}

async fn user(mut client: Client, index: usize, peer: String, load: Load, shared: Rc<Shared>) -> anyhow::Result<()> {
    let payload = vec![b'x'; load.payload];
    let mut under_way: VecDeque<(u32, Instant)> = VecDeque::new();
    let mut n = 0_u64;
    while !shared.stop.get() {
        while under_way.len() < load.in_flight {
            n += 1;
            let seq = client.queue_send(&peer, ChannelType::PERSON, &format!("{}-{index}-{n}", load.prefix), &payload)?;
            under_way.push_back((seq, Instant::now()));
        }
        client.flush().await?;
        client
            .read(|frame, out| {
                match frame {
                    ServerFrame::Sendack(ack) => {
                        let at = under_way.iter().position(|(seq, _)| *seq == ack.client_seq);
                        if let Some((_, began)) = at.and_then(|at| under_way.remove(at))
                            && shared.measuring.get()
                        {
                            let mut counts = shared.counts.borrow_mut();
                            counts.messages += u64::from(ack.reason.is_success());
                            counts.refused += u64::from(!ack.reason.is_success());
                            counts.latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                        }
                    }
                    ServerFrame::Recv(recv) => {
                        let receipt = Recvack { flags: recv.flags, message_id: recv.message_id, message_seq: recv.message_seq };
                        encode::recvack(out, &receipt, VERSION);
                    }
                    _ => {}
                }
                Ok(())
            })
            .await?;
    }
    Ok(())
}
