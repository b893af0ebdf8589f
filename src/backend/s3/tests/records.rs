//! Records and removals: the contract on servers, and stores that do less than S3.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use futures::TryStreamExt;
use http::Method;
use percent_encoding::percent_decode_str;

use super::gateway::Gateway;
use super::scripted::{Answer, Asked, Scripted, head, refusal};
use super::*;
use crate::backend::records::contract::Same;
use crate::backend::records::{Extent, Records, Removed, contract};
use crate::backend::s3::{S3Records, stale};
use crate::sandbox::s3::{Fault, Kind as ServerKind, Options, Rule, Server, User};

/// What a store does otherwise than S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quirk {
    None,
    /// Conditions on PUT.
    IgnoresConditions,
    /// DeleteObjects.
    RefusesBatches,
    /// Keys that begin with `stuck` stay in a batch, which says so in a 200.
    FailsInBatches,
    /// Keys that begin with `stuck` stay.
    KeepsStuck,
    /// A listing's prefix.
    IgnoresPrefix,
    /// Where a listing is to begin.
    IgnoresStartAfter,
    /// The second half of each batch, silently.
    ForgetsHalf,
}

/// So much of S3 as records need, with a quirk. Pages have `page` keys.
async fn server(quirk: Quirk, page: usize) -> Scripted {
    let objects: Mutex<BTreeMap<String, (Bytes, u64)>> = Mutex::default();
    Scripted::start(move |asked| answer(&mut objects.lock().unwrap(), quirk, page, &asked)).await
}

