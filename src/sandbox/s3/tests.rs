//! The server as a plain client sees it. That it is S3 enough for the driver, the contract suite tells.

use std::time::Duration;

use futures::TryStreamExt;
use http::{Method, StatusCode};
use http_body_util::BodyExt;

mod sdk;

use super::*;
use crate::sandbox::computed;
use crate::sandbox::raw::Raw;

const BUCKET: &str = "data";

async fn server(options: Options) -> Server {
    let users =
        vec![User::new("key", "secret"), User::new("reader", "s").with(Rights::under("data/open/").read_only())];
    Server::start(Options { users, buckets: vec![BUCKET.to_owned()], ..options }).await.unwrap()
}

fn client(server: &Server, key: &str, secret: &str) -> Raw {
    Raw::new(server.access(BUCKET, &User::new(key, secret))).unwrap()
}

async fn ask(raw: &Raw, method: Method, key: &str, headers: &[(&str, &str)]) -> (StatusCode, Bytes) {
    let response = raw.request(method, key, "", headers, Bytes::from_static(b"body")).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default())
}

#[tokio::test]
async fn signatures_and_rights_are_checked() {
    let server = server(Options::default()).await;
    server.put(BUCKET, "open/a", "x");
    server.put(BUCKET, "closed/a", "x");
    let (good, wrong) = (client(&server, "key", "secret"), client(&server, "key", "secreT"));
    let (nobody, reader) = (client(&server, "nobody", "secret"), client(&server, "reader", "s"));
    assert_eq!(ask(&good, Method::GET, "closed/a", &[]).await.0, StatusCode::OK);
    let (status, body) = ask(&wrong, Method::GET, "open/a", &[]).await;
    assert!(status == StatusCode::FORBIDDEN && String::from_utf8_lossy(&body).contains("SignatureDoesNotMatch"));
    let (status, body) = ask(&nobody, Method::GET, "open/a", &[]).await;
    assert!(status == StatusCode::FORBIDDEN && String::from_utf8_lossy(&body).contains("InvalidAccessKeyId"));
    assert_eq!(ask(&reader, Method::GET, "open/a", &[]).await.0, StatusCode::OK);
    assert_eq!(ask(&reader, Method::GET, "closed/a", &[]).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&reader, Method::PUT, "open/a", &[]).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn conditions_hold_on_reads_and_writes() {
    let server = server(Options::default()).await;
    let raw = client(&server, "key", "secret");
    let etag = format!("\"{}\"", server.put(BUCKET, "a", "one"));
    let failed = StatusCode::PRECONDITION_FAILED;
    assert_eq!(ask(&raw, Method::GET, "a", &[("if-match", &etag)]).await.0, StatusCode::OK);
    assert_eq!(ask(&raw, Method::GET, "a", &[("if-match", "\"x\"")]).await.0, failed);
    assert_eq!(ask(&raw, Method::PUT, "a", &[("if-none-match", "*")]).await.0, failed);
    assert_eq!(ask(&raw, Method::PUT, "a", &[("if-match", "\"x\"")]).await.0, failed);
    assert_eq!(ask(&raw, Method::PUT, "a", &[("if-match", &etag)]).await.0, StatusCode::OK);
    assert_eq!(server.get(BUCKET, "a").unwrap().bytes, "body");
    server.faults().add(Rule::on(Kind::GetObject, Fault::IgnoreConditions));
    assert_eq!(ask(&raw, Method::GET, "a", &[("if-match", "\"x\"")]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn computed_objects_are_read_by_ranges_over_tls() {
    let server = server(Options { tls: true, ..Options::default() }).await;
    let raw = client(&server, "key", "secret");
    server.put_computed(BUCKET, "big", 7, 40_000_000);
    let objects = [("big".to_owned(), 40_000_000)];
    let check = |_, at, bytes: &[u8]| match computed::matches(7, at, bytes) {
        true => Ok(()),
        false => Err(io::Error::other("wrong byte")),
    };
    raw.read_all(&objects, 4, 8 << 20, check).await.unwrap();
    let counters = server.counters();
    assert_eq!((counters.of(Kind::GetObject), counters.body_bytes), (5, 40_000_000));
    assert!(counters.peak >= 2 && counters.connections >= 2, "{counters:?}");
    let read = raw.get("big", Some(0..10)).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!(read, computed::bytes(7, 0, 10));
    let wrong = raw.read_all(&objects, 4, 8 << 20, |_, _, _| Err(io::Error::other("wrong byte"))).await;
    assert!(wrong.is_err());
}

#[tokio::test]
async fn staged_faults_happen_and_end() {
    let server = server(Options::default()).await;
    let raw = client(&server, "key", "secret");
    server.put(BUCKET, "a", vec![7; 100_000]);
    let read = async || raw.get("a", None).await?.try_collect::<Vec<_>>().await.map(|chunks| chunks.concat());
    let faults = server.faults();
    for fault in [Fault::Cut(50_000), Fault::Reset(50_000), Fault::Refuse, Fault::LostReply, Fault::error(500, "X")] {
        faults.add(Rule::on(Kind::GetObject, fault.clone()).key("a"));
        assert!(read().await.is_err(), "{fault:?}");
        assert_eq!(read().await.unwrap().len(), 100_000);
    }
    faults.add(Rule::on(Kind::GetObject, Fault::Short(10)));
    assert_eq!(read().await.unwrap().len(), 99_990);
    faults.add(Rule::on(Kind::GetObject, Fault::Corrupt(60_000)));
    assert_eq!(read().await.unwrap()[60_000], 7 ^ 0xff);
    for fault in [Fault::Silence, Fault::Stall(100)] {
        faults.add(Rule::on(Kind::GetObject, fault));
        assert!(tokio::time::timeout(Duration::from_millis(300), read()).await.is_err());
    }
    assert_eq!(faults.pending(), 0);
    faults.set_conditions(Conditions { slow_down: 0.5, ..Conditions::default() });
    let outcomes = [read().await.is_ok(), read().await.is_ok(), read().await.is_ok(), read().await.is_ok()];
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 2);
}

#[tokio::test]
async fn an_operation_is_done_when_its_reply_is_lost_and_not_when_it_is_refused() {
    let server = server(Options::default()).await;
    let raw = client(&server, "key", "secret");
    server.faults().add(Rule::on(Kind::PutObject, Fault::LostReply));
    assert!(raw.put("lost", Bytes::from_static(b"x")).await.is_err());
    server.faults().add(Rule::on(Kind::PutObject, Fault::Refuse));
    assert!(raw.put("refused", Bytes::from_static(b"x")).await.is_err());
    assert_eq!(server.keys(BUCKET), ["lost"]);
}

#[tokio::test]
async fn what_waits_goes_on_when_it_is_released_and_only_then() {
    let server = server(Options::default()).await;
    let raw = client(&server, "key", "secret");
    server.put(BUCKET, "a", vec![7; 1000]);
    let read = |raw: Raw| async move { raw.get("a", None).await?.try_collect::<Vec<_>>().await };
    for fault in [Fault::Silence, Fault::Stall(10)] {
        server.faults().add(Rule::on(Kind::GetObject, fault));
        let mut waiting = tokio::spawn(read(raw.clone()));
        // Other conditions are no release.
        for first_byte in [5, 0].map(Duration::from_millis) {
            server.faults().set_conditions(Conditions { first_byte, ..Conditions::default() });
            assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err());
        }
        server.faults().release();
        let body = waiting.await.unwrap().unwrap().concat();
        assert_eq!(body.len(), 1000);
    }
    server.faults().adjust(|conditions| conditions.silent = true);
    // On a connection that is there, and on a new one.
    let mut waiting = [raw.clone(), client(&server, "key", "secret")].map(|raw| tokio::spawn(read(raw)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    server.faults().adjust(|conditions| conditions.silent = false);
    for task in &mut waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn only_bytes_of_objects_are_counted() {
    let server = server(Options::default()).await;
    let raw = client(&server, "key", "secret");
    server.put(BUCKET, "a", vec![7; 1000]);
    raw.get("a", Some(0..10)).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    ask(&raw, Method::GET, "", &[]).await;
    ask(&raw, Method::GET, "none", &[]).await;
    assert_eq!(server.counters().body_bytes, 10);
}

#[tokio::test]
async fn bandwidth_is_what_the_conditions_say() {
    let server = server(Options::default()).await;
    let raw = client(&server, "key", "secret");
    server.put_computed(BUCKET, "a", 1, 1_000_000);
    let objects = [("a".to_owned(), 1_000_000)];
    // Never faster; how much slower the machine decides.
    let least = [(Some(5_000_000), None, 4), (None, Some(5_000_000), 4)];
    for (per_connection, total, connections) in least {
        server.faults().set_conditions(Conditions { per_connection, total, ..Conditions::default() });
        let begun = std::time::Instant::now();
        raw.read_all(&objects, connections, 250_000, |_, _, _| Ok(())).await.unwrap();
        let ways = if total.is_some() { 1 } else { connections as u32 };
        let wire = Duration::from_millis(200) / ways;
        assert!(begun.elapsed() + Duration::from_millis(15) >= wire, "{:?} < {wire:?}", begun.elapsed());
    }
}
