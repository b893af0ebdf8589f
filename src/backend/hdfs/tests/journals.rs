//! What a client that died left, undone by the next one of the same volume and identity.

use std::fs::File;

use super::*;
use crate::backend::journal::Note;
use crate::backend::{Name, RenameOptions};

/// Longer than the next one needs, and shorter than HDFS leaves a lease to somebody who does not renew it.
const SOON: Duration = Duration::from_secs(40);

fn keeping(journal: &File) -> Limits {
    let limits = limits();
    limits.journal.keep_in(journal.try_clone().unwrap(), Vec::new()).unwrap();
    limits
}

/// A client that does `work` and dies: what that gave is never closed, and nobody renews its leases.
fn dies<F>(config: &Config, dir: &str, limits: Limits, work: impl FnOnce(Arc<dyn Backend>) -> F + Send + 'static)
where
    F: Future<Output = Vec<Arc<dyn InPlace>>>,
{
    let (config, dir) = (config.clone(), dir.to_owned());
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let open = runtime.block_on(async { work(connect(&config, "alice", &dir, limits)).await });
        std::mem::forget(open);
        runtime.shutdown_background();
    });
    life.join().unwrap();
}

fn next(config: &Config, dir: &str, limits: Limits) -> impl Future<Output = ()> + Send + 'static {
    let alice = Credential::Hadoop { user: "alice".into() };
    backend::replay(&backend::Config::Hdfs(config.clone()), &alice, &path(dir), limits).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_that_died_had_open_is_closed_and_what_it_hid_removed() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let (dir, config, file) = (cluster.fresh("alice").await.unwrap(), config(cluster), tempfile::tempfile().unwrap());
    let data = Bytes::from(noise(2 * MIB + 5_000));
    let hidden = Path::root().join(&Name::hidden());
    let (written, under) = (data.clone(), hidden.clone());
    dies(&config, &dir, keeping(&file), |store| async move {
        let log = begin(&*store, "log").await;
        log.write(0, written.slice(..2 * MIB)).await.unwrap();
        log.sync().await.unwrap();
        log.write(2 * MIB as u64, written.slice(2 * MIB..)).await.unwrap();
        let open = begin(&*store, "open").await;
        open.write(0, "removed while it was open".into()).await.unwrap();
        open.sync().await.unwrap();
        let how = RenameOptions { kind: Kind::File, version: None, replace: true };
        store.rename(&path("open"), &under, how).await.unwrap();
        for done in ["closed", "gone"] {
            put_in_place(&*store, done).await;
        }
        store.remove(&path("gone"), Kind::File).await.unwrap();
        store.make_dir(&path("dir")).await.unwrap();
        vec![log, open]
    });
    let store = connect(&config, "alice", &dir, limits());
    assert_eq!(content(&*store, &version(&*store, hidden.as_str().unwrap()).await).await.unwrap().len(), 25);
    let log = version(&*store, "log").await;
    let writing = store.open_write(&log).await.unwrap();
    assert_eq!(error_of(writing.write(log.size, "x".into())).await, ErrorKind::Busy);

    let limits = keeping(&file);
    assert_eq!(limits.journal.left().len(), 3, "{:?}", limits.journal.left());
    // Who writes to it meanwhile waits for it.
    let store = connect(&config, "alice", &dir, limits.clone());
    let undoing = tokio::spawn(next(&config, &dir, limits.clone()));
    let appending = async {
        limits.journal.is_free(log.file.parse().unwrap()).await;
        // As long as it was synced, or longer.
        let log = version(&*store, "log").await;
        assert!(log.size >= 2 * MIB as u64 && content(&*store, &log).await.unwrap() == data[..log.size as usize]);
        put_more(&*store, "log").await;
    };
    tokio::time::timeout(SOON, appending).await.unwrap();
    tokio::time::timeout(SOON, undoing).await.unwrap().unwrap();
    assert_eq!(error_of(store.stat(&hidden)).await, ErrorKind::NotFound);
    assert!(cluster.get(&format!("/{dir}/log")).await.unwrap().ends_with(b"more"));
    assert!(limits.journal.left().is_empty() && keeping(&file).journal.left().is_empty());
}

async fn put_in_place(store: &dyn Backend, at: &str) {
    let file = begin(store, at).await;
    file.write(0, "content".into()).await.unwrap();
    file.finish().await.unwrap();
}

/// Of a file that a journal names, another client has the lease by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_another_clients_by_now_is_left_to_it() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let (dir, config, file) = (cluster.fresh("alice").await.unwrap(), config(cluster), tempfile::tempfile().unwrap());
    let store = connect(&config, "alice", &dir, limits());
    let at = format!("/{dir}/theirs");
    cluster.hsync(&at, "alice", "one ").await.unwrap();
    let theirs = version(&*store, "theirs").await;
    let journal = keeping(&file).journal;
    for note in [
        Note::Written { id: theirs.file.parse().unwrap(), since: Some(1_700_000_000_000) },
        Note::Made(path("theirs")),
        Note::Made(path("never made")),
        Note::Written { id: 1 << 40, since: Some(1_700_000_000_000) },
    ] {
        journal.note(note).await;
    }
    let limits = keeping(&file);
    let undoing = tokio::spawn(next(&config, &dir, limits.clone()));
    let doubted = async {
        while limits.journal.left() != [Note::Written { id: theirs.file.parse().unwrap(), since: None }] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // It was asked for some times.
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tokio::time::timeout(SOON, doubted).await.unwrap();
    cluster.hsync(&at, "alice", "two").await.unwrap();
    cluster.close(&at).await.unwrap();
    tokio::time::timeout(SOON, undoing).await.unwrap().unwrap();
    assert_eq!(cluster.get(&at).await.unwrap(), "one two");
    assert!(keeping(&file).journal.left().is_empty());
}

/// As one that died between asking for the lease and hearing of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_told_is_waited_for_as_long_as_hdfs_does() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let (dir, config, file) = (cluster.fresh("alice").await.unwrap(), config(cluster), tempfile::tempfile().unwrap());
    dies(&config, &dir, limits(), |store| async move {
        let log = begin(&*store, "log").await;
        log.write(0, "synced".into()).await.unwrap();
        log.sync().await.unwrap();
        vec![log]
    });
    let store = connect(&config, "alice", &dir, limits());
    let log = version(&*store, "log").await;
    let journal = keeping(&file).journal;
    journal.note(Note::Written { id: log.file.parse().unwrap(), since: None }).await;
    let limits = keeping(&file);
    tokio::time::timeout(Duration::from_secs(110), next(&config, &dir, limits.clone())).await.unwrap();
    assert!(limits.journal.left().is_empty());
    put_more(&*store, "log").await;
}

async fn put_more(store: &dyn Backend, at: &str) {
    let file = version(store, at).await;
    let writing = store.open_write(&file).await.unwrap();
    writing.write(file.size, "more".into()).await.unwrap();
    writing.finish().await.unwrap();
}
