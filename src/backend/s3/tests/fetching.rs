//! Small files in one request, and keys that are renewed.

use http::Method;

use super::scripted::{Answer, Asked, Scripted, head, refusal};
use super::*;
use crate::auth::Current;
use crate::backend::Fetched;
use crate::sandbox::s3::{Options, Server, User};

const BODY: &str = "a small file of ours";

fn sound() -> http::Response<Bytes> {
    head(200, &[("etag", "\"e\"")], BODY)
}

fn known(tag: &str) -> Version {
    Version { path: path("f"), file: tag.into(), bytes: tag.into(), size: 20 }
}

async fn fetch_from(
    script: impl Fn(Asked) -> Answer + Send + Sync + 'static,
    longest: u64,
    known: Option<&Version>,
) -> (Result<Fetched>, Vec<Asked>) {
    let server = Scripted::start(script).await;
    let config = crate::backend::Config::S3(config(&server.url()));
    let store = connect(&config, &keys("id", "secret"), &Path::root(), limits()).unwrap();
    let fetched = store.fetch(&path("f"), longest, known).await;
    (fetched, server.asked())
}

fn bytes_of(fetched: Result<Fetched>) -> Option<Bytes> {
    match fetched.unwrap() {
        Fetched::Same => None,
        Fetched::New { bytes, .. } => Some(bytes),
    }
}

#[tokio::test]
async fn a_fetch_is_one_conditional_get() {
    let script = |asked: Asked| match asked.header("if-none-match") {
        "\"e\"" => Answer::Whole(head(304, &[("etag", "\"e\"")], "")),
        _ => Answer::Whole(sound()),
    };
    for (tag, expected) in [(None, Some(BODY)), (Some("old"), Some(BODY)), (Some("e"), None)] {
        let version = tag.map(known);
        let (fetched, asked) = fetch_from(script, 100, version.as_ref()).await;
        assert_eq!(bytes_of(fetched).as_deref(), expected.map(str::as_bytes), "{tag:?}");
        assert_eq!((asked.len(), &asked[0].method), (1, &Method::GET));
    }
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_is_seen_through() {
    let (fetched, asked) = fetch_from(|_| Answer::Whole(sound()), 100, Some(&known("e"))).await;
    assert_eq!((bytes_of(fetched), asked.len()), (None, 1));
    // Nothing was known that could be the same.
    let (fetched, _) = fetch_from(|_| Answer::Whole(head(304, &[("etag", "\"e\"")], "")), 100, None).await;
    assert!(fetched.is_err(), "{fetched:?}");
}

#[tokio::test]
async fn no_more_than_the_longest_is_read() {
    let (fetched, asked) = fetch_from(|_| Answer::Whole(sound()), 19, None).await;
    assert_eq!((fetched.unwrap_err().kind, asked.len()), (ErrorKind::TooLarge, 1));
}

#[tokio::test]
async fn what_broke_off_is_asked_for_anew_and_never_spliced() {
    let script = |asked: Asked| match asked.number {
        0 => Answer::Broken(sound(), 7),
        _ => Answer::Whole(head(200, &[("etag", "\"g\"")], "another")),
    };
    let (fetched, asked) = fetch_from(script, 100, None).await;
    assert_eq!(bytes_of(fetched).unwrap(), "another");
    assert!(asked.len() == 2 && asked.iter().all(|asked| asked.header("range").is_empty()));
}

#[tokio::test]
async fn a_request_that_met_a_renewal_is_made_again_with_the_new_keys() {
    let current = Current::new(keys("id", "first"));
    let renewed = current.clone();
    let server = Scripted::start(move |asked: Asked| match asked.number {
        0 => {
            renewed.renew(&keys("later", "second"));
            refusal(403, "ExpiredToken", "")
        }
        1 => Answer::Whole(sound()),
        _ => refusal(403, "ExpiredToken", ""),
    })
    .await;
    let config = crate::backend::Config::S3(config(&server.url()));
    let store = connect(&config, &current, &Path::root(), limits()).unwrap();
    assert!(store.fetch(&path("f"), 100, None).await.is_ok());
    let asked = server.asked();
    assert!(asked[0].header("authorization").contains("Credential=id/"));
    assert!(asked[1].header("authorization").contains("Credential=later/"));
    // Without a renewal in between, a refusal is one.
    assert_eq!(store.fetch(&path("f"), 100, None).await.unwrap_err().kind, ErrorKind::Unauthenticated);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_with_renewed_keys() {
    let options =
        Options { users: vec![User::new("id", "first")], buckets: vec!["bucket".into()], ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let current = Current::new(keys("id", "first"));
    let config = crate::backend::Config::S3(config(&server.endpoint()));
    let store = connect(&config, &current, &Path::root(), limits()).unwrap();
    let mut upload = begin(&*store, "f", Base::Absent).await;
    upload.write(noise(9 * MIB).into()).await.unwrap();
    server.users().add(User::new("id", "second"));
    current.renew(&keys("id", "second"));
    upload.write(noise(9 * MIB).into()).await.unwrap();
    let version = upload.publish(&Attributes::default()).await.unwrap().version().cloned().unwrap();
    assert!(part(&*store, &version, 0..version.size).await.unwrap() == [noise(9 * MIB), noise(9 * MIB)].concat());
}
