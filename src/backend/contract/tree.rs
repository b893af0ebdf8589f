//! Names, directories and their listings.

use super::*;

pub(crate) async fn the_root_is_always_there(store: Store) {
    assert_eq!(store.stat(&Path::root()).await.unwrap().kind(), Kind::Directory);
    assert_eq!(names(&store, "").await, Vec::<String>::new());
}

pub(crate) async fn what_is_absent_is_not_found(store: Store) {
    assert_eq!(kind_of_error(store.stat(&path("a"))).await, ErrorKind::NotFound);
    put(&store, "file", "x").await;
    assert_eq!(kind_of_error(store.stat(&path("file/below"))).await, ErrorKind::NotFound);
    assert_eq!(kind_of_error(store.stat(&path("fil"))).await, ErrorKind::NotFound);
    assert_eq!(kind_of_error(store.remove(&path("a"), Kind::File)).await, ErrorKind::NotFound);
    assert_eq!(kind_of_error(store.remove(&path("a"), Kind::Directory)).await, ErrorKind::NotFound);
    assert_eq!(kind_of_error(store.rename(&path("a"), &path("b"), moving(Kind::File))).await, ErrorKind::NotFound);
    let listed = store.list(&path("a")).next().await;
    match listed {
        None => assert!(!store.traits().real_directories),
        Some(outcome) => assert_eq!(outcome.unwrap_err().kind, ErrorKind::NotFound),
    }
}

pub(crate) async fn odd_names_are_kept(store: Store) {
    let long = "x".repeat(255);
    let odd = [
        "a b",
        "\u{e9}t\u{e9}",
        "1+1=2",
        "100%",
        "%41",
        ".hidden",
        "...",
        "a&b<c>",
        "'\"",
        "~",
        "tab\there",
        "#?;@",
        &long,
    ];
    for name in odd {
        put(&store, name, name.to_owned()).await;
    }
    let mut expected = odd.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(names(&store, "").await, expected);
    for name in odd {
        assert_eq!(content(&store, name).await, name.as_bytes(), "{name}");
        store.remove(&path(name), Kind::File).await.unwrap();
    }
    assert_eq!(names(&store, "").await, Vec::<String>::new());
}

pub(crate) async fn a_listing_shows_each_entry_once(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    store.make_dir(&path("dir/inner")).await.unwrap();
    let file = put(&store, "dir/file", "12345").await;
    put(&store, "dir/inner/deep", "x").await;
    put(&store, "dir/inner.txt", "y").await;
    let entries: Vec<_> = store.list(&path("dir")).try_collect().await.unwrap();
    let found: BTreeMap<_, _> = entries.iter().map(|entry| (entry.name.to_string(), &entry.meta)).collect();
    assert_eq!(found.len(), entries.len());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["file", "inner", "inner.txt"]);
    assert_eq!(found["file"].version(), Some(&file));
    assert_eq!(found["inner"].kind(), Kind::Directory);
    assert_eq!(found["file"], &store.stat(&path("dir/file")).await.unwrap());
}

pub(crate) async fn a_large_directory_is_listed_whole(store: Store) {
    store.make_dir(&path("many")).await.unwrap();
    let count = 2_500;
    futures::stream::iter(0..count)
        .for_each_concurrent(16, |number| {
            let store = store.clone();
            async move {
                let name = format!("many/{number:05}");
                // Nothing is listed of their bytes, which take long where they lie elsewhere than their names.
                match store.traits().append {
                    true => drop(store.make_file(&path(&name), 0o644).await.unwrap()),
                    false => drop(put(&store, &name, "x").await),
                }
            }
        })
        .await;
    let expected: Vec<_> = (0..count).map(|number| format!("{number:05}")).collect();
    assert_eq!(names(&store, "many").await, expected);
    assert_eq!(store.list(&path("many")).take(3).count().await, 3);
}

pub(crate) async fn a_list_is_of_one_directory(store: Store) {
    for dir in ["a", "ab", "a/b"] {
        store.make_dir(&path(dir)).await.unwrap();
    }
    put(&store, "a/1", "x").await;
    put(&store, "ab/2", "x").await;
    put(&store, "a/b/3", "x").await;
    assert_eq!(names(&store, "a").await, ["1", "b"]);
    assert_eq!(names(&store, "").await, ["a", "ab"]);
}

pub(crate) async fn a_directory_can_be_made_and_removed(store: Store) {
    let made = store.make_dir(&path("dir")).await.unwrap();
    assert_eq!(made.kind(), Kind::Directory);
    assert_eq!(store.stat(&path("dir")).await.unwrap().mtime, made.mtime);
    assert_eq!(kind_of_error(store.make_dir(&path("dir"))).await, ErrorKind::AlreadyExists);
    put(&store, "file", "x").await;
    assert_eq!(kind_of_error(store.make_dir(&path("file"))).await, ErrorKind::AlreadyExists);
    assert_eq!(names(&store, "dir").await, Vec::<String>::new());
    store.remove(&path("dir"), Kind::Directory).await.unwrap();
    assert_eq!(kind_of_error(store.stat(&path("dir"))).await, ErrorKind::NotFound);
}

