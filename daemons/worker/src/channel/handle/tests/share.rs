//! Buckets that come, go and are fenced.

use wk_proto::node::v1 as node;

use super::*;

/// A table in which a pool has `slots`, and `next` after a move.
fn table(pool: &str, slots: &[u32], next: &[u32], held: bool) -> wk_rpc::Table {
    let share = |daemon: &str| node::PoolSlots { daemon: daemon.into(), slots: vec![0], ..node::PoolSlots::default() };
    let mut pools = vec![share("worker.channel"), share("worker.push")];
    pools.retain(|p| p.daemon != pool);
    pools.push(node::PoolSlots { daemon: pool.into(), slots: slots.to_vec(), next: next.to_vec(), held });
    node::Table { epoch: 1, pools, ..node::Table::default() }.into()
}

/// A group whose bucket the worker of slot 0 loses to slot 1.
fn moving() -> String {
    let moves = |id: &String| wk_types::owner_slot(Bucket::of(id), &[0, 1]) == Some(1);
    (0..).map(|n| format!("g{n}")).find(moves).expect("half of them move")
}

impl Bench {
    fn activation(&mut self) -> (u64, Vec<u16>) {
        (self.out.activations, std::mem::take(&mut self.out.activated))
    }

    fn open(&mut self, (activation, buckets): &(u64, Vec<u16>)) -> &mut Self {
        self.channels.started(*activation, 4, &buckets.iter().map(|b| (*b, 0)).collect::<Vec<_>>());
        self.channels.open(*activation, buckets);
        self.flush()
    }

    fn refuse_appends(&mut self) -> &mut Self {
        for (request, ..) in std::mem::take(&mut self.out.appends) {
            self.channels.appended(request, Err(Code::Fenced), self.now, &mut self.out);
        }
        self.flush()
    }

    fn save_cursors(&mut self) {
        let cursors = self.channels.unsaved_cursors(false);
        self.channels.cursors_saved(&cursors);
    }
}

#[test]
fn a_fence_closes_one_bucket_which_is_taken_over_again() {
    let mut b = Bench::new(Rules::default());
    b.out.activated.clear();
    b.cluster.facts.extend(["member g1 u1", "member g2 u1"].map(str::to_owned));
    b.send(1, "g1", GROUP, "u1").flush().answer_lookups().refuse_appends();
    let again = b.activation();
    assert_eq!(again.1, [Bucket::of("g1").index()]);
    assert!(!b.channels.is_open());
    b.send(2, "g1", GROUP, "u1").send(3, "g2", GROUP, "u1").all();
    assert_eq!(b.out.acks, [ok(3, 1)], "others go on");
    b.open(&again).all();
    assert_eq!(b.out.acks, [ok(3, 1), ok(1, 1), ok(2, 2)], "in order, nothing twice");
    assert_eq!(b.cluster.log.len(), 3);
}

#[test]
fn what_is_held_of_a_lost_bucket_is_refused_when_its_owner_is_another() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").flush().answer_lookups();
    b.send(2, "g1", GROUP, "u1").flush();
    b.channels.share(|bucket| bucket != Bucket::of("g1"), &mut b.out);
    b.refuse_appends();
    assert_eq!(b.out.acks.iter().map(|a| (a.0, a.3)).collect::<Vec<_>>(), [(1, Reason::SYSTEM_ERROR), (2, Reason::SYSTEM_ERROR)]);
}

#[test]
fn nothing_is_appended_of_a_bucket_that_is_not_ours_any_more() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").flush();
    b.channels.share(|bucket| bucket != Bucket::of("g1"), &mut b.out);
    b.answer_lookups();
    assert_eq!(b.out.appends.len(), 0);
}

#[test]
fn what_was_decided_before_a_bucket_was_lost_moves_when_it_is_back() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    // One append is under way, the next message has its verdict.
    b.send(1, "g1", GROUP, "u1").flush().answer_lookups();
    b.send(2, "g1", GROUP, "u1").flush();
    b.channels.share(|bucket| bucket != Bucket::of("g1"), &mut b.out);
    b.answer_appends();
    assert_eq!((b.out.acks.clone(), b.out.appends.len()), (vec![ok(1, 1)], 0));
    b.out.activated.clear();
    b.channels.share(|_| true, &mut b.out);
    let back = b.activation();
    b.open(&back).all();
    assert_eq!(b.out.acks, [ok(1, 1), ok(2, 2)]);
}

#[test]
fn an_activation_of_earlier_opens_nothing() {
    let mut b = Bench::new(Rules::default());
    b.out.activated.clear();
    let bucket = Bucket::of("g1");
    b.channels.share(|x| x != bucket, &mut b.out);
    b.channels.share(|_| true, &mut b.out);
    let first = b.activation();
    b.channels.share(|x| x != bucket, &mut b.out);
    b.channels.open(first.0, &first.1);
    assert!(b.channels.is_open(), "nothing that is ours is closed");
    b.channels.share(|_| true, &mut b.out);
    let second = b.activation();
    b.channels.open(first.0, &first.1);
    assert!(!b.channels.is_open());
    b.open(&second);
    assert!(b.channels.is_open());
}

#[test]
fn an_owner_lets_go_when_all_is_distributed_and_its_cursor_stored() {
    let mut b = Bench::new(Rules::default());
    let group = moving();
    b.cluster.facts.insert(format!("member {group} u1"));
    let hold = table("worker.channel", &[0], &[0, 1], false);
    let drain = table("worker.channel", &[0], &[0, 1], true);
    assert!(b.channels.have_let_go(&drain, 0));
    b.send(1, &group, GROUP, "u1").flush();
    assert!(b.channels.have_let_go(&hold, 0), "the senders' step");
    for step in 0..3 {
        assert!(!b.channels.have_let_go(&drain, 0), "step {step}");
        b.answer_lookups();
        if step > 0 {
            b.answer_appends().answer_members();
        }
    }
    assert_eq!(b.out.delivers.len(), 1);
    assert!(!b.channels.have_let_go(&drain, 0));
    b.settle_delivers();
    assert!(!b.channels.have_let_go(&drain, 0), "the next owner would distribute it again");
    b.save_cursors();
    assert!(b.channels.have_let_go(&drain, 0));
}

#[test]
fn distribution_stands_still_while_receivers_move() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").all();
    assert_eq!(b.out.delivers.len(), 1);
    let hold = table("worker.push", &[0], &[0, 1], false);
    b.channels.table(&hold, 0, &mut b.out);
    b.send(2, "g1", GROUP, "u1").all();
    assert_eq!((b.out.delivers.len(), b.out.acks.len()), (1, 2), "stored and answered all the same");
    assert!(!b.channels.have_let_go(&hold, 1));
    b.settle_delivers();
    assert!(!b.channels.have_let_go(&hold, 1), "owed to a push worker");
    assert!(b.channels.have_let_go(&hold, 0));
    b.channels.table(&table("worker.push", &[0, 1], &[], false), 0, &mut b.out);
    b.channels.unblock_all(b.now, &mut b.out);
    b.all();
    assert_eq!(b.out.delivers.iter().map(|d| d.0).collect::<Vec<_>>(), [2]);
}
