//! What the gateway takes from the configuration file.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use wk_types::{Incarnation, NodeId};
use wk_wire::detect::ProxyMode;

use crate::limits;

/// Settings of the reactors. Times are in ms because the reactors' clock is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our node: part of connection ids, told in CONNACK.
    pub node: NodeId,
    /// Our slot: part of connection ids.
    pub slot: u16,
    /// Our life: where the counter of connection ids starts, so that ids of an earlier life never meet new connections.
    pub incarnation: Incarnation,
    /// PROXY headers.
    pub proxy: ProxyMode,
    /// Peers that may send PROXY headers and `X-Forwarded-For`; empty: everybody, as in the original (wire protocol §2.4). What they say is shown
    /// to people and decides nothing: the bound per address counts addresses of sockets.
    pub trusted: Arc<[Network]>,
    /// JSON-RPC is allowed.
    pub json: bool,
    /// Pause allowed before a CONNECT is understood. Unit: ms.
    pub first_bytes_ms: u64,
    /// Pause allowed between CONNECT and CONNACK. Unit: ms.
    pub login_ms: u64,
    /// From accept to CONNACK. Unit: ms.
    pub handshake_ms: u64,
    /// The same while the owner of the uid is away. Unit: ms.
    pub away_ms: u64,
    /// Idle limit of an authenticated connection. Unit: ms.
    pub idle_ms: u64,
    /// Output may stand still for this long. Unit: ms.
    pub stall_ms: u64,
    /// From accept to the first byte, once quiesced. Unit: ms.
    pub silent_ms: u64,
    /// Discarding after a half-close. Unit: ms.
    pub linger_ms: u64,
    /// Largest frame body. Unit: bytes.
    pub frame_bytes_max: usize,
    /// SENDs of a connection without answer.
    pub sends_open_max: u32,
    /// Their bytes.
    pub sends_open_bytes_max: u32,
    /// Parsed ahead while SENDs wait. Unit: bytes.
    pub parked_bytes_max: usize,
    /// Output that waits for one connection. Unit: bytes.
    pub output_bytes_max: usize,
    /// Output that waits for all connections. Unit: bytes.
    pub output_total_bytes_max: u64,
    /// Connections from one address; 0: no bound.
    pub per_address_max: u32,
}

impl Settings {
    /// Reads our part of the resolved configuration.
    ///
    /// # Errors
    /// The entry of `proxyProtocol.trusted` that is no address or network.
    pub fn from_config(config: &wk_config::Config, slot: u16, incarnation: Incarnation) -> Result<Self, BadNetwork> {
        let limits = &config.limits;
        let trusted = config.proxy_protocol.trusted.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(Self {
            node: NodeId(config.cluster.node_id),
            slot,
            incarnation,
            proxy: match config.proxy_protocol.mode {
                wk_config::ProxyMode::Auto => ProxyMode::Auto,
                wk_config::ProxyMode::Off => ProxyMode::Off,
                wk_config::ProxyMode::Required => ProxyMode::Required,
            },
            trusted,
            json: !config.disable_json_rpc,
            handshake_ms: ms(limits.handshake_timeout),
            idle_ms: ms(config.conn_idle_time),
            frame_bytes_max: limits.frame_bytes.as_usize(),
            sends_open_max: limits.frames_unsettled,
            sends_open_bytes_max: u32::try_from(limits.bytes_unsettled.0).unwrap_or(u32::MAX),
            parked_bytes_max: limits.parse_ahead_bytes.as_usize(),
            output_bytes_max: limits.outbound_bytes.as_usize(),
            output_total_bytes_max: limits.outbound_total_bytes.0,
            per_address_max: limits.connections_per_address,
            ..Self::default()
        })
    }

    /// True when this peer's PROXY header or forwarding headers are believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty() || self.trusted.iter().any(|network| network.contains(peer))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: NodeId(1),
            slot: 0,
            incarnation: 1,
            proxy: ProxyMode::Auto,
            trusted: Arc::from([]),
            json: true,
            first_bytes_ms: ms(limits::FIRST_BYTES_TIMEOUT),
            login_ms: ms(limits::LOGIN_TIMEOUT),
            handshake_ms: ms(limits::HANDSHAKE_TIMEOUT),
            away_ms: ms(limits::HANDSHAKE_AWAY_TIMEOUT),
            idle_ms: 180_000,
            stall_ms: ms(limits::OUTPUT_STALL_TIMEOUT),
            silent_ms: ms(limits::QUIESCE_SILENT_TIMEOUT),
            linger_ms: ms(limits::LINGER_TIMEOUT),
            frame_bytes_max: wk_types::limits::FRAME_BODY_BYTES_MAX,
            sends_open_max: limits::SENDS_OPEN_MAX,
            sends_open_bytes_max: limits::SENDS_OPEN_BYTES_MAX,
            parked_bytes_max: limits::PARKED_BYTES_MAX,
            output_bytes_max: limits::OUTPUT_BYTES_MAX,
            output_total_bytes_max: limits::OUTPUT_TOTAL_BYTES_MAX,
            per_address_max: 0,
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An address, or a network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: u128,
    v4: bool,
    mask: u128,
}

/// Text that is no address and no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proxyProtocol.trusted: {0:?} is no address and no network")]
pub struct BadNetwork(pub String);

impl Network {
    /// True when the address is inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (bits, v4) = bits(ip);
        v4 == self.v4 && bits & self.mask == self.address
    }
}

impl std::str::FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.to_owned());
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length.parse::<u32>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (address, v4) = bits(ip.parse().map_err(|_| bad())?);
        let width = if v4 { 32 } else { 128 };
        let length = length.unwrap_or(width);
        if length > width {
            return Err(bad());
        }
        let mask = u128::MAX.checked_shl(width - length).unwrap_or(0) & (u128::MAX >> (128 - width));
        Ok(Self { address: address & mask, v4, mask })
    }
}

/// The address as a number, and whether it is version 4 (also when mapped into version 6).
fn bits(ip: IpAddr) -> (u128, bool) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), true),
        IpAddr::V6(ip) => (ip.to_bits(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_say() {
        let inside = |network: &str, ip: &str| network.parse::<Network>().unwrap().contains(ip.parse().unwrap());
        assert!(inside("10.0.0.0/8", "10.255.1.2") && !inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("10.0.0.1", "::ffff:10.0.0.1") && !inside("10.0.0.1", "10.0.0.2"));
        assert!(inside("fd00::/8", "fd12::1") && !inside("fd00::/8", "10.0.0.1"));
        assert!(inside("0.0.0.0/0", "1.2.3.4") && inside("::/0", "::1"));
        for text in ["", "x", "10.0.0.0/33", "10.0.0.0/", "::1/129"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn limits_equal_the_defaults_of_the_file() {
        let ours = Settings::default();
        let file = Settings::from_config(&wk_config::Config::default(), 0, 1).unwrap();
        assert_eq!((ours.sends_open_max, ours.sends_open_bytes_max), (file.sends_open_max, file.sends_open_bytes_max));
        assert_eq!((ours.handshake_ms, ours.idle_ms), (file.handshake_ms, file.idle_ms));
        assert_eq!((ours.parked_bytes_max, ours.output_bytes_max), (file.parked_bytes_max, file.output_bytes_max));
        assert_eq!(ours.output_total_bytes_max, file.output_total_bytes_max);
        assert_eq!(ours.frame_bytes_max, file.frame_bytes_max);
    }
}
