//! What another client of the same export changes.

use super::*;

/// Two clients of one volume.
async fn clients() -> Option<(Arc<dyn Backend>, Arc<dyn Backend>, Ganesha)> {
    let (one, server) = stand().await?;
    let other = connect(&config(&server), UID, limits());
    Some((one, other, server))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grew_is_read_on() {
    let Some((store, other, server)) = clients().await else { return };
    let data = noise(3 * MIB);
    let old = put(&*store, "log", data.clone()).await;
    // In place, as an appending client does.
    append(&server, "log", &noise(MIB)).await;
    let new = loop {
        let seen = version(&*other, "log").await;
        if seen.size > old.size {
            break seen;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((&new.file, new.size), (&old.file, 4 * MIB as u64));
    assert_ne!(new.bytes, old.bytes);
    assert!(content(&*store, &old).await.unwrap() == data);
    assert!(content(&*store, &new).await.unwrap() == [data, noise(MIB)].concat());
}

/// Appends as a client of the server's machine would, through a mount of its own.
async fn append(server: &Ganesha, name: &str, data: &[u8]) {
    let tree = tree(server);
    let found = tree.lookup(&path(name)).await.unwrap();
    let mounted = tree.mounted().await.unwrap();
    for (at, piece) in data.chunks(MIB).enumerate() {
        let offset = found.attributes.size + (at * MIB) as u64;
        let wrote = mounted.server.write(&found.handle, offset, Bytes::copy_from_slice(piece), None).await.unwrap();
        assert_eq!(wrote.count as usize, piece.len());
    }
}

/// Writes over the beginning of a file.
async fn overwrite(server: &Ganesha, name: &str, data: &'static [u8]) {
    let tree = tree(server);
    let found = tree.lookup(&path(name)).await.unwrap();
    let mounted = tree.mounted().await.unwrap();
    mounted.server.write(&found.handle, 0, Bytes::from_static(data), None).await.unwrap();
}

fn tree(server: &Ganesha) -> super::super::tree::Tree {
    let credential = super::super::rpc::Credential::Sys { uid: UID, gid: UID, groups: vec![] };
    super::super::tree::Tree::new(&config(server), credential, path("volume"), limits())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_written_over_is_stale_and_the_same_file() {
    let Some((store, other, server)) = clients().await else { return };
    let old = put(&*store, "file", noise(10_000)).await;
    // A server's clock has a tick.
    tokio::time::sleep(Duration::from_millis(50)).await;
    overwrite(&server, "file", b"others").await;
    assert_eq!(error_of(content(&*store, &old)).await, ErrorKind::Stale);
    let new = version(&*other, "file").await;
    assert!(new.file == old.file && new.bytes != old.bytes && new.size == old.size);
    assert_eq!(content(&*store, &new).await.unwrap()[..6], *b"others");
    // Whoever does not care which bytes it holds gets those that it holds.
    assert_eq!(content(&*store, &old.any_bytes()).await.unwrap()[..6], *b"others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_anothers_place_is_another() {
    let Some((store, other, _server)) = clients().await else { return };
    let old = put(&*store, "file", noise(3 * MIB)).await;
    put(&*other, "new", "new").await;
    let how = crate::backend::RenameOptions { kind: Kind::File, version: None, replace: true };
    other.rename(&path("new"), &path("file"), how).await.unwrap();
    let new = version(&*store, "file").await;
    assert_ne!(new.file, old.file);
    assert_eq!(content(&*store, &new).await.unwrap(), b"new");
    match content(&*store, &old).await {
        Ok(all) => assert!(all == noise(3 * MIB)),
        Err(error) => assert_eq!(error.kind, ErrorKind::Stale),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_moved_is_found_where_it_lies() {
    let Some((store, other, _server)) = clients().await else { return };
    for dir in ["a", "a/b", "a/b/c"] {
        store.make_dir(&path(dir)).await.unwrap();
    }
    put(&*store, "a/b/c/file", "deep").await;
    let how = || crate::backend::RenameOptions { kind: Kind::Directory, version: None, replace: false };
    other.rename(&path("a/b"), &path("moved"), how()).await.unwrap();
    other.make_dir(&path("a/b")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(error_of(store.stat(&path("a/b/c"))).await, ErrorKind::NotFound);
    let version = version(&*store, "moved/c/file").await;
    assert_eq!(content(&*store, &version).await.unwrap(), b"deep");
    // Removed and made again: another handle under the same name.
    other.remove(&path("a/b"), Kind::Directory).await.unwrap();
    other.make_dir(&path("a/b")).await.unwrap();
    assert_eq!(put(&*store, "a/b/file", "again").await.size, 5);
}
