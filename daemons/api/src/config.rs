//! What the api reads of the configuration.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use wk_config::{ListenAddr, Secret};

/// Settings of the api daemon.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `managerToken`: header `token` of every request on the business port, when set.
    pub manager_token: Secret,
    /// `mode: release`: the docs page answers 403.
    pub release: bool,
    /// `external.tcpAddr`.
    pub tcp_addr: String,
    /// `external.wsAddr`.
    pub ws_addr: String,
    /// `external.wssAddr`, empty when off.
    pub wss_addr: String,
    /// `intranet.tcpAddr`.
    pub intranet_tcp_addr: String,
    /// `msg.notify` over HTTP.
    pub webhook: Webhook,
}

/// Settings of the webhook sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhook {
    /// Target of `msg.notify`; `None`: off.
    pub target: Option<Target>,
    /// How long a batch that is not full waits for more.
    pub push_interval: Duration,
    /// Messages per request, at least 1.
    pub batch_messages: usize,
}

/// Where webhooks go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `webhook.httpAddr`.
    pub url: String,
    /// `agent.webhook.httpAddr`: messages of agent channels go there instead.
    pub agent_url: Option<String>,
}

/// Name of the event as it is focused and sent.
pub const MSG_NOTIFY: &str = "msg.notify";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Only gRPC webhooks are configured.
    #[error("webhook.grpcAddr {0:?}: webhooks over gRPC are not available yet; set webhook.httpAddr")]
    GrpcWebhook(String),
    /// Not a URL.
    #[error("{key} {value:?} is not an http or https URL")]
    Url {
        /// Key.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

impl Config {
    /// Takes the api's part.
    ///
    /// # Errors
    /// [`ConfigError`] when a webhook is configured that cannot be sent: a start without it would lose events silently.
    pub fn new(config: &wk_config::Config) -> Result<Self, ConfigError> {
        let machine = machine_ip();
        Ok(Self {
            manager_token: config.manager_token.clone(),
            release: config.mode == wk_config::Mode::Release,
            tcp_addr: config.external_tcp_addr(ip_of(config.addr, machine)),
            ws_addr: config.external_ws_addr(ip_of(config.ws_addr, machine)),
            wss_addr: config.external_wss_addr(config.wss_addr.map_or(machine, |addr| ip_of(addr, machine))),
            intranet_tcp_addr: config.intranet.tcp_addr.clone(),
            webhook: Webhook::new(&config.webhook, &config.agent)?,
        })
    }
}

/// The address a listener is reached at: its own, unless it listens on all.
fn ip_of(listener: ListenAddr, machine: IpAddr) -> IpAddr {
    Some(listener.0.ip()).filter(|ip| !ip.is_unspecified()).unwrap_or(machine)
}

/// The address of this machine on its way to the internet; no packet is sent to learn it. Loopback when there is no such way.
fn machine_ip() -> IpAddr {
    // 192.0.2.1 belongs to nobody (RFC 5737).
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |addr| addr.ip())
}

impl Webhook {
    fn new(config: &wk_config::Webhook, agent: &wk_config::Agent) -> Result<Self, ConfigError> {
        let focused = config.focus_events.is_empty() || config.focus_events.iter().any(|e| e == MSG_NOTIFY);
        let target = match (config.http_addr.as_str(), config.grpc_addr.as_str()) {
            _ if !focused => None,
            ("", "") => None,
            ("", grpc) => return Err(ConfigError::GrpcWebhook(grpc.to_owned())),
            (http, grpc) => {
                if !grpc.is_empty() {
                    tracing::warn!("webhook.grpcAddr has no effect yet, webhook.httpAddr is used");
                }
                let agent_url = match agent.webhook_http_addr.as_str() {
                    "" => None,
                    url => Some(checked("agent.webhook.httpAddr", url)?),
                };
                Some(Target { url: checked("webhook.httpAddr", http)?, agent_url })
            }
        };
        let batch_messages = usize::try_from(config.msg_notify_event_count_per_push).unwrap_or(usize::MAX).max(1);
        Ok(Self { target, push_interval: config.msg_notify_event_push_interval, batch_messages })
    }
}

fn checked(key: &'static str, value: &str) -> Result<String, ConfigError> {
    let fits = reqwest::Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if fits { Ok(value.to_owned()) } else { Err(ConfigError::Url { key, value: value.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(http: &str, grpc: &str, focus: &[&str]) -> Result<Webhook, ConfigError> {
        let config = wk_config::Webhook {
            http_addr: http.into(),
            grpc_addr: grpc.into(),
            focus_events: focus.iter().map(|&e| e.into()).collect(),
            ..wk_config::Webhook::default()
        };
        Webhook::new(&config, &wk_config::Agent::default())
    }

    #[test]
    fn is_on_when_an_address_is_set_and_the_event_is_focused() {
        assert_eq!(webhook("", "", &[]).unwrap().target, None);
        assert_eq!(webhook("http://b/x", "", &[]).unwrap().target.unwrap().url, "http://b/x");
        assert_eq!(webhook("http://b/x", "", &["msg.offline"]).unwrap().target, None);
        assert!(webhook("http://b/x", "", &["msg.offline", "msg.notify"]).unwrap().target.is_some());
        assert_eq!(webhook("http://b/x", "", &[]).unwrap().batch_messages, 100);
    }

    #[test]
    fn addresses_for_clients_are_derived() {
        let mut config = wk_config::Config { addr: ListenAddr("127.0.0.1:5100".parse().unwrap()), ..wk_config::Config::default() };
        config.external.ws_addr = "wss://im.example.com/ws".into();
        let api = Config::new(&config).unwrap();
        assert_eq!((api.tcp_addr.as_str(), api.ws_addr.as_str()), ("127.0.0.1:5100", "wss://im.example.com/ws"));
        config.external.ip = "1.2.3.4".into();
        assert_eq!(Config::new(&config).unwrap().tcp_addr, "1.2.3.4:5100");
        config.external.ip.clear();
        config.addr = ListenAddr("0.0.0.0:5100".parse().unwrap());
        assert!(!Config::new(&config).unwrap().tcp_addr.starts_with("0.0.0.0"));
    }

    #[test]
    fn refuses_what_cannot_be_sent() {
        assert!(matches!(webhook("", "b:1", &[]), Err(ConfigError::GrpcWebhook(_))));
        assert!(matches!(webhook("b:1", "", &[]), Err(ConfigError::Url { .. })));
        assert!(matches!(webhook("/hook", "", &[]), Err(ConfigError::Url { .. })));
    }
}
