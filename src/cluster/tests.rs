use std::fs;

use super::*;
use crate::sandbox::kubernetes::{Nodes, Server};

const TOKEN: &str = "canary-token";

async fn server() -> (Server, tempfile::TempDir) {
    let labels = [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into();
    let server = Server::start(TOKEN, Nodes::from([("node-1".into(), labels)])).await.unwrap();
    let account = tempfile::tempdir().unwrap();
    server.write_account(account.path()).unwrap();
    (server, account)
}

#[tokio::test]
async fn a_node_reads_its_own_labels_and_nothing_else() {
    let (server, account) = server().await;
    let labels = Api::at(server.url(), account.path()).unwrap().node_labels("node-1").await.unwrap();
    assert_eq!(labels, [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into());
    assert_eq!(server.asked(), ["GET /api/v1/nodes/node-1"]);
}

#[tokio::test]
async fn a_refusal_says_how_to_mend_it_and_no_token() {
    let (server, account) = server().await;
    let api = Api::at(server.url(), account.path()).unwrap();
    let not_found = api.node_labels("node-2").await.unwrap_err().to_string();
    assert!(not_found.contains("\"node-2\"") && not_found.contains("spec.nodeName"), "{not_found}");
    let forbidden = api.node_labels("node-1/status").await.unwrap_err().to_string();
    assert!(forbidden.contains("verb get on nodes"), "{forbidden}");
    server.set_token("another");
    let unknown = api.node_labels("node-1").await.unwrap_err().to_string();
    assert!(unknown.contains("service account"), "{unknown}");
    for error in [not_found, forbidden, unknown, format!("{api:?}")] {
        assert!(!error.contains("canary"), "{error}");
    }
}

fn event(message: &str) -> PodEvent<'_> {
    PodEvent {
        namespace: "team-a",
        pod: "train-0",
        uid: "1",
        reason: "VolumeWorkerDied",
        message,
        driver: "csi.example.org",
        node: "node-1",
    }
}

#[tokio::test]
async fn an_event_is_made_once_although_answers_are_lost() {
    let (server, account) = server().await;
    let api = Api::at(server.url(), account.path()).unwrap();
    server.lose_answers(ATTEMPTS - 1);
    api.report(&event("gone")).await.unwrap();
    api.report(&event("gone again")).await.unwrap();
    let messages: Vec<_> = server.events().iter().map(|event| event["message"].clone()).collect();
    assert_eq!(messages, ["gone", "gone again"]);
    server.set_token("another");
    assert!(api.report(&event("unheard")).await.is_err());
}

#[tokio::test]
async fn only_the_clusters_own_certificate_is_believed() {
    let (first, _) = server().await;
    let (second, account) = server().await;
    let error = Api::at(first.url(), account.path()).unwrap().node_labels("node-1").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(first.asked(), Vec::<String>::new(), "nothing was said to a server that is not the cluster's");
    drop(second);
}

#[tokio::test]
async fn a_server_that_is_gone_and_a_half_account_are_errors() {
    let (server, account) = server().await;
    let api = Api::at(server.url(), account.path()).unwrap();
    drop(server);
    // Its port may be another's by then; what is certain is that no labels come.
    assert!(api.node_labels("node-1").await.is_err());
    fs::remove_file(account.path().join("token")).unwrap();
    assert!(Api::at("https://127.0.0.1:1", account.path()).unwrap_err().to_string().contains("token"));
    assert!(Api::at("not an address", account.path()).is_err());
    assert!(Api::in_cluster().unwrap_err().to_string().contains("pod"));
}
