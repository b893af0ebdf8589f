//! Files that are changed in place, and attributes that the store keeps; or that it does neither.

use super::*;
use crate::backend::SetAttributes;

pub(crate) async fn a_file_is_changed_in_place_or_never(store: Store) {
    if !store.traits().append {
        assert_eq!(kind_of_error(store.make_file(&path("file"), 0o644)).await, ErrorKind::Unsupported);
        let version = put(&store, "file", "whole").await;
        assert_eq!(kind_of_error(store.open_write(&version)).await, ErrorKind::Unsupported);
        assert_eq!(version.file, version.bytes, "what is replaced whole is another file");
        return;
    }
    let made = store.make_file(&path("file"), 0o644).await.unwrap();
    let empty = made.version().cloned().unwrap();
    assert_eq!((empty.size, store.stat(&path("file")).await.unwrap().version()), (0, Some(&empty)));
    let writing = store.open_write(&empty).await.unwrap();
    let told = writing.write(0, pattern(3 << 20)).await.unwrap();
    let version = store.stat(&path("file")).await.unwrap().version().cloned().unwrap();
    if let Some(told) = told {
        assert_eq!(told.version(), Some(&version));
    }
    assert_eq!((&version.file, version.size), (&empty.file, 3 << 20));
    assert_ne!(version.bytes, empty.bytes);
    assert!(content(&store, "file").await == pattern(3 << 20));
    writing.sync().await.unwrap();
    writing.write(3 << 20, "tail".into()).await.unwrap();
    writing.sync().await.unwrap();
    writing.sync().await.unwrap();
    assert!(content(&store, "file").await == [&pattern(3 << 20)[..], b"tail"].concat());
    let finished = writing.finish().await.unwrap();
    if let Some(finished) = finished {
        assert_eq!(store.stat(&path("file")).await.unwrap(), finished);
    }
    writing.write((3 << 20) + 4, "more".into()).await.unwrap();
    writing.finish().await.unwrap();
    writing.finish().await.unwrap();
    assert!(content(&store, "file").await == [&pattern(3 << 20)[..], b"tailmore"].concat());
    // Who read the shorter one reads on: what was there is there.
    assert!(bytes(&store, &version, 0..3 << 20).await.unwrap() == pattern(3 << 20));
}

pub(crate) async fn any_offset_is_written_or_only_the_end(store: Store) {
    if !store.traits().append {
        return assert!(!store.traits().random_write);
    }
    let made = store.make_file(&path("file"), 0o644).await.unwrap();
    let writing = store.open_write(made.version().unwrap()).await.unwrap();
    writing.write(0, pattern(10_000)).await.unwrap();
    if !store.traits().random_write {
        assert_eq!(kind_of_error(writing.write(5, "x".into())).await, ErrorKind::Unsupported);
        assert_eq!(content(&store, "file").await, pattern(10_000));
        return;
    }
    let before = store.stat(&path("file")).await.unwrap().version().cloned().unwrap();
    let mut model = pattern(10_000).to_vec();
    for (offset, length) in [(5_usize, 10_usize), (9_990, 20), (0, 1), (50_000, 3), (20_000, 4096), (49_999, 2)] {
        let piece = pattern(2 * length).slice(length..);
        writing.write(offset as u64, piece.clone()).await.unwrap();
        model.resize(model.len().max(offset + length), 0);
        model[offset..offset + length].copy_from_slice(&piece);
    }
    assert!(content(&store, "file").await == model);
    writing.sync().await.unwrap();
    assert!(content(&store, "file").await == model);
    let after = store.stat(&path("file")).await.unwrap().version().cloned().unwrap();
    assert_eq!(after.file, before.file);
    assert!(bytes(&store, &after.any_bytes(), 0..after.size).await.unwrap() == model);
    for size in [20, 0, 7_000] {
        let set = SetAttributes { size: Some(size), ..SetAttributes::default() };
        let meta = store.set_attributes(&path("file"), &set).await.unwrap();
        model.resize(size as usize, 0);
        assert_eq!(meta.size(), size);
        assert!(content(&store, "file").await == model);
    }
}

pub(crate) async fn a_file_that_is_written_is_followed_by_its_handle(store: Store) {
    if !store.traits().append {
        return;
    }
    store.make_dir(&path("dir")).await.unwrap();
    let made = store.make_file(&path("from"), 0o644).await.unwrap();
    let writing = store.open_write(made.version().unwrap()).await.unwrap();
    writing.write(0, "one".into()).await.unwrap();
    store.rename(&path("from"), &path("dir/to"), moving(Kind::File)).await.unwrap();
    writing.write(3, "two".into()).await.unwrap();
    writing.sync().await.unwrap();
    assert_eq!(content(&store, "dir/to").await, b"onetwo");
    // Another file at the old place is another file.
    store.make_file(&path("from"), 0o644).await.unwrap();
    writing.write(6, "three".into()).await.unwrap();
    assert_eq!((content(&store, "from").await, content(&store, "dir/to").await), (vec![], b"onetwothree".to_vec()));
}

