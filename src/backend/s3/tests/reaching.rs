//! Whether a store is there, asked without a credential.

use super::*;
use crate::backend::{self, reach};
use crate::sandbox::s3::{Conditions, Fault, Options, Rule, Server};

const SOON: Duration = Duration::from_secs(20);

async fn ask(endpoint: &str, deadline: Duration) -> Result<()> {
    reach(&backend::Config::S3(config(endpoint)), deadline).await
}

#[tokio::test]
async fn a_store_that_refuses_is_there_and_one_in_trouble_says_so() {
    let server = Server::start(Options { buckets: vec!["bucket".into()], ..Options::default() }).await.unwrap();
    ask(&server.endpoint(), SOON).await.unwrap();
    server.faults().add(Rule::any(Fault::error(503, "SlowDown")));
    assert_eq!(ask(&server.endpoint(), SOON).await.unwrap_err().kind, ErrorKind::Throttled);
}

#[tokio::test]
async fn silence_has_a_deadline_and_a_closed_port_a_reason() {
    let server = Server::start(Options::default()).await.unwrap();
    server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let error = ask(&server.endpoint(), Duration::from_millis(300)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("0.3 s"), "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = ask(&format!("http://{closed}"), SOON).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.detail.contains("refused"), "{error}");
}
