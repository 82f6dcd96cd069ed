//! Types of single values: how each is read from text, shown, and bounded.

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

mod exact;

pub use exact::Exact;

/// Text of a key, as one scalar or as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// One scalar.
    Text(String),
    /// A YAML list of scalars.
    List(Vec<String>),
}

impl Raw {
    /// What a person typed.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(items) => items.join(" "),
        }
    }

    fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text.trim()),
            Self::List(_) => Err("one value, not a list".into()),
        }
    }
}

/// A value of the configuration. "Empty" and 0 mean "not set" where the original says so: `set` then answers `Ok(false)`.
pub(crate) trait Value: fmt::Debug + Any {
    /// Takes the value from text; `Ok(false)`: not set, the default stays. `Err`: what is allowed.
    fn set(&mut self, raw: &Raw) -> Result<bool, String>;
    /// Text that `set` reads back as the same value.
    fn show(&self) -> String;
    /// True when the text must not be shown to people.
    fn is_secret(&self) -> bool {
        false
    }
    /// For range checks.
    fn as_any(&self) -> &dyn Any;
}

macro_rules! parsed {
    ($($ty:ty: $allowed:literal, $parse:expr, $show:expr;)*) => {$(
        impl Value for $ty {
            fn set(&mut self, raw: &Raw) -> Result<bool, String> {
                let text = raw.text()?;
                if text.is_empty() {
                    return Ok(false);
                }
                let parse: fn(&str) -> Option<$ty> = $parse;
                let value = parse(text).ok_or_else(|| String::from($allowed))?;
                // COMPAT: the original reads a number or duration of 0 as "not set". A flag is set by any value.
                if text.trim_start_matches('0').is_empty() && (&value as &dyn Any).downcast_ref::<bool>().is_none() {
                    return Ok(false);
                }
                *self = value;
                Ok(true)
            }
            fn show(&self) -> String {
                let show: fn(&$ty) -> String = $show;
                show(self)
            }
            fn as_any(&self) -> &dyn Any {
                self
            }
        }
    )*};
}

parsed! {
    bool: "true or false", parse_bool, ToString::to_string;
    u16: "a whole number from 0 to 65535", |t| t.parse().ok(), ToString::to_string;
    u32: "a whole number", |t| t.parse().ok(), ToString::to_string;
    u64: "a whole number", |t| t.parse().ok(), ToString::to_string;
    f64: "a number such as 2 or 0.2", |t| t.parse().ok().filter(|n: &f64| n.is_finite()), ToString::to_string;
    String: "text", |t| Some(t.to_owned()), Clone::clone;
    Duration: "a duration such as 500ms, 5s, 3m, 2h or 7d", parse_duration, show_duration;
    ByteSize: "a size such as 512KB, 256MB or 1GB", ByteSize::parse, |b| b.0.to_string();
    ListenAddr: "an address to listen on, such as 0.0.0.0:5100", ListenAddr::parse, ToString::to_string;
    Role: "replica or proxy", Role::parse, |r| r.name().into();
    Restart: "always, on-failure or never", Restart::parse, |r| r.name().into();
    Orphans: "adopt or kill", Orphans::parse, |o| o.name().into();
    crate::ProxyMode: "auto, off or required", crate::ProxyMode::parse, |m| m.name().into();
    crate::Mode: "debug, release, bench or test", crate::Mode::parse, |m| m.name().into();
}

