//! The server as the AWS SDK sees it: what it answers must parse, and mean what S3 means.

use aws_credential_types::Credentials;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, Delete, EncodingType,
    MetadataDirective, ObjectIdentifier, RequestPayer, StorageClass,
};
use aws_sdk_s3::{Client, Config};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioExecutor;

use super::*;

const MIB: usize = 1 << 20;

/// The SDK over plain hyper.
#[derive(Debug, Clone)]
struct Plain(hyper_util::client::legacy::Client<Tcp, SdkBody>);

impl HttpConnector for Plain {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let answer = client.request(request).await.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl HttpClient for Plain {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

fn sdk_as(server: &Server, key_id: &str, secret: &str, token: Option<&str>) -> Client {
    let http = Plain(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http());
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(server.endpoint())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(key_id, secret, token.map(str::to_owned), None, "test"))
        .force_path_style(true)
        .http_client(http)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

async fn start() -> (Server, Client) {
    let server = server(Options { record: true, ..Options::default() }).await;
    let client = sdk_as(&server, "key", "secret", None);
    (server, client)
}

/// The S3 error code of a refusal.
macro_rules! code {
    ($request:expr) => {
        $request.send().await.unwrap_err().code().unwrap_or_default().to_owned()
    };
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_put() {
    let (server, s3) = start().await;
    let key = "a dir//ünïcode +&?%.txt";
    let body = ByteStream::from_static(b"hello world");
    let put = s3.put_object().bucket(BUCKET).key(key).metadata("mode", "0644").content_type("text/plain").body(body);
    let put = put.checksum_algorithm(ChecksumAlgorithm::Crc32C).send().await.unwrap();
    assert_eq!(put.e_tag(), Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""));
    let got = s3.get_object().bucket(BUCKET).key(key).checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(got.e_tag(), put.e_tag());
    assert_eq!(got.checksum_crc32_c(), Some("yZRlqg=="));
    assert_eq!((got.content_type(), got.metadata().unwrap()["mode"].as_str()), (Some("text/plain"), "0644"));
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"hello world");
    let head = s3.head_object().bucket(BUCKET).key(key).send().await.unwrap();
    assert_eq!((head.content_length(), head.checksum_crc32_c()), (Some(11), None));
    assert!(head.last_modified().is_some());
    assert_eq!(server.keys(BUCKET), [key]);
    let stored = server.get(BUCKET, key).unwrap();
    assert_eq!((stored.bytes.as_ref(), stored.metadata["mode"].as_str()), (b"hello world".as_slice(), "0644"));
    let seen = server.seen();
    assert!(seen.iter().all(|request| request.key == key && request.header("authorization").is_none()));
}

#[tokio::test]
async fn a_checksum_that_is_not_the_bodys_is_refused() {
    let (server, s3) = start().await;
    let put = || s3.put_object().bucket(BUCKET).key("a").body(ByteStream::from_static(b"hello"));
    assert_eq!(code!(put().checksum_crc32_c("AAAAAA==")), "BadDigest");
    assert_eq!(code!(put().content_md5("XrY7u+Ae7tCTyyK7j1rNww==")), "BadDigest");
    assert!(server.keys(BUCKET).is_empty());
}

#[tokio::test]
async fn ranges_are_exact() {
    let (server, s3) = start().await;
    server.put(BUCKET, "a", "0123456789");
    for (asked, range, body) in [
        ("bytes=0-0", "bytes 0-0/10", "0"),
        ("bytes=3-5", "bytes 3-5/10", "345"),
        ("bytes=8-99", "bytes 8-9/10", "89"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
    ] {
        let got = s3.get_object().bucket(BUCKET).key("a").range(asked).send().await.unwrap();
        assert_eq!(got.content_range(), Some(range), "{asked}");
        assert_eq!(got.body.collect().await.unwrap().to_vec(), body.as_bytes(), "{asked}");
    }
    assert_eq!(code!(s3.get_object().bucket(BUCKET).key("a").range("bytes=10-12")), "InvalidRange");
    server.put(BUCKET, "empty", "");
    assert_eq!(code!(s3.get_object().bucket(BUCKET).key("empty").range("bytes=0-0")), "InvalidRange");
}

#[tokio::test]
async fn listings_fold_page_and_encode() {
    let (server, s3) = start().await;
    for key in ["a", "a/", "a/1", "a/2", "a/b/c", "a0", "b\n/x", "z"] {
        server.put(BUCKET, key, "x");
    }
    let list = s3.list_objects_v2().bucket(BUCKET);
    for max_keys in 1..5 {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let page = list.clone().delimiter("/").encoding_type(EncodingType::Url).max_keys(max_keys);
            let page = page.set_continuation_token(token).send().await.unwrap();
            let prefixes = page.common_prefixes().iter().map(|folded| folded.prefix().unwrap().to_owned());
            let keys = page.contents().iter().map(|object| object.key().unwrap().to_owned());
            let all: Vec<_> = prefixes.chain(keys).collect();
            assert!(all.len() <= max_keys as usize && page.key_count() == Some(all.len() as i32));
            found.extend(all);
            token = page.next_continuation_token().map(str::to_owned);
            assert_eq!(page.is_truncated(), Some(token.is_some()));
            if token.is_none() {
                break;
            }
        }
        found.sort();
        assert_eq!(found, ["a", "a/", "a0", "b%0A/", "z"], "by {max_keys}");
    }
    let inside = list.clone().prefix("a/").delimiter("/").send().await.unwrap();
    let keys: Vec<_> = inside.contents().iter().map(|object| object.key().unwrap()).collect();
    assert_eq!((keys, inside.common_prefixes()[0].prefix()), (vec!["a/", "a/1", "a/2"], Some("a/b/")));
    let after = list.clone().start_after("a/2").max_keys(2).encoding_type(EncodingType::Url).send().await.unwrap();
    assert_eq!(after.contents().iter().map(|object| object.key().unwrap()).collect::<Vec<_>>(), ["a/b/c", "a0"]);
    assert_eq!(code!(list.continuation_token("no token")), "InvalidArgument");
    assert_eq!(code!(s3.list_objects_v2().bucket("no-such-bucket")), "NoSuchBucket");
}

async fn begin(s3: &Client, key: &str) -> String {
    let begun = s3.create_multipart_upload().bucket(BUCKET).key(key).metadata("nonce", "7").send().await.unwrap();
    begun.upload_id().unwrap().to_owned()
}

async fn part(s3: &Client, key: &str, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
    let part = s3.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number);
    let part = part.body(bytes.into()).send().await.unwrap();
    CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build()
}

