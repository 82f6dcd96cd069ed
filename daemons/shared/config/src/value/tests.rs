use super::*;

fn text(s: &str) -> Raw {
    Raw::Text(s.into())
}

#[test]
fn durations_follow_go_and_know_days() {
    for (t, want) in [
        ("500ms", Duration::from_millis(500)),
        ("1h30m", Duration::from_secs(5400)),
        ("1.5s", Duration::from_millis(1500)),
        ("30d", Duration::from_secs(30 * 86400)),
        ("1000000", Duration::from_millis(1)),
    ] {
        assert_eq!(parse_duration(t), Some(want), "{t}");
        assert_eq!(parse_duration(&show_duration(&want)), Some(want));
    }
    for t in ["5", "5x", "s", "1w", "-1s", "1..5s", "1e9999s"] {
        assert!(t == "5" || parse_duration(t).is_none(), "{t}");
    }
}

#[test]
fn sizes() {
    assert_eq!(ByteSize::parse("512KB"), Some(ByteSize::kib(512)));
    assert_eq!(ByteSize::parse("1 gb"), Some(ByteSize::gib(1)));
    assert_eq!(ByteSize::parse("77"), Some(ByteSize(77)));
    assert_eq!(ByteSize::parse("x"), None);
    assert_eq!(ByteSize::parse("99999999999999TB"), None);
}

#[test]
fn addresses() {
    assert_eq!(ListenAddr::parse("tcp://0.0.0.0:5100"), Some(ListenAddr::any(5100)));
    assert_eq!(ListenAddr::parse("localhost:1"), Some(ListenAddr::local(1)));
    assert_eq!(ListenAddr::parse(":5100"), Some(ListenAddr::any(5100)));
    assert_eq!(ListenAddr::parse("[::1]:80").map(ListenAddr::port), Some(80));
    for bad in ["invalid-address", "1.2.3.4", "1.2.3.4:x", "1.2.3.4:70000", "host:80"] {
        assert_eq!(ListenAddr::parse(bad), None, "{bad}");
    }
    assert_eq!(PeerNode::parse("1001@10.0.0.1").map(|p| p.addr.port), Some(11110));
    assert_eq!(PeerNode::parse("0@10.0.0.1"), None);
    assert_eq!(PeerNode::parse("5000@10.0.0.1"), None);
}

#[test]
fn empty_text_keeps_the_default() {
    let mut d = Duration::from_secs(7);
    assert_eq!(d.set(&text("")), Ok(false));
    assert_eq!(d, Duration::from_secs(7));
    assert!(d.set(&Raw::List(vec![])).is_err());
    let mut nodes: Vec<PeerNode> = Vec::new();
    assert_eq!(nodes.set(&text("1@a:1 2@b:2")), Ok(true));
    assert_eq!(nodes.len(), 2);
    assert!(nodes.set(&text("1@a:1 nonsense")).is_err());
}

#[test]
fn secrets_do_not_show() {
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
}
