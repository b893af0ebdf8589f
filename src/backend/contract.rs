//! What every store and every wrapper of one must do.
//!
//! Each promise is a function that takes an empty backend; [`suite`] makes a test of each. Where stores differ in
//! fact, the promise asks [`Traits`](super::Traits) and checks both sides.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{
    Attributes, Backend, Base, CreateOptions, ErrorKind, Intent, Kind, Meta, Name, Path, RenameOptions, Result, Upload,
    Version,
};

/// An empty backend, and what must live as long as it (a server, a directory).
pub(crate) type Stand = (Arc<dyn Backend>, Box<dyn Any + Send>);

/// Makes a test of every promise. `$make` is an async function that gives a new [`Stand`], or `None` where this
/// machine cannot.
macro_rules! suite {
    ($make:expr) => {
        $crate::backend::contract::suite!($make =>
            the_root_is_always_there, what_is_absent_is_not_found, a_file_is_read_as_it_was_written,
            every_range_gives_its_bytes, an_empty_file_is_a_file, odd_names_are_kept, nothing_is_seen_before_publish,
            an_upload_goes_on_after_publish, written_bytes_can_be_peeked, absent_means_absent,
            the_loser_of_two_writers_is_stale, last_wins_where_asked, a_replaced_version_is_stale,
            a_large_file_survives_odd_chunks, an_abort_leaves_nothing, a_listing_shows_each_entry_once,
            a_large_directory_is_listed_whole, a_list_is_of_one_directory, a_directory_can_be_made_and_removed,
            only_empty_directories_are_removed, removal_asks_for_the_kind, a_file_moves_whole, a_move_may_replace,
            a_move_is_pinned, directories_move_as_far_as_told, a_file_moves_while_written, a_dropped_read_is_harmless
        );
    };
    ($make:expr => $($promise:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let make = $make;
                if let Some((backend, _keep)) = make().await {
                    $crate::backend::contract::$promise(backend).await;
                }
            }
        )+
    };
}
pub(crate) use suite;

type Store = Arc<dyn Backend>;

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// Bytes in which every position can be told from its neighbours.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<_>>().into()
}

async fn upload(store: &Store, at: &str, base: Base) -> Box<dyn Upload> {
    store.create(&path(at), CreateOptions { base }).await.unwrap()
}

async fn publish(upload: &mut Box<dyn Upload>) -> Result<Meta> {
    upload.publish(&Attributes::default()).await
}

async fn put(store: &Store, at: &str, content: impl Into<Bytes>) -> Version {
    let mut writing = upload(store, at, Base::Any).await;
    let content = content.into();
    if !content.is_empty() {
        writing.write(content).await.unwrap();
    }
    publish(&mut writing).await.unwrap().version().cloned().unwrap()
}

