//! The contract on real servers, and what S3 promises beyond it.

use super::gateway::Gateway;
use super::*;
use crate::backend::contract::{self, Stand};
use crate::backend::s3::stale;
use crate::backend::{Intent, Kind, RenameOptions};
use crate::sandbox::s3::{Fault, Kind as Request, Options, Rule, Server, User};

async fn whole(store: &dyn Backend, version: &Version) -> Vec<u8> {
    content(store, version).await.unwrap()
}

mod versitygw {
    use super::*;

    async fn stand() -> Option<Stand> {
        let gateway = Gateway::start().await?;
        Some((gateway.store("volume", limits()), Box::new(gateway)))
    }

    contract::suite!(stand);
}

async fn embedded() -> (Server, Arc<dyn Backend>) {
    let options =
        Options { users: vec![User::new("id", "secret")], buckets: vec!["bucket".into()], ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let config = crate::backend::Config::S3(config(&server.endpoint()));
    let store = connect(&config, &keys("id", "secret"), &path("volume"), limits()).unwrap();
    (server, store)
}

mod on_the_embedded_server {
    use super::*;

    async fn stand() -> Option<Stand> {
        let (server, store) = embedded().await;
        Some((store, Box::new(server)))
    }

    contract::suite!(stand);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_are_shown_by_rule_and_fail_no_listing() {
    let (server, store) = embedded().await;
    let long = "x".repeat(256);
    let odd = ["a", "a/b", "a-", "a.txt", "d//e", "./f", "../g", "back\\slash", "new\nline", "sp ace+%41", "m/", &long];
    for key in odd {
        server.put("bucket", &format!("volume/{key}"), "x");
    }
    let entries: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
    let mut found: Vec<_> = entries.iter().map(|entry| (entry.name.to_string(), entry.meta.kind())).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let shown = |name: &str, kind| (name.to_owned(), kind);
    let expected = [
        shown("a", Kind::Directory),
        shown("a-", Kind::File),
        shown("a.txt", Kind::File),
        shown("back\\slash", Kind::File),
        shown("d", Kind::Directory),
        shown("m", Kind::Directory),
        shown("new\nline", Kind::File),
        shown("sp ace+%41", Kind::File),
    ];
    assert_eq!(found, expected);
    for entry in entries {
        assert_eq!(store.stat(&Path::root().join(&entry.name)).await.unwrap(), entry.meta);
    }
    // What is hidden is not removed with its directory.
    assert_eq!(error_of(store.remove(&path("d"), Kind::Directory)).await, ErrorKind::NotEmpty);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_keys_and_empty_pages_change_nothing() {
    let (server, store) = embedded().await;
    super::records::is_odd(&server);
    for key in ["d/a+b", "d/a%41", "e/a+b"] {
        server.put("bucket", &format!("volume/{key}"), "x");
    }
    let mut found: Vec<_> = store.list(&path("d")).map_ok(|entry| entry.name.to_string()).try_collect().await.unwrap();
    found.sort();
    assert_eq!(found, ["a%41", "a+b"]);
    assert_eq!(store.stat(&path("d")).await.unwrap().kind(), Kind::Directory);
    assert_eq!(error_of(store.remove(&path("d"), Kind::Directory)).await, ErrorKind::NotEmpty);
    for name in ["d/a%41", "d/a+b", "e/a+b"] {
        store.remove(&path(name), Kind::File).await.unwrap();
    }
    // A directory stays when its last entry goes.
    for dir in ["d", "e"] {
        assert_eq!(store.stat(&path(dir)).await.unwrap().kind(), Kind::Directory, "{dir}");
        store.remove(&path(dir), Kind::Directory).await.unwrap();
        assert_eq!(error_of(store.stat(&path(dir))).await, ErrorKind::NotFound, "{dir}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_of_writes_are_settled() {
    let (server, store) = embedded().await;
    for (request, length) in [(Request::PutObject, 10), (Request::CompleteMultipartUpload, 9 * MIB)] {
        let mut upload = begin(&*store, "file", Base::Absent).await;
        upload.write(noise(length).into()).await.unwrap();
        server.faults().add(Rule::on(request, Fault::LostReply));
        let version = publish(&mut upload).await;
        assert!(whole(&*store, &version).await == noise(length));
        store.remove(&path("file"), Kind::File).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_changed_and_broken_bodies_never_pass_for_the_file() {
    let (server, store) = embedded().await;
    let data = noise(MIB);
    let version = put(&*store, "file", data.clone()).await;
    for fault in [Fault::Cut(1000), Fault::Reset(70_000)] {
        server.faults().add(Rule::on(Request::GetObject, fault.clone()));
        assert!(whole(&*store, &version).await == data, "{fault:?}");
    }
    for fault in [Fault::Short(5), Fault::Corrupt(77)] {
        server.faults().add(Rule::on(Request::GetObject, fault.clone()));
        let first = async { store.read(&version, 0..version.size, Intent::Demand).await?.try_next().await };
        assert_eq!(error_of(first).await, ErrorKind::Corrupt, "{fault:?}: nothing of it is given out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_ignore_their_pin_are_not_published() {
    let (server, store) = embedded().await;
    let mut upload = begin(&*store, "file", Base::Absent).await;
    upload.write(noise(9 * MIB).into()).await.unwrap();
    publish(&mut upload).await;
    put(&*store, "file", noise(10 * MIB)).await;
    server.faults().add(Rule::on(Request::UploadPartCopy, Fault::IgnoreConditions).always());
    upload.write(Bytes::from_static(b"more")).await.unwrap();
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::Stale);
    let there = store.stat(&path("file")).await.unwrap();
    assert!(whole(&*store, there.version().unwrap()).await == noise(10 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_moves_in_the_middle_of_its_upload() {
    let Some(gateway) = Gateway::start().await else { return };
    let store = &*gateway.store("volume", limits());
    let data = noise(31 * MIB);
    let mut upload = begin(store, "from", Base::Absent).await;
    upload.write(Bytes::copy_from_slice(&data[..20 * MIB])).await.unwrap();
    upload.moved(path("dir/to"), None);
    upload.write(Bytes::copy_from_slice(&data[20 * MIB..21 * MIB])).await.unwrap();
    let version = publish(&mut upload).await;
    assert!(whole(store, &version).await == data[..21 * MIB]);
    assert_eq!(error_of(store.stat(&path("from"))).await, ErrorKind::NotFound);
    // Once more, with parts on their way after a publish.
    upload.write(Bytes::copy_from_slice(&data[21 * MIB..])).await.unwrap();
    let how = RenameOptions { kind: Kind::File, version: Some(version), replace: false };
    let moved = store.rename(&path("dir/to"), &path("there"), how).await.unwrap();
    upload.moved(path("there"), moved.version().cloned());
    let version = publish(&mut upload).await;
    assert_eq!(version.path, path("there"));
    assert!(whole(store, &version).await == data);
    assert_eq!(error_of(store.stat(&path("dir/to"))).await, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_share_little_memory_and_give_it_back() {
    let Some(gateway) = Gateway::start().await else { return };
    let limits = Limits::alone(24 << 20, Duration::from_secs(20));
    let store = gateway.store("volume", limits.clone());
    let data = noise(20 * MIB);
    let writers = (0..3).map(|number| {
        let (store, data) = (store.clone(), data.clone());
        async move {
            let mut upload = begin(&*store, &format!("file-{number}"), Base::Absent).await;
            for piece in data.chunks(200_000) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let version = publish(&mut upload).await;
            assert!(whole(&*store, &version).await == data);
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(limits.budget.free(), limits.budget.total());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_go_on_in_turn_where_none_could_alone() {
    let (server, _) = embedded().await;
    let limits = Limits::alone(24 << 20, Duration::from_secs(20));
    let config = crate::backend::Config::S3(config(&server.endpoint()));
    let store = connect(&config, &keys("id", "secret"), &path("volume"), limits.clone()).unwrap();
    let data = noise(6 * MIB);
    let writers = (0..16).map(|number| {
        let (store, data) = (store.clone(), &data);
        async move {
            let mut upload = begin(&*store, &format!("file-{number}"), Base::Absent).await;
            for piece in data.chunks(128 << 10) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
                // Each as far as the others.
                tokio::task::yield_now().await;
            }
            publish(&mut upload).await
        }
    });
    for version in futures::future::join_all(writers).await {
        assert!(whole(&*store, &version).await == data);
    }
    assert_eq!(limits.budget.free(), limits.budget.total());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_lost_takes_no_memory() {
    let (server, _) = embedded().await;
    let limits = Limits::alone(24 << 20, Duration::from_secs(1));
    let config = crate::backend::Config::S3(config(&server.endpoint()));
    let store = connect(&config, &keys("id", "secret"), &path("volume"), limits.clone()).unwrap();
    let others = limits.budget.acquire(20 << 20).await;
    let mut upload = begin(&*store, "file", Base::Absent).await;
    upload.write(noise(MIB).into()).await.unwrap();
    assert_eq!(error_of(upload.write(noise(MIB).into())).await, ErrorKind::Unavailable);
    drop(others);
    assert_eq!(limits.budget.free(), limits.budget.total());
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_large_file_overwrites_nothing_where_a_completion_ignores_its_condition() {
    let (server, store) = embedded().await;
    server.faults().add(Rule::on(Request::CompleteMultipartUpload, Fault::IgnoreConditions).always());
    let mut upload = begin(&*store, "file", Base::Absent).await;
    upload.write(noise(9 * MIB).into()).await.unwrap();
    let theirs = put(&*store, "file", "theirs").await;
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::Stale);
    assert_eq!(whole(&*store, &theirs).await, b"theirs");
    // Who may not look is trusted to the store.
    server.faults().add(Rule::on(Request::HeadObject, Fault::error(403, "AccessDenied")).always());
    let mut upload = begin(&*store, "another", Base::Absent).await;
    upload.write(noise(9 * MIB).into()).await.unwrap();
    publish(&mut upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_uploads_are_aborted_in_the_own_directory_only() {
    let Some(gateway) = Gateway::start().await else { return };
    for (root, name) in [("volume", "a b+"), ("volume", "c"), ("volume-2", "d")] {
        let store = gateway.store(root, limits());
        let mut upload = begin(&*store, name, Base::Absent).await;
        upload.write(noise(9 * MIB).into()).await.unwrap();
        // The first part is on its way; without it there would be nothing to find.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let client = gateway.client("volume");
    assert_eq!(stale::abort(&client, stale::AGE).await.unwrap(), 0);
    assert_eq!(stale::abort(&client, Duration::ZERO).await.unwrap(), 2);
    assert_eq!(stale::abort(&client, Duration::ZERO).await.unwrap(), 0);
    assert_eq!(stale::abort(&gateway.client("volume-2"), Duration::ZERO).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_reach_what_their_policy_names() {
    let Some(gateway) = Gateway::start().await else { return };
    let policy = r#"{"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Resource": ["arn:aws:s3:::bucket/team/*"],
         "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]},
        {"Effect": "Allow", "Resource": ["arn:aws:s3:::bucket"],
         "Action": ["s3:ListBucket"], "Condition": {"StringLike": {"s3:prefix": ["team/*"]}}}]}"#;
    let (key_id, secret_key) = gateway.user("alice", policy).await;
    let alice = (key_id.as_str(), secret_key.as_str());
    let admin = gateway.store("", limits());
    let secret = put(&*admin, "other/file", "secret").await;
    put(&*admin, "team/file", "shared").await;

    let own = gateway.store_as(alice, "team", limits());
    let shared = own.stat(&path("file")).await.unwrap();
    assert_eq!(whole(&*own, shared.version().unwrap()).await, b"shared");
    assert_eq!(error_of(own.stat(&path("missing"))).await, ErrorKind::NotFound);
    put(&*own, "mine", "new").await;
    own.remove(&path("mine"), Kind::File).await.unwrap();

    let all = gateway.store_as(alice, "", limits());
    let there = Version { path: path("other/file"), ..secret };
    assert_eq!(error_of(part(&*all, &there, 0..6)).await, ErrorKind::Denied);
    assert_eq!(error_of(all.stat(&path("other/file"))).await, ErrorKind::Denied);
    assert_eq!(error_of(all.stat(&Path::root())).await, ErrorKind::Denied);
    assert_eq!(error_of(all.list(&path("other")).try_next()).await, ErrorKind::Denied);
    let mut upload = begin(&*all, "other/new", Base::Absent).await;
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::Denied);

    let wrong = gateway.store_as((alice.0, "not her secret"), "team", limits());
    assert_eq!(error_of(wrong.stat(&Path::root())).await, ErrorKind::Unauthenticated);
    let nobody = gateway.store_as(("nobody", "secret"), "team", limits());
    assert_eq!(error_of(nobody.stat(&Path::root())).await, ErrorKind::Unauthenticated);
    let lost = Config { bucket: "no-such-bucket".into(), ..gateway.config() };
    let lost =
        connect(&crate::backend::Config::S3(lost), &keys("rootkey", "rootsecret0123456789"), &Path::root(), limits());
    assert_eq!(error_of(lost.unwrap().stat(&Path::root())).await, ErrorKind::Misconfigured);
}
