//! What becomes of answers that no sound server gives.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scripted::{Answer, Asked, Scripted, head, refusal};
use super::*;
use crate::backend::Intent;
use crate::observability::metrics::{ProcessRecorder, STORE_RETRIES};

/// A file of 100 bytes, `0..100`, version `e`.
pub(super) fn hundred() -> Bytes {
    (0..100_u8).collect::<Vec<_>>().into()
}

pub(super) fn hundred_version() -> Version {
    Version { path: path("f"), file: "e".into(), bytes: "e".into(), size: 100 }
}

/// The range a GET asks for.
fn range_of(asked: &Asked) -> std::ops::Range<usize> {
    let Some(range) = asked.header("range").strip_prefix("bytes=") else { return 0..100 };
    let (first, last) = range.split_once('-').unwrap();
    first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
}

/// The sound answer to a GET of the file.
fn sound(asked: &Asked) -> http::Response<Bytes> {
    let range = range_of(asked);
    let body = hundred().slice(range.clone());
    if asked.header("range").is_empty() {
        return head(200, &[("etag", "\"e\"")], body);
    }
    let content_range = format!("bytes {}-{}/100", range.start, range.end - 1);
    head(206, &[("etag", "\"e\""), ("content-range", &content_range)], body)
}

/// With a credential whose every part can be told in a text.
fn with_canaries(endpoint: &str) -> Arc<dyn Backend> {
    let credential = Credential::S3 {
        key_id: "canary-id".into(),
        secret_key: Secret::new("canary-secret".into()),
        session_token: Some(Secret::new("canary-token".into())),
    };
    connect(&crate::backend::Config::S3(config(endpoint)), &credential, &Path::root(), limits()).unwrap()
}

pub(super) fn store_of(endpoint: &str, timeout: Duration) -> Arc<dyn Backend> {
    let limits = Limits { timeout: timeout.into(), ..limits() };
    connect(&crate::backend::Config::S3(config(endpoint)), &keys("id", "secret"), &Path::root(), limits).unwrap()
}

pub(super) fn store_at(server: &Scripted, timeout: Duration) -> Arc<dyn Backend> {
    store_of(&server.url(), timeout)
}

pub(super) async fn store(server: &Scripted) -> Arc<dyn Backend> {
    store_at(server, Duration::from_secs(20))
}

pub(super) fn put_of(asked: &Asked) -> bool {
    asked.method == Method::PUT && !asked.target.contains("uploadId")
}

async fn read_from(
    script: impl Fn(Asked) -> Answer + Send + Sync + 'static,
    range: std::ops::Range<u64>,
) -> (Result<Vec<u8>>, Vec<Asked>) {
    let server = Scripted::start(script).await;
    let read = part(&*store(&server).await, &hundred_version(), range).await;
    (read, server.asked())
}

#[tokio::test]
async fn every_read_is_pinned_and_ranged() {
    let (read, asked) = read_from(|asked| Answer::Whole(sound(&asked)), 10..20).await;
    assert_eq!(read.unwrap(), &hundred()[10..20]);
    assert_eq!(asked[0].header("if-match"), "\"e\"");
    assert_eq!(asked[0].header("range"), "bytes=10-19");
    assert_eq!(asked[0].header("x-amz-checksum-mode"), "");
    assert_eq!(asked[0].target.split('?').next(), Some("/bucket/f"));
}

#[tokio::test]
async fn neighbours_that_wait_for_a_connection_are_one_request() {
    let server = Scripted::start(|asked| Answer::Whole(sound(&asked))).await;
    let config = Config { max_connections: 1, ..config(&server.url()) };
    let config = crate::backend::Config::S3(config);
    let store = connect(&config, &keys("id", "secret"), &Path::root(), limits()).unwrap();
    let file = hundred_version();
    let busy = store.read(&file, 0..1, Intent::Demand).await.unwrap();
    let part = |range: std::ops::Range<u64>| part(&*store, &file, range);
    let after = async {
        tokio::task::yield_now().await;
        drop(busy);
    };
    let (last, first, second, ()) = futures::join!(part(90..100), part(10..20), part(20..50), after);
    assert_eq!(last.unwrap(), &hundred()[90..]);
    assert_eq!(first.unwrap(), &hundred()[10..20]);
    assert_eq!(second.unwrap(), &hundred()[20..50]);
    let ranges: Vec<_> = server.asked().iter().map(|asked| asked.header("range").to_owned()).collect();
    assert_eq!(ranges, ["bytes=0-0", "bytes=90-99", "bytes=10-49"]);
}