fn answer(objects: &mut BTreeMap<String, (Bytes, u64)>, quirk: Quirk, page: usize, asked: &Asked) -> Answer {
    let url = url::Url::parse(&format!("http://x{}", asked.target)).unwrap();
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    let key = percent_decode_str(url.path().strip_prefix("/bucket").unwrap()).decode_utf8().unwrap().into_owned();
    let key = key.trim_start_matches('/').to_owned();
    let ok = |headers: &[(&str, &str)], body: Bytes| Answer::Whole(head(200, headers, body));
    let stuck = |key: &str| key.rsplit('/').next().unwrap().starts_with("stuck");
    match asked.method {
        Method::PUT => {
            let found = objects.get(&key).map(|(_, write)| format!("\"{write}\""));
            let refused = match (asked.header("if-none-match"), asked.header("if-match")) {
                _ if quirk == Quirk::IgnoresConditions => false,
                ("*", _) => found.is_some(),
                (_, tag) if !tag.is_empty() => found.as_deref() != Some(tag),
                _ => false,
            };
            if refused {
                return refusal(412, "PreconditionFailed", "no");
            }
            objects.insert(key, (asked.body.clone(), asked.number as u64));
            ok(&[("etag", &format!("\"{}\"", asked.number))], Bytes::new())
        }
        Method::GET if query.contains_key("list-type") => {
            let prefix = if quirk == Quirk::IgnoresPrefix { "" } else { query["prefix"].as_str() };
            let after = query
                .get("continuation-token")
                .or(query.get("start-after").filter(|_| quirk != Quirk::IgnoresStartAfter));
            let after = after.cloned().unwrap_or_default();
            let found: Vec<_> =
                objects.keys().filter(|key| key.starts_with(prefix) && **key > after).take(page + 1).collect();
            let contents: String = found
                .iter()
                .take(page)
                .map(|key| {
                    let size = objects[*key].0.len();
                    let key: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
                    format!("<Contents><Key>{key}</Key><ETag>e</ETag><Size>{size}</Size></Contents>")
                })
                .collect();
            let more = found.len() > page;
            let token = if more { found[page - 1].as_str() } else { "" };
            let body = format!(
                "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated><NextContinuationToken>{token}\
                 </NextContinuationToken>{contents}</ListBucketResult>"
            );
            ok(&[], body.into())
        }
        Method::GET | Method::HEAD if query.keys().all(|word| word == "x-id") => match objects.get(&key) {
            Some((body, write)) => ok(&[("etag", &format!("\"{write}\""))], body.clone()),
            None => refusal(404, "NoSuchKey", "no"),
        },
        Method::DELETE if quirk == Quirk::KeepsStuck && stuck(&key) => refusal(403, "AccessDenied", "locked"),
        Method::DELETE => {
            objects.remove(&key);
            Answer::Whole(head(204, &[], ""))
        }
        Method::POST if quirk == Quirk::RefusesBatches => refusal(501, "NotImplemented", "no"),
        Method::POST => {
            let body = String::from_utf8(asked.body.to_vec()).unwrap();
            let keys: Vec<_> = body.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap()).collect();
            let taken = if quirk == Quirk::ForgetsHalf { keys.len().div_ceil(2) } else { keys.len() };
            let mut said = String::new();
            for key in &keys[..taken] {
                if stuck(key) && matches!(quirk, Quirk::FailsInBatches | Quirk::KeepsStuck) {
                    said += &format!("<Error><Key>{key}</Key><Code>InternalError</Code></Error>");
                } else {
                    objects.remove(&key.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"));
                    said += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
            }
            ok(&[], format!("<DeleteResult>{said}</DeleteResult>").into())
        }
        _ => refusal(501, "NotImplemented", "no"),
    }
}

fn records_of(endpoint: &str) -> S3Records {
    records_at(config(endpoint))
}

fn records_at(config: Config) -> S3Records {
    let config = Config { prefix: "some/prefix".into(), ..config };
    S3Records::connect(&config, &keys("rootkey", "rootsecret0123456789")).unwrap()
}

async fn put_all(records: &S3Records, names: &[&str]) {
    for name in names {
        let put = records.client.sdk.put_object().bucket("bucket").key(format!("some/prefix/{name}"));
        put.body(Bytes::from_static(b"x").into()).send().await.unwrap();
    }
}

async fn names(records: &S3Records) -> BTreeSet<String> {
    let listed: Vec<Path> = records.list(&Path::root(), None).try_collect().await.unwrap();
    listed.iter().map(Path::to_string).collect()
}

/// Removes `dir` page by page and returns the pages.
async fn remove_all(records: &S3Records, dir: &str, extent: Extent) -> Result<Vec<Removed>> {
    let mut pages = Vec::new();
    loop {
        pages.push(records.remove_page(&path(dir), extent).await?);
        if pages.last().unwrap().done {
            return Ok(pages);
        }
        assert!(pages.len() < 100, "{pages:?}");
    }
}

#[tokio::test]
async fn records_keep_the_contract_whatever_a_page_holds() {
    for (quirk, page) in [(Quirk::None, 1), (Quirk::None, 1000), (Quirk::IgnoresStartAfter, 2)] {
        let server = server(quirk, page).await;
        let records = records_of(&server.url());
        contract::records(&records, &Same(&records)).await;
    }
}

#[tokio::test]
async fn a_store_without_conditions_is_found_out_and_looked_at_first() {
    let server = server(Quirk::IgnoresConditions, 1000).await;
    let records = records_of(&server.url());
    assert!(!records.excludes().await.unwrap());
    assert!(names(&records).await.is_empty(), "the proof is removed");
    let at = path(".millrace/volumes/x");
    let creates = futures::future::join_all((0..4).map(|_| records.create(&at, Bytes::from_static(b"1")))).await;
    assert_eq!(creates.iter().filter(|created| created.is_ok()).count(), 1, "{creates:?}");
    let tag = creates.into_iter().find_map(Result::ok).unwrap();
    let next = records.replace(&at, &tag, Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(records.replace(&at, &tag, Bytes::from_static(b"3")).await.unwrap_err().kind, ErrorKind::Stale);
    assert_eq!(records.get(&at).await.unwrap(), (Bytes::from_static(b"2"), next.clone()));
    records.remove(&at).await.unwrap();
    assert_eq!(records.replace(&at, &next, Bytes::new()).await.unwrap_err().kind, ErrorKind::Stale);
}

#[tokio::test]
async fn whatever_a_batch_leaves_is_deleted_singly() {
    for quirk in [Quirk::RefusesBatches, Quirk::FailsInBatches, Quirk::ForgetsHalf] {
        let server = server(quirk, 3).await;
        let records = records_of(&server.url());
        put_all(&records, &["a/b/1", "a/b/2", "a/b/stuck", "a/b/c/stuck", "a/b/ & <\u{e9}>", "a/bc", "a/b"]).await;
        remove_all(&records, "a/b", Extent::Current).await.unwrap();
        assert_eq!(names(&records).await, ["a/b", "a/bc"].map(str::to_owned).into(), "{quirk:?}");
        let batches = server.asked().iter().filter(|asked| asked.method == Method::POST).count();
        assert!(quirk != Quirk::RefusesBatches || batches == 1, "asked {batches} times");
    }
}

#[tokio::test]
async fn what_cannot_be_deleted_is_told_after_all_else_went() {
    let server = server(Quirk::KeepsStuck, 1000).await;
    let records = records_of(&server.url());
    put_all(&records, &["a/1", "a/2", "a/stuck"]).await;
    let error = remove_all(&records, "a", Extent::Current).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.detail.contains("AccessDenied"), "{error}");
    assert_eq!(names(&records).await, ["a/stuck".to_owned()].into());
}

#[tokio::test]
async fn a_listing_that_leaves_the_directory_deletes_nothing() {
    let server = server(Quirk::IgnoresPrefix, 1000).await;
    let records = records_of(&server.url());
    put_all(&records, &["a/1", "elsewhere"]).await;
    for extent in [Extent::Current, Extent::All] {
        let error = records.remove_page(&path("a"), extent).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt);
    }
    let deletes = |asked: &Asked| [Method::DELETE, Method::POST].contains(&asked.method);
    assert!(!server.asked().iter().any(deletes));
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_keeps_records_and_removes_every_version() {
    let Some(gateway) = Gateway::start().await else { return };
    let records = records_at(gateway.config());
    contract::records(&records, &Same(&records)).await;
    removes_every_version_and_upload(&records).await;
}

async fn embedded() -> (Server, S3Records) {
    let options = Options {
        users: vec![User::new("rootkey", "rootsecret0123456789")],
        buckets: vec!["bucket".to_owned()],
        ..Options::default()
    };
    let server = Server::start(options).await.unwrap();
    let records = records_of(&server.endpoint());
    (server, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_keeps_records_and_removes_every_version() {
    let (_server, records) = embedded().await;
    contract::records(&records, &Same(&records)).await;
    removes_every_version_and_upload(&records).await;
}

/// Lists keys as they are, and begins each listing with an empty page.
pub(super) fn is_odd(server: &Server) {
    for kind in [ServerKind::ListObjectsV2, ServerKind::ListObjectVersions, ServerKind::ListMultipartUploads] {
        for fault in [Fault::IgnoreEncoding, Fault::EmptyPage] {
            server.faults().add(Rule::on(kind, fault).always());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_keys_and_empty_pages_hide_nothing_and_nothing_is_left() {
    let (server, records) = embedded().await;
    let sdk = &records.client.sdk;
    put_all(&records, &["v/a/1+%41", "v/a/2", "v/ab"]).await;
    sdk.create_multipart_upload().bucket("bucket").key("some/prefix/v/a/big+").send().await.unwrap();
    is_odd(&server);
    assert_eq!(names(&records).await, ["v/a/1+%41", "v/a/2", "v/ab"].map(str::to_owned).into());
    assert!(!records.is_vacant(&path("v/a")).await.unwrap());
    let root = keys("rootkey", "rootsecret0123456789");
    let client = Client::new(&config(&server.endpoint()), (&root).into(), &path("some/prefix"), limits()).unwrap();
    assert_eq!(stale::abort(&client, Duration::ZERO).await.unwrap(), 1);
    sdk.create_multipart_upload().bucket("bucket").key("some/prefix/v/a/big+").send().await.unwrap();
    remove_all(&records, "v/a", Extent::All).await.unwrap();
    assert!(records.is_vacant(&path("v/a")).await.unwrap());
    server.faults().clear();
    assert_eq!(names(&records).await, ["v/ab".to_owned()].into());
    assert!(sdk.list_multipart_uploads().bucket("bucket").send().await.unwrap().uploads().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_keep_the_contract_on_a_busy_server() {
    let (server, records) = embedded().await;
    server.faults().adjust(|conditions| conditions.slow_down = 0.2);
    contract::records(&records, &Same(&records)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_reply_is_lost_is_known_to_be_ours() {
    let (server, records) = embedded().await;
    records.excludes().await.unwrap();
    let at = path(".millrace/volumes/x");
    server.faults().add(Rule::on(ServerKind::PutObject, Fault::LostReply));
    let tag = records.create(&at, Bytes::from_static(b"1")).await.unwrap();
    server.faults().add(Rule::on(ServerKind::PutObject, Fault::LostReply));
    let next = records.replace(&at, &tag, Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(records.get(&at).await.unwrap(), (Bytes::from_static(b"2"), next));
    assert_eq!(server.faults().pending(), 0);
}

/// On a store that keeps versions.
async fn removes_every_version_and_upload(records: &S3Records) {
    let sdk = &records.client.sdk;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    sdk.put_bucket_versioning().bucket("bucket").versioning_configuration(enabled).send().await.unwrap();
    let versions = async || {
        let listed = sdk.list_object_versions().bucket("bucket").prefix("some/prefix/v").send().await.unwrap();
        (listed.versions().len(), listed.delete_markers().len())
    };
    let uploads = async || {
        let listed = sdk.list_multipart_uploads().bucket("bucket").prefix("some/prefix/v").send().await.unwrap();
        listed.uploads().len()
    };
    put_all(records, &["v/a/1", "v/a/1", "v/a/2", "v/ab"]).await;
    for key in ["v/a/big", "v/abig"] {
        sdk.create_multipart_upload().bucket("bucket").key(format!("some/prefix/{key}")).send().await.unwrap();
    }
    remove_all(records, "v/a", Extent::Current).await.unwrap();
    assert_eq!(names(records).await, ["v/ab".to_owned()].into());
    assert_eq!((versions().await, uploads().await), ((4, 2), 2), "a versioned store keeps its versions");
    remove_all(records, "v/a", Extent::All).await.unwrap();
    assert_eq!((versions().await, uploads().await), ((1, 0), 1));
    assert_eq!(names(records).await, ["v/ab".to_owned()].into());
}
