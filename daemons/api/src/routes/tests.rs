//! The router over a backend that records what it is asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use axum::body::Body;
use axum::http::Method;
use bytes::BytesMut;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;
use tower::ServiceExt as _;
use wk_link::item::{Body as _, ChannelSend};
use wk_link::record::{Message, Stored, encode_message, encode_row};
use wk_proto::cluster::v1 as pb;
use wk_proto::worker::v1 as worker;
use wk_rpc::Table;
use wk_types::Bucket;

use super::*;
use crate::backend::BackendError;

mod pages;

/// A backend that does what it is told.
#[derive(Default)]
struct Fake {
    commands: Mutex<Vec<(&'static str, String, Vec<pb::Command>)>>,
    rows: Mutex<HashMap<(String, u32), Vec<u8>>>,
    sent: Mutex<Vec<Bytes>>,
    tokens: Mutex<Vec<worker::SetTokenRequest>>,
    quits: Mutex<Vec<worker::QuitRequest>>,
    ids: AtomicI64,
    fails: AtomicBool,
}

impl Fake {
    fn check(&self) -> Result<(), BackendError> {
        if self.fails.load(Ordering::Relaxed) { Err(BackendError::SendDeadline) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Backend for Fake {
    async fn lookup(&self, queries: Vec<pb::Query>) -> Result<Vec<pb::Answer>, BackendError> {
        self.check()?;
        let rows = self.rows.lock();
        let answer = |query: pb::Query| match query.of {
            Some(pb::query::Of::Row(key)) => pb::Answer { value: rows.get(&(key.id, key.sub)).cloned(), ..Default::default() },
            Some(pb::query::Of::LastSeq(_)) => pb::Answer { number: 2, ..Default::default() },
            _ => pb::Answer::default(),
        };
        Ok(queries.into_iter().map(answer).collect())
    }

    async fn read(&self, request: pb::ReadRequest) -> Result<pb::ReadReply, BackendError> {
        self.check()?;
        if request.channel.unwrap_or_default().id == "empty" {
            return Ok(pb::ReadReply::default());
        }
        let mut records = BytesMut::new();
        let message = Message {
            message_id: 77,
            flags: 2,
            setting: 0,
            expire: 0,
            client_seq: 0,
            from_uid: "u1",
            client_msg_no: "n",
            topic: "",
            stream_no: "",
            payload: b"hi",
        };
        Stored::encode_from_row(&mut records, 2, &encode_row(9, &encode_message(&message)));
        Ok(pb::ReadReply { count: 1, records: records.to_vec().into(), last_seq: 2 })
    }

    async fn scan(&self, request: pb::ScanRequest) -> Result<pb::ScanReply, BackendError> {
        self.check()?;
        let member = |uid: &str| pb::Member { uid: uid.into(), created_at_ms: 0, updated_at_ms: 1500 };
        // Two pages of one member each.
        Ok(if request.after.is_empty() {
            pb::ScanReply { members: vec![member("u1")], more: true }
        } else {
            pb::ScanReply { members: vec![member("u2")], more: false }
        })
    }

    async fn set_token(&self, request: worker::SetTokenRequest) -> Result<u32, BackendError> {
        self.check()?;
        let status = if request.uid == "banned" { 19 } else { 200 };
        self.tokens.lock().push(request);
        Ok(status)
    }

    async fn quit(&self, request: worker::QuitRequest) -> Result<(), BackendError> {
        self.check()?;
        self.quits.lock().push(request);
        Ok(())
    }

    async fn online(&self, _: Vec<String>) -> Result<Vec<worker::OnlineConn>, BackendError> {
        self.check()?;
        let conn = |uid: &str, flag| worker::OnlineConn { uid: uid.into(), device_flag: flag, device_level: 1, conn: 1 };
        Ok(vec![conn("u2", 0), conn("u1", 1), conn("u1", 2)])
    }

    async fn change_user(&self, uid: &str, commands: Vec<pb::Command>) -> Result<(), BackendError> {
        self.check()?;
        self.commands.lock().push(("user", uid.to_owned(), commands));
        Ok(())
    }

    async fn change_channel(&self, routing_id: &str, commands: Vec<pb::Command>) -> Result<(), BackendError> {
        self.check()?;
        self.commands.lock().push(("channel", routing_id.to_owned(), commands));
        Ok(())
    }

    async fn message_id(&self) -> Result<i64, BackendError> {
        Ok(self.ids.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn send(&self, bucket: Bucket, body: Bytes) -> Result<(), BackendError> {
        self.check()?;
        let item = ChannelSend::decode(&body).unwrap();
        assert_eq!(bucket, wk_types::ChannelKey::new(item.channel_id, item.channel_type).bucket());
        assert!(item.conn.is_none() && item.system_device);
        self.sent.lock().push(body);
        Ok(())
    }
}

struct Server {
    fake: Arc<Fake>,
    api: Api,
    router: Router,
}

fn server(config: Config) -> Server {
    let fake = Arc::new(Fake::default());
    let registry = Metrics::new();
    let api = Api {
        backend: Arc::clone(&fake) as Arc<dyn Backend>,
        config: Arc::new(config),
        gate: Gate::default(),
        table: TableWatch::from_channel(watch::channel(Arc::new(Table::default())).1),
        metrics: ApiMetrics::new(&registry),
        registry,
        me: "api@0".parse().unwrap(),
        bounds: before::Bounds::default(),
    };
    api.gate.open();
    Server { fake, router: business(api.clone()), api }
}

fn config() -> Config {
    Config {
        tcp_addr: "1.2.3.4:5100".into(),
        ws_addr: "ws://1.2.3.4:5200".into(),
        intranet_tcp_addr: "10.0.0.1:5100".into(),
        ..Config::default()
    }
}

impl Server {
    async fn call(&self, request: Request) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// (status, body) of a request.
    async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        text(self.call(request).await).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.ask(Method::POST, path, body).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(Method::GET, path, "").await
    }
}

async fn text(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn refusal(text: &str) -> (u16, String) {
    (400, serde_json::to_string(&serde_json::json!({"msg": text, "status": 400})).unwrap())
}

const OK: &str = r#"{"status":200}"#;

#[tokio::test]
async fn refusals_have_the_texts_of_the_specification() {
    let server = server(config());
    let group = r#""channel_id":"g1","channel_type":2"#;
    let person = r#""channel_id":"u1","channel_type":1"#;
    let cases: Vec<(&str, String, &str)> = vec![
        ("/user/token", "".into(), "EOF"),
        ("/user/token", "{}".into(), "uid不能为空！"),
        ("/user/token", r#"{"uid":"a@b","token":"t"}"#.into(), "uid不能包含特殊字符！"),
        ("/user/token", r#"{"uid":"a"}"#.into(), "token不能为空！"),
        ("/user/token", r#"{"uid":"____system","token":"t"}"#.into(), "系统账号不允许更新token！"),
        ("/channel", "".into(), "数据格式有误！: EOF"),
        ("/channel", "{}".into(), "频道ID不能为空！"),
        ("/channel", r#"{"channel_id":"g1"}"#.into(), "频道类型错误！"),
        ("/channel", r#"{"channel_id":"g#1","channel_type":2}"#.into(), "频道ID不能包含特殊字符！"),
        ("/channel", format!("{{{person},\"subscribers\":[\"u2\"]}}"), "不支持个人频道添加订阅者！"),
        (
            "/channel",
            r#"{"ban":true}"#.into(),
            "数据格式有误！: json: cannot unmarshal bool into Go struct field channelCreateReq.ban of type int",
        ),
        ("/channel/info", "x".into(), "数据格式有误！"),
        ("/channel/delete", format!("{{{person}}}"), "个人频道不支持添加订阅者！"),
        ("/channel/subscriber_add", "{}".into(), "频道ID不能为空！"),
        ("/channel/subscriber_add", r#"{"channel_id":"g&"}"#.into(), "频道ID不能包含特殊字符！"),
        ("/channel/subscriber_add", format!("{{{group},\"subscribers\":[\" \",\"\"]}}"), "订阅者不能为空！"),
        ("/channel/subscriber_add", format!("{{{person},\"subscribers\":[\"u2\"]}}"), "个人频道不支持添加订阅者！"),
        ("/channel/subscriber_add", format!("{{{group},\"subscribers\":[\"u2\"],\"temp_subscriber\":1}}"), "新版本临时订阅者已不支持！"),
        ("/channel/subscriber_remove", "{}".into(), "频道ID不能为空！"),
        ("/channel/subscriber_remove", format!("{{{group}}}"), "订阅者不能为空！"),
        ("/channel/subscriber_remove", format!("{{{person},\"subscribers\":[\"u2\"]}}"), "个人频道不支持添加订阅者！"),
        ("/channel/subscriber_remove_all", "{}".into(), "channel_id不能为空！"),
        ("/channel/subscriber_remove_all", r#"{"channel_id":"g1"}"#.into(), "频道类型不能为0！"),
        ("/channel/subscriber_remove_all", format!("{{{person}}}"), "个人频道不支持此操作！"),
        ("/channel/blacklist_add", "{}".into(), "channel_id不能为空！"),
        ("/channel/blacklist_add", r#"{"channel_id":"g1"}"#.into(), "频道类型不能为0！"),
        ("/channel/blacklist_add", format!("{{{group}}}"), "uids不能为空！"),
        ("/channel/blacklist_set", "{}".into(), "频道ID不能为空！"),
        ("/channel/blacklist_remove", format!("{{{group}}}"), "uids不能为空！"),
        ("/channel/blacklist_remove_all", r#"{"channel_id":"g1"}"#.into(), "频道类型不能为0！"),
        ("/channel/whitelist_add", r#"{"channel_id":"g@"}"#.into(), "频道ID不能包含特殊字符！"),
        ("/channel/whitelist_add", format!("{{{group}}}"), "uids不能为空！"),
        ("/channel/whitelist_set", "{}".into(), "频道ID不能为空！"),
        ("/channel/whitelist_remove", "{}".into(), "channel_id不能为空！"),
        ("/channel/whitelist_remove_all", "{}".into(), "channel_id不能为空！"),
        ("/message/send", "".into(), "EOF"),
        ("/message/send", "{}".into(), "payload不能为空！"),
        ("/message/send", r#"{"payload":"aGk="}"#.into(), "无法处理发送消息请求！"),
        ("/message/send", r#"{"payload":"aGk=","channel_id":"a@b","channel_type":2}"#.into(), "频道ID不合法！"),
        ("/message/sendbatch", "{}".into(), "from_uid不能为空！"),
        ("/message/sendbatch", r#"{"from_uid":"u1"}"#.into(), "subscribers不能为空！"),
        ("/message/sendbatch", r#"{"from_uid":"u1","subscribers":["u2"]}"#.into(), "payload不能为空！"),
        ("/channel/messagesync", "{}".into(), "channel_id不能为空！"),
        ("/channel/messagesync", format!("{{{group}}}"), "login_uid不能为空！"),
        ("/route/batch", "{}".into(), "数据格式有误！"),
    ];
    for (path, body, text) in cases {
        assert_eq!(server.post(path, &body).await, refusal(text), "{path} {body}");
    }
    assert_eq!(server.get("/channel/max_message_seq").await, refusal("channel_id不能为空"));
    assert_eq!(server.get("/channel/last_message?channel_id=a&channel_type=1").await, refusal("login_uid不能为空"));
    assert!(server.fake.commands.lock().is_empty() && server.fake.sent.lock().is_empty());
}

#[tokio::test]
async fn unknown_routes_and_methods_look_alike() {
    let server = server(config());
    for (method, path) in [(Method::GET, "/nothing"), (Method::GET, "/user/token"), (Method::POST, "/health"), (Method::POST, "/event")] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = server.call(request).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
        assert_eq!(text(response).await, (404, "404 page not found".into()));
    }
}

#[tokio::test]
async fn the_token_is_asked_for_after_cors_and_not_by_probes() {
    let server = server(Config { manager_token: wk_config::Secret::new("secret"), ..config() });
    let ask = |token: Option<&str>, method: Method, path: &str| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("token", token);
        }
        request.body(Body::empty()).unwrap()
    };
    for path in ["/health", "/route", "/docs", "/nothing"] {
        assert_eq!(text(server.call(ask(None, Method::GET, path)).await).await, (401, String::new()));
        assert_eq!(text(server.call(ask(Some("secreT"), Method::GET, path)).await).await, (401, String::new()));
    }
    assert_eq!(server.call(ask(Some("secret"), Method::GET, "/health")).await.status(), StatusCode::OK);
    let preflight = server.call(ask(None, Method::OPTIONS, "/message/send")).await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert_eq!(preflight.headers()["access-control-allow-methods"], "POST, OPTIONS, GET, PUT,DELETE,PATCH");
    assert_eq!(server.get("/healthz").await, (200, r#"{"status":"ok"}"#.into()));
    assert_eq!(server.get("/readyz").await, (200, r#"{"status":"ready"}"#.into()));
}

#[tokio::test]
async fn requests_are_taken_only_while_admitted() {
    let mut server = server(config());
    server.api.gate = Gate::default();
    server.router = business(server.api.clone());
    let refused = |server: &Server| {
        let request = Request::builder().uri("/route").body(Body::empty()).unwrap();
        let router = server.router.clone();
        async move {
            let response = router.oneshot(request).await.unwrap();
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
            text(response).await
        }
    };
    assert_eq!(refused(&server).await, (503, r#"{"msg":"server is starting","status":503}"#.into()));
    let (status, body) = server.get("/readyz").await;
    assert_eq!((status, body.contains("node table")), (503, true));
    assert_eq!(server.get("/healthz").await.0, 200);
    server.api.gate.open();
    assert_eq!(server.get("/route").await.0, 200);
    server.api.gate.quiesce();
    assert_eq!(refused(&server).await, (503, r#"{"msg":"server is stopping","status":503}"#.into()));
    assert!(server.api.registry.gather().contains("wk_api_unavailable_total{reason=\"quiescing\"} 1"));
    assert_eq!(server.api.bounds.requests(), 0);
}

#[tokio::test]
async fn addresses() {
    let server = server(config());
    let outside = r#"{"tcp_addr":"1.2.3.4:5100","ws_addr":"ws://1.2.3.4:5200","wss_addr":""}"#;
    assert_eq!(server.get("/route?uid=x").await, (200, outside.into()));
    let inside = r#"{"tcp_addr":"10.0.0.1:5100","ws_addr":"","wss_addr":""}"#;
    assert_eq!(server.get("/route?intranet=1").await, (200, inside.into()));
    let batch = r#"[{"tcp_addr":"10.0.0.1:5100","ws_addr":"","wss_addr":"","uids":["a","b"]}]"#;
    assert_eq!(server.post("/route/batch?intranet=1", r#"["a","b"]"#).await, (200, batch.into()));
}

#[tokio::test]
async fn health_tells_whether_the_cluster_answers() {
    let server = server(config());
    assert_eq!(server.get("/health").await, (200, r#"{"status":"ok"}"#.into()));
    server.fake.fails.store(true, Ordering::Relaxed);
    assert_eq!(server.get("/health").await, (500, r#"{"status":"error","message":"slot not ready"}"#.into()));
}

#[tokio::test]
async fn users() {
    let server = server(config());
    let token = r#"{"uid":"u1","token":"t","device_flag":1,"device_level":1}"#;
    assert_eq!(server.post("/user/token", token).await, (200, OK.into()));
    assert_eq!(server.fake.tokens.lock()[0].device_flag, 1);
    assert_eq!(server.post("/user/token", r#"{"uid":"banned","token":"t"}"#).await, (200, r#"{"status":19}"#.into()));
    assert_eq!(server.post("/user/device_quit", r#"{"uid":"u1","device_flag":-1}"#).await, (200, OK.into()));
    assert_eq!(server.fake.quits.lock()[0].device_flag, -1);
    assert_eq!(server.post("/user/onlinestatus", "[]").await, (200, OK.into()));
    let online =
        r#"[{"uid":"u1","device_flag":1,"online":1},{"uid":"u1","device_flag":2,"online":1},{"uid":"u2","device_flag":0,"online":1}]"#;
    assert_eq!(server.post("/user/onlinestatus", r#"["u1","u2","u3"]"#).await, (200, online.into()));
    server.fake.fails.store(true, Ordering::Relaxed);
    assert_eq!(server.post("/user/token", token).await.0, 400);
    assert_eq!(server.post("/user/device_quit", "{}").await, (200, OK.into()));
    assert_eq!(server.post("/user/onlinestatus", r#"["u1"]"#).await, refusal("获取在线状态失败！"));
}

#[tokio::test]
async fn channels_are_written_through_their_owners() {
    use pb::command::Change;
    let server = server(config());
    let body = r#"{"channel_id":"g1","channel_type":2,"ban":1,"reset":1,"subscribers":["u1"," ","u2","u1"]}"#;
    assert_eq!(server.post("/channel", body).await, (200, OK.into()));
    let (owner, key, commands) = server.fake.commands.lock().remove(0);
    assert_eq!((owner, key.as_str()), ("channel", "g1"));
    let changes: Vec<Change> = commands.into_iter().map(|c| c.change.unwrap()).collect();
    let Change::Put(put) = &changes[0] else { unreachable!("{changes:?}") };
    let row = pb::ChannelInfoRow::decode(&*put.value).unwrap();
    assert!(row.ban && !row.disband && row.created_at_ms > 0);
    assert!(matches!(&changes[1], Change::Clear(list) if list.list() == pb::List::Subscribers));
    assert!(matches!(&changes[2], Change::Add(add) if add.members == ["u1", "u2"]));

    assert_eq!(server.post("/channel/info", r#"{"channel_id":"u1","channel_type":1,"send_ban":1}"#).await, (200, OK.into()));
    assert_eq!(server.fake.commands.lock().remove(0).0, "user");
    assert_eq!(server.post("/channel/delete", r#"{"channel_id":"g9","channel_type":2}"#).await, (200, OK.into()));
    assert!(server.fake.commands.lock().is_empty(), "nothing is created for an absent channel");
    server.fake.rows.lock().insert(("g1".into(), 2), row.encode_to_vec());
    assert_eq!(server.post("/channel/delete", r#"{"channel_id":"g1","channel_type":2}"#).await, (200, OK.into()));
    let commands = server.fake.commands.lock().remove(0).2;
    let Some(Change::Put(put)) = &commands[0].change else { unreachable!("{commands:?}") };
    let deleted = pb::ChannelInfoRow::decode(&*put.value).unwrap();
    assert!(deleted.disband && deleted.ban && deleted.created_at_ms == row.created_at_ms);

    // An existing channel keeps its flags when members are added; the type defaults to group.
    assert_eq!(server.post("/channel/subscriber_add", r#"{"channel_id":"g1","subscribers":["u3"]}"#).await, (200, OK.into()));
    assert_eq!(server.fake.commands.lock().remove(0).2.len(), 1);
    assert_eq!(server.post("/channel/blacklist_set", r#"{"channel_id":"u1","channel_type":1,"uids":[]}"#).await, (200, OK.into()));
    let (owner, _, commands) = server.fake.commands.lock().remove(0);
    assert_eq!((owner, commands.len()), ("user", 1));
    server.fake.fails.store(true, Ordering::Relaxed);
    assert_eq!(server.post("/channel", body).await, refusal("创建或更新频道失败"));
    assert_eq!(server.post("/channel/info", body).await, refusal("添加或更新频道信息失败！"));
    assert_eq!(server.post("/channel/delete", r#"{"channel_id":"g1","channel_type":2}"#).await, refusal("查询频道信息失败！"));
    let white = r#"{"channel_id":"g1","channel_type":2,"uids":["a"]}"#;
    assert_eq!(server.post("/channel/whitelist_set", white).await, refusal("移除所有白明单失败！"));
}

#[tokio::test]
async fn long_member_lists_are_written_in_parts() {
    let server = server(config());
    let members: Vec<String> = (0..limits::CHANGE_MEMBERS_MAX * 2 + 1).map(|i| format!("u{i}")).collect();
    let body = serde_json::json!({"channel_id": "g1", "channel_type": 2, "subscribers": members}).to_string();
    assert_eq!(server.post("/channel", &body).await, (200, OK.into()));
    let commands: Vec<usize> = server.fake.commands.lock().iter().map(|(_, _, commands)| commands.len()).collect();
    assert_eq!(commands, [2, 1, 1]);
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let server = server(config());
    let rows = concat!(
        r#"[{"id":631765120777144307,"uid":"u1","created_at":"1970-01-01T00:00:00Z","updated_at":"1970-01-01T00:00:01.5Z"},"#,
        r#"{"id":631766220288772518,"uid":"u2","created_at":"1970-01-01T00:00:00Z","updated_at":"1970-01-01T00:00:01.5Z"}]"#
    );
    assert_eq!(server.get("/channel/whitelist?channel_id=g1&channel_type=2").await, (200, rows.into()));
    assert_eq!(server.get("/cluster/channels/g1/2/denylist").await, (200, r#"["u1","u2"]"#.into()));
    assert_eq!(server.get("/cluster/channels/g1/2/nothing").await.0, 404);
}

#[tokio::test]
async fn messages_are_sent() {
    let server = server(config());
    let body = r#"{"header":{"red_dot":1},"from_uid":"u1","channel_id":"u2","channel_type":1,"client_msg_no":"n","payload":"aGk="}"#;
    let answer = r#"{"status":200,"data":{"client_msg_no":"n","message_id":1}}"#;
    assert_eq!(server.post("/message/send", body).await, (200, answer.into()));
    let sent = server.fake.sent.lock().remove(0);
    let item = ChannelSend::decode(&sent).unwrap();
    assert_eq!((item.channel_id, item.message.message_id, item.message.flags, item.message.payload), ("u2@u1", 1, 2, &b"hi"[..]));

    let batch = r#"{"from_uid":"u1","subscribers":["u2","a@b","u3"],"payload":"aGk="}"#;
    let failed = r#"{"fail_uids":["a@b"],"reason":["频道ID不合法！"]}"#;
    assert_eq!(server.post("/message/sendbatch", batch).await, (200, failed.into()));
    assert_eq!(server.fake.sent.lock().len(), 2);

    let command = r#"{"header":{"sync_once":1},"subscribers":["u1","u2"],"payload":"aGk="}"#;
    assert_eq!(server.post("/message/send", command).await, (200, OK.into()));
    assert_eq!(server.fake.commands.lock().remove(0).1, "17922244540036557902");
    server.fake.sent.lock().clear();
    let online = r#"{"header":{"sync_once":1,"no_persist":1},"subscribers":["u1","u2","u1"],"payload":"aGk="}"#;
    assert_eq!(server.post("/message/send", online).await, (200, OK.into()));
    assert!(server.fake.commands.lock().is_empty(), "no list is written");
    let sent = server.fake.sent.lock().remove(0);
    let item = ChannelSend::decode(&sent).unwrap();
    assert_eq!((item.channel_id, item.channel_type.0, item.message.flags), ("systemcmdonline", 8, 5));
    assert_eq!(item.receivers.iter().collect::<Vec<_>>(), ["u1", "u2"]);

    server.fake.fails.store(true, Ordering::Relaxed);
    assert_eq!(server.post("/message/send", body).await, refusal("发送消息超时！"));
}

#[tokio::test]
async fn messages_are_read() {
    let server = server(config());
    let message = concat!(
        r#"{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"setting":0,"message_id":77,"message_idstr":"77","client_msg_no":"n","#,
        r#""message_seq":2,"from_uid":"u1","channel_id":"u2","channel_type":1,"expire":0,"timestamp":9,"payload":"aGk="}"#
    );
    let ask = r#"{"login_uid":"u1","channel_id":"u2","channel_type":1,"limit":1}"#;
    let synced = format!(r#"{{"start_message_seq":0,"end_message_seq":0,"more":1,"messages":[{message}]}}"#);
    assert_eq!(server.post("/channel/messagesync", ask).await, (200, synced));
    assert_eq!(server.get("/channel/max_message_seq?channel_id=g1&channel_type=2").await, (200, r#"{"message_seq":2}"#.into()));
    let last = server.get("/channel/last_message?channel_id=u2&channel_type=1&login_uid=u1").await;
    assert_eq!(last, (200, message.into()));
    let none = server.get("/channel/last_message?channel_id=empty&channel_type=2").await;
    assert_eq!(none, (200, r#"{"status":404}"#.into()));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = server(config());
    let (status, body) = server.post("/message/send", &"x".repeat(limits::BODY_BYTES_MAX + 1)).await;
    assert_eq!((status, body.as_str()), (413, r#"{"msg":"request body is too large","status":413}"#));
}
