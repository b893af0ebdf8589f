//! A small file in one request.

use super::*;
use crate::backend::Fetched;

async fn fetched(store: &Store, at: &str, longest: u64, known: Option<&Version>) -> Result<Option<(Version, Bytes)>> {
    Ok(match store.fetch(&path(at), longest, known).await? {
        Fetched::Same => None,
        Fetched::New { meta, bytes } => Some((meta.version().cloned().unwrap(), bytes)),
    })
}

pub(crate) async fn a_small_file_is_fetched_whole(store: Store) {
    for (name, content) in [("empty", Bytes::new()), ("file", pattern(60_000))] {
        let version = put(&store, name, content.clone()).await;
        let meta = store.stat(&path(name)).await.unwrap();
        let whole = store.fetch(&path(name), 60_000, None).await.unwrap();
        assert_eq!(whole, Fetched::New { meta, bytes: content.clone() }, "{name}");
        assert_eq!(fetched(&store, name, 60_000, Some(&version)).await.unwrap(), None);
    }
}

pub(crate) async fn what_is_fetched_is_the_newest(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    let old = put(&store, "dir/file", "old").await;
    let new = put(&store, "dir/file", "newer").await;
    assert_eq!(fetched(&store, "dir/file", 10, Some(&old)).await.unwrap(), Some((new.clone(), "newer".into())));
    assert_eq!(fetched(&store, "dir/file", 10, Some(&new)).await.unwrap(), None);
    store.remove(&path("dir/file"), Kind::File).await.unwrap();
    assert_eq!(kind_of_error(store.fetch(&path("dir/file"), 10, Some(&new))).await, ErrorKind::NotFound);
    assert_eq!(kind_of_error(store.fetch(&path("dir/file"), 10, None)).await, ErrorKind::NotFound);
}

pub(crate) async fn what_is_too_long_is_not_fetched(store: Store) {
    let version = put(&store, "file", pattern(3 << 20)).await;
    assert_eq!(fetched(&store, "file", 1000, Some(&version)).await.unwrap(), None);
    put(&store, "edge", pattern(1000)).await;
    assert_eq!(kind_of_error(store.fetch(&path("file"), 1000, None)).await, ErrorKind::TooLarge);
    assert_eq!(kind_of_error(store.fetch(&path("edge"), 999, None)).await, ErrorKind::TooLarge);
    assert!(fetched(&store, "edge", 1000, None).await.unwrap().is_some());
}

pub(crate) async fn only_files_are_fetched(store: Store) {
    store.make_dir(&path("dir")).await.unwrap();
    let refused = kind_of_error(store.fetch(&path("dir"), 1000, None)).await;
    assert!(matches!(refused, ErrorKind::NotFound | ErrorKind::IsADirectory), "{refused:?}");
    assert_eq!(kind_of_error(store.fetch(&path("dir/nothing"), 1000, None)).await, ErrorKind::NotFound);
}
