//! Compares what everybody recorded with what the log holds. Pure: records in, violations out.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::plan::Plan;
use crate::record::{Entry, Key, Notified, Source};

#[cfg(test)]
mod tests;

/// All records of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub plan: &'a Plan,
    /// By source number.
    pub sources: &'a [Source],
    /// By channel number, ascending.
    pub logs: &'a [Vec<Entry>],
    pub sink: &'a [Notified],
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A connection ended that nobody touched.
    Ended { source: usize, why: String },
    /// A send got no answer.
    Unanswered(Key),
    /// A send got more than one answer, or an answer came for nothing.
    AnsweredTwice { source: usize, times: u64 },
    /// A reason that no fault explains.
    Refused { key: Key, reason: u8 },
    /// Acknowledged, but not in the log.
    Lost { key: Key, channel: usize, id: i64, seq: u64 },
    /// Acknowledged with another id or sequence than the log has.
    AckDiffers { key: Key, acked: (i64, u64), logged: (i64, u64) },
    /// The sequence at this place is not the next one: a gap or a duplicate.
    Sequence { channel: usize, expected: u64, found: u64 },
    /// The same message stands in the log twice.
    StoredTwice { key: Key, channel: usize },
    /// Two messages have one id.
    SharedId { id: i64 },
    /// The log has a message that nobody sent to this channel.
    Stranger { channel: usize, seq: u64 },
    /// A source's later message stands before its earlier one.
    SenderOrder { channel: usize, earlier: Key, later: Key },
    /// A stored message did not reach a connection that was there.
    NotDelivered { key: Key, channel: usize, seq: u64, conn: usize, acked: bool },
    /// A connection received something that the log does not have like this.
    Phantom { conn: usize, id: i64, seq: u64 },
    /// A connection received what it had sent itself.
    Echoed { conn: usize, key: Key },
    /// A first delivery came after that of a later message of the channel.
    DeliveryOrder { conn: usize, channel: usize, seq: u64, after: u64 },
    /// A stored message did not reach the sink.
    NotNotified { key: Key, channel: usize, seq: u64, acked: bool },
    /// The sink got something that the log does not have like this.
    NotifiedPhantom { id: i64, seq: u64 },
}

impl Violation {
    /// Time can still mend it: the message may be on its way.
    pub(crate) fn pending(&self) -> bool {
        matches!(self, Self::NotDelivered { .. } | Self::NotNotified { .. } | Self::Unanswered(_))
    }

    /// Name of the kind, for counting.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Ended { .. } => "connection ended",
            Self::Unanswered(_) => "unanswered",
            Self::AnsweredTwice { .. } => "answered twice",
            Self::Refused { .. } => "refused",
            Self::Lost { .. } => "acknowledged but lost",
            Self::AckDiffers { .. } => "acknowledged otherwise than stored",
            Self::Sequence { .. } => "gap or duplicate in sequence",
            Self::StoredTwice { .. } => "stored twice",
            Self::SharedId { .. } => "one id for two messages",
            Self::Stranger { .. } => "stranger in the log",
            Self::SenderOrder { .. } => "order of a sender",
            Self::NotDelivered { .. } => "not delivered",
            Self::Phantom { .. } => "delivered but not stored so",
            Self::Echoed { .. } => "sent back to its sender",
            Self::DeliveryOrder { .. } => "order of deliveries",
            Self::NotNotified { .. } => "not in the sink",
            Self::NotifiedPhantom { .. } => "in the sink but not stored so",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self:?}", self.kind())
    }
}

/// How much there was, beside what was wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub sent: u64,
    pub acked: u64,
    /// Answered with reason 15, which a fault may cause.
    pub refused: u64,
    pub stored: u64,
    /// First deliveries.
    pub delivered: u64,
    /// Deliveries beyond the first.
    pub repeated: u64,
    pub notified: u64,
}

/// What the checker found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub violations: Vec<Violation>,
    pub counts: Counts,
}

