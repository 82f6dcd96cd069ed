use std::os::unix::net::UnixListener;
use std::path::Path;

use tokio::sync::watch;
use tonic::Request;
use tonic::service::Routes;
use wk_proto::node::v1 as node;
use wk_proto::worker::v1::user_admin_server::{UserAdmin, UserAdminServer};
use wk_rpc::status::with_code;
use wk_rpc::{ServeOptions, Table, serve};

use super::*;

type Tables = watch::Sender<Arc<Table>>;

/// Two user workers in `dir`, of which `slots` have a share.
fn table(dir: &Path, epoch: u64, slots: &[u32]) -> Arc<Table> {
    let row = |slot: u64| node::Instance {
        name: format!("worker.user@{slot}"),
        generation: 1,
        incarnation: slot + 1,
        state: node::State::Ready.into(),
        link_socket: dir.join(format!("{slot}.sock")).display().to_string(),
        ..node::Instance::default()
    };
    let pool = node::PoolSlots { daemon: "worker.user".into(), slots: slots.to_vec(), ..node::PoolSlots::default() };
    Arc::new(node::Table { epoch, instances: vec![row(0), row(1)], pools: vec![pool], ..node::Table::default() }.into())
}

/// A user worker that refuses users of others, as the real one does.
struct Worker {
    me: InstanceName,
    tables: Arc<Tables>,
    /// The share moves to these slots while the first question is under way.
    moves: Mutex<Option<Arc<Table>>>,
}

#[tonic::async_trait]
impl UserAdmin for Worker {
    async fn online(&self, request: Request<pb::OnlineRequest>) -> Result<Response<pb::OnlineReply>, Status> {
        if let Some(table) = self.moves.lock().take() {
            self.tables.send_replace(table);
        }
        let (table, uids) = (self.tables.borrow().clone(), request.into_inner().uids);
        if uids.iter().any(|uid| table.owner(self.me.daemon, Bucket::of(uid)) != Some(self.me)) {
            return Err(with_code(Code::Fenced, "another worker owns this key"));
        }
        let conn = |uid| pb::OnlineConn { uid, conn: u64::from(self.me.slot), ..pb::OnlineConn::default() };
        Ok(Response::new(pb::OnlineReply { conns: uids.into_iter().map(conn).collect() }))
    }

    async fn set_token(&self, _: Request<pb::SetTokenRequest>) -> Result<Response<pb::SetTokenReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn quit(&self, _: Request<pb::QuitRequest>) -> Result<Response<pb::QuitReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn change(&self, _: Request<pb::ChangeRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

#[tokio::test]
async fn users_of_a_share_that_moves_are_asked_of_their_new_owners() {
    let dir = tempfile::tempdir().expect("a folder");
    let tables = Arc::new(Tables::new(table(dir.path(), 1, &[0])));
    for slot in [0, 1] {
        let me = InstanceName { daemon: Daemon::Worker(Pool::User), slot };
        let moves = Mutex::new((slot == 0).then(|| table(dir.path(), 2, &[0, 1])));
        let worker = Worker { me, tables: Arc::clone(&tables), moves };
        let listener = UnixListener::bind(dir.path().join(format!("{slot}.sock"))).expect("a socket");
        let routes = Routes::new(UserAdminServer::new(worker));
        tokio::spawn(serve(listener, routes, ServeOptions::default(), std::future::pending()));
    }
    let retries = IntCounter::new("retries", "of the test").expect("a counter");
    let owners = Owners::new(TableWatch::from_channel(tables.subscribe()), retries.clone());
    let uids: Vec<String> = (0..100).map(|n| format!("u{n}")).collect();
    let conns = owners.online(uids.clone()).await.expect("every owner answers");
    let mut found: Vec<_> = conns.iter().map(|conn| (conn.uid.clone(), conn.conn)).collect();
    let mut expected: Vec<_> =
        uids.iter().map(|uid| (uid.clone(), u64::from(wk_types::owner_slot(Bucket::of(uid), &[0, 1]).expect("two slots")))).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "each user once, from its owner");
    assert_eq!(retries.get(), 1, "one more round, not one for each pause until the deadline");
}
