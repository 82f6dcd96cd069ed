//! Both ends driven against each other: deaths, broken streams, lost reports.

use proptest::prelude::*;

use super::*;
use crate::inbox::Inbox;

fn bucket() -> Bucket {
    Bucket::from_index(5).expect("in range")
}

fn push(ring: &mut Ring, n: u8, keep: Keep) -> Position {
    push_body(ring, &[n], keep)
}

fn push_body(ring: &mut Ring, body: &[u8], keep: Keep) -> Position {
    let item = Outgoing { bucket: bucket(), kind: Kind::Send, body: Bytes::copy_from_slice(body), keep };
    let token = u64::from(body.first().copied().unwrap_or(0)) + 1;
    ring.push(item, Then::Token(token))
}

fn pump(ring: &mut Ring, inbox: &mut Inbox) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some(batch) = ring.next_batch() {
        for item in inbox.on_batch(batch.first, &batch.items).expect("own bytes") {
            got.push(item.body[0]);
        }
        let mut done = Vec::new();
        if let Some((received, settled)) = inbox.take_report() {
            ring.on_report(received, &settled, &mut done);
        }
    }
    got
}

#[test]
fn receipt_is_enough_for_soft_items_only() {
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    push(&mut ring, 0, Keep::UntilReceived);
    let kept = push(&mut ring, 1, Keep::UntilSettled);
    assert_eq!(pump(&mut ring, &mut inbox), [0, 1]);
    assert_eq!((ring.len(), ring.unsettled()), (1, 1));
    inbox.settle(kept);
    let (received, settled) = inbox.take_report().expect("something to say");
    ring.on_report(received, &settled, &mut Vec::new());
    assert!(ring.is_empty());
}

#[test]
fn a_new_receiver_gets_what_is_unsettled_in_order_and_at_once() {
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    for n in 0..4 {
        push(&mut ring, n, Keep::UntilSettled);
    }
    pump(&mut ring, &mut inbox);
    inbox.settle(2);
    let (received, settled) = inbox.take_report().expect("something to say");
    ring.on_report(received, &settled, &mut Vec::new());
    push(&mut ring, 4, Keep::UntilSettled);

    let mut second = Inbox::default();
    assert!(ring.on_stream(0, Meets::AfterDeath(None)).is_none());
    let batch = ring.next_batch().expect("everything");
    let items = second.on_batch(batch.first, &batch.items).expect("own bytes");
    assert_eq!(items.iter().map(|i| (i.body[0], i.replay)).collect::<Vec<_>>(), [(0, true), (2, true), (3, true), (4, false)]);
}

#[test]
fn a_body_that_ends_like_a_gap_is_left_alone() {
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    let like_a_gap = [0, 0, 0, 0, 0, 0, 0, 0, 5, 0];
    push_body(&mut ring, &like_a_gap, Keep::UntilSettled);
    push(&mut ring, 1, Keep::UntilSettled);
    push(&mut ring, 2, Keep::UntilSettled);
    pump(&mut ring, &mut inbox);
    inbox.settle(2);
    let (received, settled) = inbox.take_report().expect("something to say");
    ring.on_report(received, &settled, &mut Vec::new());
    ring.on_stream(0, Meets::AfterDeath(None));
    let batch = ring.next_batch().expect("a replay");
    let items = Inbox::default().on_batch(batch.first, &batch.items).expect("own bytes");
    let got: Vec<_> = items.iter().map(|i| (i.position, &i.body[..])).collect();
    assert_eq!(got, [(1, &like_a_gap[..]), (3, &[2][..])]);
}

#[test]
fn what_was_handled_at_the_second_death_is_refused_and_nothing_else() {
    let mut ring = Ring::default();
    for n in 0..3 {
        push(&mut ring, n, Keep::UntilSettled);
    }
    pump(&mut ring, &mut Inbox::default());
    assert!(ring.on_stream(0, Meets::AfterDeath(None)).is_none());
    assert_eq!(pump(&mut ring, &mut Inbox::default()), [0, 1, 2]);
    let poisoned = ring.on_stream(0, Meets::AfterDeath(Some(2))).expect("its second death");
    assert!(poisoned.body[0] == 1 && matches!(poisoned.then, Then::Token(2)), "{poisoned:?}");
    assert_eq!(pump(&mut ring, &mut Inbox::default()), [0, 2], "the others were only there");
}

