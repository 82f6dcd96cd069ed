use proptest::prelude::*;
use wk_link::item::Body;
use wk_types::{ConnId, DeviceFlag, IdRun, IdStock};
use wk_wire::limits::JSON_BYTES_MAX;
use wk_wire::{Setting, Sub, SubAction};

use super::*;

/// A connection and everything it works with.
struct Bench {
    conn: Conn,
    settings: Settings,
    shared: Shared,
    metrics: Metrics,
    ids: IdStock,
    events: Vec<Event>,
    out: Vec<u8>,
    ended: Option<End>,
}

impl Bench {
    fn new(listener: Transport, settings: Settings) -> Self {
        let at = At { conn: ConnId(1), slot: 0, reactor: 0 };
        let conn = Conn::new(at, listener, ([127, 0, 0, 1], 9).into(), &settings, 0);
        let mut ids = IdStock::default();
        ids.add([IdRun { first: 1, count: 100_000 }]);
        let metrics = Metrics::new(&wk_telemetry::Metrics::new());
        Self { conn, settings, shared: Shared::default(), metrics, ids, events: Vec::new(), out: Vec::new(), ended: None }
    }

    fn work(&mut self, work: impl FnOnce(&mut Conn, &mut Cx<'_>) -> Result<(), End>) {
        if self.ended.is_some() {
            return;
        }
        let mut cx = Cx {
            out: &mut self.out,
            events: &mut self.events,
            encoder: &mut Encoder::default(),
            ids: &mut self.ids,
            settings: &self.settings,
            shared: &self.shared,
            metrics: &self.metrics,
            scratch: &mut Vec::new(),
            unmasked: &mut Vec::new(),
            now_ms: 1,
            quiesced: false,
        };
        self.ended = work(&mut self.conn, &mut cx).err();
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.work(|conn, cx| conn.on_bytes(bytes, cx));
    }

    fn open(&mut self) {
        assert_eq!(self.conn.stage, Stage::Waiting);
        self.work(Conn::open);
    }

    /// Payload numbers of the SENDs handed over, with what each costs.
    fn sends(&self) -> Vec<(u32, u32)> {
        let number = |send: &Handover| {
            let payload = item::Send::decode(&send.body).unwrap().payload;
            u32::from_be_bytes(payload[..4].try_into().unwrap())
        };
        self.events.iter().filter_map(|e| if let Event::Send(send) = e { Some((number(send), send.cost)) } else { None }).collect()
    }

    /// Everything seen from outside, for comparison.
    fn summary(&self) -> (Vec<String>, Vec<u8>, Option<End>, Stage) {
        (self.events.iter().map(|e| format!("{e:?}")).collect(), self.out.clone(), self.ended, self.conn.stage)
    }
}

fn connect() -> Vec<u8> {
    let mut out = Vec::new();
    let connect = Connect {
        version: 5,
        device_flag: DeviceFlag(0),
        device_id: "d".into(),
        uid: "ann".into(),
        token: String::new(),
        client_timestamp: 0,
        client_key: String::new(),
    };
    encode::connect(&mut out, &connect, Version::V5).unwrap();
    out
}

fn send(number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(len.max(4), b'x');
    let mut out = Vec::new();
    let send = SendRef {
        flags: wk_wire::Flags::NONE,
        setting: Setting::NONE,
        client_seq: number,
        client_msg_no: "",
        stream_no: "",
        channel_id: "ben",
        channel_type: ChannelType::PERSON,
        expire: 0,
        msg_key: "",
        topic: "",
        payload: &payload,
    };
    encode::send(&mut out, &send, Version::V5).unwrap();
    out
}

fn json_send(number: u32) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    format!(r#"{{"method":"send","id":{number},"params":{{"channelId":"b","channelType":1,"payload":{bytes:?}}}}}"#).into_bytes()
}

/// One step of a client's life after CONNECT.
#[derive(Debug, Clone)]
enum Act {
    Send(usize),
    Ping,
    Recvack,
    Sub,
    Foreign,
    /// The oldest open SEND is answered.
    Answer,
    /// CONNACK is written, if it is not yet.
    Open,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0usize..400).prop_map(Act::Send),
        2 => Just(Act::Ping),
        1 => Just(Act::Recvack),
        1 => Just(Act::Sub),
        1 => Just(Act::Foreign),
        3 => Just(Act::Answer),
        1 => Just(Act::Open),
    ]
}

fn frame_of(act: &Act, number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    match act {
        Act::Send(len) => return send(number, *len),
        Act::Ping => encode::ping(&mut out),
        Act::Recvack => {
            encode::recvack(&mut out, &Recvack { flags: wk_wire::Flags::NONE, message_id: 1, message_seq: 1 }, Version::V5);
        }
        Act::Sub => {
            let sub = Sub {
                setting: Setting::NONE,
                sub_no: "n".into(),
                channel_id: "c".into(),
                channel_type: ChannelType::DATA,
                action: SubAction::SUBSCRIBE,
                param: String::new(),
            };
            encode::sub(&mut out, &sub, Version::V5).unwrap();
        }
        Act::Foreign => encode::pong(&mut out),
        Act::Answer | Act::Open => {}
    }
    out
}

