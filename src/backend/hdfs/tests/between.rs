//! What gets lost between this client and a name node.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a proxy does to what a client sends.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Pass,
    /// Answers that it is refused, as a proxy of HTTP does.
    Refuse,
    /// Passes it on, and ends the connection in the place of an answer, where it holds this.
    Lose(&'static str),
    /// Gives no answer on.
    Lost,
}

/// A proxy of the server at `address`: where it listens, and its rule.
async fn proxy(address: &str) -> (String, Arc<Mutex<Rule>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (own, rule) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Rule::Pass)));
    let (address, rules) = (address.to_owned(), rule.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&address).await.unwrap();
            tokio::spawn(between(client, server, rules.clone()));
        }
    });
    (own, rule)
}

async fn between(client: TcpStream, server: TcpStream, rule: Arc<Mutex<Rule>>) {
    let ((mut calls, mut to_client), (mut answers, mut to_server)) = (client.into_split(), server.into_split());
    let now = rule.clone();
    let answering = tokio::spawn(async move {
        let mut answer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = answers.read(&mut answer).await {
            let is_lost = matches!(*now.lock().unwrap(), Rule::Lost);
            if !is_lost {
                to_client.write_all(&answer[..length]).await.unwrap_or_default();
            }
        }
        to_client
    });
    let mut call = vec![0; 64 << 10];
    while let Ok(length @ 1..) = calls.read(&mut call).await {
        let now = *rule.lock().unwrap();
        match now {
            Rule::Refuse => {
                to_server.shutdown().await.unwrap_or_default();
                let mut to_client = answering.await.unwrap();
                let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                return to_client.write_all(refusal).await.unwrap_or_default();
            }
            Rule::Lose(word) if call[..length].windows(word.len()).any(|part| part == word.as_bytes()) => {
                *rule.lock().unwrap() = Rule::Lost;
                to_server.write_all(&call[..length]).await.unwrap();
                // It is carried out before anybody sees that the connection ended.
                tokio::time::sleep(Duration::from_millis(500)).await;
                *rule.lock().unwrap() = Rule::Pass;
                return;
            }
            Rule::Pass | Rule::Lose(_) | Rule::Lost => to_server.write_all(&call[..length]).await.unwrap_or_default(),
        }
    }
}

/// A directory of alice's, seen past such a proxy of the name node's WebHDFS; and the directory's path.
async fn behind_webhdfs() -> Option<(Arc<dyn Backend>, Arc<Mutex<Rule>>, &'static Hadoop, String)> {
    let cluster = Hadoop::shared().await.unwrap()?;
    let dir = cluster.fresh("alice").await.unwrap();
    let (own, rule) = proxy(cluster.webhdfs().trim_start_matches("http://")).await;
    let past = Config { webhdfs: vec![format!("http://{own}")], ..config(cluster) };
    Some((connect(&past, "alice", &dir, limits()), rule, cluster, dir))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_failed_at_its_end_is_not_followed_by_one_that_succeeds() {
    let Some((store, rule, ..)) = behind_webhdfs().await else { return };
    let writing = begin(&*store, "file").await;
    writing.write(0, "content".into()).await.unwrap();
    *rule.lock().unwrap() = Rule::Refuse;
    assert_eq!(error_of(writing.finish()).await, ErrorKind::Denied);
    *rule.lock().unwrap() = Rule::Pass;
    assert_eq!(error_of(writing.finish()).await, ErrorKind::Denied);
    assert_eq!(error_of(writing.sync()).await, ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_which_nothing_could_come_is_given_back() {
    let Some((store, rule, cluster, dir)) = behind_webhdfs().await else { return };
    let file = put(&*store, "file", "content").await;
    let writing = store.open_write(&file).await.unwrap();
    *rule.lock().unwrap() = Rule::Refuse;
    assert_eq!(error_of(writing.write(7, "more".into())).await, ErrorKind::Denied);
    let other = connect(&config(cluster), "alice", &dir, limits());
    let theirs = other.open_write(&file).await.unwrap();
    theirs.write(7, "theirs".into()).await.unwrap();
    theirs.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_made_though_the_answer_got_lost_is_made() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    let (own, rule) = proxy(cluster.namenode()).await;
    let store = connect(&Config { namenodes: vec![own], ..config(cluster) }, "alice", &dir, limits());
    *rule.lock().unwrap() = Rule::Lose("rename2");
    assert_eq!(store.make_dir(&path("dir")).await.unwrap().kind(), Kind::Directory);
    assert!(matches!(*rule.lock().unwrap(), Rule::Pass), "nothing got lost");
    assert_eq!(error_of(store.make_dir(&path("dir"))).await, ErrorKind::AlreadyExists);
}
