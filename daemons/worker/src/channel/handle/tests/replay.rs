//! Journals that are read once more, and messages that name their receivers.

use super::*;

/// A journal entry of one channel: these message ids, with sequences from 1, sent by connection 44.
fn entry(index: u64, to: To<'_>, ids: &[i64], named: &[&str]) -> pb::JournalEntry {
    let mut records = bytes::BytesMut::new();
    for (seq, id) in (1..).zip(ids) {
        let message = Message {
            message_id: *id,
            flags: 0,
            setting: 0,
            expire: 0,
            client_seq: 0,
            from_uid: "u1",
            client_msg_no: "",
            topic: "",
            stream_no: "",
            payload: b"p",
        };
        let row = wk_link::record::encode_row(40, &wk_link::record::encode_message(&message));
        wk_link::record::Stored::encode_from_row(&mut records, seq, &row);
    }
    pb::JournalEntry {
        index,
        channel: Some(pb::ChannelRef { id: to.0.into(), r#type: u32::from(to.1.0) }),
        count: u32::try_from(ids.len()).expect("few"),
        records: records.freeze(),
        senders: vec![44; ids.len()],
        named: named.iter().map(|n| (*n).to_owned()).collect(),
    }
}

const PAIR: To<'_> = ("u2@u1", ChannelType::PERSON);

/// A worker that has lost all buckets and takes them over again.
fn taking_over() -> Bench {
    let mut b = Bench::new(Rules::default());
    b.channels.share(|_| false, &mut b.out);
    b.channels.share(|_| true, &mut b.out);
    b
}

impl Bench {
    fn started(&mut self, index: u64) {
        self.channels.started(self.out.activations, 4, &(0..1024).map(|n| (n, index)).collect::<Vec<_>>());
    }

    fn opened(&mut self) {
        self.channels.open(self.out.activations, &(0..1024).collect::<Vec<_>>());
    }

    /// Indexes of cursors that a save would store now.
    fn cursors(&mut self) -> Vec<u64> {
        self.channels.unsaved_cursors(false).iter().map(|c| c.index).collect()
    }

    /// The push workers are done with one Deliver.
    fn settle(&mut self, at: usize) {
        self.channels.job_done(Channels::job_of(self.out.delivers[at].4).expect("a job"), &mut self.out);
    }
}

#[test]
fn nothing_moves_before_its_bucket_is_open_and_the_journal_goes_first() {
    let mut b = Bench::new(Rules::default());
    assert!(!b.channels.share(|_| false, &mut b.out), "losing is no reason for a newer epoch");
    assert!(b.channels.share(|_| true, &mut b.out));
    assert!(!b.channels.share(|_| true, &mut b.out), "nothing new");
    b.send(7, PAIR.0, PAIR.1, "u1").flush();
    assert_eq!(b.out.lookups.len(), 0);
    b.started(10);
    for index in [10, 11] {
        b.channels.replay(&entry(index, PAIR, &[5], &[]), NOW);
    }
    b.flush();
    // 10 is done already; 11 is distributed before anything new.
    assert_eq!(b.out.delivers.iter().map(|d| (d.0, d.1)).collect::<Vec<_>>(), [(5, 1)]);
    assert_eq!(b.out.senders, [ConnId(44)], "who sent it does not get it back");
    b.opened();
    b.all();
    assert_eq!(b.out.delivers.iter().map(|d| d.0).collect::<Vec<_>>(), [5, 7]);
}

#[test]
fn an_activation_that_failed_halfway_closes_nothing_of_the_next_try() {
    let mut b = taking_over();
    b.started(10);
    b.channels.replay(&entry(11, PAIR, &[5, 6], &[]), NOW);
    b.flush();
    // The cluster goes away while the journal is read; the second try begins at the stored cursor again.
    b.started(10);
    b.channels.replay(&entry(11, PAIR, &[5, 6], &[]), NOW);
    b.flush();
    b.opened();
    assert_eq!(b.out.delivers.iter().map(|d| d.0).collect::<Vec<_>>(), [5, 6, 5, 6]);
    // Both copies of the first message are done; no copy of the second one is, and our death would lose it.
    b.settle(0);
    b.settle(2);
    assert_eq!(b.cursors(), [0_u64; 0]);
    b.settle(1);
    assert_eq!(b.cursors(), [0_u64; 0], "the copy that counts is under way");
    b.settle(3);
    assert_eq!(b.cursors(), [11]);
    assert_eq!(b.channels.under_way(), 0);
}

#[test]
fn a_replayed_message_keeps_the_id_that_its_sender_named() {
    let mut b = taking_over();
    b.started(10);
    b.channels.replay(&entry(11, ("u1@bot", ChannelType::AGENT), &[5, 6], &["bot", "u1@bot"]), NOW);
    b.channels.replay(&entry(12, PAIR, &[7], &[]), NOW);
    b.flush();
    let named: Vec<_> = b.out.named.iter().map(|(id, named)| (id.as_str(), named.as_str())).collect();
    assert_eq!(named, [("u1@bot", "bot"), ("u1@bot", "u1@bot"), ("u2@u1", "")]);
}

#[test]
fn an_append_tells_the_log_what_the_sender_named() {
    let mut b = Bench::new(Rules::default());
    b.channel_send(1, ("u1@bot", ChannelType::AGENT), "u1", |x| x.named = "bot");
    b.flush().answer_lookups();
    let (_, _, batches) = b.out.appends.first().expect("an append");
    let batch = ChannelBatch::read(&mut Reader::new(batches)).expect("own bytes");
    assert_eq!(batch.senders().map(|(_, named)| named).collect::<Vec<_>>(), ["bot"]);
}

#[test]
fn a_command_goes_to_the_users_it_names_and_to_no_member() {
    let mut b = Bench::new(Rules::default());
    b.cluster.facts.insert("member systemcmdonline u9".into());
    let (count, bytes) = Receivers::encode_list(["u1", "u3"]);
    let to = (wk_types::channel::ONLINE_CMD_CHANNEL, ChannelType::TEMP);
    b.channel_send(1, to, "api", |x| {
        x.message.flags = 1 | 4;
        x.receivers = Receivers::new(count, &bytes);
    });
    b.all();
    let got: Vec<_> = b.out.delivers.iter().map(|d| (d.1, d.2.join(","), d.3)).collect();
    assert_eq!(got, [(0, "u1,u3".to_owned(), Keep::UntilReceived)]);
    assert_eq!((b.out.members.len(), b.out.appends.len(), b.out.settled.len()), (0, 0, 0));
    b.settle_delivers();
    assert_eq!(b.out.settled, [1], "the push workers have it");
}
