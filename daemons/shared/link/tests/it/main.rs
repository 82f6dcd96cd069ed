//! Links over real sockets: order, replay to a new life, resume, preamble, poison, windows of one.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_link::blackbox::BlackBox;
use wk_link::ring::Window;
use wk_link::{Delivery, Handler, Keep, Kind, LinkHooks, LinkServer, LinkSet, LinkSetConfig, Peer, PeerEvent, Preamble, Quarantine};
use wk_proto::node::v1 as pb;
use wk_rpc::{Table, TableWatch};
use wk_types::{Bucket, Daemon, InstanceName, Pool};

const RECEIVER: Daemon = Daemon::Worker(Pool::User);

fn bucket() -> Bucket {
    Bucket::from_index(7).expect("in range")
}

/// What one life of the receiver saw.
#[derive(Default)]
struct Seen {
    items: Mutex<Vec<(Peer, Delivery)>>,
    events: Mutex<Vec<PeerEvent>>,
    changed: Notify,
}

impl Handler for Seen {
    fn deliver(&self, peer: &Peer, items: Vec<Delivery>) {
        self.items.lock().extend(items.into_iter().map(|i| (peer.clone(), i)));
        self.changed.notify_one();
    }

    fn peer(&self, _: &Peer, event: PeerEvent) {
        self.events.lock().push(event);
    }
}

impl Seen {
    async fn wait(&self, count: usize) {
        let wait = async {
            while self.items.lock().len() < count {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("items arrive");
    }

    fn bodies(&self) -> Vec<u8> {
        self.items.lock().iter().map(|(_, i)| i.body.first().copied().unwrap_or_default()).collect()
    }
}

/// A receiver process in miniature: one incarnation on one socket, with a runtime of its own so that its end closes everything.
struct Life {
    seen: Arc<Seen>,
    black_box: BlackBox,
    server: LinkServer,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    row: pb::Instance,
}

impl Life {
    fn start(dir: &Path, incarnation: u64) -> Self {
        let name = InstanceName { daemon: RECEIVER, slot: 0 };
        let socket = dir.join(format!("s{incarnation}"));
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        listener.set_nonblocking(true).expect("non-blocking");
        let seen = Arc::new(Seen::default());
        let (black_box, past) = BlackBox::open(&dir.join("box")).expect("a file");
        let server = LinkServer::after(name, incarnation, seen.clone(), past);
        let service = server.clone().into_service();
        let stop = CancellationToken::new();
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(UnixListener::from_std(listener).expect("listener"));
                let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
                tokio::select! {
                    end = serving => end.expect("serves"),
                    () = until.cancelled() => {}
                }
            });
        });
        let row = pb::Instance {
            name: name.to_string(),
            generation: incarnation,
            incarnation,
            state: pb::State::Ready.into(),
            link_socket: socket.display().to_string(),
            health_socket: String::new(),
            pid: 1,
        };
        Self { seen, black_box, server, stop, thread: Some(thread), row }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the life ends well");
        }
    }
}

struct Greeting;

impl Preamble for Greeting {
    fn items(&self, _: u16) -> Vec<(Kind, Bucket, Bytes)> {
        vec![(Kind::SnapshotBegin, bucket(), Bytes::from_static(b"<")), (Kind::SnapshotEnd, bucket(), Bytes::from_static(b">"))]
    }
}