#[test]
fn handled_at_one_death_is_not_enough_and_a_drain_is_no_death() {
    let mut ring = Ring::default();
    push(&mut ring, 0, Keep::UntilSettled);
    pump(&mut ring, &mut Inbox::default());
    assert!(ring.on_stream(0, Meets::AfterDeath(Some(1))).is_none());
    pump(&mut ring, &mut Inbox::default());
    assert!(ring.on_stream(0, Meets::Blameless).is_none());
    assert_eq!(pump(&mut ring, &mut Inbox::default()), [0]);
    assert!(ring.on_stream(0, Meets::AfterDeath(Some(1))).is_some());
}

/// The receiver dies whenever it holds `culprit`, and cannot say so; otherwise it settles what it holds.
#[test]
fn a_culprit_that_nobody_names_is_isolated() {
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    let (all, culprit) = (200_u8, 77_u8);
    for n in 0..all {
        push(&mut ring, n, Keep::UntilSettled);
    }
    let (mut deaths, mut settled, mut refused) = (0, Vec::new(), Vec::new());
    for _ in 0..1000 {
        let Some(batch) = ring.next_batch() else { break };
        let items = inbox.on_batch(batch.first, &batch.items).expect("own bytes");
        if items.iter().any(|i| i.body[0] == culprit) {
            deaths += 1;
            inbox = Inbox::default();
            refused.extend(ring.on_stream(0, Meets::AfterDeath(None)).map(|p| p.body[0]));
            continue;
        }
        for item in items {
            settled.push(item.body[0]);
            inbox.settle(item.position);
        }
        let (received, ranges) = inbox.take_report().expect("something to say");
        ring.on_report(received, &ranges, &mut Vec::new());
    }
    assert!(ring.is_empty());
    assert_eq!((refused.as_slice(), settled.len(), deaths), (&[culprit][..], usize::from(all) - 1, 4));
    assert!(settled.is_sorted(), "the order is kept");
}

#[test]
fn a_lost_report_is_told_again() {
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    push(&mut ring, 0, Keep::UntilSettled);
    push(&mut ring, 1, Keep::UntilSettled);
    pump(&mut ring, &mut inbox);
    inbox.settle(1);
    let lost = inbox.take_report();
    assert!(lost.is_some());
    inbox.on_hello(ring.first());
    ring.on_stream(inbox.received(), Meets::Same);
    let (received, settled) = inbox.take_report().expect("told again");
    ring.on_report(received, &settled, &mut Vec::new());
    assert_eq!((ring.first(), ring.len()), (2, 1));
    assert!(ring.next_batch().is_none(), "nothing is sent twice to the same receiver");
}

#[derive(Debug, Clone)]
enum Step {
    Push(bool, Vec<u8>),
    SettleOldest,
    SettleNewest,
    SettleLocally,
    Report,
    BreakStream,
    Death(bool),
}

