//! Snapshots as the control plane has them taken, and copies of them.

use super::records::{opened, root_of};
use super::*;
use crate::backend::Permissions;
use crate::backend::records::{Directory, Extent};
use crate::backend::snapshots::Snapshots;

const OF_ALICE: Directory = Directory { uid: 1000, gid: 2000, mode: 0o750 };

fn taker(config: &Config, user: &str) -> Arc<dyn Snapshots> {
    let (config, user) = (backend::Config::Hdfs(config.clone()), Credential::Hadoop { user: user.into() });
    backend::snapshots(&config, &user).unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_takes_snapshots_and_removes_them() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, cluster.superuser()).await;
    let (records, _) = opened(&config, cluster.superuser());
    let taker = taker(&config, cluster.superuser());
    assert!(taker.permitted().await.unwrap());
    let (at, nowhere) = (path("volume"), path("nowhere"));
    records.make_directory(&at, &OF_ALICE).await.unwrap();
    for dir in [&at, &nowhere] {
        assert!(taker.names(dir).await.unwrap().is_empty());
        taker.discard(dir, "none").await.unwrap();
    }
    assert_eq!(error_of(taker.take(&nowhere, "one")).await, ErrorKind::NotFound);
    for name in ["one", "one", "two"] {
        taker.take(&at, name).await.unwrap();
    }
    assert_eq!(taker.names(&at).await.unwrap(), ["one", "two"]);
    records.make_directory(&path("volume/inner"), &OF_ALICE).await.unwrap();
    let error = taker.take(&path("volume/inner"), "x").await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("disallow"), "{error}");
    // No tree goes that has any.
    let error = loop {
        if let Err(error) = records.remove_page(&at, Extent::All).await {
            break error;
        }
    };
    assert!(error.kind == ErrorKind::NotEmpty && error.message.contains("snapshots"), "{error}");
    for name in ["one", "one", "two"] {
        taker.discard(&at, name).await.unwrap();
    }
    assert!(taker.names(&at).await.unwrap().is_empty());
    assert!(records.remove_page(&at, Extent::All).await.unwrap().done);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_superuser_is_known_to_take_none() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, "carol").await;
    let (records, _) = opened(&config, "carol");
    records.make_directory(&path("own"), &Directory { uid: 1002, gid: 2001, mode: 0o770 }).await.unwrap();
    let taker = taker(&config, "carol");
    assert!(!taker.permitted().await.unwrap());
    let error = error_of(taker.take(&path("own"), "one")).await;
    assert!(matches!(error, ErrorKind::Denied | ErrorKind::NotPermitted), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_copied_with_owners_and_modes_and_a_copy_goes_on() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, cluster.superuser()).await;
    let (records, users) = opened(&config, cluster.superuser());
    let (source, copy, old) = (path("source"), path("copy"), noise(2 * MIB + 77));
    for dir in [&source, &copy] {
        records.make_directory(dir, &OF_ALICE).await.unwrap();
    }
    let store = connect(&config, "alice", "source", limits());
    for dir in ["d", "d/e"] {
        store.make_dir(&path(dir)).await.unwrap();
    }
    for (name, content) in [("large", old.clone()), ("empty", Vec::new()), ("d/e/deep", b"deep".to_vec())] {
        put(&*store, name, content).await;
    }
    records.create(&path("source/.millrace/volume.json"), "{}".into()).await.unwrap();
    let others =
        |mode| SetAttributes { mode: Some(mode), uid: Some(1001), gid: Some(2001), ..SetAttributes::default() };
    users.0.set_attributes(&path("source/d/e/deep"), &others(0o604)).await.unwrap();
    users.0.set_attributes(&path("source/d"), &others(0o711)).await.unwrap();
    let taker = taker(&config, cluster.superuser());
    taker.take(&source, "one").await.unwrap();
    store.remove(&path("large"), Kind::File).await.unwrap();
    put(&*store, "late", b"late".to_vec()).await;

    let restore = async || taker.restore(&source, "one", &copy).try_collect::<Vec<u64>>().await.unwrap();
    assert_eq!(restore().await.into_iter().sum::<u64>(), old.len() as u64 + 4);
    let shown = connect(&config, cluster.superuser(), "copy", limits());
    let names: Vec<_> = shown.list(&Path::root()).try_collect::<Vec<_>>().await.unwrap();
    let names: Vec<_> = names.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["d", "empty", "large"]);
    assert!(content(&*shown, &version(&*shown, "large").await).await.unwrap() == old);
    assert_eq!(cluster.get(&format!("/{}/copy/d/e/deep", config.prefix)).await.unwrap(), "deep");
    for (name, uid, gid, mode) in [
        ("d", 1001, 2001, 0o711),
        ("d/e", 1000, 2000, 0o755),
        ("d/e/deep", 1001, 2001, 0o604),
        ("large", 1000, 2000, 0o644),
    ] {
        let meta = shown.stat(&path(name)).await.unwrap();
        assert_eq!(meta.permissions, Some(Permissions { uid, gid, mode }), "{name}");
    }
    // What is there already is left alone; what is missing or another's comes again.
    let kept = version(&*shown, "large").await;
    shown.remove(&path("empty"), Kind::File).await.unwrap();
    shown.remove(&path("d/e/deep"), Kind::File).await.unwrap();
    put(&*shown, "d/e/deep", b"else".to_vec()).await;
    assert_eq!(restore().await.len(), 3);
    assert_eq!(version(&*shown, "large").await, kept);
    assert_eq!(content(&*shown, &version(&*shown, "d/e/deep").await).await.unwrap(), b"deep");
    assert_eq!(version(&*shown, "empty").await.size, 0);
    let missing = taker.restore(&source, "two", &copy).try_collect::<Vec<u64>>();
    assert_eq!(error_of(missing).await, ErrorKind::NotFound);
}