fn tight() -> Settings {
    Settings { sends_open_max: 3, sends_open_bytes_max: 600, ..Settings::default() }
}

proptest! {
    /// Whatever is sent, answered and cut in whatever order: SENDs are handed over once, in order, within the bounds; PINGs are all answered.
    #[test]
    fn sends_keep_their_order_and_their_bounds(acts in prop::collection::vec(act(), 0..120), cut in 1usize..200) {
        let mut bench = Bench::new(Transport::Tcp, tight());
        bench.feed(&connect());
        bench.work(|conn, cx| {
            (0..120).for_each(|_| conn.recv(b"", cx));
            Ok(())
        });
        let (mut sent, mut pings, mut acks, mut answered, mut waiting) = (0u32, 0usize, 0usize, 0usize, Vec::new());
        let (mut opened, all) = (false, acts.into_iter().chain([Act::Open]));
        for act in all {
            waiting.extend(frame_of(&act, sent));
            match act {
                Act::Send(_) => sent += 1,
                Act::Ping => pings += 1,
                Act::Recvack => acks += 1,
                Act::Open if !opened => {
                    opened = true;
                    bench.open();
                }
                Act::Answer => {
                    if let Some((_, cost)) = bench.sends().get(answered).copied() {
                        answered += 1;
                        bench.work(|conn, cx| conn.release(cost, cx));
                    }
                }
                _ => {}
            }
            while waiting.len() >= cut {
                let chunk: Vec<u8> = waiting.drain(..cut).collect();
                bench.feed(&chunk);
            }
            let open = &bench.sends()[answered..];
            prop_assert!(open.len() <= 3);
            prop_assert!(open.len() <= 1 || open.iter().map(|(_, cost)| cost).sum::<u32>() <= 600);
        }
        bench.feed(&waiting);
        while let Some((_, cost)) = bench.sends().get(answered).copied() {
            answered += 1;
            bench.work(|conn, cx| conn.release(cost, cx));
        }
        prop_assert_eq!(bench.ended, None);
        prop_assert_eq!(bench.sends().into_iter().map(|(n, _)| n).collect::<Vec<_>>(), (0..sent).collect::<Vec<_>>());
        prop_assert_eq!(bench.out.iter().filter(|b| **b == 0x80).count(), pings);
        prop_assert_eq!(bench.events.iter().filter(|e| matches!(e, Event::Recvack(..))).count(), acks);
        prop_assert!(bench.conn.parked.is_none() && bench.conn.input.is_empty());
        prop_assert_eq!((bench.conn.sends_open, bench.conn.sends_open_bytes), (0, 0));
    }

    #[test]
    fn json_sends_keep_their_order(count in 0u32..20, cut in 1usize..50) {
        let mut bench = Bench::new(Transport::Tcp, tight());
        bench.feed(br#"{"method":"connect","id":1,"params":{"uid":"ann"}}"#);
        let stream: Vec<u8> = (0..count).flat_map(json_send).collect();
        let (early, late) = stream.split_at(stream.len() / 2);
        early.chunks(cut).for_each(|chunk| bench.feed(chunk));
        bench.open();
        late.chunks(cut).for_each(|chunk| bench.feed(chunk));
        let mut answered = 0;
        while let Some((_, cost)) = bench.sends().get(answered).copied() {
            answered += 1;
            bench.work(|conn, cx| conn.release(cost, cx));
        }
        prop_assert_eq!(bench.ended, None);
        prop_assert_eq!(bench.sends().into_iter().map(|(n, _)| n).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    }

    /// Bytes from outside never panic, and what comes of them does not depend on how they are cut.
    #[test]
    fn garbage_is_cut_the_same(
        prefix in prop_oneof![Just(Vec::new()), Just(connect()), Just(b"{".to_vec()), Just(b"GET / HTTP/1.1\r\n".to_vec()), Just(b"PROXY ".to_vec())],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in 1usize..60,
        ws in any::<bool>(),
    ) {
        let listener = if ws { Transport::Ws } else { Transport::Tcp };
        let stream = [prefix, bytes].concat();
        let mut whole = Bench::new(listener, Settings::default());
        whole.feed(&stream);
        let mut pieces = Bench::new(listener, Settings::default());
        stream.chunks(cut).for_each(|chunk| pieces.feed(chunk));
        prop_assert_eq!(whole.summary(), pieces.summary());
    }
}

#[test]
fn reading_stops_at_the_parked_bound_and_goes_on_after_answers() {
    let mut bench = Bench::new(Transport::Tcp, Settings { parked_bytes_max: 1_000, sends_open_max: 1, ..Settings::default() });
    bench.feed(&connect());
    bench.open();
    bench.feed(&send(0, 400));
    assert!(bench.conn.wants_read(&bench.settings));
    bench.feed(&[send(1, 600), send(2, 600)].concat());
    assert!(!bench.conn.wants_read(&bench.settings));
    let cost = bench.sends()[0].1;
    bench.work(|conn, cx| conn.release(cost, cx));
    assert!(bench.conn.wants_read(&bench.settings));
    assert_eq!(bench.sends().len(), 2);
}

#[test]
fn a_json_send_without_a_number_gets_one() {
    let mut bench = Bench::new(Transport::Tcp, Settings { sends_open_max: 2, ..Settings::default() });
    bench.feed(br#"{"method":"connect","id":1,"params":{"uid":"ann"}}"#);
    bench.open();
    let named = br#"{"method":"send","id":3,"params":{"channelId":"b","channelType":1,"payload":"aGk=","clientMsgNo":"mine"}}"#;
    bench.feed(&[json_send(1), named.to_vec(), json_send(2)].concat());
    bench.work(|conn, cx| conn.release(1, cx));
    let numbers: Vec<String> = bench
        .events
        .iter()
        .filter_map(
            |e| if let Event::Send(send) = e { Some(item::Send::decode(&send.body).unwrap().client_msg_no.to_owned()) } else { None },
        )
        .collect();
    let [first, second, parked] = &numbers[..] else { panic!("{numbers:?}") };
    assert_eq!(second, "mine");
    assert_ne!(first, parked);
    for made in [first, parked] {
        assert!(made.len() == 32 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
    }
}

/// A client's WebSocket frame, masked with zeros.
fn ws_text(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let len = u64::try_from(payload.len()).unwrap();
    [&[if fin { 0x80 } else { 0 } | opcode, 0xff][..], &len.to_be_bytes(), &[0; 4], payload].concat()
}

fn upgraded() -> Bench {
    let mut bench = Bench::new(Transport::Ws, Settings::default());
    bench.feed(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    bench.out.clear();
    bench
}

#[test]
fn a_json_message_keeps_no_more_than_a_text_may_have() {
    let mut bench = upgraded();
    bench.feed(&ws_text(false, 1, b"{"));
    let spaces = vec![b' '; 64 << 10];
    let mut fed = 1;
    while bench.ended.is_none() && fed < 4 << 20 {
        bench.feed(&ws_text(false, 0, &spaces));
        fed += spaces.len();
    }
    assert_eq!(bench.ended, Some(End::after_flush(CloseReason::Malformed)));
    assert!(fed < JSON_BYTES_MAX + 2 * spaces.len(), "{fed} bytes were kept");
    assert!(String::from_utf8_lossy(&bench.out).contains("-32600"));
}

const JSON_CONNECT: &[u8] = br#"{"method":"connect","id":1,"params":{"uid":"ann"}}"#;

#[test]
fn nothing_is_said_before_the_answer_to_connect() {
    // A text that is none, a text that is cut off by its message, a text that is too long.
    for rest in [&b"}"[..], br#"{"method":"#] {
        let mut bench = upgraded();
        bench.feed(&ws_text(true, 1, JSON_CONNECT));
        bench.feed(&ws_text(true, 1, rest));
        assert_eq!((bench.out.len(), bench.ended), (0, Some(End::MALFORMED)));
    }
    let mut bench = Bench::new(Transport::Tcp, Settings::default());
    bench.feed(JSON_CONNECT);
    bench.feed(b"}");
    assert_eq!((bench.out.len(), bench.ended), (0, Some(End::MALFORMED)));
    // What is a text, though a bad one, is answered after CONNACK.
    let mut bench = Bench::new(Transport::Tcp, Settings::default());
    bench.feed(JSON_CONNECT);
    bench.feed(br#"{"method":"nope","id":3}"#);
    assert_eq!((bench.out.len(), bench.ended), (0, None));
    bench.open();
    assert!(String::from_utf8_lossy(&bench.out).contains("-32601"));
}

#[test]
fn each_recv_is_acknowledged_once() {
    let mut bench = Bench::new(Transport::Tcp, Settings::default());
    bench.feed(&connect());
    bench.open();
    let ack = frame_of(&Act::Recvack, 0);
    let acks = |bench: &Bench| bench.events.iter().filter(|e| matches!(e, Event::Recvack(..))).count();
    bench.feed(&ack.repeat(1_000));
    assert_eq!(acks(&bench), 0, "nothing was received");
    bench.work(|conn, cx| {
        conn.recv(b"frame", cx);
        conn.recv(b"frame", cx);
        Ok(())
    });
    bench.feed(&ack.repeat(1_000));
    assert_eq!((acks(&bench), bench.ended), (2, None));
    assert_eq!(bench.metrics.recvacks_ignored.get(), 1_998);
    for _ in 0..=RECVS_OPEN_MAX {
        bench.work(|conn, cx| {
            conn.recv(b"", cx);
            Ok(())
        });
    }
    assert_eq!(bench.conn.recvs_open, RECVS_OPEN_MAX);
}

#[test]
fn before_connack_less_is_kept() {
    let mut bench = Bench::new(Transport::Tcp, Settings::default());
    bench.feed(&connect());
    bench.feed(&send(0, PARKED_BEFORE_LOGIN_BYTES_MAX));
    assert!(!bench.conn.wants_read(&bench.settings));
    bench.open();
    assert!(bench.conn.wants_read(&bench.settings));
    assert_eq!(bench.sends().len(), 1);
}