async fn bytes(store: &Store, file: &Version, range: Range<u64>) -> Result<Vec<u8>> {
    let stream = store.read(file, range, Intent::Demand).await?;
    stream
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

async fn content(store: &Store, at: &str) -> Vec<u8> {
    let meta = store.stat(&path(at)).await.unwrap();
    let version = meta.version().cloned().unwrap();
    bytes(store, &version, 0..version.size).await.unwrap()
}

async fn names(store: &Store, dir: &str) -> Vec<String> {
    let mut names: Vec<_> = store.list(&path(dir)).map_ok(|entry| entry.name.to_string()).try_collect().await.unwrap();
    names.sort();
    names
}

async fn kind_of_error<T: std::fmt::Debug>(outcome: impl Future<Output = Result<T>>) -> ErrorKind {
    outcome.await.unwrap_err().kind
}

fn moving(kind: Kind) -> RenameOptions {
    RenameOptions { kind, version: None, replace: true }
}

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
        "#?;:@",
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

pub(crate) async fn nothing_is_seen_before_publish(store: Store) {
    let old = put(&store, "file", "old").await;
    let mut writing = upload(&store, "file", Base::Version(old)).await;
    writing.write(pattern(12 << 20)).await.unwrap();
    assert_eq!(content(&store, "file").await, b"old");
    publish(&mut writing).await.unwrap();
    assert!(content(&store, "file").await == pattern(12 << 20));
}

pub(crate) async fn an_upload_goes_on_after_publish(store: Store) {
    for first in [0, 3, 6 << 20, 11 << 20] {
        let whole = pattern(first + (7 << 20));
        let name = format!("grows-{first}");
        let mut writing = upload(&store, &name, Base::Absent).await;
        if first > 0 {
            writing.write(whole.slice(..first)).await.unwrap();
        }
        let early = publish(&mut writing).await.unwrap();
        assert_eq!(early.size(), first as u64);
        assert!(content(&store, &name).await == whole[..first], "{first}");
        let middle = first + 10;
        writing.write(whole.slice(first..middle)).await.unwrap();
        publish(&mut writing).await.unwrap();
        assert!(content(&store, &name).await == whole[..middle], "{first}");
        writing.write(whole.slice(middle..)).await.unwrap();
        assert_eq!(writing.written(), whole.len() as u64);
        let late = publish(&mut writing).await.unwrap();
        assert_ne!(late.version(), early.version());
        assert!(content(&store, &name).await == whole, "{first}");
        assert_eq!(store.stat(&path(&name)).await.unwrap().version(), late.version());
    }
}

pub(crate) async fn written_bytes_can_be_peeked(store: Store) {
    let mut writing = upload(&store, "file", Base::Absent).await;
    assert_eq!(writing.peek(0..10), None);
    writing.write(pattern(1000)).await.unwrap();
    assert_eq!(writing.peek(10..20).unwrap(), pattern(1000)[10..20]);
    let tail = writing.peek(990..2000).unwrap();
    assert_eq!(tail, pattern(1000)[990..]);
    assert_eq!(writing.peek(1000..1001), None);
}

pub(crate) async fn absent_means_absent(store: Store) {
    let mut early = upload(&store, "file", Base::Absent).await;
    early.write("mine".into()).await.unwrap();
    put(&store, "file", "theirs").await;
    assert_eq!(kind_of_error(publish(&mut early)).await, ErrorKind::Stale);
    early.abort().await;
    assert_eq!(content(&store, "file").await, b"theirs");
}

pub(crate) async fn the_loser_of_two_writers_is_stale(store: Store) {
    for length in [10, 9 << 20] {
        let base = put(&store, "file", "base").await;
        let mut winner = upload(&store, "file", Base::Version(base.clone())).await;
        let mut loser = upload(&store, "file", Base::Version(base)).await;
        winner.write(pattern(length)).await.unwrap();
        loser.write(pattern(length).slice(1..)).await.unwrap();
        publish(&mut winner).await.unwrap();
        assert_eq!(kind_of_error(publish(&mut loser)).await, ErrorKind::Stale);
        assert!(content(&store, "file").await == pattern(length));
        winner.write("more".into()).await.unwrap();
        put(&store, "file", "other").await;
        assert_eq!(kind_of_error(publish(&mut winner)).await, ErrorKind::Stale);
        assert_eq!(content(&store, "file").await, b"other");
    }
}

pub(crate) async fn last_wins_where_asked(store: Store) {
    let mut writing = upload(&store, "file", Base::Any).await;
    writing.write("mine".into()).await.unwrap();
    put(&store, "file", "theirs").await;
    publish(&mut writing).await.unwrap();
    assert_eq!(content(&store, "file").await, b"mine");
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

pub(crate) async fn an_abort_leaves_nothing(store: Store) {
    let mut writing = upload(&store, "file", Base::Absent).await;
    writing.write(pattern(11 << 20)).await.unwrap();
    writing.abort().await;
    assert_eq!(kind_of_error(store.stat(&path("file"))).await, ErrorKind::NotFound);
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
    let count = 1_050;
    futures::stream::iter(0..count)
        .for_each_concurrent(16, |number| {
            let store = store.clone();
            async move {
                put(&store, &format!("many/{number:05}"), "x").await;
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
