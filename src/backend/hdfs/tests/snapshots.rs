//! What lies in a snapshot is what lay there, whatever became of it.

use super::*;

struct Taken {
    store: Arc<dyn Backend>,
    cluster: &'static Hadoop,
    /// Absolute.
    dir: String,
    old: Vec<u8>,
}

/// A snapshot `one` of three files, of which then one grew, one was removed, and one got a successor of its name.
async fn taken() -> Option<Taken> {
    let cluster = Hadoop::shared().await.unwrap()?;
    let dir = format!("/{}", cluster.fresh("alice").await.unwrap());
    let store = connect(&config(cluster), "alice", &dir[1..], limits());
    let old = noise(MIB + 77);
    for name in ["grows", "goes", "is-replaced"] {
        put(&*store, name, old.clone()).await;
    }
    cluster.control("snapshot", &[("path", &dir), ("name", "one")], Bytes::new()).await.unwrap();
    let grows = version(&*store, "grows").await;
    let writing = store.open_write(&grows).await.unwrap();
    writing.write(grows.size, "more".into()).await.unwrap();
    writing.sync().await.unwrap();
    // It is being written still, and was read here.
    let grown = version(&*store, "grows").await;
    assert_eq!(content(&*store, &grown).await.unwrap().len(), old.len() + 4);
    store.remove(&path("goes"), Kind::File).await.unwrap();
    store.remove(&path("is-replaced"), Kind::File).await.unwrap();
    put(&*store, "is-replaced", vec![7; old.len()]).await;
    drop(writing);
    Some(Taken { store, cluster, dir, old })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_read_as_it_was() {
    let Some(Taken { store, cluster, dir, old }) = taken().await else { return };
    // As a directory of the volume, and as a volume of its own.
    let within = connect(&config(cluster), "alice", &format!("{}/.snapshot/one", &dir[1..]), limits());
    for (store, below) in [(store, ".snapshot/one/"), (within, "")] {
        let listed: Vec<_> = store.list(&path(below.trim_end_matches('/'))).try_collect().await.unwrap();
        let named: Vec<_> = listed.iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(named, ["goes", "grows", "is-replaced"]);
        for entry in listed {
            let listed = entry.meta.version().unwrap();
            let stated = version(&*store, &format!("{below}{}", entry.name)).await;
            assert_eq!((listed, listed.size), (&stated, old.len() as u64), "{}", entry.name);
            assert!(content(&*store, listed).await.unwrap() == old, "{}", entry.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_not_written() {
    let Some(Taken { store, cluster, dir, old }) = taken().await else { return };
    let at = path(".snapshot/one/grows");
    let file = version(&*store, ".snapshot/one/grows").await;
    assert_eq!(store.open_write(&file).await.err().unwrap().kind, ErrorKind::ReadOnly);
    let (mode, size) = (Some(0o600), Some(5));
    for set in [SetAttributes { mode, ..SetAttributes::default() }, SetAttributes { size, ..SetAttributes::default() }]
    {
        assert_eq!(error_of(store.set_attributes(&at, &set)).await, ErrorKind::ReadOnly);
    }
    assert_eq!(error_of(store.remove(&at, Kind::File)).await, ErrorKind::ReadOnly);
    assert_eq!(error_of(store.make_file(&path(".snapshot/one/new"), 0o644)).await, ErrorKind::ReadOnly);
    assert_eq!(error_of(store.make_dir(&path(".snapshot/one/new"))).await, ErrorKind::ReadOnly);
    assert!(cluster.get(&format!("{dir}/grows")).await.unwrap().starts_with(&old));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_snapshot_of_the_same_name_is_never_read_as_the_first() {
    let Some(Taken { cluster, dir, old, .. }) = taken().await else { return };
    let fresh = || connect(&config(cluster), "alice", &dir[1..], limits());
    let first = version(&*fresh(), ".snapshot/one/is-replaced").await;
    // Who has read the first keeps a reader of it for a while.
    let reading = fresh();
    assert!(content(&*reading, &first).await.unwrap() == old);
    let one = [("path", dir.as_str()), ("name", "one")];
    cluster.control("snapshot/delete", &one, Bytes::new()).await.unwrap();
    assert_eq!(error_of(content(&*fresh(), &first)).await, ErrorKind::Stale);
    cluster.control("snapshot", &one, Bytes::new()).await.unwrap();
    assert_eq!(error_of(content(&*fresh(), &first)).await, ErrorKind::Stale);
    let second = version(&*fresh(), ".snapshot/one/is-replaced").await;
    for store in [fresh(), reading] {
        assert!(content(&*store, &second).await.unwrap() == vec![7; old.len()]);
    }
}