pub(crate) async fn one_of_many_makes_a_file(store: Store) {
    if !store.traits().append {
        return;
    }
    let makers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.make_file(&path("file"), 0o600).await.map(drop) })
    });
    let outcomes: Vec<_> = futures::future::join_all(makers).await.into_iter().map(|one| one.unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let losers = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(losers.into_iter().all(|error| error.kind == ErrorKind::AlreadyExists), "{outcomes:?}");
    store.make_dir(&path("dir")).await.unwrap();
    assert_eq!(kind_of_error(store.make_file(&path("dir"), 0o600)).await, ErrorKind::AlreadyExists);
    assert_eq!(kind_of_error(store.make_file(&path("no/file"), 0o600)).await, ErrorKind::NotFound);
}

pub(crate) async fn attributes_are_kept_or_refused(store: Store) {
    put(&store, "file", "content").await;
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
    let set = SetAttributes { mode: Some(0o640), mtime: Some(time), ..SetAttributes::default() };
    if !store.traits().own_permissions {
        assert_eq!(kind_of_error(store.set_attributes(&path("file"), &set)).await, ErrorKind::Unsupported);
        assert_eq!(store.stat(&path("file")).await.unwrap().permissions, None);
        return;
    }
    let meta = store.set_attributes(&path("file"), &set).await.unwrap();
    assert_eq!((meta.permissions.unwrap().mode, meta.mtime, meta.size()), (0o640, time, 7));
    assert_eq!(store.stat(&path("file")).await.unwrap(), meta);
    assert_eq!(kind_of_error(store.set_attributes(&path("none"), &set)).await, ErrorKind::NotFound);
    assert_eq!(content(&store, "file").await, b"content");
}

pub(crate) async fn rights_are_as_the_store_says(store: Store) {
    put(&store, "file", "content").await;
    assert_eq!(store.access(&Path::root(), Rights::ALL).await.unwrap(), Rights::ALL);
    if !store.traits().own_permissions {
        assert_eq!(store.access(&path("file"), Rights::ALL).await.unwrap(), Rights::ALL);
        return;
    }
    for mode in [0o700, 0o600, 0o500, 0o400, 0o300, 0o100] {
        let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        store.set_attributes(&path("file"), &set).await.unwrap();
        let owners = Rights::of_mode(mode >> 6);
        for asked in (1..8).map(Rights::of_mode) {
            let granted = store.access(&path("file"), asked).await.unwrap();
            assert_eq!(granted, owners.and(asked), "{mode:o}: {asked:?}");
        }
    }
    assert_eq!(kind_of_error(store.access(&path("none"), Rights::ALL)).await, ErrorKind::NotFound);
    assert_eq!(kind_of_error(store.access(&path("file/below"), Rights::ALL)).await, ErrorKind::NotFound);
}

pub(crate) async fn links_are_made_or_refused(store: Store) {
    put(&store, "file", "content").await;
    match store.make_symlink(&path("symlink"), b"some/where").await {
        Ok(meta) => {
            assert_eq!((meta.kind(), meta.size()), (Kind::Symlink, 10));
            assert_eq!(store.stat(&path("symlink")).await.unwrap(), meta);
            assert_eq!(store.read_symlink(&path("symlink")).await.unwrap(), "some/where");
            let again = store.make_symlink(&path("file"), b"x").await;
            assert_eq!(again.unwrap_err().kind, ErrorKind::AlreadyExists);
            let listed: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
            assert!(listed.iter().any(|entry| entry.meta == meta));
            assert_eq!(kind_of_error(store.stat(&path("symlink/below"))).await, ErrorKind::NotFound);
            store.rename(&path("symlink"), &path("moved"), moving(Kind::File)).await.unwrap();
            store.remove(&path("moved"), Kind::File).await.unwrap();
        }
        Err(error) => assert_eq!(error.kind, ErrorKind::Unsupported),
    }
    let linked = store.link(&path("file"), &path("second")).await;
    assert_eq!(linked.is_ok(), store.traits().hard_links);
    match linked {
        Ok(meta) => {
            assert_eq!(store.stat(&path("second")).await.unwrap(), meta);
            let first = store.stat(&path("file")).await.unwrap();
            let same = |meta: &Meta| (meta.version().unwrap().file.clone(), meta.links);
            assert_eq!(same(&first), same(&meta));
            assert_eq!(meta.links, 2);
            let writing = store.open_write(meta.version().unwrap()).await.unwrap();
            writing.write(3, "TENT".into()).await.unwrap();
            writing.finish().await.unwrap();
            assert_eq!(content(&store, "file").await, b"conTENT");
            writing.write(3, "tent".into()).await.unwrap();
            writing.finish().await.unwrap();
            // Of two names of one file a rename removes none.
            store.rename(&path("file"), &path("second"), moving(Kind::File)).await.unwrap();
            assert_eq!(names(&store, "").await, ["file", "second"]);
            assert_eq!(kind_of_error(store.link(&path("file"), &path("second"))).await, ErrorKind::AlreadyExists);
            store.remove(&path("file"), Kind::File).await.unwrap();
            assert_eq!(content(&store, "second").await, b"content");
            assert_eq!(store.stat(&path("second")).await.unwrap().links, 1);
            store.rename(&path("second"), &path("file"), moving(Kind::File)).await.unwrap();
        }
        Err(error) => assert_eq!(error.kind, ErrorKind::Unsupported),
    }
    assert_eq!(names(&store, "").await, ["file"]);
    assert_eq!(content(&store, "file").await, b"content");
}