#[tokio::test]
async fn an_ignored_if_match_is_stale() {
    let script = |_| Answer::Whole(head(206, &[("etag", "\"g\""), ("content-range", "bytes 10-19/100")], vec![0; 10]));
    assert_eq!(read_from(script, 10..20).await.0.unwrap_err().kind, ErrorKind::Stale);
}

#[tokio::test]
async fn a_refused_pin_or_a_missing_object_is_stale() {
    for (status, code) in [(412, "PreconditionFailed"), (404, "NoSuchKey")] {
        let (read, _) = read_from(move |_| refusal(status, code, ""), 10..20).await;
        assert_eq!(read.unwrap_err().kind, ErrorKind::Stale, "{status}");
    }
}

#[tokio::test]
async fn an_ignored_or_wrong_range_is_corrupt() {
    let whole = |_| Answer::Whole(head(200, &[("etag", "\"e\"")], hundred()));
    assert_eq!(read_from(whole, 10..20).await.0.unwrap_err().kind, ErrorKind::Corrupt);
    let shifted = |_| Answer::Whole(head(206, &[("etag", "\"e\""), ("content-range", "bytes 0-9/100")], vec![0; 10]));
    assert_eq!(read_from(shifted, 10..20).await.0.unwrap_err().kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_broken_body_goes_on_with_the_rest_and_the_same_pin() {
    let script = |asked: Asked| match asked.number {
        0 => Answer::Broken(sound(&asked), 30),
        1 => Answer::Broken(sound(&asked), 1),
        2 => Answer::Reset,
        _ => Answer::Whole(sound(&asked)),
    };
    let (read, asked) = read_from(script, 10..100).await;
    assert_eq!(read.unwrap(), &hundred()[10..]);
    let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range").to_owned()).collect();
    assert_eq!(ranges, ["bytes=10-99", "bytes=40-99", "bytes=41-99", "bytes=41-99"]);
    assert!(asked.iter().all(|asked| asked.header("if-match") == "\"e\""));
}

#[tokio::test]
async fn a_version_that_changes_in_the_middle_is_stale_not_spliced() {
    let script = |asked: Asked| match asked.number {
        0 => Answer::Broken(sound(&asked), 30),
        _ => refusal(412, "PreconditionFailed", ""),
    };
    assert_eq!(read_from(script, 0..100).await.0.unwrap_err().kind, ErrorKind::Stale);
    let ignoring = |asked: Asked| match asked.number {
        0 => Answer::Broken(sound(&asked), 30),
        _ => Answer::Whole(head(206, &[("etag", "\"g\""), ("content-range", "bytes 30-99/100")], vec![0; 70])),
    };
    assert_eq!(read_from(ignoring, 0..100).await.0.unwrap_err().kind, ErrorKind::Stale);
}

#[tokio::test]
async fn a_whole_object_is_held_against_its_checksum() {
    let sum = |sum: &'static str| {
        move |asked: Asked| {
            let mut answer = sound(&asked);
            answer.headers_mut().insert("x-amz-checksum-crc32", sum.parse().unwrap());
            Answer::Whole(answer)
        }
    };
    let (read, _) = read_from(sum("AAAAAA=="), 0..100).await;
    assert_eq!(read.unwrap_err().kind, ErrorKind::Corrupt);
    // CRC-32 (ISO-HDLC) of the bytes 0 to 99, big-endian, in base64.
    let (read, _) = read_from(sum("WMky9Q=="), 0..100).await;
    assert_eq!(read.unwrap(), hundred());
    // A sum of sums says nothing of the whole, nor does one that a store gives with a range unasked.
    assert!(read_from(sum("AAAAAA==-3"), 0..100).await.0.is_ok());
    assert!(read_from(sum("AAAAAA=="), 0..99).await.0.is_ok());
}

#[tokio::test]
async fn a_whole_object_of_a_length_that_is_not_said_is_judged_at_its_end() {
    let of = |body: Bytes| head(200, &[("etag", "\"e\"")], body);
    let (read, asked) = read_from(move |_| Answer::Chunked(of(hundred())), 0..100).await;
    assert_eq!((read.unwrap(), asked.len()), (hundred().to_vec(), 1));
    // What a gateway unpacked is longer or shorter than what is stored.
    for body in [hundred().slice(..70), [hundred(), hundred()].concat().into()] {
        let server = Scripted::start(move |_| Answer::Chunked(of(body.clone()))).await;
        let store = store(&server).await;
        let first = async { store.read(&hundred_version(), 0..100, Intent::Demand).await?.try_next().await };
        assert_eq!(first.await.unwrap_err().kind, ErrorKind::Corrupt);
        assert_eq!(server.asked().len(), 1);
    }
    // Of what breaks off nothing is kept, at its end neither.
    for most in [30, 100] {
        let script = move |asked: Asked| match asked.number {
            0 => Answer::ChunkedBroken(of(vec![7; 100].into()), most),
            _ => Answer::Chunked(of(hundred())),
        };
        let (read, asked) = read_from(script, 0..100).await;
        assert_eq!((read.unwrap(), asked.len()), (hundred().to_vec(), 2));
    }
}

#[tokio::test]
async fn trailers_of_an_answer_are_passed_over() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        let head = "HTTP/1.1 200 OK\r\netag: \"e\"\r\nx-amz-checksum-crc32: WMky9Q==\r\ntrailer: x-more\r\n\
                    transfer-encoding: chunked\r\n\r\n64\r\n";
        let answer = [head.as_bytes(), &hundred(), b"\r\n0\r\nx-more: words\r\n\r\n"].concat();
        stream.write_all(&answer).await.unwrap();
        std::future::pending::<()>().await;
    });
    let store = store_of(&format!("http://{address}"), Duration::from_secs(5));
    assert_eq!(part(&*store, &hundred_version(), 0..100).await.unwrap(), hundred());
}