fn whole(parts: &[CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build()
}

#[tokio::test]
async fn parts_become_an_object_in_one_step() {
    let (server, s3) = start().await;
    let source = server.put_computed(BUCKET, "source", 9, 20 * MIB as u64);
    let id = begin(&s3, "a").await;
    let first = part(&s3, "a", &id, 1, vec![1; 5 * MIB]).await;
    let copy = s3.upload_part_copy().bucket(BUCKET).key("a").upload_id(&id).part_number(2);
    let copy = copy.copy_source(format!("{BUCKET}/source")).copy_source_range(format!("bytes=3-{}", 6 * MIB));
    assert_eq!(code!(copy.clone().copy_source_if_match("\"other\"")), "PreconditionFailed");
    let copied = copy.copy_source_if_match(format!("\"{source}\"")).send().await.unwrap();
    let etag = copied.copy_part_result().unwrap().e_tag().unwrap();
    let second = CompletedPart::builder().part_number(2).e_tag(etag).build();
    let last = part(&s3, "a", &id, 7, b"end".to_vec()).await;
    assert_eq!(server.get(BUCKET, "a").map(|_| ()), None);
    assert_eq!(server.open_uploads(BUCKET), 1);
    let listed = s3.list_parts().bucket(BUCKET).key("a").upload_id(&id).send().await.unwrap();
    assert_eq!(listed.parts().iter().map(|part| part.part_number().unwrap()).collect::<Vec<_>>(), [1, 2, 7]);

    let complete = s3.complete_multipart_upload().bucket(BUCKET).key("a").upload_id(&id);
    let parts = [first, second, last];
    let swapped = [parts[1].clone(), parts[0].clone()];
    assert_eq!(code!(complete.clone().multipart_upload(whole(&swapped))), "InvalidPartOrder");
    let wrong = CompletedPart::builder().part_number(1).e_tag("\"other\"").build();
    assert_eq!(code!(complete.clone().multipart_upload(whole(&[wrong]))), "InvalidPart");
    server.put(BUCKET, "a", "there already");
    let complete = complete.multipart_upload(whole(&parts));
    assert_eq!(code!(complete.clone().if_none_match("*")), "PreconditionFailed");
    let done = complete.clone().send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-3\""));
    assert_eq!(server.open_uploads(BUCKET), 0);
    assert_eq!(code!(complete), "NoSuchUpload");
    let stored = server.get(BUCKET, "a").unwrap();
    let expected = [&vec![1; 5 * MIB][..], &computed::bytes(9, 3, 6 * MIB - 2), b"end"].concat();
    assert!(stored.bytes == expected && stored.metadata["nonce"] == "7");
}

