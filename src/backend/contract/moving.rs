//! Renames.

use super::*;

pub(crate) async fn a_file_moves_whole(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    put(&store, "from", pattern(6 << 20)).await;
    let moved = store.rename(&path("from"), &path("dir/to"), moving(Kind::File)).await.unwrap();
    assert_eq!(moved.version(), store.stat(&path("dir/to")).await.unwrap().version());
    assert!(content(&store, "dir/to").await == pattern(6 << 20));
    assert_eq!(kind_of_error(store.stat(&path("from"))).await, ErrorKind::NotFound);
}

pub(crate) async fn a_move_may_replace(store: Store) {
    put(&store, "from", "new").await;
    put(&store, "to", "old").await;
    let keep = RenameOptions { kind: Kind::File, version: None, replace: false };
    assert_eq!(kind_of_error(store.rename(&path("from"), &path("to"), keep)).await, ErrorKind::AlreadyExists);
    assert_eq!(content(&store, "to").await, b"old");
    store.rename(&path("from"), &path("to"), moving(Kind::File)).await.unwrap();
    assert_eq!(content(&store, "to").await, b"new");
    assert_eq!(names(&store, "").await, ["to"]);
    store.make_dir(&path("dir")).await.unwrap();
    assert_eq!(
        kind_of_error(store.rename(&path("to"), &path("dir"), moving(Kind::File))).await,
        ErrorKind::IsADirectory
    );
}

pub(crate) async fn a_move_is_pinned(store: Store) {
    let old = put(&store, "from", "old").await;
    put(&store, "from", "new").await;
    let pinned = RenameOptions { kind: Kind::File, version: Some(old), replace: true };
    assert_eq!(kind_of_error(store.rename(&path("from"), &path("to"), pinned)).await, ErrorKind::Stale);
    assert_eq!(content(&store, "from").await, b"new");
    assert_eq!(kind_of_error(store.stat(&path("to"))).await, ErrorKind::NotFound);
}

pub(crate) async fn directories_move_as_far_as_told(store: Store) {
    store.make_dir(&path("empty")).await.unwrap();
    store.rename(&path("empty"), &path("moved"), moving(Kind::Directory)).await.unwrap();
    assert_eq!(names(&store, "").await, ["moved"]);
    put(&store, "moved/file", "x").await;
    let outcome = store.rename(&path("moved"), &path("again"), moving(Kind::Directory)).await;
    if store.traits().atomic_rename {
        outcome.unwrap();
        assert_eq!(content(&store, "again/file").await, b"x");
        assert_eq!(names(&store, "").await, ["again"]);
    } else {
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::Unsupported);
        assert_eq!(content(&store, "moved/file").await, b"x");
    }
}

pub(crate) async fn a_file_moves_while_written(store: Store) {
    for length in [100, 9 << 20] {
        let whole = pattern(length + 100);
        let mut writing = upload(&store, "from", Base::Absent).await;
        writing.write(whole.slice(..length)).await.unwrap();
        publish(&mut writing).await.unwrap();
        let moved = store.rename(&path("from"), &path("to"), moving(Kind::File)).await.unwrap();
        writing.moved(path("to"), moved.version().cloned());
        writing.write(whole.slice(length..)).await.unwrap();
        publish(&mut writing).await.unwrap();
        assert!(content(&store, "to").await == whole, "{length}");
        assert_eq!(names(&store, "").await, ["to"]);
        store.remove(&path("to"), Kind::File).await.unwrap();
        let mut unborn = upload(&store, "from", Base::Absent).await;
        unborn.moved(path("to"), None);
        unborn.write(whole.slice(..length)).await.unwrap();
        publish(&mut unborn).await.unwrap();
        assert_eq!(names(&store, "").await, ["to"]);
        store.remove(&path("to"), Kind::File).await.unwrap();
    }
}

pub(crate) async fn a_move_onto_itself_changes_nothing(store: Store) {
    let version = put(&store, "file", "x").await;
    store.make_dir(&path("dir")).await.unwrap();
    let moved = store.rename(&path("file"), &path("file"), moving(Kind::File)).await.unwrap();
    assert_eq!(moved.version(), Some(&version));
    store.rename(&path("dir"), &path("dir"), moving(Kind::Directory)).await.unwrap();
    assert_eq!(names(&store, "").await, ["dir", "file"]);
    assert_eq!(content(&store, "file").await, b"x");
}

pub(crate) async fn a_directory_replaces_only_an_empty_one(store: Store) {
    for dir in ["from", "empty", "full"] {
        store.make_dir(&path(dir)).await.unwrap();
    }
    put(&store, "full/file", "x").await;
    put(&store, "file", "x").await;
    let onto = async |to: &str| store.rename(&path("from"), &path(to), moving(Kind::Directory)).await;
    assert_eq!(onto("full").await.unwrap_err().kind, ErrorKind::NotEmpty);
    assert_eq!(onto("file").await.unwrap_err().kind, ErrorKind::NotADirectory);
    onto("from/inside").await.unwrap_err();
    assert_eq!(names(&store, "").await, ["empty", "file", "from", "full"]);
    onto("empty").await.unwrap();
    assert_eq!(names(&store, "").await, ["empty", "file", "full"]);
    assert_eq!(names(&store, "full").await, ["file"]);
}

pub(crate) async fn a_move_asks_for_the_kind(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    put(&store, "file", "x").await;
    assert_eq!(
        kind_of_error(store.rename(&path("dir"), &path("to"), moving(Kind::File))).await,
        ErrorKind::IsADirectory
    );
    assert_eq!(
        kind_of_error(store.rename(&path("file"), &path("to"), moving(Kind::Directory))).await,
        ErrorKind::NotADirectory
    );
    if store.traits().real_directories {
        assert_eq!(
            kind_of_error(store.rename(&path("file"), &path("no/to"), moving(Kind::File))).await,
            ErrorKind::NotFound
        );
    }
    assert_eq!(names(&store, "").await, ["dir", "file"]);
}