impl Findings {
    /// Number of violations of each kind.
    pub(crate) fn kinds(&self) -> Vec<(&'static str, usize)> {
        let mut kinds: Vec<(&'static str, usize)> = Vec::new();
        for violation in &self.violations {
            match kinds.iter_mut().find(|(kind, _)| *kind == violation.kind()) {
                Some((_, count)) => *count += 1,
                None => kinds.push((violation.kind(), 1)),
            }
        }
        kinds
    }
}

/// A channel worker answers this when it cannot know (deadline, storage): the log decides what became of the message.
const SYSTEM_ERROR: u8 = 15;

/// Checks all promises.
pub(crate) fn check(evidence: &Evidence<'_>) -> Findings {
    let mut findings = Findings::default();
    let stored = check_logs(evidence, &mut findings);
    check_answers(evidence, &stored, &mut findings);
    check_deliveries(evidence, &stored, &mut findings);
    check_sink(evidence, &stored, &mut findings);
    findings
}

/// Where each message stands: channel, id, sequence.
type Stored = HashMap<Key, (usize, i64, u64)>;

fn check_logs(evidence: &Evidence<'_>, findings: &mut Findings) -> Stored {
    let mut stored = Stored::new();
    let mut ids = HashSet::new();
    for (channel, log) in evidence.logs.iter().enumerate() {
        let mut last: HashMap<u16, Key> = HashMap::new();
        for (at, entry) in log.iter().enumerate() {
            findings.counts.stored += 1;
            let expected = at as u64 + 1;
            if entry.seq != expected {
                findings.violations.push(Violation::Sequence { channel, expected, found: entry.seq });
            }
            if !ids.insert(entry.id) {
                findings.violations.push(Violation::SharedId { id: entry.id });
            }
            let Some(key) = entry.key.filter(|&k| was_sent(evidence, k, channel, &entry.from)) else {
                findings.violations.push(Violation::Stranger { channel, seq: entry.seq });
                continue;
            };
            if stored.insert(key, (channel, entry.id, entry.seq)).is_some() {
                findings.violations.push(Violation::StoredTwice { key, channel });
            } else if let Some(&before) = last.get(&key.source).filter(|l| l.number > key.number) {
                findings.violations.push(Violation::SenderOrder { channel, earlier: key, later: before });
            }
            last.insert(key.source, key);
        }
    }
    stored
}

fn was_sent(evidence: &Evidence<'_>, key: Key, channel: usize, from: &str) -> bool {
    let source = usize::from(key.source);
    let sent = evidence.sources.get(source).and_then(|s| s.sent.get(usize::try_from(key.number).ok()?));
    let from_fits = match evidence.plan.conns.get(source) {
        Some(conn) => evidence.plan.users[conn.user] == from,
        None => evidence.plan.users.iter().any(|u| u == from),
    };
    from_fits && sent.is_some_and(|s| s.channel == channel)
}

fn check_answers(evidence: &Evidence<'_>, stored: &Stored, findings: &mut Findings) {
    for (number, source) in evidence.sources.iter().enumerate() {
        let excused = evidence.plan.conns.get(number).is_some_and(|c| c.stuck);
        if let Some(why) = source.ended.clone().filter(|_| !excused) {
            findings.violations.push(Violation::Ended { source: number, why });
        }
        let mut extra = source.strange_answers;
        for (at, sent) in source.sent.iter().enumerate() {
            let key = Key { source: small(number), number: u32::try_from(at).unwrap_or(u32::MAX) };
            findings.counts.sent += 1;
            extra += (sent.answers.len() as u64).saturating_sub(1);
            let Some(answer) = sent.answers.first() else {
                findings.violations.push(Violation::Unanswered(key));
                continue;
            };
            if answer.reason == SYSTEM_ERROR {
                findings.counts.refused += 1;
                continue;
            }
            if !answer.success() {
                findings.violations.push(Violation::Refused { key, reason: answer.reason });
                continue;
            }
            findings.counts.acked += 1;
            match stored.get(&key) {
                None => findings.violations.push(Violation::Lost { key, channel: sent.channel, id: answer.id, seq: answer.seq }),
                Some(&(_, id, seq)) if id != answer.id || (answer.seq != 0 && seq != answer.seq) => {
                    findings.violations.push(Violation::AckDiffers { key, acked: (answer.id, answer.seq), logged: (id, seq) });
                }
                Some(_) => {}
            }
        }
        if extra > 0 {
            findings.violations.push(Violation::AnsweredTwice { source: number, times: extra });
        }
    }
}

fn small(source: usize) -> u16 {
    u16::try_from(source).unwrap_or(u16::MAX)
}

fn check_deliveries(evidence: &Evidence<'_>, stored: &Stored, findings: &mut Findings) {
    let mut seen: Vec<HashSet<Key>> = Vec::with_capacity(evidence.plan.conns.len());
    for (conn, source) in evidence.sources.iter().enumerate().take(evidence.plan.conns.len()) {
        let mut mine: HashSet<Key> = HashSet::with_capacity(source.got.len());
        let mut last: HashMap<usize, u64> = HashMap::new();
        for got in &source.got {
            let place = got.key.and_then(|k| stored.get(&k).map(|s| (k, *s)));
            let Some((key, (channel, _, seq))) =
                place.filter(|(_, (c, id, seq))| got.channel == Some(*c) && got.id == *id && got.seq == *seq)
            else {
                findings.violations.push(Violation::Phantom { conn, id: got.id, seq: got.seq });
                continue;
            };
            if usize::from(key.source) == conn {
                findings.violations.push(Violation::Echoed { conn, key });
                continue;
            }
            if !mine.insert(key) {
                findings.counts.repeated += 1;
                continue;
            }
            findings.counts.delivered += 1;
            let before = last.entry(channel).or_default();
            if *before > seq {
                findings.violations.push(Violation::DeliveryOrder { conn, channel, seq, after: *before });
            }
            *before = seq.max(*before);
        }
        seen.push(mine);
    }
    for (&key, &(channel, _, seq)) in stored {
        for conn in evidence.plan.receivers(channel, usize::from(key.source)) {
            if !seen.get(conn).is_some_and(|s| s.contains(&key)) {
                let acked = acked(evidence, key);
                findings.violations.push(Violation::NotDelivered { key, channel, seq, conn, acked });
            }
        }
    }
}

fn check_sink(evidence: &Evidence<'_>, stored: &Stored, findings: &mut Findings) {
    let mut seen = HashSet::with_capacity(evidence.sink.len());
    for notified in evidence.sink {
        let place = notified.key.and_then(|k| stored.get(&k).map(|s| (k, *s)));
        match place.filter(|(_, (_, id, seq))| notified.id == *id && notified.seq == *seq) {
            Some((key, _)) => {
                findings.counts.notified += u64::from(seen.insert(key));
            }
            None => findings.violations.push(Violation::NotifiedPhantom { id: notified.id, seq: notified.seq }),
        }
    }
    for (&key, &(channel, _, seq)) in stored {
        if !seen.contains(&key) {
            findings.violations.push(Violation::NotNotified { key, channel, seq, acked: acked(evidence, key) });
        }
    }
}

fn acked(evidence: &Evidence<'_>, key: Key) -> bool {
    let sent = evidence.sources.get(usize::from(key.source)).and_then(|s| s.sent.get(usize::try_from(key.number).ok()?));
    sent.is_some_and(|s| s.answers.first().is_some_and(crate::record::Answer::success))
}