#[tokio::test]
async fn small_parts_are_refused_and_aborted_uploads_are_gone() {
    let (server, s3) = start().await;
    let id = begin(&s3, "a").await;
    let parts = [part(&s3, "a", &id, 1, vec![1; 5 * MIB - 1]).await, part(&s3, "a", &id, 2, vec![2]).await];
    let complete = s3.complete_multipart_upload().bucket(BUCKET).key("a").upload_id(&id);
    assert_eq!(code!(complete.multipart_upload(whole(&parts))), "EntityTooSmall");
    begin(&s3, "b").await;
    let uploads = s3.list_multipart_uploads().bucket(BUCKET);
    let page = uploads.clone().max_uploads(1).send().await.unwrap();
    assert_eq!((page.uploads()[0].key(), page.is_truncated()), (Some("a"), Some(true)));
    let next = uploads.set_key_marker(page.next_key_marker).set_upload_id_marker(page.next_upload_id_marker);
    let page = next.send().await.unwrap();
    assert_eq!((page.uploads()[0].key(), page.is_truncated()), (Some("b"), Some(false)));
    s3.abort_multipart_upload().bucket(BUCKET).key("a").upload_id(&id).send().await.unwrap();
    assert_eq!(server.open_uploads(BUCKET), 1);
    assert_eq!(code!(s3.abort_multipart_upload().bucket(BUCKET).key("a").upload_id(&id)), "NoSuchUpload");
}

#[tokio::test]
async fn a_whole_objects_checksum_covers_all_parts() {
    let (_server, s3) = start().await;
    let begun = s3.create_multipart_upload().bucket(BUCKET).key("a").checksum_algorithm(ChecksumAlgorithm::Crc64Nvme);
    let begun = begun.checksum_type(ChecksumType::FullObject).send().await.unwrap();
    let id = begun.upload_id().unwrap();
    let parts = [part(&s3, "a", id, 1, vec![1; 5 * MIB]).await, part(&s3, "a", id, 2, vec![2; 9]).await];
    let complete = s3.complete_multipart_upload().bucket(BUCKET).key("a").upload_id(id);
    let complete = complete.multipart_upload(whole(&parts)).checksum_type(ChecksumType::FullObject);
    assert_eq!(code!(complete.clone().checksum_crc64_nvme("AAAAAAAAAAA=")), "BadDigest");
    let done = complete.send().await.unwrap();
    let put = s3.put_object().bucket(BUCKET).key("b").checksum_algorithm(ChecksumAlgorithm::Crc64Nvme);
    let put = put.body([vec![1; 5 * MIB], vec![2; 9]].concat().into()).send().await.unwrap();
    assert!(put.checksum_crc64_nvme().is_some());
    assert_eq!(done.checksum_crc64_nvme(), put.checksum_crc64_nvme());
}

