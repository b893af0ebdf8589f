//! WebHDFS that answers as a test says.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::backend::hdfs::Tree;

/// What is said to a request: the status and the body; nothing, for ever.
type Answer = Option<(u16, Vec<u8>)>;

/// Serves HTTP at `host`: its `host:port`.
async fn served(host: &str, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let (own, answer) = (listener.local_addr().unwrap().to_string(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(client.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let Some((status, body)) = answer(request.split(' ').nth(1).unwrap()) else {
                    return std::future::pending().await;
                };
                let head =
                    format!("HTTP/1.1 {status} .\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                client.write_all(&[head.as_bytes(), &body].concat()).await.unwrap_or_default();
            });
        }
    });
    own
}

/// A volume of a cluster of which nothing but WebHDFS is there.
fn tree(web: &str, patience: Duration) -> Arc<Tree> {
    let config = Config::at("127.0.0.1:1", &format!("http://{web}"));
    let alice = Credential::Hadoop { user: "alice".into() };
    Arc::new(Tree::new(&config, &alice, &Path::root(), Limits::alone(64 << 20, patience)).unwrap())
}

fn ok(body: String) -> Answer {
    Some((200, body.into()))
}

fn status(name: &str, length: usize) -> String {
    format!(
        r#"{{"pathSuffix":"{name}","type":"FILE","fileId":7,"length":{length},"modificationTime":-2,"owner":"alice",
        "group":"users","permission":"644","blockSize":1048576}}"#
    )
}

/// The value of a word of a query.
fn word(url: &str, name: &str) -> Option<usize> {
    let value = url.split(['?', '&']).find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    value.map(|value| value.parse().unwrap())
}

/// A name node by which a file is open that is 10 bytes long as far as it knows, and sends to the first of these DataNodes
/// that is not excluded.
async fn name_node(datanodes: Vec<String>) -> String {
    let answer = move |url: &str| {
        let of = |op: &str| url.contains(&format!("op={op}"));
        let is_excluded = |node: &str| {
            let excluded = url.split("excludedatanodes=").nth(1).and_then(|rest| rest.split('&').next());
            let host = node.split(':').next().unwrap();
            excluded.is_some_and(|excluded| excluded.split("%2C").any(|one| one == host))
        };
        match datanodes.iter().find(|node| !is_excluded(node)) {
            _ if of("GETFILESTATUS") => ok(format!(r#"{{"FileStatus":{}}}"#, status("", 10))),
            _ if of("GET_BLOCK_LOCATIONS") => ok(r#"{"LocatedBlocks":{"isUnderConstruction":true}}"#.into()),
            Some(node) if of("OPEN") => {
                let query = url.split('?').nth(1).unwrap();
                ok(format!(r#"{{"Location":"http://{node}/webhdfs/v1/f?{query}"}}"#))
            }
            _ => Some((403, br#"{"RemoteException":{"exception":"IOException"}}"#.into())),
        }
    };
    served("127.0.0.1", answer).await
}

/// One that gives what there is of `data`.
async fn data_node(host: &str, data: Vec<u8>) -> String {
    let answer = move |url: &str| {
        let start = word(url, "offset").unwrap();
        let end = word(url, "length").map_or(data.len(), |length| data.len().min(start + length));
        Some((200, data[start..end].to_vec()))
    };
    served(host, answer).await
}

#[tokio::test]
async fn a_datanode_that_is_silent_or_gone_is_passed_over_and_an_end_that_nobody_tells_is_the_last_that_was_known() {
    let data = noise(3 * MIB);
    let silent = served("127.0.0.2", |_| None).await;
    let gone = "127.0.0.3:1".to_owned();
    let there = data_node("127.0.0.4", data.clone()).await;
    let patience = Duration::from_secs(3);

    let all = tree(&name_node(vec![gone.clone(), silent.clone(), there]).await, patience);
    // Behind what the name node knows, in the middle of what comes.
    for range in [0..5, 0..3 * MIB as u64, 2 * MIB as u64 + 7..2 * MIB as u64 + 12, 3 * MIB as u64..4 * MIB as u64] {
        let read = all.web.open("/f", range.clone(), 10).await.unwrap();
        let end = data.len().min(range.end as usize);
        assert!(read == data[range.start as usize..end], "{range:?}");
    }
    all.growing.note(7);
    assert_eq!(all.status(&path("f")).await.unwrap().length, 3 * MIB as u64);

    let none = tree(&name_node(vec![gone, silent]).await, patience);
    none.growing.note(7);
    assert_eq!(none.status(&path("f")).await.unwrap().length, 10);
    assert_eq!(none.web.open("/f", 0..5, 10).await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn what_no_mount_can_show_hides_nothing_else_of_a_listing() {
    let page = |entries: &[String]| {
        let entries = entries.join(",");
        let page =
            format!(r#"{{"partialListing":{{"FileStatuses":{{"FileStatus":[{entries}]}}}},"remainingEntries":0}}"#);
        format!(r#"{{"DirectoryListing":{page}}}"#)
    };
    let listed = page(&[status(&"x".repeat(256), 1), status("y", 2)]);
    let itself = page(&[status("", 1)]);
    let web = served("127.0.0.1", move |url| ok(if url.contains("/dir") { &listed } else { &itself }.clone())).await;
    let config = Config::at("127.0.0.1:1", &format!("http://{web}"));
    let store = connect(&config, "alice", "", limits());
    let shown: Vec<_> = store.list(&path("dir")).try_collect().await.unwrap();
    assert_eq!((shown.len(), shown[0].name.as_bytes(), shown[0].meta.size()), (1, &b"y"[..], 2));
    assert_eq!(shown[0].meta.mtime, std::time::SystemTime::UNIX_EPOCH);
    let file: Result<Vec<_>> = store.list(&path("file")).try_collect().await;
    assert_eq!(file.unwrap_err().kind, ErrorKind::NotADirectory);
}
