//! Made-up records: a clean run passes, each kind of broken promise is seen.

use super::*;
use crate::plan::{Channel, Conn, Speaks};
use crate::record::{Answer, Got, Sent};

/// Ann (two devices), Ben and Cat; a person channel and a group; one backend.
struct Run {
    plan: Plan,
    sources: Vec<Source>,
    logs: Vec<Vec<Entry>>,
    sink: Vec<Notified>,
}

impl Run {
    /// Two messages of source 0 to ann↔ben, one of source 2 to the group, one of the backend to the group: all as promised.
    fn clean() -> Self {
        let conn = |user, device_flag| Conn { user, device_flag, speaks: Speaks::Binary(5), stuck: false };
        let plan = Plan {
            users: vec!["ann".into(), "ben".into(), "cat".into()],
            conns: vec![conn(0, 0), conn(0, 1), conn(1, 0), conn(2, 0)],
            channels: vec![Channel::Person(0, 1), Channel::Group { id: "g".into(), members: vec![0, 1, 2], offline: vec!["dan".into()] }],
            backends: 1,
        };
        let mut run = Self { sources: vec![Source::default(); plan.sources()], logs: vec![Vec::new(); 2], sink: Vec::new(), plan };
        run.store(0, 0, "ann");
        run.store(0, 0, "ann");
        run.store(2, 1, "ben");
        run.store(4, 1, "cat");
        run
    }

    /// Sends, stores, acknowledges and delivers the next message of a source.
    fn store(&mut self, source: usize, channel: usize, from: &str) -> Key {
        let key = Key { source: u16::try_from(source).unwrap(), number: u32::try_from(self.sources[source].sent.len()).unwrap() };
        let (seq, id) = (self.logs[channel].len() as u64 + 1, 1000 + i64::try_from(self.sink.len()).unwrap());
        let seq_told = if source < self.plan.conns.len() { seq } else { 0 };
        self.sources[source].sent.push(Sent { channel, at_us: 0, answers: vec![Answer { reason: 1, id, seq: seq_told, at_us: 1 }] });
        self.logs[channel].push(Entry { seq, id, key: Some(key), from: from.into() });
        self.sink.push(Notified { key: Some(key), id, seq });
        for conn in self.plan.receivers(channel, source).collect::<Vec<_>>() {
            self.sources[conn].got.push(Got { key: Some(key), channel: Some(channel), id, seq });
        }
        key
    }

    fn findings(&self) -> Findings {
        check(&Evidence { plan: &self.plan, sources: &self.sources, logs: &self.logs, sink: &self.sink })
    }

    fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = self.findings().kinds().into_iter().map(|(kind, _)| kind).collect();
        kinds.sort_unstable();
        kinds
    }
}

#[test]
fn a_clean_run_has_no_violation() {
    let run = Run::clean();
    let findings = run.findings();
    assert_eq!(findings.violations, []);
    let expected = Counts { sent: 4, acked: 4, stored: 4, delivered: 2 * 2 + 3 + 4, notified: 4, ..Counts::default() };
    assert_eq!(findings.counts, expected);
}

#[test]
fn repeats_and_system_errors_are_counted_not_blamed() {
    let mut run = Run::clean();
    let again = run.sources[2].got[0];
    run.sources[2].got.push(again);
    let again = run.sink[0];
    run.sink.push(again);
    run.sources[3].sent.push(Sent { channel: 1, at_us: 0, answers: vec![Answer { reason: 15, id: 0, seq: 0, at_us: 1 }] });
    let findings = run.findings();
    assert_eq!(findings.violations, []);
    assert_eq!((findings.counts.repeated, findings.counts.refused), (1, 1));
}

#[test]
fn sees_a_message_that_came_back_to_its_sender() {
    let mut run = Run::clean();
    let again = run.sources[2].got[0];
    run.sources[0].got.push(again);
    assert_eq!(run.kinds(), ["sent back to its sender"]);
}

#[test]
fn sees_an_acknowledged_message_that_is_missing() {
    let mut run = Run::clean();
    run.logs[1].pop();
    run.sink.pop();
    for source in &mut run.sources {
        source.got.retain(|g| g.key.unwrap().source != 4);
    }
    assert_eq!(run.kinds(), ["acknowledged but lost"]);
}

#[test]
fn sees_another_id_than_acknowledged() {
    let mut run = Run::clean();
    run.sources[0].sent[0].answers[0].seq = 7;
    run.sources[2].sent[0].answers[0].id = 7;
    assert_eq!(run.findings().kinds(), [("acknowledged otherwise than stored", 2)]);
}

#[test]
fn sees_a_gap_and_a_duplicate_in_a_sequence() {
    let mut run = Run::clean();
    run.logs[0][1].seq = 3;
    for got in run.sources.iter_mut().flat_map(|s| &mut s.got).filter(|g| g.seq == 2 && g.channel == Some(0)) {
        got.seq = 3;
    }
    run.sources[0].sent[1].answers[0].seq = 3;
    run.sink[1].seq = 3;
    assert_eq!(run.findings().violations, [Violation::Sequence { channel: 0, expected: 2, found: 3 }]);
    let mut run = Run::clean();
    run.logs[0][1].seq = 1;
    assert!(run.kinds().contains(&"gap or duplicate in sequence"));
}

#[test]
fn sees_a_message_stored_twice_and_a_shared_id() {
    let mut run = Run::clean();
    let twice = Entry { seq: 3, id: 5, ..run.logs[0][1].clone() };
    run.logs[0].push(twice);
    assert!(run.kinds().contains(&"stored twice"));
    let mut run = Run::clean();
    run.logs[0][1].id = run.logs[0][0].id;
    assert!(run.kinds().contains(&"one id for two messages"));
}