pub(crate) async fn only_empty_directories_are_removed(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    put(&store, "dir/file", "x").await;
    assert_eq!(kind_of_error(store.remove(&path("dir"), Kind::Directory)).await, ErrorKind::NotEmpty);
    store.remove(&path("dir/file"), Kind::File).await.unwrap();
    // The directory outlives its last entry, as POSIX has it.
    assert_eq!(store.stat(&path("dir")).await.unwrap().kind(), Kind::Directory);
    store.remove(&path("dir"), Kind::Directory).await.unwrap();
}

pub(crate) async fn removal_asks_for_the_kind(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    put(&store, "file", "x").await;
    assert_eq!(kind_of_error(store.remove(&path("dir"), Kind::File)).await, ErrorKind::IsADirectory);
    assert_eq!(kind_of_error(store.remove(&path("file"), Kind::Directory)).await, ErrorKind::NotADirectory);
    assert_eq!(names(&store, "").await, ["dir", "file"]);
}

pub(crate) async fn the_root_stays(store: Store) {
    put(&store, "file", "x").await;
    store.remove(&Path::root(), Kind::Directory).await.unwrap_err();
    store.rename(&Path::root(), &path("dir"), moving(Kind::Directory)).await.unwrap_err();
    store.rename(&path("file"), &Path::root(), moving(Kind::File)).await.unwrap_err();
    assert_eq!(kind_of_error(store.make_dir(&Path::root())).await, ErrorKind::AlreadyExists);
    store.remove(&path("file"), Kind::File).await.unwrap();
    store.remove(&Path::root(), Kind::Directory).await.unwrap_err();
    assert_eq!(store.stat(&Path::root()).await.unwrap().kind(), Kind::Directory);
}

/// Names that not every store can hold: it keeps them, or says so.
pub(crate) async fn a_name_is_kept_or_refused(store: Store) {
    let odd: [&[u8]; 10] = [
        b"back\\slash",
        b"new\nline",
        b"carriage\rreturn",
        b"\x01\x1f\x7f",
        b"\xff\xfe",
        b" lead",
        b"trail ",
        b"dot.",
        b"-",
        b"a:b",
    ];
    let mut kept = Vec::new();
    for bytes in odd {
        let at = Path::root().join(&Name::new(bytes).unwrap());
        let outcome = async {
            let mut writing = store.create(&at, CreateOptions { base: Base::Absent }).await?;
            writing.write(Bytes::from_static(bytes)).await?;
            publish(&mut writing).await
        };
        match outcome.await {
            Ok(_) => kept.push(bytes.to_vec()),
            Err(error) => assert_eq!(error.kind, ErrorKind::InvalidName, "{at:?}: {error}"),
        }
    }
    kept.sort();
    let entries: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
    let mut found: Vec<_> = entries.iter().map(|entry| entry.name.as_bytes().to_vec()).collect();
    found.sort();
    assert_eq!(found, kept);
    for entry in entries {
        let version = entry.meta.version().unwrap();
        assert_eq!(bytes(&store, version, 0..version.size).await.unwrap(), entry.name.as_bytes());
        store.remove(&version.path, Kind::File).await.unwrap();
    }
    assert_eq!(names(&store, "").await, Vec::<String>::new());
}

pub(crate) async fn a_deep_file_is_found(store: Store) {
    let mut dir = String::new();
    for depth in 0..40 {
        dir = format!("{dir}{}level-{depth}", if depth == 0 { "" } else { "/" });
        store.make_dir(&path(&dir)).await.unwrap();
    }
    put(&store, &format!("{dir}/file"), "deep").await;
    assert_eq!(content(&store, &format!("{dir}/file")).await, b"deep");
    assert_eq!(names(&store, &dir).await, ["file"]);
    assert_eq!(names(&store, "level-0/level-1").await, ["level-2"]);
    assert_eq!(kind_of_error(store.remove(&path("level-0"), Kind::Directory)).await, ErrorKind::NotEmpty);
}

/// `a!b` sorts between `a` and `a/b`.
pub(crate) async fn neighbours_are_not_children(store: Store) {
    for dir in ["a", "a!", "a.b", "a0"] {
        store.make_dir(&path(dir)).await.unwrap();
    }
    for file in ["a!/1", "a.b/2", "a0/3", "a!x"] {
        put(&store, file, "x").await;
    }
    assert_eq!(names(&store, "a").await, Vec::<String>::new());
    assert_eq!(names(&store, "").await, ["a", "a!", "a!x", "a.b", "a0"]);
    store.rename(&path("a"), &path("b"), moving(Kind::Directory)).await.unwrap();
    store.remove(&path("b"), Kind::Directory).await.unwrap();
    assert_eq!(kind_of_error(store.stat(&path("a"))).await, ErrorKind::NotFound);
    assert_eq!(names(&store, "a!").await, ["1"]);
}
