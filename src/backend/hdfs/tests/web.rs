//! WebHDFS that answers as a test says.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

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

fn ok(body: String) -> Answer {
    Some((200, body.into()))
}

fn status(name: &str, length: usize) -> String {
    format!(
        r#"{{"pathSuffix":"{name}","type":"FILE","fileId":7,"length":{length},"modificationTime":-2,"owner":"alice",
        "group":"users","permission":"644","blockSize":1048576}}"#
    )
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