#[test]
fn sees_a_stranger_in_the_log() {
    let mut run = Run::clean();
    run.logs[0].push(Entry { seq: 3, id: 9, key: Some(Key { source: 3, number: 0 }), from: "cat".into() });
    assert_eq!(run.kinds(), ["stranger in the log"]);
    let mut run = Run::clean();
    run.logs[0].push(Entry { seq: 3, id: 9, key: None, from: "cat".into() });
    assert_eq!(run.kinds(), ["stranger in the log"]);
    let mut run = Run::clean();
    run.logs[0][0].from = "ben".into();
    assert!(run.kinds().contains(&"stranger in the log"));
}

#[test]
fn sees_a_sender_out_of_order() {
    let mut run = Run::clean();
    run.logs[0].swap(0, 1);
    run.logs[0][0].seq = 1;
    run.logs[0][1].seq = 2;
    assert!(run.kinds().contains(&"order of a sender"));
}

#[test]
fn sees_sends_without_and_with_two_answers() {
    let mut run = Run::clean();
    run.sources[3].sent.push(Sent { channel: 1, at_us: 0, answers: Vec::new() });
    assert_eq!(run.findings().violations, [Violation::Unanswered(Key { source: 3, number: 0 })]);
    let mut run = Run::clean();
    let answer = run.sources[0].sent[0].answers[0];
    run.sources[0].sent[0].answers.push(answer);
    run.sources[2].strange_answers = 1;
    assert_eq!(run.findings().kinds(), [("answered twice", 2)]);
}

#[test]
fn sees_a_refusal_that_no_fault_explains() {
    let mut run = Run::clean();
    run.sources[3].sent.push(Sent { channel: 1, at_us: 0, answers: vec![Answer { reason: 3, id: 0, seq: 0, at_us: 1 }] });
    assert_eq!(run.findings().violations, [Violation::Refused { key: Key { source: 3, number: 0 }, reason: 3 }]);
}

#[test]
fn sees_a_missing_delivery_and_a_wrong_one() {
    let mut run = Run::clean();
    let lost = run.sources[1].got.remove(0);
    let expected = Violation::NotDelivered { key: lost.key.unwrap(), channel: 0, seq: 1, conn: 1, acked: true };
    assert_eq!(run.findings().violations, std::slice::from_ref(&expected));
    assert!(expected.pending());
    let mut run = Run::clean();
    run.sources[3].got.push(Got { key: None, channel: None, id: 77, seq: 1 });
    assert_eq!(run.findings().violations, [Violation::Phantom { conn: 3, id: 77, seq: 1 }]);
    let mut run = Run::clean();
    let mut wrong = run.sources[2].got[0];
    wrong.channel = Some(1);
    run.sources[2].got.push(wrong);
    assert_eq!(run.kinds(), ["delivered but not stored so"]);
}

#[test]
fn sees_first_deliveries_out_of_order() {
    let mut run = Run::clean();
    run.sources[2].got.swap(0, 1);
    assert_eq!(run.findings().violations, [Violation::DeliveryOrder { conn: 2, channel: 0, seq: 1, after: 2 }]);
    // A repeat of an earlier message is no first delivery.
    let mut run = Run::clean();
    let again = run.sources[2].got[0];
    run.sources[2].got.push(again);
    assert_eq!(run.findings().violations, []);
}

#[test]
fn sees_what_the_sink_misses_and_makes_up() {
    let mut run = Run::clean();
    run.sink.remove(0);
    assert_eq!(run.kinds(), ["not in the sink"]);
    let mut run = Run::clean();
    run.sink[0].seq = 9;
    assert_eq!(run.kinds(), ["in the sink but not stored so", "not in the sink"]);
}

#[test]
fn sees_an_ended_connection_unless_it_is_excused() {
    let mut run = Run::clean();
    run.sources[3].ended = Some("closed".into());
    assert_eq!(run.kinds(), ["connection ended"]);
    run.plan.conns[3].stuck = true;
    run.sources[3].got.clear();
    assert_eq!(run.findings().violations, []);
}

#[test]
fn the_plan_is_the_storm_of_the_issue() {
    let plan = Plan::new(7);
    assert_eq!((plan.conns.len(), plan.channels.len()), (64, 200));
    for conn in &plan.conns {
        assert!(!plan.channels_of(conn.user).is_empty());
    }
    let versions: HashSet<u8> = plan.conns.iter().filter_map(|c| if let Speaks::Binary(v) = c.speaks { Some(v) } else { None }).collect();
    assert_eq!(versions, HashSet::from([2, 3, 4, 5, 6]));
    assert!(plan.conns.iter().any(|c| c.speaks == Speaks::Json));
    assert!(plan.channels.iter().any(|c| matches!(c, Channel::Group { offline, .. } if !offline.is_empty())));
    assert_eq!(format!("{plan:?}"), format!("{:?}", Plan::new(7)));
    assert_ne!(format!("{plan:?}"), format!("{:?}", Plan::new(8)));
}

#[test]
fn keys_are_read_from_payloads() {
    let key = Key { source: 12, number: 345 };
    assert_eq!(Key::of_payload(key.to_string().as_bytes()), Some(key));
    assert_eq!(Key::of_payload(b"12/345/and more"), Some(key));
    assert_eq!(Key::of_payload(b"hello"), None);
}
