//! What is for people and monitors: the documentation, the manager's port.

use super::*;

#[tokio::test]
async fn the_docs_are_in_the_binary() {
    let open = server(config());
    let (status, document) = open.get("/docs/openapi.json").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for path in ["/user/token", "/channel/subscriber_add", "/message/send", "/channel/messagesync", "/route/batch", "/readyz"] {
        assert!(paths.contains_key(path), "{path}");
    }
    let fields = &document["components"]["schemas"]["MessageSend"]["properties"];
    assert_eq!(fields["payload"]["type"], "string");
    let (status, page) = open.get("/docs/").await;
    assert!(status == 200 && page.contains("swagger-ui"), "{page}");
    assert!(!page.contains("https://"), "{page}");
    for asset in ["/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/swagger-initializer.js"] {
        assert_eq!(open.get(asset).await.0, 200, "{asset}");
    }
    let closed = server(Config { release: true, ..config() });
    for path in ["/docs", "/docs/", "/docs/openapi.json"] {
        assert_eq!(closed.get(path).await.0, 403);
    }
}

#[tokio::test]
async fn the_manager_port_has_metrics_and_probes() {
    let server = server(config());
    let router = manager(server.api.clone());
    let ask = |path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let router = router.clone();
        async move { text(router.oneshot(request).await.unwrap()).await }
    };
    let (status, page) = ask("/metrics").await;
    assert!(status == 200 && page.contains("wk_api_requests_total{daemon=\"api\",slot=\"0\",class=\"ok\"} 0"), "{page}");
    assert_eq!(ask("/readyz").await.0, 200);
    assert_eq!(ask("/user/token").await, (404, "404 page not found".into()));
}
