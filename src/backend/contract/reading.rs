//! What is written is what is read, and nothing else ever is.

use super::*;

pub(crate) async fn a_file_is_read_as_it_was_written(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    let version = put(&store, "dir/file", pattern(100_000)).await;
    let meta = store.stat(&path("dir/file")).await.unwrap();
    assert_eq!(meta.version(), Some(&version));
    assert_eq!((meta.size(), meta.kind(), meta.readable), (100_000, Kind::File, true));
    assert_eq!(content(&store, "dir/file").await, pattern(100_000));
    assert_eq!(store.stat(&path("dir")).await.unwrap().kind(), Kind::Directory);
}

pub(crate) async fn every_range_gives_its_bytes(store: Store) {
    let version = put(&store, "file", pattern(70_000)).await;
    for range in [0..1, 0..70_000, 1..2, 69_999..70_000, 4095..4097, 65_535..65_537, 10..60_000] {
        let found = bytes(&store, &version, range.clone()).await.unwrap();
        assert!(found == pattern(70_000)[range.start as usize..range.end as usize], "{range:?}");
    }
}

pub(crate) async fn an_empty_file_is_a_file(store: Store) {
    let version = put(&store, "empty", "").await;
    assert_eq!(version.size, 0);
    assert_eq!(store.stat(&path("empty")).await.unwrap().kind(), Kind::File);
    assert_eq!(names(&store, "").await, ["empty"]);
    assert_eq!(content(&store, "empty").await, b"");
}

pub(crate) async fn a_replaced_version_is_stale(store: Store) {
    let old = put(&store, "file", pattern(10_000)).await;
    put(&store, "file", pattern(10_001).slice(1..)).await;
    if store.traits().exact_versions {
        assert_eq!(kind_of_error(bytes(&store, &old, 0..10_000)).await, ErrorKind::Stale);
    }
    store.remove(&path("file"), Kind::File).await.unwrap();
    assert_eq!(kind_of_error(bytes(&store, &old, 0..10)).await, ErrorKind::Stale);
}

pub(crate) async fn a_read_proves_its_path_where_told(store: Store) {
    let version = put(&store, "file", pattern(10_000)).await;
    let read = || bytes(&store, &version, 0..10_000);
    assert!(read().await.unwrap() == pattern(10_000));
    store.rename(&path("file"), &path("elsewhere"), moving(Kind::File)).await.unwrap();
    for replaced in [false, true] {
        if replaced {
            put(&store, "file", pattern(10_001).slice(1..)).await;
        }
        match read().await {
            Ok(found) => assert!(!store.traits().read_proves_path && found == pattern(10_000), "{replaced}"),
            Err(error) => assert_eq!(error.kind, ErrorKind::Stale, "{replaced}"),
        }
    }
}

pub(crate) async fn a_large_file_survives_odd_chunks(store: Store) {
    let whole = pattern(21 << 20);
    let mut writing = upload(&store, "large", Base::Absent).await;
    let (mut at, mut step) = (0, 1);
    while at < whole.len() {
        let end = (at + step).min(whole.len());
        writing.write(whole.slice(at..end)).await.unwrap();
        (at, step) = (end, (step * 3 + 7) % (3 << 20) + 1);
    }
    let version = publish(&mut writing).await.unwrap().version().cloned().unwrap();
    let parts = (0..21).map(|mib| bytes(&store, &version, mib << 20..(mib + 1) << 20));
    let parts: Vec<_> = futures::future::try_join_all(parts).await.unwrap();
    assert!(parts.concat() == whole);
}

pub(crate) async fn a_dropped_read_is_harmless(store: Store) {
    let version = put(&store, "file", pattern(4 << 20)).await;
    for _ in 0..8 {
        let mut stream = store.read(&version, 0..4 << 20, Intent::Ahead).await.unwrap();
        assert!(!stream.next().await.unwrap().unwrap().is_empty());
    }
    assert!(bytes(&store, &version, 0..4 << 20).await.unwrap() == pattern(4 << 20));
    let name = Name::new(b"file").unwrap();
    assert_eq!(version.path, Path::root().join(&name));
}

pub(crate) async fn an_empty_range_gives_nothing(store: Store) {
    let version = put(&store, "file", "12345").await;
    for at in [0, 3, 5] {
        assert_eq!(bytes(&store, &version, at..at).await.unwrap(), b"");
    }
}

pub(crate) async fn a_replacement_never_tears_a_read(store: Store) {
    let (old, new) = (Bytes::from(vec![b'o'; 12 << 20]), Bytes::from(vec![b'n'; 12 << 20]));
    let version = put(&store, "file", old.clone()).await;
    let mut stream = store.read(&version, 0..12 << 20, Intent::Demand).await.unwrap();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    put(&store, "file", new.clone()).await;
    let outcome = loop {
        match stream.next().await {
            Some(Ok(piece)) => read.extend_from_slice(&piece),
            Some(Err(error)) => break Err(error.kind),
            None => break Ok(()),
        }
    };
    assert!(old.starts_with(&read), "bytes of two versions in one read");
    assert!(outcome == Ok(()) && read.len() == old.len() || outcome == Err(ErrorKind::Stale), "{outcome:?}");
    assert!(content(&store, "file").await == new);
}
