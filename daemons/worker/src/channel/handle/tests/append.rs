//! Appends: what goes together, what is repeated, what is given up.

use wk_types::limits::APPEND_CHANNELS_MAX;

use super::*;

#[test]
fn what_comes_during_an_append_forms_the_next_batch() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").flush().answer_lookups();
    b.send(2, "g1", GROUP, "u1").flush().send(3, "g1", GROUP, "u1").flush();
    assert_eq!(b.out.appends.len(), 1);
    b.answer_appends();
    assert_eq!((b.out.acks.clone(), b.out.appends.len()), (vec![ok(1, 1)], 1));
    b.answer_appends();
    assert_eq!(b.out.acks, [ok(1, 1), ok(2, 2), ok(3, 3)]);
}

#[test]
fn a_request_holds_no_more_channels_than_the_cluster_takes() {
    let mut b = Bench::new(Rules::default());
    let all = i64::try_from(APPEND_CHANNELS_MAX).expect("small") + 900;
    for id in 1..=all {
        b.send(id, &format!("u{id}@u0"), ChannelType::PERSON, "u0");
    }
    b.flush().answer_lookups();
    let sizes: Vec<u32> = b.out.appends.iter().map(|(_, channels, _)| *channels).collect();
    assert_eq!(sizes.iter().map(|n| i64::from(*n)).sum::<i64>(), all);
    assert!(sizes.iter().all(|n| usize::try_from(*n).expect("small") <= APPEND_CHANNELS_MAX), "{sizes:?}");
}

#[test]
fn a_replay_with_a_used_client_number_is_a_message_of_its_own() {
    let mut b = Bench::new(Rules::default());
    b.send_with(2, ("u2@u1", ChannelType::PERSON), "u1", 0, true).flush();
    // What the cluster finds under its client number is another message.
    for (load, queries) in std::mem::take(&mut b.out.lookups) {
        let other = pb::Answer { message_id: 1, number: 1, ..Default::default() };
        let of = |q: &pb::Query| if matches!(q.of, Some(pb::query::Of::Stored(_))) { other.clone() } else { b.cluster.answer(q) };
        let answers = queries.iter().map(of).collect();
        b.channels.loaded(load, Some(answers));
    }
    b.all();
    assert_eq!((b.out.acks.clone(), b.cluster.log.len()), (vec![ok(2, 1)], 1));
}

#[test]
fn an_unknown_outcome_is_repeated_unchanged_and_distributed_once() {
    let mut b = Bench::new(Rules::default());
    b.send(1, "u2@u1", ChannelType::PERSON, "u1").flush().answer_lookups();
    let (request, _, batches) = b.out.appends.remove(0);
    // It was stored, but the reply was lost.
    b.cluster.append(&batches);
    b.channels.appended(request, Err(Code::UnknownOutcome), b.now, &mut b.out);
    b.flush();
    assert_eq!((b.out.appends.len(), b.out.acks.len()), (0, 0));
    // The cursor may not pass the entry nobody has told us of.
    assert_eq!(b.channels.unsaved_cursors(true), []);
    b.now.mono_ms += 100;
    b.channels.tick(b.now, &mut b.out);
    b.flush();
    assert_eq!(b.out.appends[0].2, batches);
    b.answer_appends();
    assert_eq!((b.out.acks.clone(), b.out.delivers.len(), b.cluster.log.len()), (vec![ok(1, 1)], 1, 1));
    // Its journal entry is the one of the first attempt: the cursor passes it only when it is distributed.
    let bucket = u32::from(Bucket::of("u2@u1").index());
    let moved = |b: &mut Bench| b.channels.unsaved_cursors(false).iter().any(|c| c.bucket == bucket);
    assert!(!moved(&mut b));
    b.settle_delivers();
    assert!(moved(&mut b));
}

#[test]
fn a_client_that_waits_too_long_hears_15_while_the_order_is_kept() {
    let mut b = Bench::new(Rules::default());
    b.send(1, "u2@u1", ChannelType::PERSON, "u1").flush().answer_lookups();
    let (request, ..) = b.out.appends.remove(0);
    b.channels.appended(request, Err(Code::UnknownOutcome), b.now, &mut b.out);
    b.send(2, "u2@u1", ChannelType::PERSON, "u1").flush();
    b.now.mono_ms += 6_000;
    b.channels.tick(b.now, &mut b.out);
    b.flush();
    assert_eq!(b.out.acks, [(1, 1, 0, Reason::SYSTEM_ERROR)]);
    b.answer_appends();
    // Stored after all: distributed, not answered twice. The second had a verdict before its deadline passed.
    assert_eq!(b.out.acks.len(), 1);
    assert_eq!(b.out.delivers.iter().map(|d| d.0).collect::<Vec<_>>(), [1]);
    b.answer_appends();
    assert_eq!(b.cluster.log.iter().map(|l| l.1).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_append_that_was_never_sent_is_called_off_at_the_deadline() {
    let mut b = Bench::new(Rules::default());
    b.send(1, "u2@u1", ChannelType::PERSON, "u1").flush().answer_lookups();
    let (request, ..) = b.out.appends.remove(0);
    b.channels.appended(request, Err(Code::NotReady), b.now, &mut b.out);
    b.now.mono_ms += 6_000;
    b.channels.tick(b.now, &mut b.out);
    b.flush();
    assert_eq!((b.out.acks.clone(), b.out.appends.len()), (vec![(1, 1, 0, Reason::SYSTEM_ERROR)], 0));
    assert_eq!(b.channels.under_way(), 0);
    b.send(2, "u2@u1", ChannelType::PERSON, "u1").all();
    assert_eq!(b.out.acks[1], ok(2, 1));
}

#[test]
fn a_replayed_message_is_looked_up_before_permissions() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member g1 u1".into());
    b.send(1, "g1", GROUP, "u1").all();
    // The rules change: a decision once stored is not reversed.
    b.cluster.facts.clear();
    b.channels.changed("g1", GROUP);
    b.out.acks.clear();
    b.send_with(1, ("g1", GROUP), "u1", 0, true).send_with(2, ("g1", GROUP), "u1", 0, true).all();
    assert_eq!(b.out.acks, [ok(1, 1), (2, 2, 0, Reason::SUBSCRIBER_NOT_EXIST)]);
}