/// The sending side with a table that the test writes.
struct Sender {
    links: LinkSet,
    table: watch::Sender<Arc<Table>>,
    done: Arc<Mutex<Vec<u64>>>,
    poisoned: Arc<Mutex<Vec<u64>>>,
    told: Arc<Notify>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Sender {
    fn start(window: Window) -> Self {
        let (table, rx) = watch::channel(Arc::new(Table::default()));
        let (done, poisoned) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (told, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let me = InstanceName { daemon: Daemon::Gateway, slot: 0 };
        let config = LinkSetConfig { window, ..LinkSetConfig::new(RECEIVER, me, 99) };
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join(format!("quarantine/{me}.jsonl"));
        let (d, p, t, t2) = (Arc::clone(&done), Arc::clone(&poisoned), Arc::clone(&told), Arc::clone(&told));
        let links = LinkSet::start(
            config,
            TableWatch::from_channel(rx),
            LinkHooks {
                preamble: Some(Arc::new(Greeting)),
                on_done: Arc::new(move |tokens| {
                    d.lock().extend(tokens);
                    t.notify_one();
                }),
                quarantine: Some(Quarantine::new(dir.path(), me)),
                on_lost: None,
                on_poison: Arc::new(move |item| {
                    assert_eq!(std::fs::read_to_string(&file).expect("it is kept first").lines().count(), 1);
                    p.lock().push(item.token);
                    t2.notify_one();
                }),
            },
            &TaskTracker::new(),
            stop.clone(),
        );
        Self { links, table, done, poisoned, told, stop, _dir: dir }
    }

    fn publish(&self, row: &pb::Instance) {
        let pools = vec![pb::PoolSlots { daemon: RECEIVER.to_string(), slots: vec![0], ..Default::default() }];
        let table = pb::Table { epoch: row.generation, node_id: 1, instances: vec![row.clone()], pools, ..pb::Table::default() };
        self.table.send_replace(Arc::new(table.into()));
    }

    fn push(&self, n: u8, keep: Keep) {
        self.links.push(bucket(), Kind::Send, Bytes::copy_from_slice(&[n]), keep, u64::from(n));
    }

    async fn wait(&self, mut ready: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !ready(self) {
                self.told.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the sender hears of it");
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_new_life_gets_the_preamble_then_what_is_unsettled_then_what_is_new() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let sender = Sender::start(Window::default());
    for n in 1..=3 {
        sender.push(n, Keep::UntilSettled);
    }
    let first = Life::start(dir.path(), 1);
    sender.publish(&first.row);
    first.seen.wait(5).await;
    assert_eq!(first.seen.bodies(), [b'<', b'>', 1, 2, 3]);
    let (peer, item) = first.seen.items.lock()[3].clone();
    peer.settle(item.position);
    sender.wait(|s| *s.done.lock() == [2]).await;
    drop(first);

    sender.push(4, Keep::UntilSettled);
    let second = Life::start(dir.path(), 2);
    sender.publish(&second.row);
    for count in 3..=5 {
        second.seen.wait(count).await;
        let (peer, item) = second.seen.items.lock()[count - 1].clone();
        assert!(item.replay || item.body[0] == 4, "4 may have been sent into the dying stream");
        peer.settle(item.position);
    }
    assert_eq!(second.seen.bodies(), [b'<', b'>', 1, 3, 4]);
    sender.wait(|s| s.done.lock().len() == 4 && s.links.owed() == 0).await;
    assert_eq!(sender.links.unsettled(), 0);
}

#[tokio::test]
async fn two_deaths_take_the_item_out_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let sender = Sender::start(Window::default());
    sender.push(1, Keep::UntilSettled);
    sender.push(2, Keep::UntilSettled);
    sender.push(9, Keep::UntilReceived);
    let first = Life::start(dir.path(), 1);
    sender.publish(&first.row);
    // Only what is known as received counts as held: the soft item behind the others tells.
    sender.wait(|s| *s.done.lock() == [9]).await;
    drop(first);
    sender.push(8, Keep::UntilReceived);
    let second = Life::start(dir.path(), 2);
    sender.publish(&second.row);
    second.seen.wait(4).await;
    assert_eq!(second.seen.bodies()[..4], [b'<', b'>', 1, 2], "what was held goes at once");
    let (peer, item) = second.seen.items.lock()[2].clone();
    second.black_box.handling(peer.instance(), peer.incarnation(), item.position);
    drop(second);
    let third = Life::start(dir.path(), 3);
    sender.publish(&third.row);
    sender.wait(|s| !s.poisoned.lock().is_empty()).await;
    assert_eq!(*sender.poisoned.lock(), [1]);
    third.seen.wait(3).await;
    assert_eq!(third.seen.bodies()[2], 2);
    third.black_box.drained();
    drop(third);
    let fourth = Life::start(dir.path(), 4);
    sender.publish(&fourth.row);
    fourth.seen.wait(3).await;
    assert_eq!(fourth.seen.bodies()[2], 2, "held at two deaths and a drain");
}

#[tokio::test]
async fn windows_of_one_keep_order_and_lose_nothing() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let sender = Sender::start(Window { batches: 1, items: 1 });
    let life = Life::start(dir.path(), 1);
    sender.publish(&life.row);
    for n in 1..=200 {
        sender.push(n, if n % 2 == 0 { Keep::UntilSettled } else { Keep::UntilReceived });
    }
    life.seen.wait(202).await;
    let all = life.seen.items.lock().clone();
    assert!(all.iter().skip(2).map(|(_, i)| u64::from(i.body[0])).eq(1..=200));
    for (peer, item) in all {
        peer.settle(item.position);
    }
    sender.wait(|s| s.done.lock().len() == 200 && s.links.owed() == 0).await;
}

#[tokio::test]
async fn deaths_of_another_senders_item_condemn_nothing() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let sender = Sender::start(Window::default());
    sender.push(1, Keep::UntilSettled);
    for incarnation in 1..=5 {
        let life = Life::start(dir.path(), incarnation);
        sender.publish(&life.row);
        life.seen.wait(3).await;
        assert_eq!(life.seen.bodies()[2], 1);
        life.black_box.handling(InstanceName { daemon: Daemon::Api, slot: 0 }, 7, 12);
    }
    assert!(sender.poisoned.lock().is_empty());
}

#[tokio::test]
async fn what_a_drain_has_settled_is_heard_of_before_the_process_ends() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let sender = Sender::start(Window::default());
    for incarnation in 1..=20 {
        let life = Life::start(dir.path(), incarnation);
        sender.publish(&life.row);
        for n in 1..=100 {
            sender.push(n, Keep::UntilSettled);
        }
        life.seen.wait(102).await;
        let all = life.seen.items.lock().clone();
        assert!(all.iter().skip(2).all(|(_, item)| !item.replay), "the life before had settled everything of its own");
        for (peer, item) in all {
            peer.settle(item.position);
        }
        life.server.close(Duration::from_secs(10)).await;
        // What comes from now on is not received any more, and is not lost.
        assert_eq!(sender.links.unsettled(), 0);
    }
}