#[tokio::test]
async fn copies_are_pinned_and_keep_or_replace_metadata() {
    let (server, s3) = start().await;
    let put = s3.put_object().bucket(BUCKET).key("a").metadata("k", "v").body(ByteStream::from_static(b"x"));
    let put = put.storage_class(StorageClass::StandardIa).send().await.unwrap();
    let copy = s3.copy_object().bucket(BUCKET).copy_source(format!("{BUCKET}/a"));
    assert_eq!(code!(copy.clone().key("b").copy_source_if_match("\"other\"")), "PreconditionFailed");
    copy.clone().key("b").copy_source_if_match(put.e_tag().unwrap()).send().await.unwrap();
    let replaced = copy.key("c").metadata_directive(MetadataDirective::Replace).metadata("k", "w");
    replaced.send().await.unwrap();
    let (b, c) = (server.get(BUCKET, "b").unwrap(), server.get(BUCKET, "c").unwrap());
    assert_eq!((b.metadata["k"].as_str(), c.metadata["k"].as_str()), ("v", "w"));
    assert_eq!((b.bytes, b.storage_class), (Bytes::from_static(b"x"), None));
    assert_eq!(code!(s3.copy_object().bucket(BUCKET).key("d").copy_source(format!("{BUCKET}/none"))), "NoSuchKey");
}

#[tokio::test]
async fn a_versioned_bucket_keeps_what_is_replaced_and_deleted() {
    let (server, s3) = start().await;
    server.bucket(BUCKET, Bucket { versioned: true, ..Bucket::default() });
    let put = async |bytes: &'static [u8]| {
        let put = s3.put_object().bucket(BUCKET).key("a").body(ByteStream::from_static(bytes));
        put.send().await.unwrap().version_id.unwrap()
    };
    let (old, new) = (put(b"old").await, put(b"new").await);
    let deleted = s3.delete_object().bucket(BUCKET).key("a").send().await.unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    assert_eq!(code!(s3.get_object().bucket(BUCKET).key("a")), "NoSuchKey");
    assert!(server.keys(BUCKET).is_empty());
    let got = s3.get_object().bucket(BUCKET).key("a").version_id(&old).send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"old");
    let (mut found, mut marker) = (Vec::new(), (None, None));
    loop {
        let page = s3.list_object_versions().bucket(BUCKET).prefix("a").max_keys(1);
        let page = page.set_key_marker(marker.0).set_version_id_marker(marker.1).send().await.unwrap();
        let markers = page.delete_markers().iter().map(|one| (one.version_id().unwrap().to_owned(), true));
        let versions = page.versions().iter().map(|one| (one.version_id().unwrap().to_owned(), false));
        found.extend(markers.chain(versions));
        marker = (page.next_key_marker, page.next_version_id_marker);
        if page.is_truncated != Some(true) {
            break;
        }
    }
    let gone = deleted.version_id().unwrap().to_owned();
    assert_eq!(found, [(gone.clone(), true), (new.clone(), false), (old.clone(), false)]);
    s3.delete_object().bucket(BUCKET).key("a").version_id(&gone).send().await.unwrap();
    assert_eq!(server.get(BUCKET, "a").unwrap().bytes, "new");
    for id in [new, old] {
        s3.delete_object().bucket(BUCKET).key("a").version_id(id).send().await.unwrap();
    }
    assert!(s3.list_object_versions().bucket(BUCKET).send().await.unwrap().versions().is_empty());
}

