//! Hadoop's own client beside this one: each reads what the other wrote, and sees who it belongs to.

use std::time::SystemTime;

use super::*;

/// As [`stand`], with the absolute path of the directory.
async fn beside() -> Option<(Arc<dyn Backend>, &'static Hadoop, String)> {
    let cluster = Hadoop::shared().await.unwrap()?;
    let dir = cluster.fresh("alice").await.unwrap();
    Some((connect(&config(cluster), "alice", &dir, limits()), cluster, format!("/{dir}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reads_what_the_other_wrote() {
    let Some((store, cluster, dir)) = beside().await else { return };
    let data = noise(5 * MIB + 12_345);
    cluster.put(&format!("{dir}/theirs"), "alice", data.clone()).await.unwrap();
    let theirs = version(&*store, "theirs").await;
    assert!(content(&*store, &theirs).await.unwrap() == data);
    let ours = begin(&*store, "ours").await;
    for (at, piece) in data.chunks(700_001).enumerate() {
        ours.write(at as u64 * 700_001, Bytes::copy_from_slice(piece)).await.unwrap();
    }
    ours.finish().await.unwrap();
    assert!(cluster.get(&format!("{dir}/ours")).await.unwrap() == data);
    // Put there again: another file, and the version that was known is gone. Who has it open may read it on for a while.
    cluster.put(&format!("{dir}/theirs"), "alice", data[1..].to_vec()).await.unwrap();
    let fresh = connect(&config(cluster), "alice", dir.trim_start_matches('/'), limits());
    assert_eq!(error_of(content(&*fresh, &theirs)).await, ErrorKind::Stale);
    let new = version(&*store, "theirs").await;
    assert!(content(&*store, &new).await.unwrap() == data[1..]);
    match content(&*store, &theirs).await {
        Ok(read) => assert!(read == data),
        Err(error) => assert_eq!(error.kind, ErrorKind::Stale),
    }
    assert_ne!(version(&*store, "theirs").await.file, theirs.file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_still_written_is_read_as_far_as_it_is_synced() {
    let Some((store, cluster, dir)) = beside().await else { return };
    let at = format!("{dir}/log");
    let data = noise(2 * MIB + 3_000);
    // Twice within one block: the name node hears of the first only.
    cluster.hsync(&at, "alice", data[..1_000].to_vec()).await.unwrap();
    cluster.hsync(&at, "alice", data[1_000..3_000].to_vec()).await.unwrap();
    let first = version(&*store, "log").await;
    assert_eq!(content(&*store, &first).await.unwrap(), data[..1_000]);
    let early = version(&*store, "log").await;
    assert_eq!(content(&*store, &early).await.unwrap(), data[..3_000]);
    cluster.hsync(&at, "alice", data[3_000..].to_vec()).await.unwrap();
    // What was there is there, whoever asks for how much.
    assert_eq!(content(&*store, &early).await.unwrap(), data[..3_000]);
    let late = version(&*store, "log").await;
    assert_eq!((late.size, late.file == early.file), (data.len() as u64, true));
    assert!(content(&*store, &late).await.unwrap() == data);
    let listed: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
    assert_eq!(listed[0].meta.version().unwrap().file, late.file);
    // Who writes it holds it.
    let writing = store.open_write(&late).await.unwrap();
    assert_eq!(error_of(writing.write(late.size, "more".into())).await, ErrorKind::Busy);
    cluster.close(&at).await.unwrap();
    let closed = version(&*store, "log").await;
    assert!(content(&*store, &closed).await.unwrap() == data);
    writing.write(closed.size, "more".into()).await.unwrap();
    writing.finish().await.unwrap();
    assert!(cluster.get(&at).await.unwrap().ends_with(b"more"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_decides_who_may_and_names_become_numbers() {
    let Some((alice, cluster, dir)) = beside().await else { return };
    let below = dir.trim_start_matches('/');
    let [bob, carol] = ["bob", "carol"].map(|user| connect(&config(cluster), user, below, limits()));
    put(&*alice, "file", "content").await;
    let mode = |mode| SetAttributes { mode: Some(mode), ..SetAttributes::default() };
    let kept = alice.set_attributes(&path("file"), &mode(0o640)).await.unwrap().permissions.unwrap();
    assert_eq!((kept.uid, kept.gid, kept.mode), (1000, 2000, 0o640));
    let file = version(&*bob, "file").await;
    assert_eq!(content(&*bob, &file).await.unwrap(), b"content");
    assert_eq!(error_of(bob.set_attributes(&path("file"), &mode(0o666))).await, ErrorKind::NotPermitted);
    assert_eq!(error_of(bob.remove(&path("file"), Kind::File)).await, ErrorKind::Denied);
    let writing = bob.open_write(&file).await.unwrap();
    assert_eq!(error_of(writing.write(7, "x".into())).await, ErrorKind::Denied);
    assert_eq!(error_of(bob.make_dir(&path("dir"))).await, ErrorKind::Denied);
    let may = async |store: &dyn Backend, at: &str| store.access(&path(at), Rights::ALL).await.unwrap().mode();
    assert_eq!((may(&*alice, "file").await, may(&*bob, "file").await), (6, 4));
    assert_eq!((may(&*alice, "").await, may(&*bob, "").await, may(&*carol, "file").await), (7, 5, 0));
    // Carol may not pass alice's home, and an id is no way around that.
    assert_eq!(error_of(carol.stat(&path("file"))).await, ErrorKind::Denied);
    assert_eq!(error_of(content(&*carol, &file)).await, ErrorKind::Denied);
    alice.set_attributes(&path("file"), &mode(0o600)).await.unwrap();
    let fresh = connect(&config(cluster), "bob", below, limits());
    assert_eq!(error_of(content(&*fresh, &file)).await, ErrorKind::Denied);

    let owner = |uid, gid| SetAttributes { uid, gid, ..SetAttributes::default() };
    assert_eq!(error_of(alice.set_attributes(&path("file"), &owner(Some(1001), None))).await, ErrorKind::NotPermitted);
    for unknown in [owner(Some(65_534), None), owner(Some(7), None), owner(None, Some(7))] {
        assert_eq!(error_of(alice.set_attributes(&path("file"), &unknown)).await, ErrorKind::InvalidName);
    }
    let kept = alice.set_attributes(&path("file"), &owner(Some(1000), Some(2000))).await.unwrap();
    assert_eq!(kept.permissions.unwrap().gid, 2000);
    let strangers = connect(&Config { owners: Owners::default(), ..config(cluster) }, "alice", below, limits());
    let shown = strangers.stat(&path("file")).await.unwrap().permissions.unwrap();
    assert_eq!((shown.uid, shown.gid), (65_534, 65_534));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_cut_and_never_made_longer_without_bytes() {
    let Some((store, cluster, dir)) = beside().await else { return };
    let data = noise(2 * MIB + 1_000);
    let file = put(&*store, "file", data.clone()).await;
    let size = |size| SetAttributes { size: Some(size), ..SetAttributes::default() };
    for length in [2 * MIB + 5, MIB, 10, 0] {
        let cut = store.set_attributes(&path("file"), &size(length as u64)).await.unwrap();
        assert_eq!((cut.size(), &cut.version().unwrap().file), (length as u64, &file.file));
        assert!(content(&*store, cut.version().unwrap()).await.unwrap() == data[..length]);
        assert!(cluster.get(&format!("{dir}/file")).await.unwrap() == data[..length]);
        assert_eq!(error_of(content(&*store, &file)).await, ErrorKind::Stale);
    }
    assert_eq!(error_of(store.set_attributes(&path("file"), &size(1))).await, ErrorKind::Unsupported);
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
    let set = SetAttributes { mtime: Some(time), ..SetAttributes::default() };
    assert_eq!(store.set_attributes(&path("file"), &set).await.unwrap().mtime, time);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_wrote_in_the_place_of_as_many_bytes_is_read() {
    let Some((store, cluster, dir)) = beside().await else { return };
    let other = connect(&config(cluster), "alice", dir.trim_start_matches('/'), limits());
    let [before, after] = [noise(MIB + 64), noise(2 * MIB)[MIB - 64..].to_vec()];
    let seen = put(&*store, "file", before.clone()).await;
    assert!(content(&*store, &seen).await.unwrap() == before);
    // As a shell's `>` does it: the file stays, and its blocks are others.
    let none = SetAttributes { size: Some(0), ..SetAttributes::default() };
    let cut = other.set_attributes(&path("file"), &none).await.unwrap();
    let writing = other.open_write(cut.version().unwrap()).await.unwrap();
    writing.write(0, after.clone().into()).await.unwrap();
    writing.finish().await.unwrap();
    let now = version(&*store, "file").await;
    assert_eq!((&now.file, now.size), (&seen.file, seen.size));
    assert!(now.bytes != seen.bytes);
    // The DataNodes hold the old blocks until their next report.
    assert!(content(&*store, &now).await.unwrap() == after);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_hdfs_cannot_have_are_invalid_and_absent() {
    let Some((store, _, _)) = beside().await else { return };
    for name in ["a:b", ":"] {
        assert_eq!(error_of(store.make_file(&path(name), 0o644)).await, ErrorKind::InvalidName);
        assert_eq!(error_of(store.make_dir(&path(name))).await, ErrorKind::InvalidName);
        assert_eq!(error_of(store.stat(&path(name))).await, ErrorKind::NotFound);
    }
    let long = "x".repeat(255);
    assert!(store.make_file(&path(&long), 0o644).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_makes_a_directory() {
    let Some((store, _, _)) = beside().await else { return };
    let makers = (0..6).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.make_dir(&path("dir")).await.map(drop).map_err(|error| error.kind) })
    });
    let outcomes: Vec<_> = futures::future::join_all(makers).await.into_iter().map(|one| one.unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(ErrorKind::AlreadyExists)).count(), 5, "{outcomes:?}");
    let listed: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_bytes_lie_is_told_by_host_and_rack() {
    let Some((_, cluster, dir)) = beside().await else { return };
    for (name, length) in [("one", 3 * MIB + 5), ("below/two", 7), ("below/deep/three", MIB), ("below/empty", 0)] {
        cluster.put(&format!("{dir}/{name}"), "alice", noise(length)).await.unwrap();
    }
    let address = backend::Config::Hdfs(Config { prefix: dir.trim_start_matches('/').into(), ..config(cluster) });
    let alice = Credential::Hadoop { user: "alice".into() };
    let located = backend::locate(&address, &alice, &Path::root()).await.unwrap();
    assert_eq!((located.files, located.bytes), (4, 4 * MIB as u64 + 12));
    // One replica of each block.
    assert_eq!(located.hosts.iter().map(|host| host.bytes).sum::<u64>(), located.bytes);
    for host in &located.hosts {
        let rack = if host.name == "127.0.0.3" { "/rack2" } else { "/rack1" };
        assert!(host.name.starts_with("127.0.0.") && host.rack == rack, "{host:?}");
    }
    let one = backend::locate(&address, &alice, &path("below/two")).await.unwrap();
    assert_eq!((one.files, one.bytes, one.hosts.len(), one.hosts[0].bytes), (1, 7, 1, 7));
    assert_eq!(error_of(backend::locate(&address, &alice, &path("no"))).await, ErrorKind::NotFound);
    let carol = Credential::Hadoop { user: "carol".into() };
    assert_eq!(error_of(backend::locate(&address, &carol, &Path::root())).await, ErrorKind::Denied);
}