/// Bodies full of what the framing itself is made of.
fn body() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![6 => Just(0), 1 => 0_u8..8, 1 => any::<u8>()], 0..24)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (any::<bool>(), body()).prop_map(|(kept, body)| Step::Push(kept, body)),
        3 => Just(Step::SettleOldest),
        3 => Just(Step::SettleNewest),
        1 => Just(Step::SettleLocally),
        4 => Just(Step::Report),
        1 => Just(Step::BreakStream),
        1 => any::<bool>().prop_map(Step::Death),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever breaks: each kept item is settled by somebody or poisoned, none is handed twice to one life, each life sees ascending order,
    /// and each position has the body that was pushed.
    #[test]
    fn nothing_is_lost_and_order_is_kept(steps in steps()) {
        let mut ring = Ring::default();
        let mut inbox = Inbox::default();
        let mut held: Vec<Position> = Vec::new();
        let mut pushed = 0_u64;
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        let mut told = 0_u64;
        let mut finished = 0_u64;
        let mut last_seen = 0;
        let report = |ring: &mut Ring, inbox: &mut Inbox, told: &mut u64| {
            if let Some((received, settled)) = inbox.take_report() {
                let mut done = Vec::new();
                ring.on_report(received, &settled, &mut done);
                *told += done.len() as u64;
            }
        };
        for step in steps {
            match step {
                Step::Push(kept, body) => {
                    pushed += 1;
                    push_body(&mut ring, &body, if kept { Keep::UntilSettled } else { Keep::UntilReceived });
                    bodies.push(body);
                }
                Step::SettleOldest => if !held.is_empty() { inbox.settle(held.remove(0)) },
                Step::SettleNewest => if let Some(p) = held.pop() { inbox.settle(p) },
                Step::SettleLocally => if ring.settle(ring.first()) { finished += 1 },
                Step::Report => report(&mut ring, &mut inbox, &mut told),
                Step::BreakStream => {
                    inbox.on_hello(ring.first());
                    ring.on_stream(inbox.received(), Meets::Same);
                }
                Step::Death(known) => {
                    inbox = Inbox::default();
                    let handling = held.first().copied().filter(|_| known);
                    held.clear();
                    last_seen = 0;
                    finished += u64::from(ring.on_stream(0, Meets::AfterDeath(handling)).is_some());
                }
            }
            while let Some(batch) = ring.next_batch() {
                for item in inbox.on_batch(batch.first, &batch.items).expect("own bytes") {
                    prop_assert!(item.position > last_seen);
                    last_seen = item.position;
                    prop_assert_eq!(Some(&item.body[..]), usize::try_from(item.position - 1).ok().and_then(|at| bodies.get(at)).map(|b| &b[..]));
                    held.push(item.position);
                }
            }
        }
        // In the end everything is settled by a receiver that lives on.
        for _ in 0..pushed * 2 + 4 {
            report(&mut ring, &mut inbox, &mut told);
            for p in held.drain(..) { inbox.settle(p); }
            report(&mut ring, &mut inbox, &mut told);
            while let Some(batch) = ring.next_batch() {
                held.extend(inbox.on_batch(batch.first, &batch.items).expect("own bytes").iter().map(|i| i.position));
            }
        }
        prop_assert!(ring.is_empty());
        prop_assert_eq!((ring.bytes(), ring.unsettled()), (0, 0));
        prop_assert_eq!(told + finished, pushed);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0_u64..9) {
        drop(Inbox::default().on_batch(first, &Bytes::from(bytes)));
    }
}

#[test]
fn what_was_for_the_owner_of_a_bucket_comes_back_when_that_one_is_gone() {
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    let item = |n: u8| Outgoing { bucket: bucket(), kind: Kind::Send, body: Bytes::copy_from_slice(&[n]), keep: Keep::UntilSettled };
    for n in 0..2 {
        ring.push_routed(item(n), Then::Token(u64::from(n) + 1), false);
    }
    push(&mut ring, 2, Keep::UntilSettled);
    assert_eq!(pump(&mut ring, &mut inbox), [0, 1, 2]);
    inbox.settle(1);
    let (received, settled) = inbox.take_report().expect("something to say");
    ring.on_report(received, &settled, &mut Vec::new());
    ring.push_routed(item(3), Then::Silence, false);
    let back: Vec<_> = ring.take_back();
    assert_eq!(back.iter().map(|(item, _, seen)| (item.body[0], *seen)).collect::<Vec<_>>(), [(1, true), (3, false)]);
    assert_eq!((ring.unsettled(), ring.clear().len()), (1, 1), "what was meant for this slot alone is left");
    // Its next owner asks first what became of what the old one may have handled.
    let (mut ring, mut inbox) = (Ring::default(), Inbox::default());
    for (item, then, seen) in back {
        ring.push_routed(item, then, seen);
    }
    let batch = ring.next_batch().expect("both");
    let items = inbox.on_batch(batch.first, &batch.items).expect("own bytes");
    assert_eq!(items.iter().map(|i| (i.body[0], i.replay)).collect::<Vec<_>>(), [(1, true), (3, false)]);
}
