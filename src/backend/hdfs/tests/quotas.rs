//! Quotas of volumes' directories, which the name node keeps.

use super::records::{opened, root_of};
use super::*;
use crate::backend::Space;
use crate::backend::records::Directory;

const MEBI: u64 = 1 << 20;

/// Limits of a mount whose directory is known to have a quota.
fn quota() -> Limits {
    Limits { quota: true, ..limits() }
}

async fn told(store: &dyn Backend) -> Space {
    store.space().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_held_to_its_quota_and_df_shows_it() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, cluster.superuser()).await;
    let (records, _) = opened(&config, cluster.superuser());
    let how = Directory { uid: 1000, gid: 2000, mode: 0o750 };
    for name in ["volume", "small"] {
        records.make_directory(&path(name), &how).await.unwrap();
    }
    assert!(records.set_quota(&path("volume"), 3 * MEBI).await.unwrap());
    let fresh = |dir: &str| connect(&config, "alice", dir, quota());
    let store = fresh("volume");
    let before = told(&*store).await;
    assert_eq!((before.total, before.free, before.available, before.files), (3 * MEBI, 3 * MEBI, 3 * MEBI, 0));
    put(&*store, "held", noise(MIB + 77)).await;
    assert_eq!(told(&*store).await, before, "it is asked once a minute");
    assert_eq!(told(&*fresh("volume")).await.free, 3 * MEBI - (MIB + 77) as u64);
    let writing = begin(&*store, "more").await;
    assert_eq!(error_of(writing.write(0, noise(2 * MIB).into())).await, ErrorKind::OverQuota);
    assert!(records.set_quota(&path("volume"), 8 * MEBI).await.unwrap());
    put(&*store, "fits", noise(3 * MIB)).await;
    assert_eq!(told(&*fresh("volume")).await.total, 8 * MEBI);
    // Less than a block would hold nothing.
    assert!(records.set_quota(&path("small"), 1).await.unwrap());
    put(&*fresh("small"), "block", noise(MIB)).await;
    assert!(records.set_quota(&path("volume"), u64::MAX).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_nothing_of_a_quota_is_told_of_the_cluster() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    let plain = told(&*connect(&config(cluster), "alice", &dir, limits())).await;
    let store = connect(&config(cluster), "alice", &dir, quota());
    assert_eq!(told(&*store).await.total, plain.total, "there is none");
    let two_blocks = (2 * MIB).to_string();
    cluster.control("quota", &[("path", &format!("/{dir}")), ("space", &two_blocks)], Bytes::new()).await.unwrap();
    let closed = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
    store.set_attributes(&Path::root(), &closed).await.unwrap();
    assert_eq!(told(&*connect(&config(cluster), "alice", &dir, quota())).await.total, 2 * MEBI);
    assert_eq!(told(&*connect(&config(cluster), "carol", &dir, quota())).await.total, plain.total);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_set_by_who_may() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    // Where the server has a switch for it, the owner of the directory above may.
    let Some(switched) = Hadoop::by_turns().await.unwrap() else { return };
    for (cluster, may) in [(cluster, false), (&switched, true)] {
        let config = root_of(cluster, "carol").await;
        let (records, _) = opened(&config, "carol");
        let how = Directory { uid: 1002, gid: 2001, mode: 0o770 };
        records.make_directory(&path("own"), &how).await.unwrap();
        assert_eq!(records.set_quota(&path("own"), 5 * MEBI).await.unwrap(), may);
        let space = told(&*connect(&config, "carol", "own", quota())).await;
        assert_eq!(space.total == 5 * MEBI, may, "{space:?}");
    }
}