impl<T: Value + Default + Clone> Value for Option<T> {
    fn set(&mut self, raw: &Raw) -> Result<bool, String> {
        let mut value = T::default();
        let set = value.set(raw)?;
        if set {
            *self = Some(value);
        }
        Ok(set)
    }
    fn show(&self) -> String {
        self.as_ref().map(Value::show).unwrap_or_default()
    }
    fn is_secret(&self) -> bool {
        self.as_ref().is_some_and(Value::is_secret)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Element of a list value.
pub(crate) trait Item: fmt::Debug + Clone + 'static {
    const ALLOWED: &'static str;
    const SECRET: bool = false;
    fn parse(text: &str) -> Option<Self>;
    fn show(&self) -> String;
}

impl<T: Item> Value for Vec<T> {
    fn set(&mut self, raw: &Raw) -> Result<bool, String> {
        let words: Vec<&str> = match raw {
            Raw::Text(text) => text.split_whitespace().collect(),
            Raw::List(items) => items.iter().map(|i| i.trim()).filter(|i| !i.is_empty()).collect(),
        };
        if words.is_empty() {
            return Ok(false);
        }
        *self = words.into_iter().map(|w| T::parse(w).ok_or_else(|| T::ALLOWED.to_owned())).collect::<Result<_, _>>()?;
        Ok(true)
    }
    fn show(&self) -> String {
        self.iter().map(Item::show).collect::<Vec<_>>().join(" ")
    }
    fn is_secret(&self) -> bool {
        T::SECRET
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Item for String {
    const ALLOWED: &'static str = "a list of words";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" | "on" => Some(true),
        "false" | "0" | "f" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Go's syntax (`1h30m`, `1.5s`, `500ms`) and `Nd` for days; a bare whole number is nanoseconds, as in the original.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];
    if let Ok(nanos) = text.parse::<u64>() {
        return Some(Duration::from_nanos(nanos));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len()));
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

fn show_duration(d: &Duration) -> String {
    let nanos = d.as_nanos();
    for (unit, size) in [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanos != 0 && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    format!("{nanos}ns")
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// KB = 1024 bytes, as in the defaults of the original.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// MB = 1024 KB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// GB = 1024 MB.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// The number as `usize`, saturating.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(1 << shift).map(Self)
    }
}

/// An address to listen on. Text: `[scheme://]host:port`; host is an IP address, `localhost` or empty (all addresses).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddr(pub SocketAddr);

impl Default for ListenAddr {
    fn default() -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
    }
}

impl ListenAddr {
    /// All IPv4 addresses of the machine.
    #[must_use]
    pub const fn any(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
    }
    /// This machine only.
    #[must_use]
    pub const fn local(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
    /// Port.
    #[must_use]
    pub fn port(self) -> u16 {
        self.0.port()
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let ip = match host {
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
        };
        Some(Self(SocketAddr::new(ip, port)))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reachable address: host name or IP, and port. Text: `[scheme://]host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPort {
    /// Host name or IP address.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

impl HostPort {
    fn parse(text: &str) -> Option<Self> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        (port != 0 && !host.is_empty() && host.chars().all(plain)).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

parsed! { HostPort: "a reachable address such as 10.0.0.1:11110", HostPort::parse, ToString::to_string; }

/// Another member of the cluster. Text: `id@host:port`; without a port the default cluster port is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerNode {
    /// Node id, 1..=1023.
    pub id: u16,
    /// Cluster address.
    pub addr: HostPort,
}

/// Port of `cluster.addr` in the original.
pub(crate) const CLUSTER_PORT: u16 = 11110;

impl Item for PeerNode {
    const ALLOWED: &'static str = "nodes as id@host:port, id from 1 to 1023";
    fn parse(text: &str) -> Option<Self> {
        let (id, addr) = text.split_once('@')?;
        let id = id.parse().ok().filter(|id| (1..=1023).contains(id))?;
        let addr = HostPort::parse(addr).or_else(|| HostPort::parse(&format!("{addr}:{CLUSTER_PORT}")))?;
        Some(Self { id, addr })
    }
    fn show(&self) -> String {
        format!("{}@{}", self.id, self.addr)
    }
}

/// Text that no `Debug` output shows.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// True when nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(empty)" } else { "Secret(***)" })
    }
}

impl Value for Secret {
    fn set(&mut self, raw: &Raw) -> Result<bool, String> {
        let text = raw.text()?;
        if text.is_empty() {
            return Ok(false);
        }
        self.0 = text.to_owned();
        Ok(true)
    }
    fn show(&self) -> String {
        self.0.clone()
    }
    fn is_secret(&self) -> bool {
        !self.0.is_empty()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Item for Secret {
    const ALLOWED: &'static str = "a list of words";
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

macro_rules! named {
    ($(#[$meta:meta])* $ty:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $ty { $( $(#[$vmeta])* $variant ),* }
        impl $ty {
            /// The word in the file.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $text ),* }
            }
            pub(crate) fn parse(text: &str) -> Option<Self> {
                match text.to_ascii_lowercase().as_str() { $( $text => Some(Self::$variant), )* _ => None }
            }
        }
    };
}
pub(crate) use named;

named! {
    /// Part of this node in the cluster.
    Role {
        /// Holds data.
        #[default]
        Replica = "replica",
        /// Forwards only.
        Proxy = "proxy",
    }
}

named! {
    /// When a daemon that ended is started again.
    Restart {
        /// After every end that nobody asked for.
        #[default]
        Always = "always",
        /// After an end with an error.
        OnFailure = "on-failure",
        /// Never.
        Never = "never",
    }
}

named! {
    /// What becomes of a daemon when its supervisor dies.
    Orphans {
        /// It goes on, and the next supervisor takes it over.
        #[default]
        Adopt = "adopt",
        /// The kernel sends it a SIGTERM; the next supervisor waits for its end and starts another.
        Kill = "kill",
    }
}

#[cfg(test)]
mod tests;