#[tokio::test]
async fn a_storm_of_503_is_waited_out() {
    let script = |asked: Asked| match asked.number {
        0..5 => refusal(503, "SlowDown", ""),
        5 => refusal(500, "InternalError", ""),
        _ => Answer::Whole(sound(&asked)),
    };
    assert!(read_from(script, 0..10).await.0.is_ok());
}

#[tokio::test]
async fn repeats_are_counted() {
    let recorder = ProcessRecorder::default();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let script = |asked: Asked| match asked.number {
        0 => refusal(503, "SlowDown", ""),
        1 => Answer::Broken(sound(&asked), 3),
        _ => Answer::Whole(sound(&asked)),
    };
    assert!(read_from(script, 0..10).await.0.is_ok());
    assert_eq!(recorder.numbers().get(STORE_RETRIES, &[]), Some(2));
}

#[tokio::test]
async fn an_endless_storm_ends_in_time() {
    let server = Scripted::start(|_| refusal(503, "SlowDown", "")).await;
    let begun = Instant::now();
    let error = store_at(&server, Duration::from_secs(1)).stat(&path("f")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Throttled, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(8) && server.asked().len() < 40);
}

#[tokio::test]
async fn silence_ends_in_time() {
    let server = Scripted::start(|_| Answer::Silence).await;
    let store = store_at(&server, Duration::from_secs(1));
    let begun = Instant::now();
    assert_eq!(store.stat(&path("f")).await.unwrap_err().kind, ErrorKind::Unavailable);
    let read = part(&*store, &hundred_version(), 0..10).await;
    assert_eq!(read.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn silence_ends_in_time_for_who_waits_for_a_connection_too() {
    let server = Scripted::start(|_| Answer::Silence).await;
    let config = Config { max_connections: 1, ..config(&server.url()) };
    let limits = Limits { timeout: Duration::from_secs(3).into(), ..limits() };
    let store = connect(&crate::backend::Config::S3(config), &keys("id", "secret"), &Path::root(), limits).unwrap();
    let begun = Instant::now();
    // No neighbours.
    let (store, file) = (&*store, hundred_version());
    let reads = (0..6).map(|number| part(store, &file, number * 10..number * 10 + 5));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap_err().kind, ErrorKind::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stalled_body_is_asked_for_anew() {
    let server = Scripted::start(|asked| match asked.number {
        0 => Answer::Stalled(sound(&asked), 30),
        _ => Answer::Whole(sound(&asked)),
    })
    .await;
    let read = part(&*store_at(&server, Duration::from_secs(2)), &hundred_version(), 0..100).await;
    assert_eq!(read.unwrap(), hundred());
    assert_eq!(server.asked()[1].header("range"), "bytes=30-99");
}

#[tokio::test]
async fn a_closed_port_is_unavailable() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = store_of(&format!("http://{free}"), Duration::from_millis(300));
    let error = store.stat(&path("f")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.detail.contains("refused"), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do_and_nothing_of_the_request() {
    let echo = "The request signature we calculated does not match. StringToSign: canary-signature";
    let server = Scripted::start(move |_| refusal(403, "SignatureDoesNotMatch", echo)).await;
    let store = with_canaries(&server.url());
    let error = store.stat(&Path::root()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    let listed = store.list(&Path::root()).try_next().await.unwrap_err();
    let shown = format!("{error} {error:?} {listed} {store:?} {store:#?}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(error.detail.contains("SignatureDoesNotMatch") && error.detail.contains("REQ1"), "{error}");
    assert_eq!(server.asked()[0].header("x-amz-security-token"), "canary-token");
}

#[tokio::test]
async fn another_region_is_named() {
    let server = Scripted::start(|_| {
        let body = "<Error><Code>PermanentRedirect</Code></Error>";
        Answer::Whole(head(301, &[("x-amz-bucket-region", "eu-west-1")], body))
    })
    .await;
    let error = store(&server).await.stat(&path("f")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.detail.contains("eu-west-1"), "{error}");
}

#[tokio::test]
async fn no_more_requests_at_once_than_allowed() {
    let server = Scripted::start(|asked| Answer::Late(Duration::from_millis(30), sound(&asked))).await;
    let config = Config { max_connections: 3, ..config(&server.url()) };
    let config = crate::backend::Config::S3(config);
    let store = connect(&config, &keys("id", "secret"), &Path::root(), limits()).unwrap();
    let reads = (0..20).map(|_| async { part(&*store, &hundred_version(), 0..10).await.unwrap() });
    futures::future::join_all(reads).await;
    assert_eq!(server.most_busy.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn anonymous_requests_are_not_signed() {
    let server = Scripted::start(|asked| Answer::Whole(sound(&asked))).await;
    let config = crate::backend::Config::S3(config(&server.url()));
    let store = connect(&config, &Credential::Anonymous, &Path::root(), limits()).unwrap();
    assert!(part(&*store, &hundred_version(), 0..10).await.is_ok());
    assert_eq!(server.asked()[0].header("authorization"), "");
}

#[tokio::test]
async fn archived_objects_are_shown_but_not_readable() {
    let listing = |key: &str, class: &str, restore: &str| {
        format!(
            "<Contents><Key>{key}</Key><ETag>&quot;e&quot;</ETag><Size>1</Size><StorageClass>{class}</StorageClass>\
             {restore}</Contents>"
        )
    };
    let restored = "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>\
                    <RestoreExpiryDate>2030-01-01T00:00:00Z</RestoreExpiryDate></RestoreStatus>";
    let body = [
        "<ListBucketResult><EncodingType>url</EncodingType>",
        &listing("a%2Bb+c%25", "STANDARD", ""),
        &listing("cold", "DEEP_ARCHIVE", ""),
        &listing("thawed", "GLACIER", restored),
        "</ListBucketResult>",
    ]
    .concat();
    let server = Scripted::start(move |_| Answer::Whole(head(200, &[], body.clone()))).await;
    let entries: Vec<_> = store(&server).await.list(&Path::root()).try_collect().await.unwrap();
    let mut shown: Vec<_> = entries.iter().map(|entry| (entry.name.to_string(), entry.meta.readable)).collect();
    shown.sort();
    assert_eq!(shown, [("a+b c%".into(), true), ("cold".into(), false), ("thawed".into(), true)]);
}

#[tokio::test]
async fn what_a_listing_says_too_little_of_is_asked_for_apart() {
    let body = "<ListBucketResult><Contents><Key>f</Key><Size>100</Size></Contents>\
                <Contents><Key>gone</Key><Size>1</Size></Contents></ListBucketResult>";
    let server = Scripted::start(move |asked: Asked| match (asked.method, &*asked.target) {
        (Method::HEAD, "/bucket/f") => Answer::Whole(head(200, &[("etag", "\"e\""), ("content-length", "100")], "")),
        (Method::HEAD, _) => Answer::Whole(head(404, &[], "")),
        _ => Answer::Whole(head(200, &[], body)),
    })
    .await;
    let entries: Vec<_> = store(&server).await.list(&Path::root()).try_collect().await.unwrap();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(entry.meta.version().map(|version| &*version.bytes), Some("e"));
}

#[test]
fn directory_buckets_are_refused_with_a_word() {
    let config = Config { bucket: "data--usw2-az1--x-s3".into(), ..config("http://127.0.0.1:1") };
    let config = crate::backend::Config::S3(config);
    let error = connect(&config, &Credential::Anonymous, &Path::root(), limits()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.message.contains("directory bucket"), "{error}");
}

/// The PUT of a small file, and the GET of all of it, by a store with these words.
async fn put_and_get(words: impl FnOnce(Config) -> Config) -> (Asked, Asked) {
    let server = Scripted::start(|asked: Asked| match put_of(&asked) {
        true => Answer::Whole(head(200, &[("etag", "\"e\"")], "")),
        false => Answer::Whole(sound(&asked)),
    })
    .await;
    let config = crate::backend::Config::S3(words(config(&server.url())));
    let store = connect(&config, &keys("id", "secret"), &Path::root(), limits()).unwrap();
    let mut upload = begin(&*store, "f", Base::Absent).await;
    upload.write(hundred()).await.unwrap();
    upload.publish(&Attributes::default()).await.unwrap();
    part(&*store, &hundred_version(), 0..100).await.unwrap();
    let asked = server.asked();
    let find =
        |method: Method| asked.iter().rfind(|asked| asked.method == method && asked.target.starts_with("/bucket/f"));
    (find(Method::PUT).unwrap().clone(), find(Method::GET).unwrap().clone())
}

fn sums_of(asked: &Asked) -> Vec<&str> {
    asked.headers.keys().map(http::HeaderName::as_str).filter(|name| name.contains("checksum")).collect()
}

#[tokio::test]
async fn stores_that_know_no_checksums_get_none() {
    let (put, get) = put_and_get(|config| Config { checksums: Checksums::Required, ..config }).await;
    assert_eq!((sums_of(&put), sums_of(&get)), (vec![], vec![]));
    let (put, get) = put_and_get(|config| config).await;
    assert!(!sums_of(&put).is_empty() && !sums_of(&get).is_empty());
}

#[tokio::test]
async fn the_words_of_a_store_reach_its_requests() {
    let words = |config| Config {
        requester_pays: true,
        sse_kms_key: Some("key-1".into()),
        storage_class: Some("STANDARD_IA".into()),
        ..config
    };
    let (put, get) = put_and_get(words).await;
    assert_eq!(put.header("x-amz-request-payer"), "requester");
    assert_eq!(get.header("x-amz-request-payer"), "requester");
    assert_eq!(put.header("x-amz-server-side-encryption"), "aws:kms");
    assert_eq!(put.header("x-amz-server-side-encryption-aws-kms-key-id"), "key-1");
    assert_eq!(put.header("x-amz-storage-class"), "STANDARD_IA");
}

#[tokio::test]
async fn nothing_is_asked_before_it_is_needed() {
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken>\
                <Contents><Key>a</Key><ETag>e</ETag><Size>1</Size></Contents>\
                <Contents><Key>b</Key><ETag>e</ETag><Size>1</Size></Contents></ListBucketResult>";
    let server = Scripted::start(move |_| Answer::Whole(head(200, &[], page))).await;
    let mut listing = store(&server).await.list(&Path::root());
    assert_eq!(server.asked().len(), 0);
    listing.try_next().await.unwrap().unwrap();
    assert_eq!(server.asked().len(), 1);
    // The same page again and again would never end.
    let error = loop {
        match listing.try_next().await {
            Ok(entry) => assert!(entry.is_some() && server.asked().len() < 5),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_directory_wins_over_an_object_of_its_name() {
    let server = Scripted::start(|asked: Asked| match asked.method {
        Method::HEAD => Answer::Whole(head(200, &[("etag", "\"e\""), ("content-length", "4")], "")),
        _ => {
            let below = "<Contents><Key>f/x</Key><ETag>e</ETag><Size>1</Size></Contents>";
            Answer::Whole(head(200, &[], format!("<ListBucketResult>{below}</ListBucketResult>")))
        }
    })
    .await;
    assert_eq!(store(&server).await.stat(&path("f")).await.unwrap().kind(), crate::backend::Kind::Directory);
}

#[tokio::test]
async fn an_object_whose_key_its_writer_keeps_is_shown_but_not_readable() {
    let server = Scripted::start(|asked: Asked| match asked.method {
        Method::HEAD => Answer::Whole(head(400, &[], "")),
        _ if asked.target.contains("prefix=f%2F") => {
            Answer::Whole(head(200, &[], "<ListBucketResult></ListBucketResult>"))
        }
        _ => {
            let object = "<Contents><Key>f</Key><ETag>e</ETag><Size>7</Size></Contents>";
            Answer::Whole(head(200, &[], format!("<ListBucketResult>{object}</ListBucketResult>")))
        }
    })
    .await;
    let meta = store(&server).await.stat(&path("f")).await.unwrap();
    assert_eq!((meta.size(), meta.readable), (7, false));
}

#[tokio::test]
async fn no_log_line_shows_a_secret() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer({
        let lines = lines.clone();
        move || Lines(lines.clone())
    });
    let _guard = tracing::subscriber::set_default(log.finish());
    let server = Scripted::start(|asked| match asked.number {
        0 => refusal(503, "SlowDown", ""),
        1 => Answer::Broken(sound(&asked), 30),
        _ => Answer::Whole(sound(&asked)),
    })
    .await;
    let store = with_canaries(&server.url());
    part(&*store, &hundred_version(), 0..100).await.unwrap();
    let log = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    let shown: Vec<_> = log.lines().filter(|line| line.contains("canary")).collect();
    assert!(log.contains("broke off"), "the log was not captured");
    assert!(shown.is_empty(), "{shown:#?}");
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_sum_of_sums_that_does_not_say_so_is_no_checksum() {
    for (etag, kind, vouched) in [("e-2", None, false), ("e-2", Some("FULL_OBJECT"), true), ("e", None, true)] {
        let server = Scripted::start(move |_| {
            let mut answer =
                head(200, &[("etag", &format!("\"{etag}\"")), ("x-amz-checksum-crc32", "AAAAAA==")], hundred());
            if let Some(kind) = kind {
                answer.headers_mut().insert("x-amz-checksum-type", kind.parse().unwrap());
            }
            Answer::Whole(answer)
        })
        .await;
        let version = Version { bytes: etag.into(), ..hundred_version() };
        let read = part(&*store(&server).await, &version, 0..100).await;
        assert_eq!(read.err().map(|error| error.kind), vouched.then_some(ErrorKind::Corrupt), "{etag} {kind:?}");
    }
}
