//! The contract on real servers, and what S3 promises beyond it.

use super::gateway::Gateway;
use super::*;
use crate::backend::contract::{self, Stand};
use crate::backend::s3::stale;
use crate::backend::{Kind, RenameOptions};

async fn publish(upload: &mut Box<dyn Upload>) -> Version {
    upload.publish(&Attributes::default()).await.unwrap().version().unwrap().clone()
}

async fn put(store: &dyn Backend, at: &str, data: &[u8]) -> Version {
    let mut upload = begin(store, at, Base::Any).await;
    upload.write(Bytes::copy_from_slice(data)).await.unwrap();
    publish(&mut upload).await
}

async fn whole(store: &dyn Backend, version: &Version) -> Vec<u8> {
    content(store, version, 0..version.size).await.unwrap()
}

async fn error_of<T>(outcome: impl Future<Output = Result<T>>) -> ErrorKind {
    outcome.await.err().unwrap().kind
}

mod versitygw {
    use super::*;

    async fn stand() -> Option<Stand> {
        let gateway = Gateway::start().await?;
        Some((gateway.store("volume", limits()), Box::new(gateway)))
    }

    contract::suite!(stand);
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
    let limits = Limits { budget: Budget::new(24 << 20), timeout: Duration::from_secs(20) };
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
    let alice = ("alice", "alicesecret");
    gateway.add_user(alice);
    let policy = r#"{"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": ["alice"]}, "Resource": ["arn:aws:s3:::bucket/team/*"],
         "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]},
        {"Effect": "Allow", "Principal": {"AWS": ["alice"]}, "Resource": ["arn:aws:s3:::bucket"],
         "Action": ["s3:ListBucket"], "Condition": {"StringLike": {"s3:prefix": ["team/*"]}}}]}"#;
    gateway.set_policy(policy).await;
    let admin = gateway.store("", limits());
    let secret = put(&*admin, "other/file", b"secret").await;
    put(&*admin, "team/file", b"shared").await;

    let own = gateway.store_as(alice, "team", limits());
    let shared = own.stat(&path("file")).await.unwrap();
    assert_eq!(whole(&*own, shared.version().unwrap()).await, b"shared");
    assert_eq!(error_of(own.stat(&path("missing"))).await, ErrorKind::NotFound);
    put(&*own, "mine", b"new").await;
    own.remove(&path("mine"), Kind::File).await.unwrap();

    let all = gateway.store_as(alice, "", limits());
    let there = Version { path: path("other/file"), ..secret };
    assert_eq!(error_of(content(&*all, &there, 0..6)).await, ErrorKind::Denied);
    assert_eq!(error_of(all.stat(&path("other/file"))).await, ErrorKind::Denied);
    assert_eq!(error_of(all.stat(&Path::root())).await, ErrorKind::Denied);
    assert_eq!(error_of(all.list(&path("other")).try_next()).await, ErrorKind::Denied);
    let mut upload = begin(&*all, "other/new", Base::Absent).await;
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::Denied);

    let wrong = gateway.store_as(("alice", "not her secret"), "team", limits());
    assert_eq!(error_of(wrong.stat(&Path::root())).await, ErrorKind::Unauthenticated);
    let nobody = gateway.store_as(("nobody", "secret"), "team", limits());
    assert_eq!(error_of(nobody.stat(&Path::root())).await, ErrorKind::Unauthenticated);
    let lost = Config { bucket: "no-such-bucket".into(), ..gateway.config() };
    let lost =
        connect(&crate::backend::Config::S3(lost), &keys("rootkey", "rootsecret0123456789"), &Path::root(), limits());
    assert_eq!(error_of(lost.unwrap().stat(&Path::root())).await, ErrorKind::Misconfigured);
}