#[tokio::test]
async fn a_batch_delete_reports_the_keys_that_are_out_of_reach() {
    let (server, s3) = start().await;
    server.users().add(User::new("owner", "s").with(Rights::under("data/mine/")));
    for key in ["mine/a", "mine/b", "yours"] {
        server.put(BUCKET, key, "x");
    }
    let owner = sdk_as(&server, "owner", "s", None);
    let named = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let delete = Delete::builder().objects(named("mine/a")).objects(named("yours")).objects(named("mine/none"));
    let delete = owner.delete_objects().bucket(BUCKET).delete(delete.build().unwrap()).send().await.unwrap();
    assert_eq!(delete.deleted().iter().map(|one| one.key().unwrap()).collect::<Vec<_>>(), ["mine/a", "mine/none"]);
    let errors: Vec<_> = delete.errors().iter().map(|one| (one.key().unwrap(), one.code().unwrap())).collect();
    assert_eq!(errors, [("yours", "AccessDenied")]);
    assert_eq!(server.keys(BUCKET), ["mine/b", "yours"]);
    // Nor by a list, a whole-bucket question or a copy.
    let list = owner.list_objects_v2().bucket(BUCKET);
    assert_eq!(code!(list.clone().prefix("you")), "AccessDenied");
    assert_eq!(list.prefix("mine/").send().await.unwrap().contents().len(), 1);
    assert!(owner.head_bucket().bucket(BUCKET).send().await.is_err());
    assert_eq!(code!(owner.copy_object().bucket(BUCKET).key("mine/c").copy_source("data/yours")), "AccessDenied");
    s3.head_bucket().bucket(BUCKET).send().await.unwrap();
}

#[tokio::test]
async fn tokens_payers_classes_and_the_anonymous_are_told_apart() {
    let (server, s3) = start().await;
    server.put(BUCKET, "a", "x");
    let lent = User { session_token: Some("token".into()), ..User::new("lent", "s") };
    server.users().add(lent);
    let get = |client: &Client| client.get_object().bucket(BUCKET).key("a");
    get(&sdk_as(&server, "lent", "s", Some("token"))).send().await.unwrap();
    assert_eq!(code!(get(&sdk_as(&server, "lent", "s", Some("other")))), "InvalidToken");
    assert_eq!(code!(get(&sdk_as(&server, "lent", "s", None))), "InvalidToken");
    server.users().remove("lent");
    assert_eq!(code!(get(&sdk_as(&server, "lent", "s", Some("token")))), "InvalidAccessKeyId");

    server.bucket(BUCKET, Bucket { requester_pays: true, ..Bucket::default() });
    assert_eq!(code!(get(&s3)), "AccessDenied");
    get(&s3).request_payer(RequestPayer::Requester).send().await.unwrap();
    server.bucket(BUCKET, Bucket::default());

    server.put_class(BUCKET, "cold", "x", "GLACIER");
    assert_eq!(code!(s3.get_object().bucket(BUCKET).key("cold")), "InvalidObjectState");
    let head = s3.head_object().bucket(BUCKET).key("cold").send().await.unwrap();
    assert_eq!(head.storage_class(), Some(&StorageClass::Glacier));

    let unsigned = async || {
        let uri = format!("{}/{BUCKET}/a", server.endpoint()).parse().unwrap();
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        client.get(uri).await.unwrap().status()
    };
    assert_eq!(unsigned().await, StatusCode::FORBIDDEN);
    server.users().set_anonymous(Some(Rights::default().read_only()));
    assert_eq!(unsigned().await, StatusCode::OK);
}

#[tokio::test]
async fn an_error_inside_a_200_and_headers_of_an_error_reach_the_client() {
    let (server, s3) = start().await;
    server.put(BUCKET, "a", "x");
    server.faults().add(Rule::on(Kind::CopyObject, Fault::error(200, "InternalError")));
    assert_eq!(code!(s3.copy_object().bucket(BUCKET).key("b").copy_source("data/a")), "InternalError");
    let headers = vec![("x-amz-bucket-region".to_owned(), "eu-west-1".to_owned())];
    let moved = Fault::Error { status: 301, code: "PermanentRedirect".into(), headers };
    server.faults().add(Rule::on(Kind::GetObject, moved).key("a").skip(1));
    s3.get_object().bucket(BUCKET).key("a").send().await.unwrap();
    let refused = s3.get_object().bucket(BUCKET).key("a").send().await.unwrap_err();
    let answer = refused.raw_response().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("x-amz-bucket-region")), (301, Some("eu-west-1")));
    assert_eq!(server.keys(BUCKET), ["a"]);
}
