//! Pairs of users: each sends to its peer with a fixed number under way, acknowledges what it receives, and times SEND to SENDACK.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use anyhow::bail;
use tokio::sync::Notify;
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
    /// As many messages as wanted are acknowledged.
    enough: Notify,
    counts: RefCell<Counts>,
}

pub(crate) async fn run(load: &Load) -> anyhow::Result<Report> {
    let cpu_share = share();
    let shared = Rc::new(Shared::default());
    let mut clients = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        clients.push(Client::connect(load.addr, index, &format!("{}{index}", load.prefix), false).await?);
    }
    let local = LocalSet::new();
    let pairs = local.run_until(async {
        let mut tasks = tokio::task::JoinSet::new();
        for (index, client) in clients.into_iter().enumerate() {
            tasks.spawn_local(user(client, index, load.clone(), Rc::clone(&shared)));
        }
        if load.messages == 0 {
            tokio::time::sleep(load.time() / WARM_UP_PART).await;
        }
        shared.measuring.set(true);
        let (before, client_before, began) = (Account::read(&load.pids), process_ns(std::process::id()), Instant::now());
        if load.messages == 0 {
            tokio::time::sleep(load.time()).await;
        } else {
            shared.enough.notified().await;
        }
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
    // A pair is a SEND with its SENDACK and a RECV with its RECVACK: without the second half the numbers mean something else.
    if counts.received * 10 < counts.messages * 9 {
        bail!("{} messages were acknowledged, but only {} received", counts.messages, counts.received);
    }
    Ok(Report::new("send", load.connections, load.in_flight, counts, &borders))
}

/// Whom user `index` writes to with message `n`: its partner, or `peers` neighbours on each side in turn, so that two write to each channel.
fn peer(load: &Load, index: usize, n: u64) -> usize {
    let (all, peers) = (load.connections, load.peers);
    if peers == 0 {
        return index ^ 1;
    }
    let turn = usize::try_from(n).unwrap_or(0) % (2 * peers);
    let step = turn / 2 + 1;
    if turn.is_multiple_of(2) { (index + step) % all } else { (index + all - step % all) % all }
}

async fn user(mut client: Client, index: usize, load: Load, shared: Rc<Shared>) -> anyhow::Result<()> {
    let in_flight = if load.senders == 0 || index < load.senders { load.in_flight } else { 0 };
    let payload = vec![b'x'; load.payload];
    let mut under_way: VecDeque<(u32, Instant)> = VecDeque::new();
    let mut n = 0_u64;
    // A later run with the same prefix sends new messages, not the same ones again.
    let life = std::process::id();
    while !shared.stop.get() {
        while under_way.len() < in_flight {
            n += 1;
            let peer = format!("{}{}", load.prefix, peer(&load, index, n));
            let seq = client.queue_send(&peer, ChannelType::PERSON, &format!("{life:x}-{index}-{n}"), &payload)?;
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
                            if load.messages != 0 && counts.messages >= load.messages {
                                shared.enough.notify_one();
                            }
                            counts.latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                        }
                    }
                    ServerFrame::Recv(recv) => {
                        shared.counts.borrow_mut().received += u64::from(shared.measuring.get());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        load: Load,
    }

    #[test]
    fn peers_make_as_many_channels_as_they_should() {
        let load = Cli::parse_from(["x", "--addr", "127.0.0.1:1", "--connections", "20", "--peers", "3"]).load;
        let pairs: BTreeSet<(usize, usize)> = (0..20)
            .flat_map(|index| (1..=6).map(move |n| (index, n)))
            .map(|(index, n)| (index, peer(&load, index, n)))
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        assert_eq!(pairs.len(), 60);
        assert!(pairs.iter().all(|(a, b)| a != b));
        let pair = Load { peers: 0, ..load };
        assert_eq!((peer(&pair, 4, 9), peer(&pair, 5, 9)), (5, 4));
    }
}
