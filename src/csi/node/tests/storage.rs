//! Which stores this node reaches.

use super::*;
use crate::csi::v1::StorageHealthErrorType;
use crate::sandbox::s3::{Options, Server};

#[tokio::test]
async fn what_cannot_be_reached_is_named_and_not_asked_again_at_once() {
    let there = Server::start(Options { buckets: vec!["data".into()], ..Options::default() }).await.unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stores.yaml");
    let text = format!(
        "stores: [{{name: lake, backend: s3, endpoint: '{}', bucket: data}}, \
         {{name: pond, backend: s3, endpoint: 'http://{closed}', bucket: data}}]",
        there.endpoint()
    );
    std::fs::write(&file, text).unwrap();
    let stores = LiveStores::load(&file).unwrap().current();

    let reachability = health::Reachability::default();
    for _ in 0..3 {
        let entries = reachability.of(&stores).await;
        let shown: Vec<_> = entries.iter().map(|entry| (entry.status(), entry.reason.as_str())).collect();
        assert_eq!(shown, [(StorageHealthErrorType::StorageUnreachable, "StoreUnreachable")]);
        let message = &entries[0].message;
        assert!(message.contains("\"pond\"") && !message.contains("lake") && message.lines().count() == 1, "{message}");
    }
    assert_eq!(there.counters().total(), 1);
}
